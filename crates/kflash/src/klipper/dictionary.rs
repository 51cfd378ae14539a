//! The data dictionary of a Klipper firmware: zlib-compressed JSON, in the image and in the running firmware alike.

use std::collections::BTreeMap;

use serde::Serialize;

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

impl Dictionary {
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
