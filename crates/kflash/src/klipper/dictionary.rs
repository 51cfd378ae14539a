//! The data dictionary of a Klipper firmware: zlib-compressed JSON, in the image and in the running firmware alike.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::klipper::zlib::{InflateError, Inflater, MAX_INFLATED};

/// A data dictionary. Two are equal when every byte of their JSON is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dictionary {
    /// `Klipper` or `Kalico`.
    pub app: String,
    /// `v0.12.0-439-g1fe54bd5`.
    pub version: String,
    /// Compilers: `gcc: (15:12.2.rel1-1) 12.2.1 20221205 binutils: ...`.
    pub build_versions: String,
    /// Constants: `MCU`, `CLOCK_FREQ`, `SERIAL_BAUD`, ...
    pub config: BTreeMap<String, serde_json::Value>,
    /// Ids of the commands by their format.
    pub commands: BTreeMap<String, i64>,
    /// Ids of the responses by their format.
    pub responses: BTreeMap<String, i64>,
    /// Values that parameters take by name: `{"pin": {"PA0": [0, 16], "ADC_TEMPERATURE": 254}}`, a number, or the first
    /// of a range of numbers with its length.
    pub enumerations: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    /// SHA-256 of the inflated JSON, as lower-case hex.
    pub sha256: String,
}

/// The cable that a firmware was built for, as its constants tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltFor {
    /// Its own USB.
    Usb,
    /// A UART at this baud rate.
    Uart(u32),
    /// A CAN bus.
    Can,
    /// A USB-CAN bridge.
    CanBridge,
}

/// Why bytes are no data dictionary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DictionaryError {
    /// No zlib stream, or one whose checksum fails.
    #[error("the data dictionary is no intact zlib stream")]
    Corrupt,
    /// The stream does not end.
    #[error("the data dictionary breaks off after {0} bytes")]
    Truncated(usize),
    /// It inflates to more than any firmware holds.
    #[error("the data dictionary inflates to more than {} KiB", MAX_INFLATED / 1024)]
    TooLarge,
    /// Bytes follow the stream.
    #[error("{0} bytes follow the end of the data dictionary")]
    TrailingBytes(usize),
    /// The JSON is malformed, or has not the shape of a dictionary.
    #[error("the data dictionary is malformed: {0}")]
    Malformed(String),
}

/// The keys of the JSON that are looked at. `app` is missing in firmware from before Klipper had forks that set it.
#[derive(Deserialize)]
struct Keys {
    #[serde(default = "klipper")]
    app: String,
    version: String,
    #[serde(default)]
    build_versions: String,
    config: BTreeMap<String, serde_json::Value>,
    commands: BTreeMap<String, i64>,
    #[serde(default)]
    responses: BTreeMap<String, i64>,
    #[serde(default)]
    enumerations: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
}

fn klipper() -> String {
    "Klipper".to_owned()
}

impl Dictionary {
    /// The dictionary of a whole zlib stream, as running firmware sends it in answer to `identify`.
    pub fn from_zlib(stream: &[u8]) -> Result<Self, DictionaryError> {
        let inflated = Inflater::new().inflate(stream, |_| true).map_err(|error| match error {
            InflateError::Corrupt | InflateError::Unwanted => DictionaryError::Corrupt,
            InflateError::Truncated => DictionaryError::Truncated(stream.len()),
            InflateError::TooLarge => DictionaryError::TooLarge,
        })?;
        match stream.len() - inflated.consumed {
            0 => Self::from_json(&inflated.data),
            more => Err(DictionaryError::TrailingBytes(more)),
        }
    }

    /// The dictionary of its JSON text, as a build leaves it in `klipper.dict`.
    pub fn from_json(json: &[u8]) -> Result<Self, DictionaryError> {
        // serde_json stops at 128 levels of nesting.
        let keys: Keys = serde_json::from_slice(json).map_err(|error| DictionaryError::Malformed(error.to_string()))?;
        Ok(Self {
            app: keys.app,
            version: keys.version,
            build_versions: keys.build_versions,
            config: keys.config,
            commands: keys.commands,
            responses: keys.responses,
            enumerations: keys.enumerations,
            sha256: hex(&Sha256::digest(json)),
        })
    }

    /// The `MCU` constant.
    pub fn mcu(&self) -> Option<&str> {
        self.config.get("MCU")?.as_str()
    }

    /// The `CLOCK_FREQ` constant in Hz.
    pub fn clock_freq(&self) -> Option<u64> {
        self.config.get("CLOCK_FREQ")?.as_u64()
    }

    /// The cable that it was built for.
    pub fn built_for(&self) -> BuiltFor {
        if let Some(baud) = self.config.get("SERIAL_BAUD").and_then(serde_json::Value::as_u64) {
            return BuiltFor::Uart(u32::try_from(baud).unwrap_or(0));
        }
        if self.config.contains_key("CANBUS_BRIDGE") {
            BuiltFor::CanBridge
        } else if self.config.contains_key("CANBUS_FREQUENCY") {
            BuiltFor::Can
        } else {
            BuiltFor::Usb
        }
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
