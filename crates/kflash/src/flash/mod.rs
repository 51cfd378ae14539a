//! The seven stages in a row.

#[cfg(feature = "swd")]
mod by_probe;
mod failure;
mod install;
mod phased;
mod route;
mod run;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

#[cfg(feature = "swd")]
pub use self::by_probe::{Backup, Through};
pub use self::failure::{BoardState, FailureKind, FlashError};
pub use self::phased::{Journal, Started};
pub use self::route::{Heard, Suggestion, Unheard, Wanted};
pub(crate) use self::run::Run;
use crate::apply::{self, ApplyError, Progress};
use crate::board::Profile;
use crate::chip::Chip;
use crate::confirm;
use crate::discover::Device;
use crate::enter::{self, Entered};
use crate::event::{Check, Event, Events, Phase};
use crate::exit::ExitCode;
use crate::host::Host;
use crate::identify::Selector;
use crate::image::Image;
use crate::klipper::dictionary::Dictionary;
use crate::plan::{self, Op, Plan, WayBack};
use crate::proto::ProtoError;

/// What a flash works with.
pub struct Flasher<'a> {
    /// The machine with the boards.
    pub host: &'a dyn Host,
    /// Set by the first signal; looked at until the first erase, deferred after it.
    pub interrupt: &'a Interrupt,
    /// Whether a person is there who can press buttons.
    pub hands: bool,
}

/// What is to be flashed where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The board.
    pub profile: Profile,
    /// Its chip.
    pub chip: Chip,
    /// The firmware.
    pub image: Image,
    /// What the person said of the device; empty lets the rules of *Proved* decide.
    pub selectors: Vec<Selector>,
    /// Write even if the running dictionary is the image's already.
    pub force: bool,
}

/// A request to stop, set from a signal handler.
#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

impl Interrupt {
    /// Asks the run to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How a flash or a verification ended well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// What came of it.
    #[serde(rename = "result")]
    pub outcome: Outcome,
    /// True when no hardware was touched.
    pub simulated: bool,
    /// The device as it is now.
    pub device: Device,
    /// What ran before.
    pub before: Option<Firmware>,
    /// What runs now.
    pub now: Option<Firmware>,
    /// Things a person should do or know now: `remove the BOOT0 jumper`, the new by-id path.
    pub notes: Vec<String>,
    /// Every check that was made.
    pub checks: Vec<Check>,
    /// How long each phase took, in milliseconds.
    pub durations_ms: BTreeMap<Phase, u64>,
}

/// The good ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Written, read back, started and confirmed.
    Flashed,
    /// A bootloader was installed, alone or with an application; read back, started and confirmed.
    Installed,
    /// The running dictionary is the image's: nothing was written.
    AlreadyCurrent,
    /// `verify`: the running dictionary is the image's.
    DictionaryMatches,
    /// `verify --read-back`: every byte is the image's.
    BytesMatch,
}

/// Firmware, in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firmware {
    /// `Klipper` or `Kalico`.
    pub app: String,
    /// Its version.
    pub version: String,
    /// Its MCU.
    pub mcu: Option<String>,
    /// SHA-256 of its dictionary.
    pub dictionary_sha256: String,
}

