//! What a person or a script does to a board while it is served: one line each.

use std::path::PathBuf;
use std::str::FromStr;

use kflash::discover::UsbPath;

/// The buttons, switches and cables of a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// `reset`: press and release the reset button.
    Reset,
    /// `double-reset`: press it twice within half a second.
    DoubleReset,
    /// `power on`, `power off`: the supply.
    Power(bool),
    /// `boot0 on`, `boot0 off`: the BOOT0 jumper, which counts at the next reset.
    Boot0(bool),
    /// `unplug`: pull the cable, which feeds the board.
    Unplug,
    /// `plug`, `plug 1-2`: put it back, maybe into another port.
    Plug(Option<UsbPath>),
    /// `tty ttyACM3`: the name of the tty from the next enumeration on, as when another device took the old one.
    Tty(String),
    /// `dump FILE`: write the flash into a file.
    Dump(PathBuf),
}

/// The words of [`Control`], for a person who mistyped one.
pub const WORDS: &str =
    "reset, double-reset, power on|off, boot0 on|off, unplug, plug [PORT], tty NAME, dump FILE, quit";

impl FromStr for Control {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (word, rest.trim()) {
            ("reset", "") => Ok(Self::Reset),
            ("double-reset", "") => Ok(Self::DoubleReset),
            ("power", "on") => Ok(Self::Power(true)),
            ("power", "off") => Ok(Self::Power(false)),
            ("boot0", "on") => Ok(Self::Boot0(true)),
            ("boot0", "off") => Ok(Self::Boot0(false)),
            ("unplug", "") => Ok(Self::Unplug),
            ("plug", "") => Ok(Self::Plug(None)),
            ("plug", port) => port.parse().map(|port| Self::Plug(Some(port))).map_err(|error| format!("{error}")),
            // It becomes the name of a file.
            ("tty", name) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                Ok(Self::Tty(name.to_owned()))
            }
            ("dump", path) if !path.is_empty() => Ok(Self::Dump(path.into())),
            _ => Err(format!("{:?} is none of: {WORDS}", line.trim())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn lines_are_read() {
        assert_eq!(" double-reset\n".parse(), Ok(Control::DoubleReset));
        assert_eq!("boot0 on".parse(), Ok(Control::Boot0(true)));
        assert_eq!("plug 1-1.4".parse(), Ok(Control::Plug(Some("1-1.4".parse().unwrap()))));
        assert_eq!("dump /tmp/a b.bin".parse(), Ok(Control::Dump("/tmp/a b.bin".into())));
    }

    #[test]
    fn other_lines_are_refused_with_the_words() {
        for line in ["", "boot0", "reset now", "plug here", "tty ../sda", "dump"] {
            line.parse::<Control>().unwrap_err();
        }
        assert!("restart".parse::<Control>().unwrap_err().contains("double-reset"));
    }
}
