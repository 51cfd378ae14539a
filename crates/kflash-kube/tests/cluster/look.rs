//! What is seen of the boards before Klipper is stopped for them.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use kflash::config::{Config, Printer};
use kflash::discover::UsbId;
use kflash::exit::ExitCode;
use kflash::image::Image;
use kflash_kube::gate::Shut;
use kflash_kube::look::{Places, look};
use kflash_kube::quiesce::{Board, Wanted};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::descriptors::Identity;
use kflash_sim::mount::sysfs::{Parent, Tree};
use tempfile::TempDir;

use crate::run::CONFIG;

/// A node, and what the containers that obtain firmware left.
struct Node {
    dir: TempDir,
    firmware: PathBuf,
}

impl Node {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let firmware = dir.path().join("klipper.bin");
        fs::write(&firmware, image()).unwrap();
        Self { dir, firmware }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("node")
    }

    /// With a board of this serial number at `port`; until the tree is dropped.
    fn plugged(&self, port: &str, serial: &str) -> Tree {
        let mut tree = Tree::new(self.root()).unwrap();
        let klipper = Identity {
            id: UsbId::new(0x1d50, 0x614e),
            revision: 0x0100,
            class: [2, 0, 0],
            configurations: 1,
            configuration: 1,
            manufacturer: Some("Klipper".into()),
            product: Some("stm32f446xx".into()),
            serial: Some(serial.into()),
            interfaces: Vec::new(),
        };
        tree.add(&port.parse().unwrap(), Some(&Parent::Chip(klipper)), None).unwrap();
        tree
    }

    async fn look(&self, printer: &Printer) -> Result<Vec<Board>, Shut> {
        look(printer, Places { firmware: &self.firmware, root: Some(&self.root()) }).await
    }
}

fn image() -> Vec<u8> {
    TestImage::klipper("stm32f446xx", 0x0800_8000).version("v2").build()
}

/// The printer, with its board at this `device`.
fn printer(device: &str) -> Printer {
    let config = CONFIG.replace("device = ['1-1.4']", &format!("device = [{device}]"));
    assert!(config.contains(device));
    Config::parse(Path::new("config.toml"), config.as_bytes(), None).unwrap().printers.remove(0)
}

fn shut(seen: Result<Vec<Board>, Shut>) -> (ExitCode, String) {
    let Shut { exit, reason } = seen.unwrap_err();
    (exit, reason)
}

#[tokio::test(start_paused = true)]
async fn a_board_that_is_not_there_is_told() {
    let node = Node::new();
    let _tree = node.plugged("1-1.3", "A");
    let here = || vec![Board { mcu: "mcu".into(), image: wanted() }];
    for device in ["'1-1.3'", "'A'", "'1-1.3', 'A'", "'1-1.4', 'A'"] {
        assert_eq!(node.look(&printer(device)).await.unwrap(), here(), "{device}");
    }
    let (exit, reason) = shut(node.look(&printer("'1-1.4'")).await);
    assert_eq!((exit, &*reason), (ExitCode::NotFound, "voron/mcu: no device found for 1-1.4"));
    // Another board is plugged in there; or one whose chip it cannot be.
    let (exit, reason) = shut(node.look(&printer("'1-1.3', 'B'")).await);
    assert!(exit == ExitCode::Refused && reason.contains("1-1.3"), "{reason}");
    let mut other = printer("'1-1.3'");
    other.boards[0].board = "btt-skr-mini-e3-v3".into();
    fs::write(&node.firmware, TestImage::klipper("stm32g0b1xx", 0x0800_2000).build()).unwrap();
    let (exit, reason) = shut(node.look(&other).await);
    assert!(exit == ExitCode::Refused && reason.contains("1-1.3 names stm32f446xx"), "{reason}");
    fs::write(&node.firmware, image()).unwrap();
    // Where a tty leads, only the container with the device knows; the network is not asked.
    for device in ["'/dev/ttyUSB0'", "'1-1.4', '/dev/ttyUSB0'", "'tcp://gateway:3333'"] {
        assert_eq!(node.look(&printer(device)).await.unwrap(), here(), "{device}");
    }
    // A debug probe is on a board that may show nothing.
    let unasked = Places { firmware: &node.firmware, root: None };
    assert_eq!(look(&printer("'1-1.4'"), unasked).await.unwrap(), here());
}

#[tokio::test(start_paused = true)]
async fn where_no_usb_is_seen_nothing_is_said_of_boards() {
    assert_eq!(Node::new().look(&printer("'1-1.4'")).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_board_that_enumerates_anew_is_waited_for() {
    let node = Node::new();
    Tree::new(node.root()).unwrap();
    let appears = async {
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        node.plugged("1-1.4", "A")
    };
    let printer = printer("'1-1.4'");
    let (seen, _tree) = tokio::join!(node.look(&printer), appears);
    assert_eq!(seen.unwrap().len(), 1);
}

#[tokio::test]
async fn each_board_has_an_image_of_its_own() {
    let node = Node::new();
    let mut printer = printer("'1-1.4'");
    let mut ebb = printer.boards[0].clone();
    ebb.name = "EBB".into();
    printer.boards.push(ebb);
    let firmware = node.dir.path().join("firmware");
    fs::create_dir(&firmware).unwrap();
    let places = Places { firmware: &firmware, root: None };
    fs::write(firmware.join("mcu"), image()).unwrap();
    let (exit, reason) = shut(look(&printer, places).await);
    assert!(
        exit == ExitCode::Usage && reason.starts_with("voron/EBB: ") && reason.ends_with(": no such file"),
        "{reason}"
    );
    fs::write(firmware.join("EBB"), image()).unwrap();
    let names: Vec<_> = look(&printer, places).await.unwrap().into_iter().map(|board| board.mcu).collect();
    assert_eq!(names, ["mcu", "mcu EBB"]);
}

fn wanted() -> Wanted {
    Wanted { sha256: Image::parse(&image()).unwrap().sha256, version: "v2".into() }
}
