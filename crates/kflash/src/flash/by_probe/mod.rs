//! Flashing, installing and backing up through a debug probe: the stages with a way in that needs no cable. What was
//! written is confirmed over the board's own cable all the same.

mod look;

use crate::addr::{FlashRange, FlashSize};
use crate::apply::{self, ApplyError, Progress};
use crate::board::BootloaderKind;
use crate::boards;
use crate::chip::Chip;
use crate::clock::Clock;
use crate::confirm::of_chip;
use crate::digest::Sha256;
use crate::discover::{Device, Mode, Place};
use crate::event::{Check, Event, Events, Phase, Verdict};
use crate::exit::ExitCode;
use crate::flash::route::{HEAD, ReadFlash};
use crate::flash::{
    BoardState, FailureKind, Firmware, FlashError, Flasher, Outcome, Report, Request, Run, interrupted, write_failure,
};
use crate::klipper::dictionary::BuiltFor;
use crate::plan::{self, Known, Parts, Plan, Refusal, Target};
use crate::proto::swd::{Connect, ProbeSelector, Probes, Swd, SwdError};
use crate::proto::{Bootloader, ProtoError, Protocol};

/// The probe to go through.
#[derive(Clone, Copy, Debug)]
pub struct Through<'a> {
    /// Where probes are looked for.
    pub probes: &'a Probes,
    /// Which one, where there are several.
    pub probe: Option<&'a ProbeSelector>,
    /// Lift read protection, which erases the whole chip.
    pub unlock: bool,
}

/// All that a chip's flash holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// The probe.
    pub place: Place,
    /// Where the bytes lie.
    pub range: FlashRange,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub sha256: Sha256,
    /// Whether the chip runs a program again.
    pub runs: bool,
}

/// How a plan is made of what is known.
type Planner<'p> = dyn Fn(&Known<'_>) -> Result<Plan, Refusal> + 'p;

impl Flasher<'_> {
    /// Flashes the chip behind a debug probe, and proves over the board's own cable what runs.
    pub fn flash_through(
        &self,
        request: &Request,
        through: &Through<'_>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        needs_port(request)?;
        let probe = through.find(&request.chip, events)?;
        let mut run = self.at_probe(request, &probe, events)?;
        let through = Through { probe: Some(&probe), ..*through };
        let written = write(&mut run, &through, &plan::make_by_probe)?;
        let confirmed = of_chip::application(&mut run, written.uid)?;
        let mut checks = written.plan.checks;
        checks.extend(confirmed.checks);
        checks.extend(boot_path(written.plan.bootloader));
        let outcome = if written.changed { Outcome::Flashed } else { Outcome::AlreadyCurrent };
        Ok(run.report(outcome, Some(Firmware::of(&confirmed.dictionary)), checks))
    }

    /// Installs Katapult through a debug probe, alone or with an application, and proves over the board's own cable what
    /// runs. `request.image` is the application, or without one Katapult.
    pub fn install_through(
        &self,
        request: &Request,
        parts: &Parts<'_>,
        through: &Through<'_>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        if parts.application.is_some() {
            needs_port(request)?;
        }
        let probe = through.find(&request.chip, events)?;
        let mut run = self.at_probe(request, &probe, events)?;
        let through = Through { probe: Some(&probe), ..*through };
        let written = write(&mut run, &through, &|known| plan::install(known, parts, Protocol::Swd))?;
        let mut checks = written.plan.checks;
        let now = if parts.application.is_some() {
            let confirmed = of_chip::application(&mut run, written.uid)?;
            checks.extend(confirmed.checks);
            checks.extend(boot_path(BootloaderKind::Katapult));
            Some(Firmware::of(&confirmed.dictionary))
        } else {
            checks.push(of_chip::katapult(&mut run, written.uid, written.plan.app_start)?);
            None
        };
        Ok(run.report(Outcome::Installed, now, checks))
    }

    /// Reads all of the flash of the chip behind a debug probe. The chip is reset by it, and runs again.
    pub fn back_up(&self, chip: &Chip, through: &Through<'_>, events: Events<'_>) -> Result<Backup, FlashError> {
        let probe = through.find(chip, events)?;
        let through = Through { probe: Some(&probe), ..*through };
        let place = Place::Probe(probe.to_string());
        let _lock = self.host.lock(&behind(place.clone())).map_err(|error| FlashError::from(error).at(&place))?;
        events(Event::Phase { phase: Phase::Enter, what: format!("halting the chip at the {place}"), total: None });
        let mut swd =
            Swd::connect(&through.wanted(chip, self.host.clock())).map_err(|error| refused(error).at(&place))?;
        let range = chip.flash();
        let total = u64::from(range.size.0);
        events(Event::Phase { phase: Phase::ReadBack, what: format!("reading {range}"), total: Some(total) });
        let mut done = 0;
        let read = swd.read(range, &mut |bytes| {
            done += u64::from(bytes);
            events(Event::Progress { phase: Phase::ReadBack, done, total });
        });
        let runs = swd.start(range.start).is_ok();
        let bytes = read.map_err(|error| {
            let board = if runs { BoardState::RunsAsBefore } else { BoardState::Unknown };
            FlashError::new(ExitCode::Enter, FailureKind::LinkLost, board, error.to_string()).at(&place)
        })?;
        Ok(Backup { place, range, sha256: Sha256::of(&bytes), bytes, runs })
    }

    /// A run on what is behind this probe, which no other run then uses.
    fn at_probe<'a>(
        &'a self,
        request: &'a Request,
        probe: &ProbeSelector,
        events: Events<'a>,
    ) -> Result<Run<'a>, FlashError> {
        let device = behind(Place::Probe(probe.to_string()));
        let lock = self.host.lock(&device).map_err(|error| FlashError::from(error).at(&device.place))?;
        Ok(Run::new(self, request, device, lock, events))
    }
}

