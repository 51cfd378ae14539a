//! A flash in phases, for a container that keeps the device nodes that it was created with: a board that enumerates anew
//! may be another node then, which only the next container has. Each phase does what it can until then.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{BoardState, FailureKind, Firmware, FlashError, Flasher, Report, Request, Run};
use crate::board::BootloaderKind;
use crate::cluster::{HandoverError, handover};
use crate::discover::{Device, Mode, Scan};
use crate::event::{Check, Events, Phase};
use crate::exit::ExitCode;
use crate::identify::{self, SelectError};
use crate::plan::Plan;
use crate::proto::Protocol;

/// So many phases end with another to follow. A flash takes two; what takes more enumerates anew for ever.
const MOST: u32 = 6;

/// What the phases of a flash leave to those that follow. Each begins with what is on the bus, so that one that finds no
/// journal ends as well; only what ran before, and that it was this flash that wrote, is not known then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// SHA-256 of the image file: a journal of another image says nothing.
    pub image: String,
    /// Where the device is.
    pub place: Option<String>,
    /// How many phases have ended with another to follow.
    pub phases: u32,
    /// Whether the last of them had no node of the device from the beginning.
    pub without_node: bool,
    /// Whether an application was seen to run before anything was done.
    pub ran: bool,
    /// What it was.
    pub before: Option<Firmware>,
    /// Set once the image was written whole, read back and started.
    pub started: Option<Started>,
    /// How long the phases of a flash took in all of them, in milliseconds.
    pub durations_ms: BTreeMap<Phase, u64>,
}

/// An image that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// What lies before it.
    pub bootloader: BootloaderKind,
    /// The checks that were made until then.
    pub checks: Vec<Check>,
    /// Whether it was confirmed.
    pub confirmed: bool,
}

impl Journal {
    /// Reads it from `path`; `None` where there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, HandoverError> {
        handover::read(path)
    }

    /// Writes it to `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), HandoverError> {
        handover::write(path, self)
    }
}

impl Flasher<'_> {
    /// One phase of [`flash`](Self::flash): ends with [`ExitCode::Phase`] where the device is a node now that is not here,
    /// and goes on from there with the same `journal` where it is. The last confirms what runs.
    pub fn flash_phase(
        &self,
        request: &Request,
        journal: &mut Journal,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        if journal.image != request.image.sha256 {
            *journal = Journal { image: request.image.sha256.clone(), ..Journal::default() };
        }
        self.flash_on(request, Some(journal), events)
    }
}

/// The device that is meant: the one that the person named, and then whatever is where that was. The firmware may have
/// changed its serial number, and its node's name may be another board's.
pub(super) fn select(scan: &Scan, request: &Request, journal: Option<&Journal>) -> Result<Device, SelectError> {
    let Some(place) = journal.and_then(|journal| journal.place.as_ref()) else {
        return identify::select(scan, &request.selectors, &request.profile, &request.chip).map(|(device, _)| device);
    };
    let there = scan.devices.iter().find(|device| device.place.to_string() == *place);
    there.cloned().ok_or_else(|| SelectError::NotFound {
        what: format!("{place}, where it was in an earlier phase"),
        seen: scan.devices.iter().map(identify::describe).collect(),
    })
}

