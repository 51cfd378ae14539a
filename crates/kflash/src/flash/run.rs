//! One run on one device: what is known by now, and the first stage, looking.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::board::Cable;
use crate::discover::{Device, Mode, Place};
use crate::event::{Check, Event, Events, Phase};
use crate::exit::ExitCode;
use crate::flash::phased::{self, Journal};
use crate::flash::{
    BoardState, FailureKind, Firmware, FlashError, Flasher, Interrupt, Outcome, Report, Request, interrupted,
};
use crate::follow;
use crate::host::{Holders, Host};
use crate::klipper::client::KlipperError;
use crate::klipper::dictionary::BuiltFor;
use crate::link::shared::SharedLink;
use crate::link::{ByteLink, LinkError};
use crate::plan::{Known, Plan, Target, cable_of};
use crate::query::{self, RunningFirmware};

/// Klipper's usual rate on a UART; USB ignores it.
pub(super) const USUAL_BAUD: u32 = 250_000;
/// How long running firmware may take to answer: a board that was reset by opening its port boots first.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// One run on one device.
pub(crate) struct Run<'a> {
    pub host: &'a dyn Host,
    pub interrupt: &'a Interrupt,
    pub hands: bool,
    pub request: &'a Request,
    /// The device as it was found; its place holds for the whole run.
    pub found: Device,
    /// The device as it is now.
    pub device: Device,
    /// What ran when it was found.
    pub running: Option<RunningFirmware>,
    /// The rate at which it answered, on a UART.
    pub running_baud: Option<u32>,
    /// The port, where it is a UART's: opened once, since opening may reset the board.
    pub uart: Option<SharedLink>,
    /// Where this is a phase: what those before left, and what it leaves.
    pub journal: Option<&'a mut Journal>,
    events: Events<'a>,
    phase: Option<(Phase, Duration)>,
    durations: BTreeMap<Phase, Duration>,
    notes: Vec<String>,
    _lock: Box<dyn Any + Send>,
}

impl<'a> Run<'a> {
    /// Finds the device that is meant, locks it, and asks it what it runs. A UART port is opened only if `open_uart`.
    /// `journal`: where this is a phase.
    pub fn look(
        flasher: &'a Flasher<'_>,
        request: &'a Request,
        journal: Option<&'a mut Journal>,
        events: Events<'a>,
        open_uart: bool,
    ) -> Result<Self, FlashError> {
        let host = flasher.host;
        events(Event::Phase { phase: Phase::Look, what: "looking for the device".into(), total: None });
        let scan = host.scan()?;
        let found = phased::select(&scan, request, journal.as_deref())?;
        let lock = host.lock(&found).map_err(|error| FlashError::from(error).at(&found.place))?;
        let mut run = Self { journal, ..Self::new(flasher, request, found, lock, events) };
        run.begin_phase()?;
        run.refuse_held()?;
        match (run.device.mode, cable_of(&run.device)) {
            (Mode::Klipper, _) => run.ask_usb()?,
            (_, Cable::Uart) if open_uart => run.ask_uart()?,
            _ => {}
        }
        Ok(run)
    }

    /// A run on a device that was found and locked.
    pub fn new(
        flasher: &'a Flasher<'_>,
        request: &'a Request,
        found: Device,
        lock: Box<dyn Any + Send>,
        events: Events<'a>,
    ) -> Self {
        let host = flasher.host;
        Self {
            host,
            interrupt: flasher.interrupt,
            hands: flasher.hands,
            request,
            device: found.clone(),
            found,
            running: None,
            running_baud: None,
            uart: None,
            journal: None,
            phase: Some((Phase::Look, host.clock().now())),
            durations: BTreeMap::new(),
            notes: Vec::new(),
            events,
            _lock: lock,
        }
    }

    /// Everything known now, for a plan.
    pub fn known<'k>(&'k self, target: Option<&'k Target>) -> Known<'k> {
        Known {
            profile: &self.request.profile,
            chip: &self.request.chip,
            image: &self.request.image,
            device: &self.found,
            running: self.running.as_ref(),
            target,
        }
    }

    /// The device's place.
    pub fn place(&self) -> &Place {
        &self.found.place
    }

    /// Passes an event on, and keeps the time of each phase.
    pub fn emit(&mut self, event: Event) {
        if let Event::Phase { phase, .. } = event {
            self.end_phase();
            self.phase = Some((phase, self.host.clock().now()));
        }
        (self.events)(event);
    }

    /// Tells what the first plan of an installation compared and warns of. Fails where a signal came meanwhile, with
    /// nothing touched.
    pub fn announce(&mut self, first: &Plan) -> Result<(), FlashError> {
        for check in &first.checks {
            self.emit(Event::Check(check.clone()));
        }
        for warning in &first.warnings {
            self.emit(Event::Warning { text: warning.text.clone() });
        }
        if self.interrupt.requested() {
            return Err(self.failed(FlashError { board: BoardState::Untouched, ..interrupted() }));
        }
        Ok(())
    }

    /// Tells the checks of `plan` that `first` had not, or not so.
    pub fn tell_new_checks(&mut self, plan: &Plan, first: &Plan) {
        for check in plan.checks.iter().filter(|check| !first.checks.contains(check)) {
            self.emit(Event::Check(check.clone()));
        }
    }

