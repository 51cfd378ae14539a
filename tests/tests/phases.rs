//! A flash in phases: in containers that keep the device node that they were created with, while the board becomes another
//! node with each enumeration.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::any::Any;

use kflash::board::Cable;
use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::event::{Event, Verdict};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Flasher, Interrupt, Journal, Outcome, Report, Request};
use kflash::follow;
use kflash::host::{Holders, Host, LockError};
use kflash::identify::Selector;
use kflash::link::{ByteLink, LinkError, UsbLink};
use kflash::plan::WayBack;
use kflash_sim::fault::{At, FaultKind, FaultPlan};
use kflash_sim::host::{Hand, SimHost};
use tests::bench::{Bench, NEW, OLD, Scene};

const OCTOPUS: Scene = Scene::usb("btt-octopus-v1.1-f446", "katapult", 20_000);

/// A container: it has the node of the device as that enumerated last before.
struct Container<'a> {
    host: &'a SimHost,
    node: Option<(u16, u16)>,
    interrupt: Interrupt,
}

impl<'a> Container<'a> {
    /// Created now: the device plugin's path is resolved.
    fn new(bench: &'a Bench) -> Self {
        let device = bench.host.scan().unwrap().devices.pop();
        Self { host: &bench.host, node: device.as_ref().and_then(follow::enumeration), interrupt: Interrupt::default() }
    }

    fn run(&self, request: &Request, journal: &mut Journal) -> Result<Report, FlashError> {
        Flasher { host: self, interrupt: &self.interrupt, hands: false }.flash_phase(request, journal, &mut |_| ())
    }
}

impl Host for Container<'_> {
    fn clock(&self) -> &dyn Clock {
        self.host.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        self.host.scan()
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        assert!(self.has_node(device), "opens what may be another board");
        self.host.open_serial(device, baud)
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        panic!("a container has no usbfs node of {}", device.place)
    }

    fn has_node(&self, device: &Device) -> bool {
        follow::enumeration(device) == self.node
    }

    fn holders(&self, device: &Device) -> Holders {
        self.host.holders(device)
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        self.host.lock(device)
    }
}

/// Containers until one has come to an end.
fn containers(bench: &Bench, journal: &mut Journal) -> (u32, Result<Report, FlashError>) {
    for count in 1..20 {
        match Container::new(bench).run(&bench.request, journal) {
            Err(error) if error.exit == ExitCode::Phase => {}
            ended => return (count, ended),
        }
    }
    panic!("restarts for ever");
}

fn phase(ended: Result<Report, FlashError>, board: BoardState) {
    let error = ended.unwrap_err();
    assert_eq!((error.exit, &error.kind, error.board), (ExitCode::Phase, &FailureKind::Phase, board), "{error}");
}

#[test]
fn each_phase_does_what_it_can_and_the_last_confirms_what_runs() {
    let bench = OCTOPUS.set_up();
    let mut journal = Journal::default();
    let mut next = || {
        // As it is kept between containers.
        journal = serde_json::from_str(&serde_json::to_string(&journal).unwrap()).unwrap();
        Container::new(&bench).run(&bench.request, &mut journal)
    };
    phase(next(), BoardState::InBootloader);
    assert!(bench.is_unchanged());
    phase(next(), BoardState::Written);
    assert!(bench.holds_new());
    let report = next().unwrap();
    let version = |firmware: &Option<kflash::flash::Firmware>| firmware.as_ref().unwrap().version.clone();
    assert_eq!(
        (report.outcome, version(&report.before), version(&report.now)),
        (Outcome::Flashed, OLD.into(), NEW.into())
    );
    let proven = |name: &str| report.checks.iter().any(|check| check.name == name && check.verdict == Verdict::Agrees);
    assert!(proven("resident bootloader starts the application") && report.checks.len() > 5, "{:?}", report.checks);
    let all = bench.flash().result.unwrap();
    assert_eq!(all.outcome, Outcome::AlreadyCurrent);
    for timed in [kflash::event::Phase::Enter, kflash::event::Phase::ReadBack, kflash::event::Phase::Confirm] {
        assert!(report.durations_ms.contains_key(&timed), "{:?}", report.durations_ms);
    }
    assert!(bench.runs_new() && bench.violations().is_empty());

    // Once more, as the container after the one that was enough.
    let again = next().unwrap();
    assert_eq!((again.outcome, version(&again.before)), (Outcome::Flashed, OLD.into()));
    // Of another image the journal says nothing.
    journal.image = "other".into();
    let other = Container::new(&bench).run(&bench.request, &mut journal).unwrap();
    assert_eq!(other.outcome, Outcome::AlreadyCurrent);
}

