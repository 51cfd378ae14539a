//! What the driver is doing, so that every error names it.

use std::fmt;
use std::time::Duration;

use super::status::StatusCode;
use crate::addr::FlashAddr;
use crate::link::LinkError;
use crate::proto::ProtoError;

/// The running operation.
#[derive(Clone, Copy, Debug)]
pub enum Doing {
    Open,
    Erase(FlashAddr),
    Write(FlashAddr),
    Read(FlashAddr),
    Start(FlashAddr),
    Finish,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("cannot open the DFU bootloader"),
            Self::Erase(addr) => write!(f, "cannot erase {addr}"),
            Self::Write(addr) => write!(f, "cannot write {addr}"),
            Self::Read(addr) => write!(f, "cannot read {addr}"),
            Self::Start(addr) => write!(f, "cannot start {addr}"),
            Self::Finish => f.write_str("cannot end the DFU transfer"),
        }
    }
}

impl Doing {
    pub fn link(self, source: LinkError) -> ProtoError {
        ProtoError::Link { doing: self.to_string(), source }
    }

    pub fn status(self, code: StatusCode) -> ProtoError {
        ProtoError::Status { doing: self.to_string(), status: code.text(), protected: code == StatusCode::VENDOR }
    }

    pub fn malformed(self, what: impl Into<String>) -> ProtoError {
        ProtoError::Malformed { doing: self.to_string(), what: what.into() }
    }

    pub fn stuck(self, after: Duration) -> ProtoError {
        ProtoError::Stuck { doing: self.to_string(), after }
    }

    pub fn unsupported(self, why: impl Into<String>) -> ProtoError {
        ProtoError::Unsupported { doing: self.to_string(), why: why.into() }
    }
}
