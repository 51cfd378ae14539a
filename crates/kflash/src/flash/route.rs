//! Which route firmware is to be built for: looked at before there is an image.

use std::fmt;

use serde::Serialize;

use super::run::{ANSWER_LIMIT, USUAL_BAUD};
use super::{BoardState, FailureKind, FlashError, Flasher};
use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::board::{BootloaderKind, Cable, Profile, Route};
use crate::chip::Chip;
use crate::discover::{Device, Mode, Place};
use crate::event::{Check, Event, Events, Phase, Verdict};
use crate::exit::ExitCode;
use crate::host::{Holders, LockError};
use crate::identify::{self, SelectError, Selector};
use crate::klipper::client::KlipperError;
use crate::link::LinkError;
use crate::plan::{self, Head, Seen, cable_of};
use crate::proto::dfuse::DfuSe;
use crate::proto::katapult::{ConnectError, Katapult, needs_priming};
use crate::proto::{Bootloader as _, ProtoError};
use crate::query::{self, Resident, RunningFirmware};

/// Katapult's signature lies within its first few KiB; no build seen is larger.
pub(super) const HEAD: u32 = 16 * 1024;

/// Reads a range of a flash.
pub(super) type ReadFlash<'r> = dyn FnMut(FlashRange) -> Result<Vec<u8>, ProtoError> + 'r;

/// A board whose firmware is still to be made, and the device that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The board.
    pub profile: &'a Profile,
    /// Its chip.
    pub chip: &'a Chip,
    /// What the person said of the device; empty lets the rules of *Proved* decide.
    pub selectors: &'a [Selector],
    /// Whether a port may be opened although that resets the board.
    pub may_reset: bool,
}

/// What a device told, which is free again.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The device; `None` where there is none.
    pub device: Option<Device>,
    /// What runs on it.
    pub running: Option<RunningFirmware>,
    /// Why the device itself was not heard, where it was not.
    pub unheard: Option<Unheard>,
    katapult_starts: Option<FlashAddr>,
    head: Option<Head>,
}

/// A route, and what speaks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Suggestion {
    /// The first of the board's routes that nothing seen contradicts. Where the device was not heard, it follows from the
    /// profile's order and what sysfs shows.
    pub route: Route,
    /// What was compared.
    pub checks: Vec<Check>,
    /// What the device told.
    pub heard: Heard,
}

/// Why a device was not heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "unheard", rename_all = "kebab-case")]
pub enum Unheard {
    /// There is none.
    NoDevice {
        /// The error of stage 2, as a fragment.
        what: String,
    },
    /// Another process has it.
    Held {
        /// Whose it is, as a fragment.
        by: String,
    },
    /// Asking would reset it, and was not allowed.
    WouldReset,
    /// It does not answer.
    Silent {
        /// The link's or the protocol's error, as a fragment.
        error: String,
    },
    /// There is nothing to ask: it runs no firmware, or none that kflash speaks to.
    Mute,
}

/// What a device told.
#[derive(Default)]
struct Told {
    running: Option<RunningFirmware>,
    katapult_starts: Option<FlashAddr>,
    head: Option<Head>,
}

