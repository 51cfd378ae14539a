//! kflash on boards on ptys, found in a host's `/sys` and `/dev` that are made for the test.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::PathBuf;
use std::thread;

use kflash::klipper::dictionary::BuiltFor;
use kflash_sim::firmware::TestImage;
use serde_json::json;
use tempfile::TempDir;
use tests::command::{self, Ran};
use tests::served::Served;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const BEHIND_KATAPULT: u32 = 0x0800_8000;
const NEW: &str = "v0.13.0-999-gfeedbeef";

/// A host with nothing on it yet, and a firmware file.
struct Host {
    folder: TempDir,
    image: Vec<u8>,
}

impl Host {
    fn new(image: TestImage) -> Self {
        let host = Self { folder: TempDir::new().unwrap(), image: image.version(NEW).build() };
        fs::write(host.path("klipper.bin"), &host.image).unwrap();
        host
    }

    fn octopus() -> Self {
        Self::new(TestImage::klipper("stm32f446xx", BEHIND_KATAPULT))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Plugs a board in; returns when its tty is there.
    fn plug(&self, board: &str, options: &[&str]) -> Served {
        let (root, firmware) = (self.text("root"), self.text("klipper.bin"));
        let mut all = vec!["--mount", "pty", "--host-root", &root, "--known", &firmware];
        all.extend(options);
        let served = Served::new(board, &all);
        served.wait_for("tty");
        served
    }

    fn flash(&self, board: &str, options: &[&str]) -> Ran {
        let (root, firmware) = (self.text("root"), self.text("klipper.bin"));
        let arguments = ["flash", "--host-root", &root, "--board", board, "--firmware", &firmware];
        command::kflash(arguments.iter().chain(options))
    }

    /// Whether the flash in this dump holds the image from that offset on.
    fn holds_image(&self, dump: &str, offset: usize) -> bool {
        fs::read(self.path(dump)).unwrap()[offset..offset + self.image.len()] == self.image
    }
}

#[test]
fn klipper_is_flashed_through_katapult_and_followed_to_another_tty() {
    let host = Host::octopus();
    let board = host.plug(OCTOPUS, &["--dump", &host.text("flash.bin")]);
    board.control("tty ttyACM5");
    board.wait_for("done tty");

    let flash = host.flash(OCTOPUS, &[]);
    assert_eq!(flash.code, 0, "{flash:#?}");
    assert_eq!(flash.result["result"], "flashed");
    assert!(flash.result["durations_ms"]["read-back"].as_u64() > Some(0), "{flash:#?}");
    assert_eq!(flash.result["simulated"], false);
    assert_eq!(flash.result["before"]["version"], "v0.13.0-730-g84104bbbd");
    assert_eq!(flash.result["now"]["version"], NEW);
    assert_eq!(flash.result["device"]["tty"]["node"], "/dev/ttyACM5");
    board.wait_for("enumerated id=1d50:6177");
    board.wait_for(&format!("running application version={NEW:?}"));
    // The boot path is proven, too.
    board.wait_for("running katapult");
    board.wait_for(&format!("running application version={NEW:?}"));
    assert!(board.events().iter().all(|event| !event.starts_with("violation")));
    assert!(board.end().success());
    assert!(host.holds_image("flash.bin", 0x8000));
}

#[test]
fn what_runs_already_is_not_written_again() {
    let host = Host::octopus();
    let board = host.plug(OCTOPUS, &["--firmware", &host.text("klipper.bin")]);
    let flash = host.flash(OCTOPUS, &["--device", "1-1"]);
    assert_eq!((flash.code, &flash.result["result"]), (0, &json!("already-current")), "{flash:#?}");
    let events = board.events();
    assert!(events.iter().all(|event| !event.starts_with("written") && !event.starts_with("gone")), "{events:#?}");
}

#[test]
fn an_image_for_another_place_is_refused_and_the_board_is_left_alone() {
    let host = Host::new(TestImage::klipper("stm32f446xx", 0x0801_0000));
    let board = host.plug(OCTOPUS, &[]);
    let flash = host.flash(OCTOPUS, &["--device", "1-1"]);
    assert_eq!(flash.code, 3, "{flash:#?}");
    let events = board.events();
    assert!(events.iter().all(|event| !event.starts_with("written") && !event.starts_with("gone")), "{events:#?}");
}

#[test]
fn of_two_boards_only_the_named_one_changes() {
    let host = Host::octopus();
    let named = host.plug(OCTOPUS, &["--dump", &host.text("named.bin"), "--uid", "290034001751333038363537"]);
    let other = host.plug(OCTOPUS, &["--dump", &host.text("other.bin"), "--port", "1-2", "--tty", "ttyACM1"]);
    let before = fs::read(host.path("other.bin")).unwrap();

    let ambiguous = host.flash(OCTOPUS, &[]);
    assert_eq!(ambiguous.code, 3, "{ambiguous:#?}");
    let disagreeing = host.flash(OCTOPUS, &["--device", "1-2", "--device", "290034001751333038363537"]);
    assert_eq!(disagreeing.code, 3, "{disagreeing:#?}");
    let flash = host.flash(OCTOPUS, &["--device", "1-1"]);
    assert_eq!(flash.code, 0, "{flash:#?}");
    assert_eq!(flash.result["device"]["usb"]["serial"], "290034001751333038363537");
    assert!(named.end().success());
    assert!(host.holds_image("named.bin", 0x8000));
    assert!(other.events().iter().all(|event| !event.starts_with("gone")));
    assert!(other.end().success());
    assert_eq!(fs::read(host.path("other.bin")).unwrap(), before);
}

#[test]
fn a_board_behind_a_bridge_is_flashed_over_its_uart() {
    let image = TestImage::klipper("stm32f103xe", 0x0800_2000).built_for(BuiltFor::Uart(250_000)).size(20_000);
    let host = Host::new(image);
    let board = host.plug("creality-v4.2.7", &["--dump", &host.text("flash.bin")]);
    let flash = host.flash("creality-v4.2.7", &["--device", "/dev/ttyUSB0"]);
    assert_eq!(flash.code, 0, "{flash:#?}");
    assert_eq!(flash.result["now"]["version"], NEW);
    assert!(board.events().iter().all(|event| !event.starts_with("violation")));
    assert!(board.end().success());
    assert!(host.holds_image("flash.bin", 0x2000));
}

#[test]
fn a_board_that_is_unplugged_while_it_is_written_is_flashed_by_the_next_run() {
    let host = Host::octopus();
    let board = host.plug(OCTOPUS, &["--dump", &host.text("flash.bin")]);
    let unplugged = thread::scope(|scope| {
        let flash = scope.spawn(|| host.flash(OCTOPUS, &["--device", "1-1"]));
        board.wait_for("written");
        board.control("unplug");
        flash.join().unwrap()
    });
    assert_eq!(unplugged.code, 11, "{unplugged:#?}");
    board.control("plug");
    // The application is invalid, so that Katapult stays.
    board.wait_for("enumerated id=1d50:6177");
    let again = host.flash(OCTOPUS, &["--device", "1-1"]);
    assert_eq!(again.code, 0, "{again:#?}");
    assert!(board.end().success());
    assert!(host.holds_image("flash.bin", 0x8000));
}

#[test]
fn the_firmware_that_ran_before_is_put_back() {
    let host = Host::octopus();
    let newest = TestImage::klipper("stm32f446xx", BEHIND_KATAPULT).version("v0.14.0-0-gdeadbeef").build();
    fs::write(host.path("newest.bin"), &newest).unwrap();
    let board = host.plug(OCTOPUS, &["--dump", &host.text("flash.bin"), "--known", &host.text("newest.bin")]);
    let (root, cache) = (host.text("root"), host.text("cache"));
    let flash = |firmware: &[&str]| {
        let arguments = ["flash", "--host-root", &root, "--cache-dir", &cache, "--board", OCTOPUS, "--device", "1-1"];
        command::kflash(arguments.iter().chain(firmware))
    };
    let none = flash(&["--previous"]);
    assert_eq!((none.code, &none.result["exit"]), (2, &json!("usage")), "{none:#?}");
    for (file, version) in [("klipper.bin", NEW), ("newest.bin", "v0.14.0-0-gdeadbeef")] {
        let flashed = flash(&["--firmware", &host.text(file)]);
        assert_eq!((flashed.code, &flashed.result["now"]["version"]), (0, &json!(version)), "{flashed:#?}");
    }
    // What it ran at first was never in the cache, and is not what it ran last.
    let back = flash(&["--previous"]);
    assert_eq!((back.code, &back.result["now"]["version"]), (0, &json!(NEW)), "{back:#?}");
    assert!(back.messages.contains("before, the device at 1-1 ran Klipper v0.13.0-999-gfeedbeef"), "{back:#?}");
    let list = command::kflash(["cache", "list", "--cache-dir", &cache]);
    assert_eq!(list.result.as_array().unwrap().len(), 2, "{list:#?}");
    assert!(board.end().success());
    assert!(host.holds_image("flash.bin", 0x8000));
}

#[test]
fn a_flash_that_cannot_be_remembered_is_a_flash_all_the_same() {
    let host = Host::octopus();
    let board = host.plug(OCTOPUS, &["--dump", &host.text("flash.bin")]);
    let flash = host.flash(OCTOPUS, &["--device", "1-1", "--cache-dir", &host.text("klipper.bin")]);
    assert_eq!((flash.code, &flash.result["result"]), (0, &json!("flashed")), "{flash:#?}");
    let notes = flash.result["notes"].as_array().unwrap();
    assert!(notes.iter().any(|note| note.as_str().unwrap().starts_with("not kept for --previous: ")), "{notes:?}");
    assert!(board.end().success());
    assert!(host.holds_image("flash.bin", 0x8000));
}
