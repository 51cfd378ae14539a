//! Boards are data: one TOML file each in `boards/`. A new board is one file and no code.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::addr::FlashAddr;
use crate::discover::UsbId;
use crate::proto::Protocol;

/// The name of a board: `btt-octopus-v1.1-f446`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BoardId(pub String);

/// What kflash knows of a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// Its name; the file's name without the ending.
    pub id: BoardId,
    /// Its name for people.
    pub name: String,
    /// Other names that people use.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The chip's id in `boards/chips/`.
    pub chip: String,
    /// How far this profile was tried.
    pub verified: Verified,
    /// The USB ids of the USB-UART bridge on the board, where it is reached through one.
    pub uart_bridge: Option<UsbId>,
    /// Whether opening the port resets the micro-controller (DTR wired to reset), so that it is not opened merely to look.
    #[serde(default)]
    pub opening_resets: bool,
    /// Klipper Kconfig symbols that every route shares.
    #[serde(default)]
    pub kconfig: BTreeMap<String, String>,
    /// What may be installed at the start of the flash, and so where the application lies.
    pub bootloaders: Vec<InstalledBootloader>,
    /// Ways to flash, the preferred first.
    pub routes: Vec<Route>,
    /// What a person does with their hands.
    pub hands: Hands,
    /// Dangers of the board.
    #[serde(default)]
    pub warnings: Vec<BoardWarning>,
    /// Where the facts come from.
    pub sources: Vec<Source>,
}

/// How far a profile was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verified {
    /// On the board itself.
    Hardware,
    /// Taken from documents; the simulated board was flashed.
    Docs,
    /// On a simulated board only.
    Simulated,
}

/// A bootloader that may be installed at the start of the flash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InstalledBootloader {
    /// Its name within the profile: `katapult`, `vendor`, `none`.
    pub id: String,
    /// Its kind.
    pub kind: BootloaderKind,
    /// Where the application starts behind it.
    pub app_start: FlashAddr,
    /// Klipper Kconfig symbols that place the application there.
    #[serde(default)]
    pub kconfig: BTreeMap<String, String>,
}

/// The kind of an installed bootloader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootloaderKind {
    /// Nothing is installed: the application starts at the flash's start.
    None,
    /// Katapult.
    Katapult,
    /// The vendor's own, which takes a file from an SD card or nothing at all.
    Vendor,
}

/// One way to flash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// Its name within the profile: `katapult-usb`.
    pub id: String,
    /// The installed bootloader that it presumes, by id.
    pub bootloader: String,
    /// The cable that it takes, which is also the application's own.
    pub cable: Cable,
    /// The protocol that writes.
    pub protocol: Protocol,
    /// Ways into the bootloader that speaks that protocol, in order.
    pub enter: Vec<Entry>,
    /// Baud rate of the bootloader on a UART.
    pub bootloader_baud: Option<u32>,
    /// Klipper Kconfig symbols that choose the cable.
    #[serde(default)]
    pub kconfig: BTreeMap<String, String>,
}

/// The cable between host and board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cable {
    /// The micro-controller's own USB.
    Usb,
    /// A UART, maybe behind a USB-UART bridge.
    Uart,
}

/// A way into a bootloader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Klipper on USB CDC: 1200 baud and DTR dropped.
    Touch1200,
    /// Klipper on a UART: the serial bootloader request.
    UartRequest,
    /// A person presses reset twice within half a second (Katapult).
    DoubleReset,
    /// A person sets BOOT0 and resets (ST's ROM).
    Boot0,
}

impl Cable {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usb => "USB",
            Self::Uart => "a UART",
        }
    }
}

/// What a person does with their hands, in words for this board.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hands {
    /// How to reset twice.
    pub double_reset: Option<String>,
    /// How to start in the chip's ROM bootloader.
    pub boot0: Option<String>,
    /// How to leave the ROM bootloader's jumper again; `None` where BOOT0 is a button.
    pub boot0_undo: Option<String>,
    /// Where the SWD pins are.
    pub swd: Option<String>,
}

/// A danger of a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BoardWarning {
    /// When it holds.
    pub when: WarningTime,
    /// The warning in words.
    pub text: String,
    /// Where it is stated.
    pub source: String,
}

/// When a warning holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WarningTime {
    /// While the chip sits in its ROM bootloader.
    RomBootloader,
    /// Always.
    Always,
}

/// Where a fact comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Source {
    /// A document, as a URL or `repository path@commit`.
    pub at: String,
    /// What it states.
    pub states: String,
}

impl Profile {
    /// The installed bootloader of a route. Profiles are checked when they are read: every route names one.
    pub fn bootloader_of(&self, route: &Route) -> Option<&InstalledBootloader> {
        self.bootloaders.iter().find(|bootloader| bootloader.id == route.bootloader)
    }
}

impl fmt::Display for BoardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