#[test]
fn a_board_that_stays_the_same_node_takes_one_container() {
    let bench = OCTOPUS.set_up();
    let mut journal = Journal::default();
    let interrupt = Interrupt::default();
    let flasher = Flasher { host: &bench.host, interrupt: &interrupt, hands: false };
    for _ in 0..2 {
        let report = flasher.flash_phase(&bench.request, &mut journal, &mut |_| ()).unwrap();
        assert_eq!((report.outcome, report.before.unwrap().version.as_str()), (Outcome::Flashed, OLD));
    }
    let uart = Scene { cable: Cable::Uart, board: "creality-v4.2.7", ..OCTOPUS }.set_up();
    let flasher = Flasher { host: &uart.host, ..flasher };
    for _ in 0..2 {
        let report = flasher.flash_phase(&uart.request, &mut journal, &mut |_| ()).unwrap();
        assert_eq!((report.outcome, report.before.unwrap().version.as_str()), (Outcome::Flashed, OLD));
    }
}

#[test]
fn without_its_journal_a_flash_ends_as_well() {
    for lost in 0..3 {
        let bench = OCTOPUS.set_up();
        let mut journal = Journal::default();
        for _ in 0..lost {
            Container::new(&bench).run(&bench.request, &mut journal).unwrap_err();
        }
        let report = containers(&bench, &mut Journal::default()).1.unwrap();
        let expected = if lost == 2 { Outcome::AlreadyCurrent } else { Outcome::Flashed };
        assert_eq!(report.outcome, expected);
        assert_eq!(report.before.map(|before| before.version), [Some(OLD.into()), None, Some(NEW.into())][lost]);
        assert!(bench.runs_new());
    }
}

#[test]
fn a_container_that_dies_while_it_writes_is_followed_by_another() {
    let planned = OCTOPUS.set_up().plan().unwrap().operations.len();
    for operation in 0..planned {
        let bench = OCTOPUS.set_up();
        let mut journal = Journal::default();
        phase(Container::new(&bench).run(&bench.request, &mut journal), BoardState::InBootloader);
        bench.host.set_faults(FaultPlan::new().with(At::Operation(operation as u64), FaultKind::CutPower));
        let mut way = WayBack::Cable;
        let container = Container::new(&bench);
        let flasher = Flasher { host: &container, interrupt: &container.interrupt, hands: false };
        let ended = flasher.flash_phase(&bench.request, &mut journal, &mut |event| {
            if let Event::Operation { way_back, .. } = event {
                way = way_back;
            }
        });
        bench.host.set_faults(FaultPlan::new());
        assert!(ended.is_err());
        bench.take(way);
        // A new pod begins with an empty directory.
        let report = containers(&bench, &mut Journal::default()).1.unwrap();
        assert!(matches!(report.outcome, Outcome::Flashed | Outcome::AlreadyCurrent), "operation {operation}");
        assert!(bench.runs_new() && bench.holds_new() && bench.violations().is_empty(), "operation {operation}");
    }
}

#[test]
fn a_path_that_leads_elsewhere_is_tried_once_more_and_never_opened() {
    let bench = OCTOPUS.set_up();
    let mut journal = Journal::default();
    let elsewhere = || Container { node: Some((1, 99)), ..Container::new(&bench) };
    phase(elsewhere().run(&bench.request, &mut journal), BoardState::Untouched);
    let error = elsewhere().run(&bench.request, &mut journal).unwrap_err();
    assert_eq!((error.exit, error.board), (ExitCode::NotFound, BoardState::Untouched));
    assert!(error.message.contains("the path that it is given leads elsewhere"), "{error}");
    assert!(bench.is_unchanged());
    // One of a stale path is made good by the next.
    phase(elsewhere().run(&bench.request, &mut journal), BoardState::Untouched);
    assert_eq!(containers(&bench, &mut journal).1.unwrap().outcome, Outcome::Flashed);
}