impl Flasher<'_> {
    /// What would be done. Opens no port that resets the board, and never enters a bootloader.
    pub fn plan(&self, request: &Request, events: Events<'_>) -> Result<Plan, FlashError> {
        let run = Run::look(self, request, None, events, !request.profile.opening_resets)?;
        plan::make(&run.known(None)).map_err(|refusal| run.failed(FlashError::refused(&refusal, BoardState::Untouched)))
    }

    /// Flashes the device and proves what runs.
    pub fn flash(&self, request: &Request, events: Events<'_>) -> Result<Report, FlashError> {
        self.flash_on(request, None, events)
    }

    /// With a `journal`, as a phase.
    fn flash_on(
        &self,
        request: &Request,
        mut journal: Option<&mut Journal>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        match self.flash_once(request, journal.as_deref_mut(), events) {
            // It was found in a bootloader that was about to leave: now its application may run.
            Err(error) if error.kind == FailureKind::LeftMeanwhile => self.flash_once(request, journal, events),
            result => result,
        }
    }

    fn flash_once(
        &self,
        request: &Request,
        journal: Option<&mut Journal>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        let mut run = Run::look(self, request, journal, events, true)?;
        if let Some(started) = run.started() {
            return finish(run, &started);
        }
        let first = plan::make(&run.known(None))
            .map_err(|refusal| run.failed(FlashError::refused(&refusal, BoardState::Untouched)))?;
        for check in &first.checks {
            run.emit(Event::Check(check.clone()));
        }
        if first.already_current && !request.force {
            let now = run.running.as_ref().map(|running| Firmware::of(&running.dictionary));
            run.note("nothing was written; the bytes were not compared (--force writes, verify --read-back compares)");
            return Ok(run.report(Outcome::AlreadyCurrent, now, first.checks));
        }
        run.refuse_phases(&first)?;
        for warning in &first.warnings {
            run.emit(Event::Warning { text: warning.text.clone() });
        }

        let (mut entered, plan) = prepare(&mut run, &first)?;
        let applied = apply::apply(entered.bootloader.as_mut(), &plan, self.interrupt, &mut |event| run.emit(event));
        match applied {
            // Verified, but the order to start failed on the way: whether it started is what confirming finds out.
            Ok(()) | Err(ApplyError::Failed { progress: Progress::Verified, .. }) => {}
            Err(ApplyError::Interrupted) => return Err(enter::put_back(&mut run, entered, interrupted())),
            Err(error) => return Err(run.failed(write_failure(&plan, error))),
        }
        let found_by_hand = entered.by_hand;
        drop(entered);
        run.note_started(&plan);
        let confirmed = confirm::confirm(&mut run, &plan, found_by_hand)?;
        run.note_confirmed(&confirmed.checks);
        let mut checks = plan.checks;
        checks.extend(confirmed.checks);
        Ok(run.report(Outcome::Flashed, Some(Firmware::of(&confirmed.dictionary)), checks))
    }

    /// Compares what runs with the image; with `read_back` what the flash holds, too, for which it enters the bootloader
    /// and starts the application again.
    pub fn verify(&self, request: &Request, read_back: bool, events: Events<'_>) -> Result<Report, FlashError> {
        let mut run = Run::look(self, request, None, events, true)?;
        if !read_back {
            return verify_running(run);
        }
        let first = plan::make(&run.known(None))
            .map_err(|refusal| run.failed(FlashError::refused(&refusal, BoardState::Untouched)))?;
        let (mut entered, plan) = prepare(&mut run, &first)?;
        let range = plan.image.range();
        run.emit(Event::Phase {
            phase: Phase::ReadBack,
            what: "reading back".into(),
            total: Some(u64::from(range.size.0)),
        });
        let mut done = 0;
        let read = entered.bootloader.read(range, &mut |bytes| {
            done += u64::from(bytes);
            run.emit(Event::Progress { phase: Phase::ReadBack, done, total: u64::from(range.size.0) });
        });
        let difference = match read {
            Ok(read) => apply::difference(&plan.image, range, &read),
            Err(error) => {
                let kind = FailureKind::ReadBackRefused;
                let failure = FlashError::new(ExitCode::Verify, kind, BoardState::InBootloader, error.to_string());
                return Err(enter::put_back(&mut run, entered, failure));
            }
        };
        if let Some((at, wanted, reads)) = difference {
            let message = format!("flash differs from the image at {at}: image {wanted:#04x}, flash {reads:#04x}");
            let failure = FlashError::new(ExitCode::Verify, FailureKind::Mismatch, BoardState::InBootloader, message);
            return Err(enter::put_back(&mut run, entered, failure));
        }
        let started = entered.bootloader.start(plan.app_start);
        if let Err(error) = started {
            run.emit(Event::Warning { text: error.to_string() });
        }
        let found_by_hand = entered.by_hand;
        drop(entered);
        let confirmed = confirm::confirm(&mut run, &plan, found_by_hand)?;
        Ok(run.report(Outcome::BytesMatch, Some(Firmware::of(&confirmed.dictionary)), plan.checks))
    }
}

/// Confirms what an earlier phase has started.
fn finish(mut run: Run<'_>, started: &Started) -> Result<Report, FlashError> {
    let confirmed = confirm::resume(&mut run, started)?;
    run.note_confirmed(&confirmed.checks);
    let checks = [&started.checks[..], &confirmed.checks].concat();
    Ok(run.report(Outcome::Flashed, Some(Firmware::of(&confirmed.dictionary)), checks))
}

