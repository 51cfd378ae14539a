//! The chip itself: flash, RAM that survives a reset, registers, and what it will do by itself next.

use std::collections::BTreeMap;
use std::time::Duration;

use kflash::addr::FlashAddr;
use kflash::chip::Chip;

use crate::flash::Nor;

/// The word by which Katapult is asked to stay (Klipper `src/generic/armcm_reset.c`).
pub(crate) const KATAPULT_REQUEST: u64 = 0x5984_e3fa_6ca1_589b;
/// The word by which Katapult is told to start the application unchecked (Katapult `src/canboot.h`).
pub(crate) const KATAPULT_START: u64 = 0x7b06_ec45_a9a8_243d;
/// The word by which Klipper, on its way up, is told to jump into ST's ROM: "USB BOOT" (Klipper
/// `src/stm32/dfu_reboot.c`).
pub(crate) const ROM_REQUEST: u64 = 0x5553_4220_424f_4f54;

/// What a chip does by itself at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// System reset.
    Reset,
    /// A reset that loads the option bytes, as power-on does.
    OptionLoad,
    /// ST's ROM jumps to an application.
    Jump(u32),
    /// Into the chip's boot ROM.
    Rom,
}

/// A chip.
pub(crate) struct Silicon {
    pub(crate) chip: Chip,
    pub(crate) uid: [u8; 12],
    pub(crate) flash: Nor,
    /// Double words in RAM that outlive a reset, by address.
    pub(crate) ram: BTreeMap<u32, u64>,
    pub(crate) read_protected: bool,
    pub(crate) next: Option<(Duration, Next)>,
}

impl Silicon {
    pub(crate) fn is(&self, family: &str) -> bool {
        self.chip.id.starts_with(family)
    }

    /// Where the vector table of an installed bootloader lies: behind the second stage on an RP2040.
    pub(crate) fn boot_base(&self) -> u32 {
        self.chip.flash_start.0 + if self.is("rp2") { 0x100 } else { 0 }
    }

    /// Where Klipper leaves its request for ST's ROM.
    pub(crate) fn rom_request_at(&self) -> u32 {
        if self.is("stm32h7") {
            return 0x2400_8000;
        }
        self.chip.ram.first().map_or(0, |ram| ram.end().0 - 1024)
    }

    /// Whether Klipper knows the way into this chip's ROM DFU (Klipper `src/stm32/dfu_reboot.c`).
    pub(crate) fn klipper_jumps_to_rom(&self) -> bool {
        const FAMILIES: [&str; 7] = ["stm32f042", "stm32f072", "stm32f4", "stm32f7", "stm32g0", "stm32g4", "stm32h7"];
        self.chip.rom_dfu.is_some() && (FAMILIES.iter().any(|family| self.is(family)) || self.is("stm32l4"))
    }

    /// The unique id as Klipper and Katapult print it: its bytes in hex. An RP2040 has 8.
    pub(crate) fn serial(&self) -> String {
        let bytes = if self.is("rp2") { &self.uid[..8] } else { &self.uid[..] };
        bytes.iter().fold(String::new(), |mut text, byte| {
            for nibble in [byte >> 4, byte & 0x0f] {
                text.extend(char::from_digit(nibble.into(), 16).map(|digit| digit.to_ascii_uppercase()));
            }
            text
        })
    }

    /// A byte of the memory map; `None` faults.
    pub(crate) fn byte(&self, addr: u32) -> Option<u8> {
        let within = |start: Option<FlashAddr>, bytes: &[u8]| {
            let offset = addr.checked_sub(start?.0)? as usize;
            bytes.get(offset).copied()
        };
        if self.flash.contains(addr) {
            return self.flash.read(addr, 1).map(|bytes| bytes[0]);
        }
        let size_kib = (self.chip.flash().size.0 / 1024) as u16;
        within(self.chip.uid_register, &self.uid)
            .or_else(|| within(self.chip.flash_size_register, &size_kib.to_le_bytes()))
            .or_else(|| {
                let ram = self.chip.ram.iter().any(|ram| ram.contains(FlashAddr(addr)));
                match addr {
                    0x1ff0_0000..0x2000_0000 => Some(0xff),
                    // The boot alias, peripherals, the RP2040's SIO, the core's own.
                    0x0000_0000..0x0010_0000
                    | 0x4000_0000..0x6000_0000
                    | 0xd000_0000..0xd000_1000
                    | 0xe000_0000..0xe010_0000 => Some(0),
                    _ => ram.then_some(0),
                }
            })
    }
}
