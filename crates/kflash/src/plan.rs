//! Stage 4: what would be done, and everything that speaks against it. Pure: no I/O.

use std::fmt;

use serde::Serialize;

use crate::addr::{FlashAddr, FlashRange};
use crate::board::{BoardWarning, Route};
use crate::discover::Device;
use crate::event::Check;

/// What will be done to the board, in order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// The board's id.
    pub board: String,
    /// The device.
    pub device: Device,
    /// The way that is taken.
    pub route: Route,
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
