//! Katapult, alone and with Klipper, through the DFU in the chip's ROM.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use kflash::board::Profile;
use kflash::boards;
use kflash::chip::Chip;
use kflash::discover::Mode;
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Flasher, Interrupt, Outcome, Report, Request};
use kflash::host::Host as _;
use kflash::image::Image;
use kflash::plan::{Parts, WayBack};
use kflash_sim::board::{Contents, Options, Running, VirtualBoard};
use kflash_sim::fault::{At, FaultKind, FaultPlan};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::host::{BoardKey, Hand, Plug, SimHost};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const EBB: &str = "btt-ebb36-v1.2";

/// A blank board that was started with BOOT0 set.
struct Blank {
    host: SimHost,
    board: BoardKey,
    profile: Profile,
    chip: Chip,
}

impl Blank {
    fn new(board: &str) -> Self {
        let (profile, chip) = boards::find(board).unwrap();
        let contents = Contents { bootloader: "katapult".into(), ..Contents::default() };
        let options = Options { timing: Timing::Zero, ..Options::default() };
        let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
        board.set_flash(&vec![0xff; chip.flash().size.0 as usize]).unwrap();
        board.set_boot0(true);
        let host = SimHost::new();
        let board = host.plug_in(Plug::Usb("1-1".parse().unwrap()), board, false);
        host.clock().sleep(Duration::from_secs(2));
        // It counts at a reset only.
        host.hand(board, Hand::Boot0(false));
        Self { host, board, profile, chip }
    }

    fn app_start(&self) -> u32 {
        self.profile.bootloaders.iter().find(|it| it.id == "katapult").unwrap().app_start.0
    }

    fn katapult(&self) -> TestImage {
        TestImage::katapult(&self.chip.mcu[0], self.chip.flash_start.0).starting(self.app_start())
    }

    fn klipper(&self) -> TestImage {
        TestImage::klipper(&self.chip.mcu[0], self.app_start()).version("v1")
    }

    fn install(&self, bootloader: &[u8], application: Option<&[u8]>) -> Result<Report, FlashError> {
        let bootloader_image = Image::parse(bootloader).unwrap();
        let request = Request {
            profile: self.profile.clone(),
            chip: self.chip.clone(),
            image: Image::parse(application.unwrap_or(bootloader)).unwrap(),
            selectors: vec!["1-1".parse().unwrap()],
            force: true,
        };
        let parts = Parts { bootloader: &bootloader_image, application: application.map(|_| &request.image) };
        let interrupt = Interrupt::default();
        let flasher = Flasher { host: &self.host, interrupt: &interrupt, hands: false };
        flasher.install(&request, &parts, &mut |_| ())
    }

    fn running(&self) -> Running {
        self.host.with_board(self.board, |board, _| board.running())
    }

    fn holds(&self, at: u32, bytes: &[u8]) -> bool {
        let at = (at - self.chip.flash_start.0) as usize;
        self.host.with_board(self.board, |board, _| board.flash()[at..at + bytes.len()] == *bytes)
    }
}

#[test]
fn both_in_one_go() {
    let blank = Blank::new(OCTOPUS);
    let (bootloader, application) = (blank.katapult().build(), blank.klipper().build());
    let report = blank.install(&bootloader, Some(&application)).unwrap();
    assert_eq!(report.outcome, Outcome::Installed);
    assert_eq!(report.now.unwrap().version, "v1");
    assert!(blank.holds(blank.chip.flash_start.0, &bootloader) && blank.holds(blank.app_start(), &application));
    assert_eq!(blank.running(), Running::Application { version: "v1".into() });
    blank.host.with_board(blank.board, |board, _| assert_eq!(board.violations(), [""; 0]));
}

#[test]
fn a_chip_that_was_blank_when_it_was_switched_on_starts_its_rom_until_it_is_again() {
    let blank = Blank::new(EBB);
    let (bootloader, application) = (blank.katapult().build(), blank.klipper().build());
    let error = blank.install(&bootloader, Some(&application)).unwrap_err();
    assert_eq!((error.exit, error.board), (ExitCode::Enter, BoardState::Written), "{error}");
    let FailureKind::HandsNeeded { instruction } = &error.kind else { panic!("{error}") };
    assert!(instruction.contains("switch the board off and on"), "{instruction}");
    blank.host.hand(blank.board, Hand::Power(false));
    blank.host.hand(blank.board, Hand::Power(true));
    blank.host.clock().sleep(Duration::from_secs(2));
    assert_eq!(blank.running(), Running::Application { version: "v1".into() });
    blank.host.with_board(blank.board, |board, _| assert_eq!(board.violations(), [""; 0]));
}

#[test]
fn katapult_alone() {
    let blank = Blank::new(OCTOPUS);
    let report = blank.install(&blank.katapult().build(), None).unwrap();
    assert_eq!((report.outcome, report.device.mode), (Outcome::Installed, Mode::Katapult));
    assert_eq!(blank.running(), Running::Katapult);
}

#[test]
fn what_does_not_fit_is_refused_untouched() {
    let blank = Blank::new(OCTOPUS);
    let wrong = blank.katapult().starting(0x0801_0000).build();
    let error = blank.install(&wrong, Some(&blank.klipper().build())).unwrap_err();
    assert_eq!((error.exit, error.board), (ExitCode::Refused, BoardState::Untouched), "{error}");
    assert!(error.details.iter().any(|line| line.contains("0x08010000")), "{:?}", error.details);
    assert_eq!(blank.running(), Running::Rom);
}

#[test]
fn a_cut_at_any_operation_leaves_a_chip_that_boot0_brings_back() {
    let whole = Blank::new(OCTOPUS);
    let (bootloader, application) = (whole.katapult().build(), whole.klipper().size(20_000).build());
    whole.host.set_faults(FaultPlan::new());
    whole.install(&bootloader, Some(&application)).unwrap();
    let requests = whole.host.counters().operations;
    assert!(requests > 50, "{requests}");
    for at in (1..requests).step_by(7) {
        let blank = Blank::new(OCTOPUS);
        blank.host.set_faults(FaultPlan::new().with(At::Operation(at), FaultKind::CutPower));
        let Err(error) = blank.install(&bootloader, Some(&application)) else { continue };
        if let BoardState::Incomplete(way_back) = error.board {
            assert!(way_back <= WayBack::Boot0, "{at}: {error}");
        }
        blank.host.set_faults(FaultPlan::new());
        blank.host.hand(blank.board, Hand::Power(false));
        blank.host.hand(blank.board, Hand::Boot0(true));
        blank.host.hand(blank.board, Hand::Replug);
        blank.host.clock().sleep(Duration::from_secs(2));
        blank.host.hand(blank.board, Hand::Boot0(false));
        blank.install(&bootloader, Some(&application)).unwrap_or_else(|error| panic!("after a cut at {at}: {error}"));
        assert_eq!(blank.running(), Running::Application { version: "v1".into() }, "after a cut at {at}");
    }
}
