//! The micro-controllers that a printer's Klipper is connected to, and what it read of their firmware.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

use super::{Client, MoonrakerError, cut};

const LIST: &str = "/printer/objects/list";
const QUERY: &str = "/printer/objects/query";
/// More than any printer has; the query stays below what servers take for a line.
const MOST: usize = 64;

/// A micro-controller, as Klipper's host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mcu {
    /// Its section in printer.cfg: `mcu`, `mcu toolhead`.
    pub section: String,
    /// Where printer.cfg has Klipper look for it: `/dev/serial/by-id/...`.
    pub serial: Option<String>,
    /// The version of its firmware, where Klipper read it.
    pub version: Option<String>,
    /// The `MCU` constant of its firmware.
    pub mcu: Option<String>,
}

#[derive(Deserialize)]
struct Objects {
    objects: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    status: BTreeMap<String, Value>,
}

impl Client {
    /// The micro-controllers of the printer. Those that Klipper did not get through to have no version.
    pub fn micro_controllers(&self) -> Result<Vec<Mcu>, MoonrakerError> {
        let Objects { objects } = self.get(LIST)?;
        let sections: Vec<_> = objects.into_iter().filter(|name| name == "mcu" || name.starts_with("mcu ")).collect();
        if sections.len() > MOST {
            return Err(self.malformed(LIST, format!("{} micro-controllers", sections.len())));
        }
        let mut query = "?configfile=settings".to_owned();
        for section in &sections {
            let _ = write!(query, "&{}=mcu_version,mcu_constants", encoded(section));
        }
        let Answer { status } = self.query(QUERY, &query)?;
        let settings = status.get("configfile").and_then(|configfile| configfile.get("settings"));
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(|text| cut(text.to_owned()));
        let mcu = |section: String| {
            let status = status.get(&section);
            let setting = settings.and_then(|settings| settings.get(section.to_lowercase()));
            Mcu {
                serial: text(setting.and_then(|setting| setting.get("serial"))),
                version: text(status.and_then(|status| status.get("mcu_version"))).filter(|text| !text.is_empty()),
                mcu: text(status.and_then(|status| status.pointer("/mcu_constants/MCU"))),
                section,
            }
        };
        Ok(sections.into_iter().map(mcu).collect())
    }
}

/// A name as it stands in a URL's query (RFC 3986 §2.3).
fn encoded(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}
