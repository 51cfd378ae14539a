//! What a chip behind a debug probe holds, without changing it: which route fits it, what flashing it would do, and
//! whether it holds an image.

use super::{Through, behind, holds, lost, needs_port, planned, refused};
use crate::addr::{FlashRange, FlashSize};
use crate::apply;
use crate::board::Route;
use crate::chip::Chip;
use crate::clock::Clock;
use crate::discover::Place;
use crate::event::{Check, Event, Events, Phase};
use crate::exit::ExitCode;
use crate::flash::route::{HEAD, head, suggested};
use crate::flash::{BoardState, FailureKind, FlashError, Flasher, Outcome, Report, Request, Run, Wanted};
use crate::plan::{self, Head, Plan, Seen, Target};
use crate::proto::swd::{Live, Swd, SwdError};
use crate::proto::{Bootloader as _, ProtoError, TargetInfo};

/// A chip whose flash is read.
enum Reader {
    /// It runs on meanwhile.
    Live(Live),
    /// It answered only out of a reset, and is started again afterwards.
    Halted(Box<Swd>),
}

impl Flasher<'_> {
    /// The first route of the board that fits what the chip behind a debug probe holds, whatever its cable and its
    /// bootloader's protocol. The chip runs on meanwhile; if it does not answer while it runs, it is reset where
    /// `wanted.may_reset`, and else the profile's first route is told.
    pub fn route_through(
        &self,
        wanted: &Wanted<'_>,
        through: &Through<'_>,
        events: Events<'_>,
    ) -> Result<(Route, Vec<Check>), FlashError> {
        let probe = through.find(wanted.chip, events)?;
        let through = Through { probe: Some(&probe), ..*through };
        let place = Place::Probe(probe.to_string());
        let _lock = self.host.lock(&behind(place.clone())).map_err(|error| FlashError::from(error).at(&place))?;
        let found = match through.reader(wanted.chip, self.host.clock(), wanted.may_reset) {
            Ok(Some(mut reader)) if reader.is_readable() => {
                let found = head(wanted.profile, wanted.chip, &mut |range| reader.read(range, &mut |_| ()));
                reader.end(wanted.chip);
                Some(found.map_err(|error| lost(&error).at(&place))?)
            }
            // It is erased before it is flashed.
            Ok(Some(_)) | Err(SwdError::Protected { can_be_lifted: true, .. }) if through.unlock => Some(Head::Nothing),
            Ok(_) => {
                events(Event::Warning { text: silent(&place) });
                None
            }
            Err(error) => return Err(refused(error).at(&place)),
        };
        let seen = Seen {
            profile: wanted.profile,
            flash_start: wanted.chip.flash_start,
            device: None,
            running: None,
            katapult_starts: None,
            head: found.as_ref(),
        };
        suggested(&seen, Some(&place))
    }

    /// What flashing the chip behind a debug probe would do. The chip runs on; one that does not answer while it runs
    /// leaves checks pending.
    pub fn plan_through(
        &self,
        request: &Request,
        through: &Through<'_>,
        events: Events<'_>,
    ) -> Result<Plan, FlashError> {
        needs_port(request)?;
        let probe = through.find(&request.chip, events)?;
        let through = Through { probe: Some(&probe), ..*through };
        let mut run = self.at_probe(request, &probe, events)?;
        let first = planned(&run, None, &plan::make_by_probe)?;
        let reader = through.reader(&request.chip, self.host.clock(), false);
        match reader.map_err(|error| run.failed(refused(error)))? {
            Some(mut reader) if reader.is_readable() => {
                let target = reader.target(&request.chip).map_err(|error| run.failed(lost(&error)))?;
                let mut plan = planned(&run, Some(&target), &plan::make_by_probe)?;
                plan.already_current = holds(&plan, &mut |range| reader.read(range, &mut |_| ()))
                    .map_err(|error| run.failed(lost(&error)))?;
                Ok(plan)
            }
            Some(_) => {
                run.warn("the chip is read-protected: flashing it with --unlock erases all of it first");
                Ok(first)
            }
            None => {
                let place = run.place().clone();
                run.warn(silent(&place));
                Ok(first)
            }
        }
    }

    /// Compares every byte of the image with what the chip behind a debug probe holds. The chip runs on; if it does not
    /// answer while it runs, it is reset where `may_reset`.
    pub fn verify_through(
        &self,
        request: &Request,
        may_reset: bool,
        through: &Through<'_>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        let probe = through.find(&request.chip, events)?;
        let through = Through { probe: Some(&probe), ..*through };
        let mut run = self.at_probe(request, &probe, events)?;
        planned(&run, None, &plan::make_by_probe)?;
        let reader = through.reader(&request.chip, self.host.clock(), may_reset);
        let Some(mut reader) = reader.map_err(|error| run.failed(refused(error)))? else {
            let kind = FailureKind::NoChip;
            let message = silent(run.place());
            return Err(run.failed(FlashError::new(ExitCode::NotFound, kind, BoardState::Untouched, message)));
        };
        let compared = compare(&mut run, &mut reader);
        reader.end(&request.chip);
        let plan = compared?;
        run.note("the bytes were read through the probe; what runs was not asked");
        Ok(run.report(Outcome::BytesMatch, None, plan.checks))
    }
}