impl Run<'_> {
    /// Begins a phase, or fails where this container has no node of the device.
    pub(super) fn begin_phase(&mut self) -> Result<(), FlashError> {
        let (place, ran) = (self.place().to_string(), self.device.mode == Mode::Klipper);
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.place = Some(place);
        journal.ran |= ran;
        let missed = std::mem::replace(&mut journal.without_node, false);
        let board = match (self.device.mode, &journal.started) {
            (_, Some(_)) => BoardState::Written,
            (Mode::Katapult | Mode::Dfu, None) => BoardState::InBootloader,
            _ => BoardState::Untouched,
        };
        if self.has_node() {
            return Ok(());
        }
        let what = format!("no node in this container is {}", self.node());
        if missed {
            let message = format!("{what}, like in the one before: the path that it is given leads elsewhere");
            return Err(self.failed(FlashError::new(ExitCode::NotFound, FailureKind::NoNode, board, message)));
        }
        let ended = self.end_of_phase(board, &what);
        if let Some(journal) = &mut self.journal {
            journal.without_node = true;
        }
        Err(ended)
    }

    /// Notes what runs before anything was done, and returns what an earlier phase has started.
    pub(super) fn started(&mut self) -> Option<Started> {
        let running = self.running.as_ref().map(|running| Firmware::of(&running.dictionary));
        let journal = self.journal.as_mut()?;
        if journal.started.is_none() {
            journal.before = running.or(journal.before.take());
        }
        journal.started.clone()
    }

    /// Whether the device as it is now can be opened here; always, unless this is a flash in phases.
    pub(crate) fn has_node(&self) -> bool {
        self.journal.is_none() || self.host.has_node(&self.device)
    }

    /// Ends the phase where the device, which enumerated anew, is a node now that is not here. `done`: what came of it.
    pub(crate) fn still_here(&mut self, board: BoardState, done: &str) -> Result<(), FlashError> {
        if self.has_node() {
            return Ok(());
        }
        let what = format!("{done}; no node in this container is {} now", self.node());
        Err(self.end_of_phase(board, &what))
    }

    /// Refuses a way whose bootloader has no tty: no path of one stays.
    pub(super) fn refuse_phases(&self, plan: &Plan) -> Result<(), FlashError> {
        let leaves = self.device.mode == Mode::Klipper && plan.route.protocol != Protocol::Katapult;
        if self.journal.is_none() || !leaves {
            return Ok(());
        }
        let message = format!(
            "route {} of {} leads to a bootloader without a tty, which no later phase could open",
            plan.route.id, plan.board
        );
        Err(self.failed(FlashError::new(ExitCode::Refused, FailureKind::CheckFailed, BoardState::Untouched, message)))
    }

    /// Notes that the image was written whole, read back and started.
    pub(super) fn note_started(&mut self, plan: &Plan) {
        if let Some(journal) = &mut self.journal {
            let checks = plan.checks.clone();
            journal.started = Some(Started { bootloader: plan.bootloader, checks, confirmed: false });
        }
    }

    /// Notes that it was confirmed, with these checks.
    pub(super) fn note_confirmed(&mut self, checks: &[Check]) {
        if let Some(started) = self.journal.as_mut().and_then(|journal| journal.started.as_mut()) {
            started.checks.extend_from_slice(checks);
            started.confirmed = true;
        }
    }

    /// Whether an application ran before anything was done.
    pub(crate) fn ran_before(&self) -> bool {
        let earlier = self.journal.as_ref().is_some_and(|journal| journal.ran);
        earlier || self.running.is_some() || self.found.mode == Mode::Klipper
    }

    /// Whether an earlier phase brought the device into the bootloader that it is in.
    pub(super) fn was_brought_here(&self) -> bool {
        let ran = self.journal.as_ref().is_some_and(|journal| journal.ran);
        ran && matches!(self.found.mode, Mode::Katapult | Mode::Dfu)
    }

    /// The end of a phase with another to follow.
    fn end_of_phase(&mut self, board: BoardState, what: &str) -> FlashError {
        let durations = self.durations_ms();
        let Some(journal) = &mut self.journal else { return self.failed(again(board, what)) };
        journal.phases += 1;
        journal.durations_ms = durations;
        let phases = journal.phases;
        if phases <= MOST {
            return self.failed(again(board, what));
        }
        let (exit, kind) = match board {
            BoardState::Written => (ExitCode::Lost, FailureKind::DidNotReturn),
            _ => (ExitCode::Enter, FailureKind::DidNotEnter),
        };
        let message = format!("it enumerates anew for ever: this is phase {phases}; {what}");
        self.failed(FlashError::new(exit, kind, board, message))
    }

    /// The device's place and numbers.
    fn node(&self) -> String {
        let numbers = self.device.tty.as_ref().and_then(|tty| tty.numbers);
        let numbers = numbers.map(|(major, minor)| format!(" ({major}:{minor})")).unwrap_or_default();
        format!("the device at {}{numbers}", self.place())
    }
}

fn again(board: BoardState, what: &str) -> FlashError {
    FlashError::new(ExitCode::Phase, FailureKind::Phase, board, format!("{what}: the next container goes on"))
}
