//! `kflash status` on a host with several boards, on ptys in a folder that looks like their /sys and /dev.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::{Command, Output};
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
use serde_json::Value;
use tempfile::TempDir;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const EBB36: &str = "btt-ebb36-v1.2";

/// A host with boards on USB.
struct Host {
    root: TempDir,
    boards: Vec<(SyncSender<Message>, Option<JoinHandle<()>>)>,
}

impl Host {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        fs::create_dir_all(root.path().join("run")).unwrap();
        Self { root, boards: Vec::new() }
    }

    /// Plugs in a board that runs this, and waits until its tty is there.
    fn plug(&mut self, board: &str, image: impl FnOnce(TestImage) -> TestImage) {
        let (profile, chip) = boards::find(board).unwrap();
        let start = profile.bootloaders[0].app_start.0;
        let index = self.boards.len();
        let mut uid = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
        uid[0] = index as u8;
        let contents = Contents {
            bootloader: profile.bootloaders[0].id.clone(),
            application: Some((start, image(TestImage::klipper(&chip.mcu[0], start)).build())),
            uid,
            ..Contents::default()
        };
        let tree = Tree::new(self.root.path().into()).unwrap();
        let (tell, events) = channel();
        let (controls, queue) = sync_channel(QUEUE);
        let sender = controls.clone();
        let thread = thread::spawn(move || {
            let mut board = VirtualBoard::new(&profile, &chip, contents).unwrap();
            board.power(Duration::ZERO, true);
            let tell = Box::new(move |event: &str| drop(tell.send(event.to_owned())));
            let port = format!("1-{}", index + 1).parse().unwrap();
            let mut live = Live::new(board, chip, Duration::from_secs(1), port, None, tell);
            let pty = Pty::new(Cable::Usb, Some(tree), Some(format!("ttyACM{index}")));
            mount::serve(&mut live, Mount::Pty(pty), &sender, &queue).unwrap();
        });
        self.boards.push((controls, Some(thread)));
        while !events.recv_timeout(Duration::from_secs(20)).unwrap().starts_with("tty") {}
    }

    fn status(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kflash"));
        command.arg("--host-root").arg(self.root.path()).arg("status").args(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.status(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// The firmware that boards of this kind would be given.
    fn firmware(&self, board: &str) -> String {
        let (profile, chip) = boards::find(board).unwrap();
        let image = TestImage::klipper(&chip.mcu[0], profile.bootloaders[0].app_start.0);
        let path = self.root.path().join("klipper.bin");
        fs::write(&path, image.build()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (controls, thread) in &mut self.boards {
            let _ = controls.send(Message::Quit);
            let _ = thread.take().map(JoinHandle::join);
        }
    }
}

#[test]
fn every_board_gets_its_verdict() {
    let mut host = Host::new();
    let older = |image: TestImage| image.version("v0.12.0-439-g1fe54bd5");
    host.plug(OCTOPUS, |image| image);
    host.plug(OCTOPUS, older);
    host.plug(OCTOPUS, |image| TestImage { lacks: vec!["get_clock".into()], ..older(image) });
    host.plug(EBB36, older);
    let firmware = host.firmware(OCTOPUS);
    let status = host.json(&["--firmware", &firmware]);
    let boards = status["boards"].as_array().unwrap();
    let verdicts: Vec<_> = boards.iter().map(|board| board["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["current", "compatible", "must-flash", "unknown"], "{status:#}");
    assert_eq!(boards[2]["reasons"][0], "no command get_clock");
    assert_eq!(boards[2]["needed"], "always");
    assert_eq!(boards[3]["reasons"][0], "the running firmware is for stm32g0b1xx, the tree's for stm32f446xx");
    assert_eq!((&status["exit_code"], &status["result"]), (&0.into(), &"status".into()));

    // One board, by its id and its port; and once more, since nobody holds it.
    for _ in 0..2 {
        let one = host.json(&["--board", OCTOPUS, "--device", "1-3", "--firmware", &firmware]);
        assert_eq!(one["boards"].as_array().unwrap().len(), 1);
        assert_eq!(one["boards"][0]["verdict"], "must-flash");
        let remedy = one["boards"][0]["remedy"].as_str().unwrap();
        assert!(remedy.starts_with("kflash flash --board btt-octopus-v1.1-f446 --device 1-3 --firmware "), "{remedy}");
    }
}

#[test]
fn what_is_not_there_or_not_named_ends_with_its_own_code() {
    let mut host = Host::new();
    let empty = host.status(&[]);
    assert_eq!(empty.status.code(), Some(4), "{empty:?}");
    host.plug(OCTOPUS, |image| image);
    host.plug(OCTOPUS, |image| image);
    let away = host.status(&["--board", OCTOPUS, "--device", "1-7"]);
    assert_eq!(away.status.code(), Some(4), "{away:?}");
    let ambiguous = host.status(&["--board", OCTOPUS]);
    assert_eq!(ambiguous.status.code(), Some(3), "{ambiguous:?}");
    let text = String::from_utf8(ambiguous.stdout).unwrap();
    assert!(text.contains("1-1: Klipper on stm32f446xx") && text.contains("1-2: Klipper on stm32f446xx"), "{text}");
}

#[test]
fn firmware_that_is_none_is_said_to_be_none() {
    let host = Host::new();
    let path = host.root.path().join("katapult.bin");
    fs::write(&path, TestImage::katapult("stm32f446xx", 0x0800_0000).build()).unwrap();
    let status = host.status(&["--firmware", path.to_str().unwrap()]);
    assert_eq!(status.status.code(), Some(2), "{status:?}");
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(said.contains("it holds no data dictionary"), "{said}");
}