/// The plan whose image the chip holds, byte by byte.
fn compare(run: &mut Run<'_>, reader: &mut Reader) -> Result<Plan, FlashError> {
    let target = reader.target(&run.request.chip).map_err(|error| run.failed(lost(&error)))?;
    let plan = planned(run, Some(&target), &plan::make_by_probe)?;
    let range = plan.image.range();
    let total = u64::from(range.size.0);
    run.emit(Event::Phase { phase: Phase::ReadBack, what: "reading back".into(), total: Some(total) });
    let mut done = 0;
    let read = reader.read(range, &mut |bytes| {
        done += u64::from(bytes);
        run.emit(Event::Progress { phase: Phase::ReadBack, done, total });
    });
    let read = read.map_err(|error| run.failed(lost(&error)))?;
    let Some((at, wanted, reads)) = apply::difference(&plan.image, range, &read) else { return Ok(plan) };
    let message = format!("flash differs from the image at {at}: image {wanted:#04x}, flash {reads:#04x}");
    Err(run.failed(FlashError::new(ExitCode::Verify, FailureKind::Mismatch, BoardState::RunsAsBefore, message)))
}

impl Through<'_> {
    /// Reaches the chip to read it; `None` where it does not answer while it runs and may not be reset.
    fn reader(&self, chip: &Chip, clock: &dyn Clock, may_reset: bool) -> Result<Option<Reader>, SwdError> {
        if let Some(live) = Live::connect(&self.wanted(chip, clock))? {
            return Ok(Some(Reader::Live(live)));
        }
        if !may_reset {
            return Ok(None);
        }
        // Nothing is erased only to be read.
        let through = Through { unlock: false, ..*self };
        Ok(Some(Reader::Halted(Box::new(Swd::connect(&through.wanted(chip, clock))?))))
    }
}

impl Reader {
    fn info(&self) -> &TargetInfo {
        match self {
            Self::Live(live) => live.info(),
            Self::Halted(swd) => swd.info(),
        }
    }

    fn is_readable(&self) -> bool {
        match self {
            Self::Live(live) => live.is_readable(),
            Self::Halted(_) => true,
        }
    }

    fn read(&mut self, range: FlashRange, progress: &mut dyn FnMut(u32)) -> Result<Vec<u8>, ProtoError> {
        match self {
            Self::Live(live) => live.read(range, progress),
            Self::Halted(swd) => swd.read(range, progress),
        }
    }

    /// The chip, for a plan.
    fn target(&mut self, chip: &Chip) -> Result<Target, ProtoError> {
        let flash = chip.flash();
        let head = FlashRange { start: flash.start, size: FlashSize(flash.size.0.min(HEAD)) };
        let head = Some(self.read(head, &mut |_| ())?);
        Ok(Target { info: self.info().clone(), usb: None, head })
    }

    /// Lets the chip run on.
    fn end(self, chip: &Chip) {
        if let Self::Halted(mut swd) = self {
            // A chip without a program does not start: that is not what was asked.
            let _ = swd.start(chip.flash_start);
        }
    }
}

fn silent(place: &Place) -> String {
    format!("no chip answers at the {place} while it runs; firmware may use its pins, or sleep: a reset would tell")
}