impl Through<'_> {
    /// Finds the probe, without touching the chip. Whatever is plugged in later, it is this one from then on.
    fn find(&self, chip: &Chip, events: Events<'_>) -> Result<ProbeSelector, FlashError> {
        events(Event::Phase { phase: Phase::Look, what: "looking for the debug probe".into(), total: None });
        // That the chip can be flashed at all is said before what is missing at the desk.
        if chip.swd.is_none() || boards::swd_definition(&chip.id).is_none() {
            return Err(refused(SwdError::NoDefinition { chip: chip.id.clone() }));
        }
        Ok(self.probes.select(self.probe).map_err(refused)?.selector())
    }

    fn wanted<'w>(&'w self, chip: &'w Chip, clock: &'w dyn Clock) -> Connect<'w> {
        let definition = boards::swd_definition(&chip.id);
        let Self { probes, probe, unlock } = *self;
        Connect { probes, probe, chip, definition, unlock, clock }
    }
}

/// What was done through the probe.
struct Written {
    plan: Plan,
    uid: Option<[u32; 3]>,
    /// False where the flash held it already.
    changed: bool,
}

/// A plan by what is known by now. Nothing is touched by it.
fn planned(run: &Run<'_>, target: Option<&Target>, planner: &Planner<'_>) -> Result<Plan, FlashError> {
    planner(&run.known(target)).map_err(|refusal| run.failed(FlashError::refused(&refusal, BoardState::Untouched)))
}

/// Plans, halts the chip, plans again with its word, writes, reads back and starts it.
fn write(run: &mut Run<'_>, through: &Through<'_>, planner: &Planner<'_>) -> Result<Written, FlashError> {
    let first = planned(run, None, planner)?;
    run.announce(&first)?;
    let mut swd = connect(run, through)?;
    let flash = run.request.chip.flash();
    let head = FlashRange { start: flash.start, size: FlashSize(flash.size.0.min(HEAD)) };
    let head = swd.read(head, &mut |_| ());
    let head = head.map_err(|error| run.failed(lost(&error)))?;
    let target = Target { info: swd.info().clone(), usb: None, head: Some(head) };
    let plan = match planner(&run.known(Some(&target))) {
        Ok(plan) => plan,
        Err(refusal) => {
            return Err(put_back(run, &mut swd, FlashError::refused(&refusal, BoardState::InBootloader)));
        }
    };
    run.tell_new_checks(&plan, &first);
    let held = holds(&plan, &mut |range| swd.read(range, &mut |_| ())).map_err(|error| run.failed(lost(&error)))?;
    let changed = run.request.force || !held;
    let uid = swd.uid();
    if !changed {
        run.note("nothing was written: the flash holds these bytes already (--force writes them again)");
        run.begin(Phase::Start, "starting the application");
        swd.start(flash.start).map_err(|error| run.failed(lost(&error)))?;
        return Ok(Written { plan, uid, changed });
    }
    match apply::apply(&mut swd, &plan, run.interrupt, &mut |event| run.emit(event)) {
        // Verified: whether it started is what confirming finds out.
        Ok(()) | Err(ApplyError::Failed { progress: Progress::Verified, .. }) => {}
        Err(ApplyError::Interrupted) => return Err(put_back(run, &mut swd, interrupted())),
        Err(error) => return Err(run.failed(write_failure(&plan, error))),
    }
    Ok(Written { plan, uid, changed })
}