/// Enters the bootloader and completes the plan with its word. A refusal here puts the application back.
fn prepare<'a>(run: &mut Run<'a>, first: &Plan) -> Result<(Entered<'a>, Plan), FlashError> {
    // What an earlier phase brought into its bootloader is entered all the same, and put back.
    if run.interrupt.requested() && !run.was_brought_here() {
        return Err(run.failed(FlashError { board: BoardState::Untouched, ..interrupted() }));
    }
    let entered = enter::enter(run, first)?;
    // It may have come to another bootloader than was planned, with dangers of its own.
    let warnings = run.known(None).warnings(entered.target.info.protocol);
    for warning in warnings.into_iter().filter(|warning| !first.warnings.contains(warning)) {
        run.emit(Event::Warning { text: warning.text });
    }
    match plan::make(&run.known(Some(&entered.target))) {
        Ok(plan) => {
            run.tell_new_checks(&plan, first);
            Ok((entered, plan))
        }
        Err(refusal) => {
            let refused = FlashError::refused(&refusal, BoardState::InBootloader);
            Err(enter::put_back(run, entered, refused))
        }
    }
}

fn verify_running(mut run: Run<'_>) -> Result<Report, FlashError> {
    let mismatch = |run: &Run<'_>, message: String| {
        run.failed(FlashError::new(ExitCode::Verify, FailureKind::Mismatch, BoardState::Untouched, message))
    };
    let Some(wanted) = &run.request.image.dictionary else {
        return Err(mismatch(&run, "image holds no data dictionary to compare with".into()));
    };
    let Some(running) = &run.running else {
        return Err(mismatch(&run, format!("no Klipper answers at {}", run.device.place)));
    };
    if running.dictionary.sha256 != wanted.sha256 {
        let message = format!(
            "board runs {} {}, image is {} {}",
            running.dictionary.app, running.dictionary.version, wanted.app, wanted.version
        );
        return Err(mismatch(&run, message));
    }
    let now = Firmware::of(&running.dictionary);
    run.note("the dictionaries are equal; the bytes were not compared (--read-back compares them)");
    Ok(run.report(Outcome::DictionaryMatches, Some(now), Vec::new()))
}

fn interrupted() -> FlashError {
    let message = "stopped by a signal before anything was erased";
    FlashError::new(ExitCode::Cancelled, FailureKind::Interrupted, BoardState::InBootloader, message)
}

/// What a failure while the plan was carried out means. Nothing is started after it.
fn write_failure(plan: &Plan, error: ApplyError) -> FlashError {
    let message = error.to_string();
    // What is whole but wrong is taken for valid after a loss of power, like what is half-written.
    let mut writes = plan.operations.iter().filter(|planned| matches!(planned.op, Op::Write { .. }));
    let begun = writes.next_back().map_or(WayBack::Cable, |planned| planned.way_back);
    let (exit, kind, board) = match error {
        ApplyError::Interrupted => (ExitCode::Cancelled, FailureKind::Interrupted, BoardState::InBootloader),
        ApplyError::Differs { .. } => (ExitCode::Verify, FailureKind::ReadBackDiffers, BoardState::Incomplete(begun)),
        ApplyError::Failed { progress, source } => match (progress, source) {
            (Progress::Nothing, _) => (ExitCode::Write, FailureKind::WriteFailed, BoardState::InBootloader),
            (Progress::Incomplete(way_back), ProtoError::Link { .. }) => {
                (ExitCode::Write, FailureKind::LinkLost, BoardState::Incomplete(way_back))
            }
            (Progress::Incomplete(way_back), ProtoError::Status { protected: true, .. }) => {
                (ExitCode::Write, FailureKind::Protected, BoardState::Incomplete(way_back))
            }
            (Progress::Incomplete(way_back), _) => {
                (ExitCode::Write, FailureKind::WriteFailed, BoardState::Incomplete(way_back))
            }
            (Progress::Unverified | Progress::Verified, ProtoError::Link { .. }) => {
                (ExitCode::Write, FailureKind::LinkLost, BoardState::Incomplete(begun))
            }
            (Progress::Unverified | Progress::Verified, _) => {
                (ExitCode::Verify, FailureKind::ReadBackRefused, BoardState::Incomplete(begun))
            }
        },
    };
    FlashError::new(exit, kind, board, message)
}

impl Firmware {
    /// The firmware that a dictionary describes.
    pub fn of(dictionary: &Dictionary) -> Self {
        Self {
            app: dictionary.app.clone(),
            version: dictionary.version.clone(),
            mcu: dictionary.mcu().map(str::to_owned),
            dictionary_sha256: dictionary.sha256.clone(),
        }
    }
}
