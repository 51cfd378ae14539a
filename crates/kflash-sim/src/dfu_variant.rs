//! How the DfuSe bootloaders in ROM differ from family to family.
//!
//! What was seen on a chip of the family is taken over (`tests/data/silicon`); what was not follows the nearest relative.

use kflash::chip::{Chip, DfuQuirk, DfuSerial};

use crate::usb::utf16;

/// A DfuSe bootloader's ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DfuVariant {
    /// `idVendor` and `idProduct`.
    pub id: (u16, u16),
    /// `bcdDevice`.
    pub revision: u16,
    /// `bcdUSB`.
    pub usb: u16,
    /// `iProduct`.
    pub product: String,
    /// Payload of the serial's string descriptor.
    pub serial: Vec<u8>,
    /// `wTransferSize`.
    pub transfer_size: u16,
    /// The alternate settings.
    pub alternates: Vec<Alternate>,
    /// Whether it starts in dfuERROR with errFIRMWARE.
    pub starts_in_error: bool,
    /// `bwPollTimeout` in ms after set pointer: while busy, and in the dfuDNLOAD-IDLE that follows.
    pub pointer_polls: [u32; 2],
    /// The same after an erase.
    pub erase_polls: [u32; 2],
    /// The same after a data block.
    pub data_polls: [u32; 2],
    /// Which GETSTATUS is not answered before the flash is done.
    pub holds: Holds,
    /// What becomes of the GETSTATUS after the zero-length DNLOAD.
    pub leave: Leave,
    /// CLRSTATUS outside of dfuERROR is stalled instead of ignored.
    pub stalls_needless_clear: bool,
    /// What read protection does to writing.
    pub protection: Protection,
    /// Status for an address outside of the memory: errTARGET (1) or errADDRESS (8).
    pub outside: u8,
    /// Erases from this address up never leave dfuDNBUSY.
    pub endless_busy_from: Option<u32>,
}

/// An alternate setting: a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternate {
    /// The layout string.
    pub name: String,
    /// Its first address.
    pub start: u32,
    /// Its size as the layout claims it.
    pub size: u32,
}

/// Which GETSTATUS waits for the flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// None.
    Nothing,
    /// The one that starts the operation (H7).
    First,
    /// The one after it (F4, F7).
    Second,
}

/// What a chip does when it is told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// GETSTATUS answers dfuMANIFEST with this poll timeout, then the device leaves.
    Manifest(u32),
    /// GETSTATUS is stalled, then the device leaves.
    Stall,
    /// The device leaves at the GETSTATUS without an answer.
    Vanish,
    /// The device leaves at the zero-length DNLOAD.
    VanishAtDownload,
}

/// What read protection level 1 does to a bootloader. Reading is refused with errVENDOR by all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Set pointer, erase and data end in errVENDOR.
    Refuses,
    /// All is acknowledged, and nothing is written.
    Silent,
}

impl DfuVariant {
    /// The ROM bootloader of `chip` with this unique id; `None` where it has none.
    pub fn of(chip: &Chip, uid: &[u8; 12]) -> Option<Self> {
        let rom = chip.rom_dfu.as_ref()?;
        let is = |family: &str| chip.id.starts_with(family);
        let serial = match &rom.serial {
            DfuSerial::Constant(text) => utf16(text),
            DfuSerial::Uid | DfuSerial::Unknown => utf16(&serial_of(uid)),
        };
        let mut variant = if ["stm32g0", "stm32g4", "stm32h7", "stm32u5"].iter().any(|family| is(family)) {
            Self::new_generation()
        } else {
            Self::old_generation()
        };
        variant.serial = serial;
        if is("stm32f0") {
            variant.pointer_polls = [72, 72];
            variant.erase_polls = [40, 40];
            variant.data_polls = [72, 72];
            variant.holds = Holds::Nothing;
            variant.leave = Leave::Manifest(1);
            variant.stalls_needless_clear = false;
        }
        if is("stm32f105") || is("stm32f107") {
            variant.holds = Holds::Nothing;
            variant.product = "STM32 0x418 DFU Bootloade".into();
        }
        if is("stm32h7") {
            variant.erase_polls = [1000, 0];
            variant.holds = Holds::First;
        }
        if is("gd32") {
            variant.id = (0x28e9, 0x0189);
            variant.revision = 0x1000;
            variant.serial = b"3CBJ".to_vec();
            variant.holds = Holds::Nothing;
        }
        if rom.quirks.contains(&DfuQuirk::EndlessBusy) {
            variant.endless_busy_from = Some(0x0810_0000);
        }
        variant.alternates = alternates(chip, rom.quirks.contains(&DfuQuirk::LayoutTooLarge));
        Some(variant)
    }

    /// The same, naming no time that the host has to wait: what a flash that takes none would need.
    #[must_use]
    pub fn at_once(self) -> Self {
        Self { pointer_polls: [0, 0], erase_polls: [0, 0], data_polls: [0, 0], ..self }
    }

