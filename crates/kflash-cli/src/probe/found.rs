//! Debug probes, as they are detected.

use serde::Serialize;

use crate::sheet::{Sheet, shown};

/// A debug probe that is plugged in.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FoundProbe {
    /// What names it: `VID:PID:SERIAL`.
    pub selector: String,
    /// Its name, as USB shows it.
    pub name: String,
    /// What it is: `CMSIS-DAP`.
    pub kind: String,
    /// Whether this user may open it.
    pub accessible: bool,
    /// What its driver was run with: no real chip yet.
    pub tried_on: &'static str,
    /// The chip behind it, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip: Option<Behind>,
}

/// What a probe shows.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Behind {
    /// A chip.
    Chip {
        /// In words: `Cortex-M4, DBGMCU_IDCODE 10006421, 512 KiB of flash`.
        what: String,
        /// Those that it may be, of the chips that kflash can flash.
        may_be: Vec<String>,
        /// The register that says that it is read-protected.
        #[serde(skip_serializing_if = "Option::is_none")]
        read_protected: Option<String>,
    },
    /// Nothing that can be told.
    Unknown {
        /// Why.
        error: String,
    },
}

/// A probe, for a person.
pub fn text(probe: &FoundProbe) -> String {
    let mut sheet = Sheet::new(&format!("{}  {} debug probe", shown(&probe.selector), shown(&probe.kind)));
    sheet.line("name", &shown(&probe.name));
    sheet.line("tried on", probe.tried_on);
    if !probe.accessible {
        sheet.line("access", "denied: `sudo kflash doctor --udev` installs a rule that gives it");
    }
    match &probe.chip {
        Some(Behind::Chip { what, may_be, read_protected }) => {
            sheet.line("chip", &shown(what));
            sheet.lines("may be", may_be.iter().map(|chip| shown(chip)));
            sheet.lines("protected", read_protected.iter().map(|register| shown(register)));
        }
        Some(Behind::Unknown { error }) => sheet.line("chip", &format!("unknown: {}", shown(error))),
        None => {}
    }
    sheet.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_told_with_what_is_behind_them() {
        let probe = |chip, accessible| FoundProbe {
            selector: "0483:374b:0668FF3833\u{1b}".into(),
            name: "STM32 STLink".into(),
            kind: "ST-LINK".into(),
            accessible,
            tried_on: "nothing yet",
            chip,
        };
        let chip = Behind::Chip {
            what: "Cortex-M4, DBGMCU_IDCODE 10006421, 512 KiB of flash".into(),
            may_be: vec!["stm32f446xe".into()],
            read_protected: Some("FLASH_OPTCR reads 0x0fff00ed".into()),
        };
        assert_eq!(
            text(&probe(Some(chip), true)),
            "\
0483:374b:0668FF3833\\u{1b}  ST-LINK debug probe
  name          STM32 STLink
  tried on      nothing yet
  chip          Cortex-M4, DBGMCU_IDCODE 10006421, 512 KiB of flash
  may be        stm32f446xe
  protected     FLASH_OPTCR reads 0x0fff00ed
"
        );
        assert_eq!(
            text(&probe(Some(Behind::Unknown { error: "no chip answers".into() }), false)),
            "\
0483:374b:0668FF3833\\u{1b}  ST-LINK debug probe
  name          STM32 STLink
  tried on      nothing yet
  access        denied: `sudo kflash doctor --udev` installs a rule that gives it
  chip          unknown: no chip answers
"
        );
    }
}
