//! Hosts and devices that do not do as they should: what kflash says must still be true.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::event::{Event, Phase};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, Interrupt};
use kflash::host::{Holders, Host, LockError};
use kflash::link::{ByteLink, LinkError, UsbLink};
use kflash_sim::host::SimHost;
use tests::bench::{Bench, Run, Scene};

const OCTOPUS_KATAPULT: Scene = Scene::usb("btt-octopus-v1.1-f446", "katapult", 20_000);

/// A simulated host with troubles of its own.
struct Troubled {
    host: SimHost,
    /// It cannot be looked at.
    blind: AtomicBool,
    /// How often it still cannot be looked at.
    blinks: std::sync::atomic::AtomicU32,
}

impl Troubled {
    fn new(bench: &Bench) -> Self {
        Self { host: bench.host.clone(), blind: AtomicBool::new(false), blinks: 0.into() }
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
        self.host.scan()
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        self.host.open_serial(device, baud)
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        self.host.open_usb(device)
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