impl Flasher<'_> {
    /// The first route of the board that nothing contradicts which the device shows: its cable, the bootloader that it
    /// is in, where its running application starts and what lies before that.
    ///
    /// # Errors
    ///
    /// Those of [`hear`](Self::hear), and a device that contradicts every route.
    pub fn route(&self, wanted: &Wanted<'_>, events: Events<'_>) -> Result<Suggestion, FlashError> {
        let heard = self.hear(wanted, events)?;
        let (route, checks) = heard.route(wanted)?;
        Ok(Suggestion { route, checks, heard })
    }

    /// Asks the device what it holds and runs, under its lock, and lets it go again. Changes nothing on it. A device that
    /// is missing, held by another process or silent is no error: see [`Heard::unheard`].
    ///
    /// # Errors
    ///
    /// A device that is ambiguous or may not be opened.
    pub fn hear(&self, wanted: &Wanted<'_>, events: Events<'_>) -> Result<Heard, FlashError> {
        events(Event::Phase { phase: Phase::Look, what: "looking for the device".into(), total: None });
        let scan = self.host.scan()?;
        let (device, told) = match identify::select(&scan, wanted.selectors, wanted.profile, wanted.chip) {
            Ok((device, _)) => {
                let told = self.ask(wanted, &device)?;
                (Some(device), told)
            }
            Err(error @ SelectError::NotFound { .. }) => (None, Err(Unheard::NoDevice { what: error.to_string() })),
            Err(error) => return Err(error.into()),
        };
        let (told, unheard) = match told {
            Ok(told) => (told, None),
            Err(unheard) => (Told::default(), Some(unheard)),
        };
        let Told { running, katapult_starts, head } = told;
        Ok(Heard { device, running, unheard, katapult_starts, head })
    }

    /// What the device says; `Err` inside where it is not heard.
    fn ask(&self, wanted: &Wanted<'_>, device: &Device) -> Result<Result<Told, Unheard>, FlashError> {
        let _lock = match self.host.lock(device) {
            Ok(lock) => lock,
            Err(error @ LockError::Held { .. }) => return Ok(Err(Unheard::Held { by: error.to_string() })),
            Err(error) => return Err(FlashError::from(error).at(&device.place)),
        };
        if let Holders::Seen { processes, .. } = self.host.holders(device)
            && let Some(holder) = processes.first()
        {
            let by = format!("held by {} (pid {})", holder.name.escape_debug(), holder.pid);
            return Ok(Err(Unheard::Held { by }));
        }
        let told = match (device.mode, cable_of(device)) {
            (Mode::Katapult, Cable::Usb) => self.ask_katapult(device),
            (Mode::Dfu, _) => self.ask_rom(wanted, device),
            (_, Cable::Uart) if wanted.profile.opening_resets && !wanted.may_reset => {
                return Ok(Err(Unheard::WouldReset));
            }
            (Mode::Klipper, Cable::Usb) | (_, Cable::Uart) => self.ask_klipper(wanted, device),
            _ => return Ok(Err(Unheard::Mute)),
        };
        match told {
            Ok(told) => Ok(Ok(told)),
            Err(Deaf::Link(LinkError::Busy { node })) => {
                Ok(Err(Unheard::Held { by: format!("{node} is held by another process") }))
            }
            Err(Deaf::Link(error @ LinkError::Denied { .. })) => {
                let doing = format!("cannot open the device at {}", device.place);
                let failure = FlashError::link(&doing, &error, BoardState::Untouched, ExitCode::NotFound);
                Err(failure.at(&device.place))
            }
            Err(Deaf::Link(error)) => Ok(Err(Unheard::Silent { error: error.to_string() })),
            Err(Deaf::Other(error)) => Ok(Err(Unheard::Silent { error })),
        }
    }
}

/// Why nothing was heard of a device.
enum Deaf {
    Link(LinkError),
    Other(String),
}

impl From<LinkError> for Deaf {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl Flasher<'_> {
    fn ask_klipper(&self, wanted: &Wanted<'_>, device: &Device) -> Result<Told, Deaf> {
        let link = self.host.open_serial(device, USUAL_BAUD)?;
        match query::ask(link, self.host.clock(), wanted.chip, ANSWER_LIMIT) {
            Ok((_, running)) => Ok(Told { running: Some(running), ..Told::default() }),
            Err(KlipperError::Link(error)) => Err(Deaf::Link(error)),
            Err(error) => Err(Deaf::Other(error.to_string())),
        }
    }