#[test]
fn what_an_earlier_phase_brought_into_its_bootloader_is_put_back() {
    let bench = OCTOPUS.set_up();
    let mut journal = Journal::default();
    phase(Container::new(&bench).run(&bench.request, &mut journal), BoardState::InBootloader);
    let told_to_end = Container::new(&bench);
    told_to_end.interrupt.request();
    let error = told_to_end.run(&bench.request, &mut journal).unwrap_err();
    assert_eq!((error.exit, error.board), (ExitCode::Cancelled, BoardState::RunsAsBefore));
    assert!(bench.is_unchanged());
    assert_eq!(containers(&bench, &mut journal).1.unwrap().outcome, Outcome::Flashed);
}

#[test]
fn a_board_is_followed_by_its_port_whatever_it_is_called_now() {
    let mut bench = OCTOPUS.set_up();
    let serial = bench.host.scan().unwrap().devices[0].usb.clone().unwrap().serial.unwrap();
    let mut journal = Journal::default();
    for _ in 0..2 {
        Container::new(&bench).run(&bench.request, &mut journal).unwrap_err();
    }
    // As if another one were named: its firmware may have changed the serial number.
    bench.request.selectors = vec![bench.request.selectors[0].clone(), Selector::Serial(serial + "0")];
    assert_eq!(containers(&bench, &mut journal).1.unwrap().outcome, Outcome::Flashed);
    assert_eq!(containers(&bench, &mut Journal::default()).1.unwrap_err().exit, ExitCode::Refused);
    // The name of its node may be another board's by now: what the name finds is not taken for it.
    journal.place = Some("1-1.3".into());
    let error = Container::new(&bench).run(&bench.request, &mut journal).unwrap_err();
    assert_eq!(error.exit, ExitCode::NotFound);
    assert_eq!(error.to_string(), "no device found for 1-1.3, where it was in an earlier phase");
}

#[test]
fn a_board_that_enumerates_anew_for_ever_is_given_up() {
    let bench = OCTOPUS.set_up();
    let mut journal = Journal::default();
    for count in 1.. {
        let error = Container::new(&bench).run(&bench.request, &mut journal).unwrap_err();
        if error.exit != ExitCode::Phase {
            assert_eq!((error.exit, count), (ExitCode::Enter, 7), "{error}");
            break;
        }
        // Its Katapult does not wait.
        bench.host.hand(bench.board, Hand::Reset);
        bench.host.clock().sleep(std::time::Duration::from_secs(3));
    }
    assert!(bench.is_unchanged());
}

#[test]
fn what_does_not_run_the_image_that_was_started_is_told() {
    let bench = OCTOPUS.set_up();
    let mut journal = Journal::default();
    for _ in 0..2 {
        Container::new(&bench).run(&bench.request, &mut journal).unwrap_err();
    }
    // Another board on the same port.
    let other = OCTOPUS.set_up();
    let error = Container::new(&other).run(&bench.request, &mut journal.clone()).unwrap_err();
    assert_eq!((error.exit, &error.kind), (ExitCode::Lost, &FailureKind::RunsSomethingElse));
    assert!(other.is_unchanged());
}

#[test]
fn a_bootloader_without_a_tty_is_not_entered() {
    let bench = Scene::usb("btt-octopus-v1.1-f446", "none", 20_000).set_up();
    let error = Container::new(&bench).run(&bench.request, &mut Journal::default()).unwrap_err();
    assert_eq!((error.exit, error.board), (ExitCode::Refused, BoardState::Untouched));
    assert!(error.message.contains("a bootloader without a tty"), "{error}");
    assert!(bench.is_unchanged());
}
