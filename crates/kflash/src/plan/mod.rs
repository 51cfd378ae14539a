//! Stage 4: what would be done, and everything that speaks against it. Pure: no I/O.
//!
//! A plan is made twice: before the bootloader is entered, from what can be known without resetting the board, and
//! again with the bootloader's own word.

mod by_probe;
pub(crate) mod checks;
mod install;
mod operations;
mod route;
mod suits;

use std::fmt;

use serde::Serialize;

pub use self::install::{Parts, install};
use self::operations::Layout;
use self::route::Chosen;
pub use self::route::cable_of;
pub(crate) use self::route::{Head, Seen, suggest};
pub use self::suits::suits;
use crate::addr::{FlashAddr, FlashRange};
use crate::board::{BoardWarning, BootloaderKind, Profile, Route, WarningTime};
use crate::chip::Chip;
use crate::discover::{Device, UsbIdentity};
use crate::event::{Check, Verdict};
use crate::image::{Image, PlacedImage};
use crate::proto::{Protocol, TargetInfo};
use crate::query::{self, Resident, RunningFirmware};

/// Everything that is known when a plan is made.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The board.
    pub profile: &'a Profile,
    /// Its chip.
    pub chip: &'a Chip,
    /// What is to be written.
    pub image: &'a Image,
    /// The device, as found at the start of the run.
    pub device: &'a Device,
    /// What ran on it; `None` where nothing answered or it was found in a bootloader.
    pub running: Option<&'a RunningFirmware>,
    /// What its bootloader says; `None` before it is entered.
    pub target: Option<&'a Target>,
}

/// What is known from inside the bootloader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// What the bootloader says of itself.
    pub info: TargetInfo,
    /// What USB says of it; `None` on a UART.
    pub usb: Option<UsbIdentity>,
    /// The first bytes of the flash, where the bootloader reads them out.
    #[serde(skip)]
    pub head: Option<Vec<u8>>,
}

/// A plan that must not be carried out, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Every check made, the disagreeing ones among them.
    pub checks: Vec<Check>,
    /// Whether the chip is read-protected.
    pub protected: bool,
}

/// What will be done to the board, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The board's id.
    pub board: String,
    /// The device.
    pub device: Device,
    /// The way that is taken.
    pub route: Route,
    /// What lies before the application.
    pub bootloader: BootloaderKind,
    /// Where the application starts.
    pub app_start: FlashAddr,
    /// The operations.
    pub operations: Vec<PlannedOp>,
    /// The flash from end to end.
    pub regions: Vec<Region>,
    /// Every check, made or pending.
    pub checks: Vec<Check>,
    /// Dangers of the board that hold on this way.
    pub warnings: Vec<BoardWarning>,
    /// Whether the running dictionary is the image's already.
    pub already_current: bool,
    /// The bytes that are written.
    #[serde(skip)]
    pub image: PlacedImage,
}

/// An operation and what a cut during it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedOp {
    /// The operation.
    pub op: Op,
    /// The way back if link and power are lost during it.
    pub way_back: WayBack,
}

/// One operation of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// Overwrite the first block of the application with zeros, so that the bootloader no longer takes it for one.
    Invalidate {
        /// The block.
        block: FlashRange,
    },
    /// Erase one sector.
    Erase {
        /// The sector.
        sector: FlashRange,
    },
    /// Write these bytes of the image.
    Write {
        /// Where.
        range: FlashRange,
    },
    /// End the writing.
    Finish,
    /// Read back and compare with the image.
    ReadBack {
        /// Where.
        range: FlashRange,
    },
    /// Start the application.
    Start {
        /// Where.
        addr: FlashAddr,
    },
}

/// How a board is reached again after its link and power were cut, the easiest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum WayBack {
    /// Plug it in and run kflash again.
    Cable,
    /// Press reset twice within half a second.
    DoubleReset,
    /// Start with BOOT0 set.
    Boot0,
    /// Only a debug probe.
    Swd,
}

/// A stretch of the flash and what happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// Where.
    pub range: FlashRange,
    /// What lies there.
    pub name: String,
    /// What happens to it.
    pub fate: Fate,
}

/// What happens to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Not touched.
    Kept,
    /// Erased and written.
    Written,
    /// Erased and left blank.
    Erased,
}

/// Makes a plan, or says what disagrees.
pub fn make(known: &Known<'_>) -> Result<Plan, Refusal> {
    let mut checks = checks::image(known);
    match route::choose(known, &mut checks) {
        Some(chosen) => complete(known, &chosen, checks),
        None => Err(Refusal { checks, protected: false }),
    }
}

