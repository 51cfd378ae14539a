//! A node of a cluster with boards on ptys. Its containers have the device node that a device plugin gave them, as that was
//! when they were created.

use std::array;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use kflash::boards;
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::pty::{Cable, Pty};
use kflash_sim::mount::sysfs::Tree;
use kflash_sim::mount::{self, Message, Mount, QUEUE};
use tempfile::TempDir;

use crate::bench::OLD;

/// The board in every port, behind Katapult.
pub const BOARD: &str = "btt-octopus-v1.1-f446";
/// Where its application starts.
pub const START: u32 = 0x0800_8000;
/// How long an event, or the tty of a board that enumerates, may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A node, which has a `/sys` and a `/dev` of its own.
pub struct Node {
    root: TempDir,
}

/// A board on it.
pub struct Board {
    events: Receiver<String>,
    controls: SyncSender<Message>,
}

impl Node {
    /// With nothing plugged in.
    pub fn new() -> Self {
        Self { root: TempDir::new().expect("a directory can be made") }
    }

    /// Plugs a board in that runs [`OLD`] and would run `known`.
    pub fn plug(&self, port: &str, tty: &str, known: &[u8], options: Options) -> Board {
        let (profile, chip) = boards::find(BOARD).expect("a built-in board");
        let contents = Contents {
            bootloader: "katapult".into(),
            application: Some((START, TestImage::klipper(&chip.mcu[0], START).version(OLD).build())),
            known: vec![(START, known.to_vec())],
            uid: array::from_fn(|at| port.as_bytes().get(at).copied().unwrap_or(b'0')),
        };
        let tree = Tree::new(self.root.path().into()).expect("a tree can be made");
        let (tell, events) = channel();
        let (controls, queue) = sync_channel(QUEUE);
        let (sender, port, tty) = (controls.clone(), port.parse().expect("a port path"), Some(tty.to_owned()));
        thread::spawn(move || {
            let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).expect("a board");
            board.power(Duration::ZERO, true);
            let tell = Box::new(move |event: &str| drop(tell.send(event.to_owned())));
            let mut live = Live::new(board, chip, Duration::from_secs(1), port, None, tell);
            mount::serve(&mut live, Mount::Pty(Pty::new(Cable::Usb, Some(tree), tty)), &sender, &queue)
                .expect("it is served");
        });
        let board = Board { events, controls };
        board.wait_for("tty");
        board
    }

    /// Creates a container whose root is `root`: the path that the device plugin has for `port` is resolved now, which is
    /// tried again until there is a device. What was there before is gone.
    pub fn create(&self, root: &Path, port: &str) {
        let give_up = Instant::now() + PATIENCE;
        let pts = loop {
            match self.pts(port) {
                Some(pts) => break pts,
                None => assert!(Instant::now() < give_up, "no tty at {port}"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        let dev = root.join("dev");
        let _ = fs::remove_dir_all(&dev);
        fs::create_dir_all(&dev).expect("a directory can be made");
        symlink(pts, dev.join("mcu")).expect("a link can be made");
        let _ = symlink(self.root.path().join("sys"), root.join("sys"));
        fs::create_dir_all(root.join("run")).expect("a directory can be made");
        let _ = symlink(self.root.path().join("run/lock"), root.join("run/lock"));
    }

    /// The pty that is the tty of what is in `port` now.
    fn pts(&self, port: &str) -> Option<PathBuf> {
        let ttys = self.root.path().join(format!("sys/bus/usb/devices/{port}/{port}:1.0/tty"));
        let name = fs::read_dir(ttys).ok()?.next()?.ok()?.file_name();
        fs::read_link(self.root.path().join("dev").join(name)).ok()
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// From its next enumeration on it has another tty.
    pub fn moves_to(&self, tty: &str) {
        self.controls.send(Message::Control(format!("tty {tty}"))).expect("it is served");
        self.wait_for("done tty");
    }

    /// Waits for an event that begins like this; those before it are passed over.
    pub fn wait_for(&self, start: &str) {
        let next = || self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {start:?}"));
        while !next().starts_with(start) {}
    }

    /// Whether nothing happened to it since an event was waited for.
    pub fn untouched(&self) -> bool {
        self.events.try_iter().all(|event| !["gone", "erased", "written"].iter().any(|what| event.starts_with(what)))
    }
}
