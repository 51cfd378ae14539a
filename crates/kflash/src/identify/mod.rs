//! Stage 2: which boards a device may be, and which device is meant.

mod candidates;
mod select;
mod selector;

use std::path::PathBuf;

use serde::Serialize;

pub(crate) use self::candidates::ST_DFU;
pub use self::candidates::candidates;
pub use self::select::{SelectError, describe, select};
pub use self::selector::ParseSelectorError;
use crate::board::BoardId;
use crate::discover::UsbPath;

/// What a person or a configuration says of the device that is meant (`--device`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// A USB port path.
    UsbPath(UsbPath),
    /// A USB serial number.
    Serial(String),
    /// A tty, by any of its names.
    Tty(PathBuf),
    /// A byte stream over TCP, `host:port`.
    Tcp(String),
    /// A device on a USB/IP server.
    Usbip {
        /// `host:port`.
        server: String,
        /// Its bus id there.
        busid: String,
    },
}

/// How sure it is that a device is a certain board. Nothing on USB proves a board; it can only be contradicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certainty {
    /// Nothing contradicts it.
    Possible,
    /// The only device on the host whose MCU, mode and start address agree with the profile, or traced from Klipper in this run.
    Proved,
    /// The person named it.
    Pinned,
}

/// A board that a device may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// The board.
    pub board: BoardId,
    /// How sure.
    pub certainty: Certainty,
    /// What speaks for it, a line each.
    pub evidence: Vec<String>,
}

#[cfg(test)]
mod tests;