/// Makes a plan for the chip behind a debug probe, or says what disagrees.
pub fn make_by_probe(known: &Known<'_>) -> Result<Plan, Refusal> {
    let mut checks = by_probe::image(known.image, known.profile, known.chip);
    match by_probe::choose(known, &mut checks) {
        Some((route, bootloader)) => complete(known, &Chosen { route: &route, bootloader }, checks),
        None => Err(Refusal { checks, protected: false }),
    }
}

/// The plan for a way that was chosen.
fn complete(known: &Known<'_>, chosen: &Chosen<'_>, mut checks: Vec<Check>) -> Result<Plan, Refusal> {
    let app_start = chosen.bootloader.app_start;
    let image = match known.image.placed(app_start) {
        Ok(image) => image,
        Err(error) => {
            let (name, evidence) = ("image fits the flash".into(), error.to_string());
            checks.push(Check { name, verdict: Verdict::Disagrees, evidence });
            return Err(Refusal { checks, protected: false });
        }
    };
    let Some(layout) = Layout::new(known, chosen, image.range()) else {
        let evidence =
            format!("image takes {}, which whole blocks take past the end of the address space", image.range());
        checks.push(Check { name: "image fits the flash".into(), verdict: Verdict::Disagrees, evidence });
        return Err(Refusal { checks, protected: false });
    };
    checks.extend(checks::placement(known, chosen, &layout, image.range()));
    checks.extend(checks::running(known, chosen, &layout));
    checks.extend(checks::target(known, chosen, &layout));
    checks.extend(checks::not_provable(known, chosen));
    if checks.iter().any(|check| check.verdict == Verdict::Disagrees) {
        let protected =
            known.target.is_some_and(|target| target.info.protocol == Protocol::Dfuse && target.head.is_none());
        return Err(Refusal { checks, protected });
    }
    Ok(Plan {
        board: known.profile.id.to_string(),
        device: known.device.clone(),
        route: chosen.route.clone(),
        bootloader: chosen.bootloader.kind,
        app_start,
        operations: operations::operations(known, chosen, &layout),
        regions: operations::regions(known, chosen, &layout),
        checks,
        warnings: known.warnings(chosen.route.protocol),
        already_current: known.already_current(),
        image,
    })
}

impl Known<'_> {
    /// Whether what runs is what the image holds.
    pub fn already_current(&self) -> bool {
        match (self.running, &self.image.dictionary) {
            (Some(running), Some(wanted)) => running.dictionary.sha256 == wanted.sha256,
            _ => false,
        }
    }

    /// What lies at the flash's start, from whoever could read it.
    fn resident(&self) -> Option<Resident> {
        let read = self.target.and_then(|target| target.head.as_deref());
        read.map(|head| query::resident_in(head, self.chip)).or_else(|| self.running?.resident)
    }

    /// The flash: as the bootloader lists it, else as the chip has it.
    fn flash(&self) -> FlashRange {
        let listed = self.target.map_or(&[][..], |target| &target.info.sectors);
        match (listed.first(), listed.last()) {
            (Some(first), Some(last)) => {
                FlashRange::between(first.range.start, last.range.end()).unwrap_or_else(|| self.chip.flash())
            }
            _ => self.chip.flash(),
        }
    }

    /// The sectors: as the bootloader lists them, else as the chip has them.
    fn sectors(&self) -> Box<dyn Iterator<Item = FlashRange> + '_> {
        match self.target.map(|target| &target.info.sectors).filter(|sectors| !sectors.is_empty()) {
            Some(listed) => Box::new(listed.iter().map(|sector| sector.range)),
            None => Box::new(self.chip.sectors()),
        }
    }

    /// The dangers of the board that hold in a bootloader of this protocol.
    pub fn warnings(&self, protocol: Protocol) -> Vec<BoardWarning> {
        let holds = |warning: &&BoardWarning| match warning.when {
            WarningTime::Always => true,
            WarningTime::RomBootloader => protocol == Protocol::Dfuse,
        };
        self.profile.warnings.iter().filter(holds).cloned().collect()
    }
}

impl Refusal {
    /// The checks that disagree.
    pub fn disagreements(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.verdict == Verdict::Disagrees)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, check) in self.disagreements().enumerate() {
            let gap = if n == 0 { "" } else { "; " };
            write!(f, "{gap}{}: {}", check.name, check.evidence)?;
        }
        Ok(())
    }
}

impl Op {
    /// Whether it changes the flash.
    pub fn writes(self) -> bool {
        matches!(self, Self::Invalidate { .. } | Self::Erase { .. } | Self::Write { .. })
    }
}

impl fmt::Display for WayBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cable => "cable",
            Self::DoubleReset => "double-reset",
            Self::Boot0 => "boot0",
            Self::Swd => "swd",
        })
    }
}
