//! The answer to `DFU_GETSTATUS` (DFU 1.1 §6.1.2).

use std::time::Duration;

/// A decoded answer to `DFU_GETSTATUS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// `bStatus`.
    pub code: StatusCode,
    /// `bwPollTimeout`: how long to wait before asking again.
    pub poll: Duration,
    /// `bState`.
    pub state: State,
}

/// `bStatus`, with the text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusCode(pub u8);

/// `bState`: where the device is in DFU's state machine (DFU 1.1 §A.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// An application runs.
    AppIdle,
    /// An application runs and waits to be detached.
    AppDetach,
    /// Waits for requests.
    Idle,
    /// Has a block, waits to be asked.
    DownloadSync,
    /// Erases or writes.
    DownloadBusy,
    /// Waits for the next block.
    DownloadIdle,
    /// Has everything, waits to be asked.
    ManifestSync,
    /// Leaves for the new firmware.
    Manifest,
    /// Waits for a reset.
    ManifestWaitReset,
    /// Waits to send the next block.
    UploadIdle,
    /// Waits for `DFU_CLRSTATUS`.
    Error,
}

impl Status {
    /// Decodes the 6 bytes; `None` where they are too few or name no state.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let &[code, low, middle, high, state, _string, ..] = bytes else { return None };
        let poll = Duration::from_millis(u64::from(u32::from_le_bytes([low, middle, high, 0])));
        Some(Self { code: StatusCode(code), poll, state: State::decode(state)? })
    }
}

impl State {
    fn decode(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::AppIdle,
            1 => Self::AppDetach,
            2 => Self::Idle,
            3 => Self::DownloadSync,
            4 => Self::DownloadBusy,
            5 => Self::DownloadIdle,
            6 => Self::ManifestSync,
            7 => Self::Manifest,
            8 => Self::ManifestWaitReset,
            9 => Self::UploadIdle,
            10 => Self::Error,
            _ => return None,
        })
    }

    /// The state's name in DFU 1.1.
    pub fn name(self) -> &'static str {
        match self {
            Self::AppIdle => "appIDLE",
            Self::AppDetach => "appDETACH",
            Self::Idle => "dfuIDLE",
            Self::DownloadSync => "dfuDNLOAD-SYNC",
            Self::DownloadBusy => "dfuDNBUSY",
            Self::DownloadIdle => "dfuDNLOAD-IDLE",
            Self::ManifestSync => "dfuMANIFEST-SYNC",
            Self::Manifest => "dfuMANIFEST",
            Self::ManifestWaitReset => "dfuMANIFEST-WAIT-RESET",
            Self::UploadIdle => "dfuUPLOAD-IDLE",
            Self::Error => "dfuERROR",
        }
    }
}

impl StatusCode {
    /// No error.
    pub const OK: Self = Self(0);
    /// ST's bootloaders answer so while read protection is active (AN3156 §4; AN2662).
    pub const VENDOR: Self = Self(0x0b);

    /// What the code says, for people, with its name in DFU 1.1.
    pub fn text(self) -> String {
        let (meaning, name) = match self.0 {
            0x00 => ("no error", "OK"),
            0x01 => ("address is not in this memory", "errTARGET"),
            0x02 => ("device rejects the file", "errFILE"),
            0x03 => ("device cannot write memory", "errWRITE"),
            0x04 => ("erase failed", "errERASE"),
            0x05 => ("erase check failed", "errCHECK_ERASED"),
            0x06 => ("programming failed", "errPROG"),
            0x07 => ("programmed memory differs", "errVERIFY"),
            0x08 => ("address is out of range", "errADDRESS"),
            0x09 => ("data ended too early", "errNOTDONE"),
            0x0a => ("firmware is corrupt", "errFIRMWARE"),
            0x0b => ("device is read-protected", "errVENDOR"),
            0x0c => ("unexpected USB reset", "errUSBR"),
            0x0d => ("unexpected power-on reset", "errPOR"),
            0x0e => ("unknown error", "errUNKNOWN"),
            0x0f => ("device stalled an unexpected request", "errSTALLEDPKT"),
            other => return format!("unknown status {other:#04x}"),
        };
        format!("{meaning} ({name})")
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recorded_answers() {
        // F042: on entry, after an erase, on leave.
        let entry = Status::decode(&[0x0a, 0, 0, 0, 0x0a, 0]).unwrap();
        assert_eq!((entry.code, entry.state), (StatusCode(0x0a), State::Error));
        let erase = Status::decode(&[0, 0x28, 0, 0, 4, 0]).unwrap();
        assert_eq!((erase.poll, erase.state), (Duration::from_millis(40), State::DownloadBusy));
        let leave = Status::decode(&[0, 1, 0, 0, 7, 0]).unwrap();
        assert_eq!((leave.poll, leave.state), (Duration::from_millis(1), State::Manifest));
    }

    #[test]
    fn poll_timeout_has_24_bits() {
        let status = Status::decode(&[0, 0x01, 0x02, 0x03, 2, 0xff]).unwrap();
        assert_eq!(status.poll, Duration::from_millis(0x03_0201));
    }

    #[test]
    fn text_names_the_code() {
        assert_eq!(StatusCode::VENDOR.text(), "device is read-protected (errVENDOR)");
        assert_eq!(StatusCode(0x55).text(), "unknown status 0x55");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..10)) {
            let status = Status::decode(&bytes);
            prop_assert_eq!(status.is_some(), bytes.len() >= 6 && bytes[4] <= 10);
        }
    }
}