/// Whether the flash holds all that the plan would write.
fn holds(plan: &Plan, read: &mut ReadFlash<'_>) -> Result<bool, ProtoError> {
    for planned in &plan.operations {
        let plan::Op::ReadBack { range } = planned.op else { continue };
        if apply::difference(&plan.image, range, &read(range)?).is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn connect(run: &mut Run<'_>, through: &Through<'_>) -> Result<Swd, FlashError> {
    run.begin(Phase::Enter, format!("halting the chip at the {}", run.place()));
    Swd::connect(&through.wanted(&run.request.chip, run.host.clock())).map_err(|error| run.failed(refused(error)))
}

/// What is behind a debug probe, as a device.
fn behind(probe: Place) -> Device {
    Device { place: probe, mode: Mode::Unknown, usb: None, tty: None, usbfs: None, mcu: None }
}

/// Ends a run that erased nothing: the chip is reset, and runs what it ran.
fn put_back(run: &Run<'_>, swd: &mut Swd, failure: FlashError) -> FlashError {
    let started = swd.start(run.request.chip.flash_start).is_ok();
    let board = if started { BoardState::RunsAsBefore } else { BoardState::Unknown };
    run.failed(FlashError { board, ..failure })
}

/// The chip or the probe was lost while nothing was erased.
fn lost(error: &ProtoError) -> FlashError {
    FlashError::new(ExitCode::Enter, FailureKind::LinkLost, BoardState::Unknown, error.to_string())
}

/// Firmware that talks over a UART can be confirmed only where it is known which: said before the chip is halted.
fn needs_port(request: &Request) -> Result<(), FlashError> {
    let dictionary = request.image.dictionary.as_ref();
    let uart = dictionary.is_some_and(|dictionary| matches!(dictionary.built_for(), BuiltFor::Uart(_)));
    if !uart || !request.selectors.is_empty() {
        return Ok(());
    }
    let message = "the image talks over a UART, and nothing says which one the board answers on";
    Err(FlashError::new(ExitCode::Refused, FailureKind::Ambiguous, BoardState::Untouched, message))
}

/// The chip was started by a reset: what runs behind a bootloader was started by it.
fn boot_path(bootloader: BootloaderKind) -> Option<Check> {
    let name = "resident bootloader starts the application".to_owned();
    let evidence = "it came up after the chip was reset through the probe".to_owned();
    (bootloader != BootloaderKind::None).then_some(Check { name, verdict: Verdict::Agrees, evidence })
}

/// Why there is no session with the chip. Nothing was erased.
fn refused(error: SwdError) -> FlashError {
    let (exit, kind, board) = match &error {
        SwdError::NoDefinition { .. } => (ExitCode::Usage, FailureKind::NoDefinition, BoardState::Untouched),
        SwdError::BadDefinition { .. } => (ExitCode::Internal, FailureKind::Other, BoardState::Untouched),
        SwdError::NoProbe { .. } => (ExitCode::NotFound, FailureKind::NoProbe, BoardState::Untouched),
        SwdError::SeveralProbes { .. } => (ExitCode::Refused, FailureKind::SeveralProbes, BoardState::Untouched),
        SwdError::Denied { probe } => {
            (ExitCode::Denied, FailureKind::ProbeDenied { probe: probe.clone() }, BoardState::Untouched)
        }
        SwdError::CannotOpen { .. } => (ExitCode::Busy, FailureKind::ProbeHeld, BoardState::Untouched),
        SwdError::NoTarget { .. } => (ExitCode::NotFound, FailureKind::NoChip, BoardState::Untouched),
        SwdError::HeldInReset { .. } => (ExitCode::Enter, FailureKind::HeldInReset, BoardState::Untouched),
        SwdError::WrongChip { .. } => (ExitCode::Refused, FailureKind::WrongChip, BoardState::Untouched),
        SwdError::Protected { can_be_lifted: true, .. } => {
            (ExitCode::Refused, FailureKind::Locked, BoardState::Untouched)
        }
        SwdError::Protected { .. } => (ExitCode::Refused, FailureKind::Other, BoardState::Untouched),
        SwdError::Session(_) => (ExitCode::Enter, FailureKind::LinkLost, BoardState::Unknown),
    };
    let message = error.to_string();
    let details = match error {
        SwdError::SeveralProbes { probes } => probes,
        _ => Vec::new(),
    };
    FlashError { details, ..FlashError::new(exit, kind, board, message) }
}
