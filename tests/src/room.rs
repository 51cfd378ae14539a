//! Several boards at once on ptys, in a folder that looks like the /sys and /dev of a host with them plugged in.

use std::fs;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kflash::boards;
use kflash_sim::board::{Contents, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::pty::{Cable, Pty};
use kflash_sim::mount::sysfs::Tree;
use kflash_sim::mount::{self, Message, Mount, QUEUE};
use tempfile::TempDir;

/// How long a board may take to boot and show itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host with boards on USB, at ports 1-1, 1-2, ... They live as long as it does.
pub struct Room {
    /// Its root, for `--host-root`.
    pub root: TempDir,
    boards: Vec<(SyncSender<Message>, Option<JoinHandle<()>>)>,
}

impl Room {
    /// A host with no boards yet.
    pub fn new() -> Self {
        let root = TempDir::new().expect("there is room for a folder");
        fs::create_dir_all(root.path().join("run")).expect("there is room for a folder");
        Self { root, boards: Vec::new() }
    }

    /// Klipper for a built-in board, behind its first bootloader.
    pub fn image(board: &str) -> TestImage {
        let (profile, chip) = boards::find(board).expect("a built-in board");
        TestImage::klipper(&chip.mcu[0], profile.bootloaders[0].app_start.0)
    }

    /// Plugs in a board that runs this behind its first bootloader, and waits until its tty is there.
    pub fn plug(&mut self, board: &str, application: Vec<u8>) {
        let (profile, chip) = boards::find(board).expect("a built-in board");
        let index = self.boards.len();
        let mut uid = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
        uid[0] = index as u8;
        let contents = Contents {
            bootloader: profile.bootloaders[0].id.clone(),
            application: Some((profile.bootloaders[0].app_start.0, application)),
            uid,
            ..Contents::default()
        };
        let tree = Tree::new(self.root.path().into()).expect("there is room for a folder");
        let (tell, events) = channel();
        let (controls, queue) = sync_channel(QUEUE);
        let sender = controls.clone();
        let thread = thread::spawn(move || {
            let mut board = VirtualBoard::new(&profile, &chip, contents).expect("a board of this profile");
            board.power(Duration::ZERO, true);
            let tell = Box::new(move |event: &str| drop(tell.send(event.to_owned())));
            let port = format!("1-{}", index + 1).parse().expect("a port path");
            let mut live = Live::new(board, chip, Duration::from_secs(1), port, None, tell);
            let pty = Pty::new(Cable::Usb, Some(tree), Some(format!("ttyACM{index}")));
            mount::serve(&mut live, Mount::Pty(pty), &sender, &queue).expect("a pty to serve it on");
        });
        self.boards.push((controls, Some(thread)));
        while !events.recv_timeout(PATIENCE).expect("it shows itself").starts_with("tty") {}
    }
}

impl Default for Room {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for (controls, thread) in &mut self.boards {
            let _ = controls.send(Message::Quit);
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}