    fn ask_katapult(&self, device: &Device) -> Result<Told, Deaf> {
        let link = self.host.open_serial(device, USUAL_BAUD)?;
        let product = device.usb.as_ref().and_then(|usb| usb.product.as_deref());
        match Katapult::connect(link, self.host.clock(), product.is_some_and(needs_priming)) {
            Ok(katapult) => Ok(Told { katapult_starts: katapult.info().app_start, ..Told::default() }),
            Err(ConnectError::Link(error)) => Err(Deaf::Link(error)),
            Err(error) => Err(Deaf::Other(error.to_string())),
        }
    }

    /// Reads what lies in the flash. Nothing is told by a chip that does not let itself be read: that is for the plan to refuse.
    fn ask_rom(&self, wanted: &Wanted<'_>, device: &Device) -> Result<Told, Deaf> {
        let link = self.host.open_usb(device)?;
        let (profile, chip) = (wanted.profile, wanted.chip);
        let quirks = chip.rom_dfu.as_ref().map_or(&[][..], |rom| &rom.quirks);
        let mut rom =
            DfuSe::connect(link, self.host.clock(), quirks).map_err(|error| Deaf::Other(error.to_string()))?;
        let head = head(profile, chip, &mut |range| rom.read(range, &mut |_| ())).ok();
        Ok(Told { head, ..Told::default() })
    }
}

/// What lies in a flash.
pub(super) fn head(profile: &Profile, chip: &Chip, read: &mut ReadFlash<'_>) -> Result<Head, ProtoError> {
    let flash = chip.flash();
    let first = read(FlashRange { start: flash.start, size: FlashSize(flash.size.0.min(HEAD)) })?;
    Ok(match query::resident_in(&first, chip) {
        Resident::Katapult => Head::Katapult,
        Resident::Nothing => Head::Nothing,
        Resident::Other => {
            let vendors = profile.bootloaders.iter().filter(|it| it.kind == BootloaderKind::Vendor);
            let starts = vendors.map(|vendor| vendor.app_start).filter(|&start| {
                let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
                let bytes = read(FlashRange { start, size: FlashSize(8) }).unwrap_or_default();
                bytes.len() == 8 && query::is_vector_table([word(&bytes[..4]), word(&bytes[4..])], chip)
            });
            Head::Other(starts.collect())
        }
    })
}

impl Heard {
    /// The first of the board's routes that nothing heard contradicts, and what was compared.
    pub fn route(&self, wanted: &Wanted<'_>) -> Result<(Route, Vec<Check>), FlashError> {
        let seen = Seen {
            profile: wanted.profile,
            flash_start: wanted.chip.flash_start,
            device: self.device.as_ref(),
            running: self.running.as_ref(),
            katapult_starts: self.katapult_starts,
            head: self.head.as_ref(),
        };
        suggested(&seen, self.device.as_ref().map(|device| &device.place))
    }
}

/// The first of the board's routes that nothing seen at `place` contradicts, and what was compared.
pub(super) fn suggested(seen: &Seen<'_>, place: Option<&Place>) -> Result<(Route, Vec<Check>), FlashError> {
    let mut checks = Vec::new();
    if let Some(chosen) = plan::suggest(seen, &mut checks) {
        return Ok((chosen.route.clone(), checks));
    }
    let disagree = checks.into_iter().filter(|check| check.verdict == Verdict::Disagrees);
    let details = disagree.map(|Check { name, evidence, .. }| format!("{name}: {evidence}")).collect();
    let message = format!("no route of {} fits what the device shows", seen.profile.id);
    let refused = FlashError::new(ExitCode::Refused, FailureKind::CheckFailed, BoardState::Untouched, message);
    Err(FlashError { place: place.cloned(), details, ..refused })
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { what } => f.write_str(what),
            Self::Held { by } => f.write_str(by),
            Self::WouldReset => f.write_str("opening its port may reset it"),
            Self::Silent { error } => f.write_str(error),
            Self::Mute => f.write_str("what it runs cannot be asked"),
        }
    }
}