    /// Begins a phase that is not about bytes.
    pub fn begin(&mut self, phase: Phase, what: impl Into<String>) {
        self.emit(Event::Phase { phase, what: what.into(), total: None });
    }

    /// Something that stops nothing but should be known.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.emit(Event::Warning { text: text.into() });
    }

    /// Something to say at the end.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// `error`, about this run's device.
    pub fn failed(&self, error: FlashError) -> FlashError {
        error.at(self.place())
    }

    /// The good end.
    pub fn report(mut self, outcome: Outcome, now: Option<Firmware>, checks: Vec<Check>) -> Report {
        let (before, durations_ms) = (self.before(), self.durations_ms());
        // udev makes the by-id link some time after the tty.
        if let Ok(Some(device @ Device { tty: Some(_), .. })) = follow::at(self.host, self.place()) {
            self.device = device;
        }
        let by_id = |device: &Device| device.tty.as_ref().and_then(|tty| tty.by_id.clone());
        if let (Mode::Klipper, Some(was), Some(is)) = (self.found.mode, by_id(&self.found), by_id(&self.device))
            && was != is
        {
            self.notes.push(format!("its path changed: printer.cfg needs serial: {}", is.display()));
        }
        Report {
            outcome,
            simulated: self.host.simulated(),
            device: self.device,
            before,
            now,
            notes: self.notes,
            checks,
            durations_ms,
        }
    }

    /// What ran before anything was done.
    pub fn before(&self) -> Option<Firmware> {
        let seen = || self.running.as_ref().map(|running| Firmware::of(&running.dictionary));
        self.journal.as_ref().map_or_else(seen, |journal| journal.before.clone())
    }

    /// How long each phase took until now, those of earlier containers included.
    pub fn durations_ms(&mut self) -> BTreeMap<Phase, u64> {
        self.end_phase();
        let mut durations = self.journal.as_ref().map(|journal| journal.durations_ms.clone()).unwrap_or_default();
        for (phase, time) in &self.durations {
            *durations.entry(*phase).or_default() += time.as_millis() as u64;
        }
        durations
    }

    /// Opens the byte stream of the device as it is now. On a UART that is the one port, at another rate.
    pub fn open_serial(&mut self, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        if cable_of(&self.found) == Cable::Usb {
            return self.host.open_serial(&self.device, baud);
        }
        let mut link = match &self.uart {
            Some(link) => link.clone(),
            None => SharedLink::new(self.host.open_serial(&self.device, baud)?),
        };
        link.set_baud(baud)?;
        self.uart = Some(link.clone());
        Ok(Box::new(link))
    }

    /// The rate at which the image will talk.
    pub fn image_baud(&self) -> u32 {
        match self.request.image.dictionary.as_ref().map(crate::klipper::dictionary::Dictionary::built_for) {
            Some(BuiltFor::Uart(baud)) if baud > 0 => baud,
            _ => USUAL_BAUD,
        }
    }

    fn end_phase(&mut self) {
        if let Some((phase, since)) = self.phase.take() {
            *self.durations.entry(phase).or_default() += self.host.clock().now().saturating_sub(since);
        }
    }

    /// Another process on the port, most likely klippy, is told from a port that cannot be opened.
    fn refuse_held(&self) -> Result<(), FlashError> {
        let Holders::Seen { processes, .. } = self.host.holders(&self.device) else { return Ok(()) };
        let Some(first) = processes.first() else { return Ok(()) };
        let node =
            self.device.tty.as_ref().map_or_else(|| self.place().to_string(), |tty| tty.node.display().to_string());
        let message = format!("{node} is held by {} (pid {})", first.name.escape_debug(), first.pid);
        Err(self.failed(FlashError::new(ExitCode::Busy, FailureKind::Held { node }, BoardState::Untouched, message)))
    }

    fn ask_usb(&mut self) -> Result<(), FlashError> {
        let link = self.open_serial(USUAL_BAUD).map_err(|error| self.cannot_open(&error))?;
        let clock = self.host.clock();
        match query::ask(link, clock, &self.request.chip, ANSWER_LIMIT) {
            Ok((_, running)) => self.running = Some(running),
            Err(error) => self.warn(format!("Klipper does not answer at {}: {error}", self.place())),
        }
        Ok(())
    }

    fn ask_uart(&mut self) -> Result<(), FlashError> {
        let mut rates = vec![self.image_baud()];
        if rates[0] != USUAL_BAUD {
            rates.push(USUAL_BAUD);
        }
        for baud in rates {
            let link = self.open_serial(baud).map_err(|error| self.cannot_open(&error))?;
            match query::ask(link, self.host.clock(), &self.request.chip, ANSWER_LIMIT) {
                Ok((_, running)) => {
                    self.running = Some(running);
                    self.running_baud = Some(baud);
                    return Ok(());
                }
                Err(KlipperError::Link(LinkError::Gone)) => {
                    return Err(self.cannot_open(&LinkError::Gone));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn cannot_open(&self, error: &LinkError) -> FlashError {
        let doing = format!("cannot open the device at {}", self.place());
        self.failed(FlashError::link(&doing, error, BoardState::Untouched, ExitCode::NotFound))
    }
}
