//! Hosts and devices that do not do as they should: what kflash says must still be true.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Mode, Scan};
use kflash::event::{Event, Phase};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, Interrupt};
use kflash::host::{Holders, Host, LockError};
use kflash::link::{ByteLink, LinkError, UsbLink};
use kflash_sim::board::{Options, Running};
use kflash_sim::dfu_variant::DfuVariant;
use kflash_sim::flash::Timing;
use kflash_sim::host::SimHost;
use tests::bench::{Bench, NEW, OLD, Run, Scene};

const OCTOPUS_KATAPULT: Scene = Scene::usb("btt-octopus-v1.1-f446", "katapult", 20_000);
const OCTOPUS_DFU: Scene = Scene::usb("btt-octopus-v1.1-f446", "none", 20_000);
const OCTOPUS_VENDOR: Scene = Scene::usb("btt-octopus-v1.1-f446", "vendor", 20_000);

/// A simulated host with troubles of its own.
struct Troubled {
    host: SimHost,
    /// It cannot be looked at.
    blind: AtomicBool,
    /// How often it still cannot be looked at.
    blinks: AtomicU32,
    /// Every device is of a kind that kflash does not know.
    foreign: bool,
    /// USB nodes may not be opened.
    denied: bool,
    /// How often a device was opened.
    opened: AtomicU32,
}

impl Troubled {
    fn new(bench: &Bench) -> Self {
        Self {
            host: bench.host.clone(),
            blind: false.into(),
            blinks: 0.into(),
            foreign: false,
            denied: false,
            opened: 0.into(),
        }
    }
}

impl Host for Troubled {
    fn clock(&self) -> &dyn Clock {
        self.host.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        let blinks = self.blinks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if self.blind.load(Ordering::SeqCst) || blinks.is_ok() {
            let source = io::Error::from(io::ErrorKind::ConnectionRefused);
            return Err(DiscoverError::Unreachable { server: "printer:3240".into(), source });
        }
        let mut scan = self.host.scan()?;
        for device in scan.devices.iter_mut().filter(|_| self.foreign) {
            (device.mode, device.mcu) = (Mode::Unknown, None);
        }
        Ok(scan)
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        self.host.open_serial(device, baud)
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        match &device.usbfs {
            Some(node) if self.denied => Err(LinkError::Denied { node: node.display().to_string() }),
            _ => self.host.open_usb(device),
        }
    }

    fn holders(&self, device: &Device) -> Holders {
        self.host.holders(device)
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        self.host.lock(device)
    }

    fn simulated(&self) -> bool {
        true
    }
}

/// Flashes; `act` happens when `phase` begins.
fn flash_and_at(bench: &Bench, host: &Troubled, phase: Phase, act: impl Fn(&Troubled)) -> Run {
    bench.flash_with(host, &Interrupt::default(), |event| {
        if matches!(event, Event::Phase { phase: begun, .. } if *begun == phase) {
            act(host);
        }
    })
}

#[track_caller]
fn failed(run: &Run, exit: ExitCode, board: BoardState) -> String {
    let error = run.result.as_ref().expect_err("must fail");
    assert_eq!((error.exit, error.board), (exit, board), "{error:?}");
    assert!(error.place.is_some(), "{error:?}");
    error.message.clone()
}

#[test]
fn a_host_that_can_no_longer_be_looked_at_does_not_make_the_board_untouched() {
    for (phase, exit, board) in [
        (Phase::Enter, ExitCode::Enter, BoardState::Unknown),
        (Phase::Start, ExitCode::Lost, BoardState::Written),
        (Phase::Confirm, ExitCode::Lost, BoardState::Written),
    ] {
        let bench = OCTOPUS_KATAPULT.set_up();
        let host = Troubled::new(&bench);
        let run = flash_and_at(&bench, &host, phase, |host| host.blind.store(true, Ordering::SeqCst));
        let message = failed(&run, exit, board);
        assert!(message.contains("printer:3240"), "{message}");
    }
}