    /// F0 to F7, L0, L4+: revision 22.00 in the device descriptor. Timings are those of an F469 and an F745.
    fn old_generation() -> Self {
        Self {
            id: (0x0483, 0xdf11),
            revision: 0x2200,
            usb: 0x0100,
            product: "STM32  BOOTLOADER".into(),
            serial: Vec::new(),
            transfer_size: 2048,
            alternates: Vec::new(),
            starts_in_error: true,
            pointer_polls: [100, 0],
            erase_polls: [100, 0],
            data_polls: [104, 0],
            holds: Holds::Second,
            leave: Leave::Manifest(104),
            stalls_needless_clear: true,
            protection: Protection::Refuses,
            outside: 1,
            endless_busy_from: None,
        }
    }

    /// G0, G4, H7, U5.
    fn new_generation() -> Self {
        Self {
            revision: 0x0200,
            usb: 0x0200,
            product: "DFU in FS Mode".into(),
            transfer_size: 1024,
            starts_in_error: false,
            holds: Holds::Nothing,
            leave: Leave::Stall,
            protection: Protection::Silent,
            outside: 8,
            ..Self::old_generation()
        }
    }
}

/// `%08X%04X` of (word 0 + word 2, upper half of word 1) of the unique id
/// (`tests/data/silicon/dfu_serial_vectors.csv`).
pub(crate) fn serial_of(uid: &[u8; 12]) -> String {
    let word = |at: usize| u32::from_le_bytes([uid[at], uid[at + 1], uid[at + 2], uid[at + 3]]);
    format!("{:08X}{:04X}", word(0).wrapping_add(word(8)), word(4) >> 16)
}

fn alternates(chip: &Chip, too_large: bool) -> Vec<Alternate> {
    let is = |family: &str| chip.id.starts_with(family);
    let start = chip.flash_start.0;
    let internal = match (too_large, &chip.id[..]) {
        (true, id) if id.starts_with("gd32") => {
            Alternate { name: "@Internal Flash  /0x08000000/512*002Kg".into(), start, size: 1 << 20 }
        }
        (true, id) if id.starts_with("stm32h723") => {
            Alternate { name: "@Internal Flash   /0x08000000/8*128Kg".into(), start, size: 1 << 20 }
        }
        (true, _) => Alternate { name: "@Internal Flash   /0x08000000/16*128Kg".into(), start, size: 2 << 20 },
        (false, _) => Alternate { name: internal_flash(chip), start, size: chip.flash().size.0 },
    };
    let other = |name: &str, start: u32, size: u32| Alternate { name: name.into(), start, size };
    let mut all = vec![internal.clone()];
    if is("stm32g0") {
        all.extend([internal.clone(), internal]);
    } else if is("stm32h723") {
        all.push(other("@Option Bytes   /0x5200201C/01*88 e", 0x5200_201c, 88));
    } else if is("stm32h7") {
        all.push(other("@Option Bytes   /0x5200201C/01*128 e", 0x5200_201c, 128));
    } else if is("stm32g4") {
        all.push(other("@Option Bytes   /0x1FFF7800/01*048 e/0x1FFFF800/01*048 e", 0x1fff_7800, 48));
        all.push(other("@OTP Memory   /0x1FFF7000/01*1024 e", 0x1fff_7000, 1024));
    } else if is("stm32f4") {
        all.push(other("@Option Bytes  /0x1FFFC000/01*016 e", 0x1fff_c000, 16));
        all.push(other("@OTP Memory /0x1FFF7800/01*512 e,01*016 e", 0x1fff_7800, 528));
        all.push(other("@Device Feature/0xFFFF0000/01*004 e", 0xffff_0000, 4));
    } else if is("stm32f7") {
        all.push(other("@Option Bytes  /0x1FFF0000/01*048 e", 0x1fff_0000, 48));
        all.push(other("@OTP Memory /0x1FF07800/01*528e", 0x1ff0_7800, 528));
    } else if is("gd32") {
        all.push(other("@Option Bytes  /0x1FFFF800/01*016 g", 0x1fff_f800, 16));
    } else {
        all.push(other("@Option Bytes  /0x1FFFF800/01*016 e", 0x1fff_f800, 16));
    }
    all
}

/// The layout string as this family writes it: two spaces and padded numbers, or three spaces.
fn internal_flash(chip: &Chip) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for sector in chip.sectors() {
        match runs.last_mut() {
            Some((count, size)) if *size == sector.size.0 => *count += 1,
            _ => runs.push((1, sector.size.0)),
        }
    }
    let is = |family: &str| chip.id.starts_with(family);
    let new = is("stm32g") || is("stm32h7") || is("stm32u5");
    let single = runs.len() == 1;
    let runs = runs.iter().map(|(count, size)| match size / 1024 {
        size if new => format!("{count}*{size:02}Kg"),
        size if single && is("stm32f1") => format!("{count:03}*{size:03}Kg"),
        size if single => format!("{count:03}*{size:04}Kg"),
        // So an F72x writes it.
        64 if is("stm32f72") => format!("{count:02}*64Kg"),
        size => format!("{count:02}*{size:03}Kg"),
    });
    let gap = if new { "   " } else { "  " };
    format!("@Internal Flash{gap}/0x{:08X}/{}", chip.flash_start.0, runs.collect::<Vec<_>>().join(","))
}
