//! Chips: what a board's micro-controller is made of. Data, one TOML file each in `boards/chips/`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::addr::{FlashAddr, FlashRange, FlashSize};

/// A micro-controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Chip {
    /// Name of the file without its ending: `stm32f446`.
    pub id: String,
    /// Names by which Klipper's dictionary and Katapult know it: `["stm32f446xx"]`.
    pub mcu: Vec<String>,
    /// Where the flash starts in the memory map, which is also where the chip boots.
    pub flash_start: FlashAddr,
    /// The flash's sectors in order: `"4*16K,1*64K,3*128K"`.
    pub sectors: Sectors,
    /// Ranges in which an initial stack pointer may lie.
    pub ram: Vec<FlashRange>,
    /// Bytes that are programmed at once.
    pub program_unit: FlashSize,
    /// Whether each program unit carries ECC, so that it can be programmed once only between erases.
    #[serde(default)]
    pub ecc: bool,
    /// Whether a raw image runs from RAM (RP2040) and so holds no address of its own.
    #[serde(default)]
    pub runs_from_ram: bool,
    /// Whether the core has no vector table offset register (Cortex-M0), so that it cannot tell where its application starts.
    #[serde(default)]
    pub lacks_vtor: bool,
    /// Address of the 16-bit flash size in KiB, where the chip has one.
    pub flash_size_register: Option<FlashAddr>,
    /// Address of the chip's unique id, where it can be read.
    pub uid_register: Option<FlashAddr>,
    /// The DfuSe bootloader in ROM, where the chip has one that a board's USB can reach.
    pub rom_dfu: Option<RomDfu>,
    /// What today's Kconfig symbols were called in older trees: `RPXXXX_USB = "RP2040_USB"`, or a beginning of names
    /// with `*` on both sides. Where a tree lacks a symbol, its former name is asked for.
    #[serde(default)]
    pub kconfig_formerly: BTreeMap<String, String>,
    /// What its debug port shows, where kflash can flash it by SWD.
    pub swd: Option<SwdChip>,
    /// Where the facts come from.
    #[serde(default)]
    pub sources: Vec<String>,
}

/// What a chip's debug port shows. How its flash is written lies in `boards/swd/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SwdChip {
    /// DEV_ID: the low 12 bits of DBGMCU_IDCODE, the same for all chips from one die.
    pub device_id: u16,
    /// The registers of its flash.
    pub controller: FlashController,
}

/// A family of flash controllers: where the chip's identity and its read protection lie, and how that is lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlashController {
    /// STM32F1 (PM0075).
    Stm32f1,
    /// STM32F2 and F4 (RM0090 §3).
    Stm32f4,
    /// STM32G0 (RM0444 §3).
    Stm32g0,
}

/// The DfuSe bootloader in a chip's ROM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RomDfu {
    /// How its USB serial number follows from the unique id.
    pub serial: DfuSerial,
    /// Whether a blank first word at power-on leads into the ROM by itself (ST's empty check).
    #[serde(default)]
    pub empty_check: bool,
    /// Deviations that the driver has to know.
    #[serde(default)]
    pub quirks: Vec<DfuQuirk>,
}

/// How a ROM bootloader's USB serial number is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DfuSerial {
    /// `%08X%04X` of (word 0 + word 2, upper half of word 1) of the unique id.
    Uid,
    /// The same text on every chip: it tells nothing.
    Constant(String),
    /// Not known: it proves nothing either way.
    Unknown,
}

/// A deviation of a DfuSe bootloader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DfuQuirk {
    /// Reports busy without end after erasing sectors from 1 MiB up; CLRSTATUS twice goes on (STM32H743 rev V).
    EndlessBusy,
    /// Reports more flash than there is (STM32H750, GD32VF103).
    LayoutTooLarge,
}

/// A run-length list of sector sizes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sectors(Vec<(u32, FlashSize)>);

/// Why a text is no sector list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no sector list such as 4*16K,1*64K,3*128K")]
pub struct ParseSectorsError(String);

impl TryFrom<String> for Sectors {
    type Error = ParseSectorsError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let run = |part: &str| {
            let (count, size) = part.trim().split_once('*')?;
            let size = size.strip_suffix('K')?.parse::<u32>().ok()?.checked_mul(1024)?;
            let count = count.parse::<u32>().ok()?;
            (count > 0 && size > 0).then_some((count, FlashSize(size)))
        };
        let runs: Option<Vec<_>> = text.split(',').map(run).collect();
        let total = |runs: &[(u32, FlashSize)]| {
            runs.iter().try_fold(0_u32, |sum, (count, size)| sum.checked_add(count.checked_mul(size.0)?))
        };
        match runs {
            // 64 MiB: more than any chip has, so that no list is ever expanded without bound.
            Some(runs) if total(&runs).is_some_and(|total| total <= 64 << 20) => Ok(Self(runs)),
            _ => Err(ParseSectorsError(text)),
        }
    }
}

impl From<Sectors> for String {
    fn from(sectors: Sectors) -> Self {
        let runs: Vec<_> = sectors.0.iter().map(|(count, size)| format!("{count}*{}K", size.0 / 1024)).collect();
        runs.join(",")
    }
}

impl Chip {
    /// All of the flash.
    pub fn flash(&self) -> FlashRange {
        let size = self.sectors.0.iter().map(|(count, size)| count * size.0).sum();
        FlashRange { start: self.flash_start, size: FlashSize(size) }
    }

    /// Every sector in order of address.
    pub fn sectors(&self) -> impl Iterator<Item = FlashRange> + '_ {
        let sizes = self.sectors.0.iter().flat_map(|&(count, size)| (0..count).map(move |_| size));
        sizes.scan(self.flash_start, |next, size| {
            let sector = FlashRange { start: *next, size };
            *next = sector.end();
            Some(sector)
        })
    }

    /// The sector that holds `addr`.
    pub fn sector_at(&self, addr: FlashAddr) -> Option<FlashRange> {
        self.sectors().find(|sector| sector.contains(addr))
    }

    /// Whether `mcu`, as a dictionary or Katapult names it, is this chip.
    pub fn is(&self, mcu: &str) -> bool {
        self.mcu.iter().any(|name| name == mcu)
    }
}
