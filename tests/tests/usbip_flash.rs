//! kflash on boards behind a USB/IP server: no tty, no usbfs, no driver in the kernel.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::thread;

use kflash_sim::firmware::TestImage;
use tempfile::TempDir;
use tests::command::{self, Ran};
use tests::served::Served;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const NEW: &str = "v0.13.0-999-gfeedbeef";

/// A served board, its place, and a firmware file for it.
struct Bench {
    folder: TempDir,
    image: Vec<u8>,
    board: Served,
    place: String,
}

impl Bench {
    fn new(start: u32, options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let image = TestImage::klipper("stm32f446xx", start).version(NEW).build();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (firmware, dump) = (path("klipper.bin"), path("flash.bin"));
        fs::write(&firmware, &image).unwrap();
        let mut all = vec!["--known", firmware.as_str(), "--dump", &dump];
        all.extend(options);
        let board = Served::new(OCTOPUS, &all);
        let ready = board.wait_for("ready");
        let address = ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap();
        let place = format!("usbip://{address}/1-1");
        board.wait_for("enumerated");
        Self { folder, image, board, place }
    }

    fn arguments(&self) -> Vec<String> {
        let firmware = self.folder.path().join("klipper.bin").to_str().unwrap().to_owned();
        ["flash", "--board", OCTOPUS, "--firmware", &firmware, "--device", &self.place].map(str::to_owned).to_vec()
    }

    fn flash(&self) -> Ran {
        command::kflash(self.arguments())
    }

    /// Ends the service; the flash holds the image from that offset on, and no rule of its controller was broken.
    fn holds_image(self, offset: usize) {
        let events = self.board.events();
        assert!(events.iter().all(|event| !event.starts_with("violation")), "{events:#?}");
        assert!(self.board.end().success());
        let flash = fs::read(self.folder.path().join("flash.bin")).unwrap();
        assert!(flash[offset..offset + self.image.len()] == self.image);
    }
}

#[test]
fn klipper_is_touched_and_flashed_through_rom_dfu() {
    let bench = Bench::new(0x0800_0000, &["--bootloader", "none"]);
    let flash = bench.flash();
    assert_eq!(flash.code, 0, "{flash:#?}");
    assert_eq!(flash.result["before"]["version"], "v0.13.0-730-g84104bbbd");
    assert_eq!(flash.result["now"]["version"], NEW);
    bench.board.wait_for("enumerated id=0483:df11");
    bench.board.wait_for(&format!("running application version={NEW:?}"));
    bench.holds_image(0);
}

#[test]
fn klipper_is_touched_and_flashed_through_katapult() {
    let bench = Bench::new(0x0800_8000, &[]);
    let flash = bench.flash();
    assert_eq!(flash.code, 0, "{flash:#?}");
    assert_eq!(flash.result["now"]["version"], NEW);
    bench.board.wait_for("enumerated id=1d50:6177");
    bench.holds_image(0x8000);
}

#[test]
fn a_board_that_is_unplugged_in_rom_dfu_is_flashed_after_boot0() {
    let bench = Bench::new(0x0800_0000, &["--bootloader", "none", "--mode", "dfu"]);
    let arguments = bench.arguments();
    let run = thread::spawn(|| command::kflash(arguments));
    bench.board.wait_for("erased");
    bench.board.control("unplug");
    let unplugged = run.join().unwrap();
    assert_eq!(unplugged.code, 11, "{unplugged:#?}");

    bench.board.control("boot0 on");
    bench.board.control("plug");
    bench.board.wait_for("enumerated id=0483:df11");
    bench.board.control("boot0 off");
    let flash = bench.flash();
    assert_eq!(flash.code, 0, "{flash:#?}");
    bench.holds_image(0);
}