#[test]
fn a_host_that_cannot_be_looked_at_for_a_moment_is_looked_at_again() {
    for phase in [Phase::Enter, Phase::Start, Phase::Confirm] {
        let bench = OCTOPUS_KATAPULT.set_up();
        let host = Troubled::new(&bench);
        let run = flash_and_at(&bench, &host, phase, |host| host.blinks.store(5, Ordering::SeqCst));
        assert!(run.result.is_ok(), "{phase:?}: {:?}", run.result);
        assert!(bench.runs_new());
    }
}

#[test]
fn nothing_is_sent_to_a_device_of_another_kind() {
    let bench = OCTOPUS_KATAPULT.set_up();
    let host = Troubled { foreign: true, ..Troubled::new(&bench) };
    let run = flash_and_at(&bench, &host, Phase::Enter, |_| ());
    failed(&run, ExitCode::Enter, BoardState::Untouched);
    assert!(matches!(run.result.expect_err("hands").kind, FailureKind::HandsNeeded { .. }));
    assert_eq!(host.opened.load(Ordering::SeqCst), 0);
}

#[test]
fn a_bootloader_that_may_not_be_opened_is_no_untouched_board() {
    let bench = OCTOPUS_DFU.set_up();
    let host = Troubled { denied: true, ..Troubled::new(&bench) };
    let run = flash_and_at(&bench, &host, Phase::Enter, |_| ());
    failed(&run, ExitCode::Enter, BoardState::InBootloader);
    assert!(matches!(run.result.expect_err("denied").kind, FailureKind::PermissionDenied { .. }));
    assert!(bench.is_unchanged());

    // Found there, nothing is lost: mend the permission and run again.
    let run = flash_and_at(&bench, &host, Phase::Enter, |_| ());
    failed(&run, ExitCode::Denied, BoardState::InBootloader);
}

#[test]
fn an_application_whose_start_is_not_known_is_put_back_as_by_a_reset() {
    let mut bench = OCTOPUS_DFU.set_up();
    bench.request.chip.lacks_vtor = true;
    let interrupt = Interrupt::default();
    let run = bench.flash_with(&bench.host, &interrupt, |event| {
        if matches!(event, Event::Phase { phase: Phase::Enter, .. }) {
            interrupt.request();
        }
    });
    failed(&run, ExitCode::Cancelled, BoardState::RunsAsBefore);
    assert_eq!(bench.running(), Running::Application { version: OLD.into() });
}

#[test]
fn the_dangers_of_a_bootloader_that_was_not_expected_are_told() {
    let mut bench = OCTOPUS_VENDOR.set_up();
    // Nothing tells that the installed bootloader is not Katapult, whose route comes first.
    bench.request.chip.lacks_vtor = true;
    assert_eq!(bench.plan().expect("a plan").route.id, "katapult-usb");
    let run = bench.flash();
    let warned = |event: &&Event| matches!(event, Event::Warning { text } if text.contains("heaters"));
    assert_eq!(run.events.iter().filter(warned).count(), 1, "{:?}", run.events);
    assert_eq!(run.result.expect("flashed").now.expect("runs").version, NEW);
}

#[test]
fn a_layout_without_the_boards_flash_is_refused() {
    let parts = OCTOPUS_DFU.in_rom().parts();
    let mut rom = DfuVariant::of(&parts.chip, b"abcdefghijkl").expect("a ROM");
    for alternate in &mut rom.alternates {
        alternate.name = alternate.name.replace("0x08000000", "0x00200000");
    }
    let bench = parts.with_options(Options { timing: Timing::Zero, dfu: Some(rom), ..Options::default() });
    let run = bench.flash();
    let message = failed(&run, ExitCode::Refused, BoardState::InBootloader);
    assert!(message.contains("no flash at 0x08000000"), "{message}");
    assert!(bench.is_unchanged());
}

#[test]
fn a_board_that_left_klipper_for_a_silent_bootloader_does_not_run_as_before() {
    let mut bench = Scene::uart("creality-v4.2.7", "katapult", 20_000).set_up();
    for route in &mut bench.request.profile.routes {
        route.bootloader_baud = Some(57_600);
    }
    bench.request.profile.opening_resets = false;
    let run = bench.flash();
    failed(&run, ExitCode::Enter, BoardState::Unknown);
    assert_eq!(bench.running(), Running::Katapult);
}
