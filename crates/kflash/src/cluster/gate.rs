//! The word that `quiesce` gives to the container with the device.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Confirmed;
use super::handover::{self, HandoverError};
use crate::exit::ExitCode;

/// What the container with the device is to do, written by `quiesce` before it counts as started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "kebab-case")]
pub enum Gate {
    /// Klipper is stopped: flash.
    Open,
    /// Nothing was stopped: end with this code and say why, without opening the device.
    Refused {
        /// The code to end with.
        exit: ExitCode,
        /// A line for a person.
        reason: String,
    },
    /// Every board was confirmed to run its image before, and Moonraker says that it still does: end well, without
    /// opening a device.
    AlreadyCurrent {
        /// What runs, by Klipper's name of the micro-controller.
        boards: BTreeMap<String, Confirmed>,
    },
}

impl Gate {
    /// Writes it to `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), HandoverError> {
        handover::write(path, self)
    }

    /// Takes it away from `path`, after making sure that it can be written there.
    pub fn clear(path: &Path) -> Result<(), HandoverError> {
        handover::clear(path)
    }

    /// Reads it from `path`; `None` where there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, HandoverError> {
        handover::read(path)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate.json");
        assert_eq!(Gate::read(&path).unwrap(), None);
        for gate in [
            Gate::Open,
            Gate::Refused { exit: ExitCode::Busy, reason: "it prints benchy.gcode".into() },
            Gate::AlreadyCurrent {
                boards: [("mcu".into(), Confirmed { version: "v0.13.0-1-gabc".into(), sha256: "00ff".into() })].into(),
            },
        ] {
            gate.write(&path).unwrap();
            assert_eq!(Gate::read(&path).unwrap(), Some(gate));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn the_file_is_a_contract() {
        let refused = Gate::Refused { exit: ExitCode::NotFound, reason: "no such Lease".into() };
        let json = serde_json::to_string(&refused).unwrap();
        assert_eq!(json, r#"{"gate":"refused","exit":"not-found","reason":"no such Lease"}"#);
        assert_eq!(serde_json::to_string(&Gate::Open).unwrap(), r#"{"gate":"open"}"#);
    }

    #[test]
    fn anything_else_is_said_to_be_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gate.json");
        for content in ["", "{}", r#"{"gate":"ajar"}"#, r#"{"gate":"refused","exit":"surely","reason":""}"#] {
            fs::write(&path, content).unwrap();
            assert!(matches!(Gate::read(&path), Err(HandoverError::Content { .. })), "{content}");
        }
        fs::write(&path, vec![b' '; 1 << 20]).unwrap();
        assert!(Gate::read(&path).unwrap_err().to_string().contains("larger than"));
        assert!(matches!(Gate::read(dir.path()), Err(HandoverError::Io { .. })));
    }
}
