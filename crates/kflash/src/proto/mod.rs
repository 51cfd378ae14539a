//! Bootloader protocols. A driver sees a link and a clock; never a path, a board or a terminal.

pub mod dfuse;
pub mod katapult;
#[cfg(feature = "swd")]
pub mod swd;

use std::time::Duration;

use serde::Serialize;

use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::link::LinkError;

/// What a bootloader can be asked to do. Drivers are opened by their own `connect`.
pub trait Bootloader {
    /// What the bootloader said of itself and its chip when it was connected to.
    fn info(&self) -> &TargetInfo;

    /// Reads `range`; calls `progress` with the bytes of each step.
    fn read(&mut self, range: FlashRange, progress: &mut dyn FnMut(u32)) -> Result<Vec<u8>, ProtoError>;

    /// Erases one sector. Bootloaders that erase as they write have nothing to do.
    fn erase(&mut self, sector: FlashRange) -> Result<(), ProtoError>;

    /// Writes `data` at `addr`, ascending, the last block padded with `ff`; calls `progress` with the bytes of each step.
    fn write(&mut self, addr: FlashAddr, data: &[u8], progress: &mut dyn FnMut(u32)) -> Result<(), ProtoError>;

    /// Ends the writing: what the bootloader still holds in RAM reaches the flash. Comes before reading back.
    fn finish(&mut self) -> Result<(), ProtoError>;

    /// Starts the application at `addr`. The device is expected to leave: that is not an error here.
    fn start(&mut self, addr: FlashAddr) -> Result<(), ProtoError>;
}

/// A bootloader protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Katapult, over USB CDC or a UART.
    Katapult,
    /// ST's DFU with addresses, as in the ROM of most STM32 and in its GD32 and APM32 likenesses.
    Dfuse,
    /// The chip's debug port, through a debug probe.
    Swd,
}

impl Protocol {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Katapult => "Katapult",
            Self::Dfuse => "DFU",
            Self::Swd => "SWD",
        }
    }
}

/// What a target says of itself through its bootloader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TargetInfo {
    /// The protocol spoken.
    pub protocol: Protocol,
    /// The bootloader's own version, where it tells: `v0.0.1-110-gb0bf421`, `bcdDevice 22.00`.
    pub version: Option<String>,
    /// The chip's name as the bootloader gives it: `stm32f446xx`.
    pub mcu: Option<String>,
    /// Where the bootloader starts the application, where it tells.
    pub app_start: Option<FlashAddr>,
    /// Bytes in one write transfer.
    pub block_size: FlashSize,
    /// The flash as the bootloader describes it; empty where it does not.
    pub sectors: Vec<Sector>,
}

/// One erasable sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sector {
    /// Where it lies.
    pub range: FlashRange,
    /// What the bootloader allows.
    pub access: Access,
}

/// Access to a sector, the letter of a DfuSe layout (UM0424 §10.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Access {
    /// May be read.
    pub read: bool,
    /// May be erased.
    pub erase: bool,
    /// May be written.
    pub write: bool,
}

/// Why a bootloader operation failed.
#[derive(Debug, thiserror::Error)]
pub enum ProtoError {
    /// The link failed under it.
    #[error("{doing}: {source}")]
    Link {
        /// The operation with its address: `cannot write 0x08008000`.
        doing: String,
        /// The link's error.
        source: LinkError,
    },
    /// The device answered with a status or error code.
    #[error("{doing}: {status}")]
    Status {
        /// The operation with its address.
        doing: String,
        /// The device's answer by name: `device is read-protected (errVENDOR)`.
        status: String,
        /// Whether the answer means that the chip is protected.
        protected: bool,
    },
    /// The device's answers do not fit the protocol.
    #[error("{doing}: {what}")]
    Malformed {
        /// The operation with its address.
        doing: String,
        /// What was wrong.
        what: String,
    },
    /// The device did not finish in time.
    #[error("{doing}: not done after {} s", .after.as_secs())]
    Stuck {
        /// The operation with its address.
        doing: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The operation cannot be done through this bootloader; nothing was sent.
    #[error("{doing}: {why}")]
    Unsupported {
        /// The operation with its address.
        doing: String,
        /// Why not.
        why: String,
    },
}
