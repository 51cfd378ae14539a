//! What kflash itself reads and writes of a chip's flash controller: identity, read protection, and lifting it.

use std::time::Duration;

use probe_rs::MemoryInterface as _;
use probe_rs::architecture::arm::ArmError;
use probe_rs::architecture::arm::memory::ArmMemoryInterface;

use super::translate::failed;
use crate::addr::{FlashAddr, FlashRange};
use crate::chip::FlashController;
use crate::clock::Clock;
use crate::proto::ProtoError;

/// Keys of RM0090 §3.9.3, RM0444 §3.7.4, PM0075 §3.3.
const KEYS: [u32; 2] = [0x4567_0123, 0xcdef_89ab];
const OPTION_KEYS: [u32; 2] = [0x0819_2a3b, 0x4c5d_6e7f];

/// A mass erase takes 32 s at most (DS8626: 2 MiB, by bytes).
const ERASE_LIMIT: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(20);

/// Read protection, as a chip shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// Anyone may read.
    Open,
    /// Debuggers may not read the flash; erasing all of it opens it again.
    Level1 {
        /// The register that says so, with its value.
        register: String,
    },
    /// For ever. A chip at this level does not talk to debuggers at all; those that do are copies or broken.
    Level2 {
        /// The register that says so, with its value.
        register: String,
    },
}

impl FlashController {
    /// DBGMCU_IDCODE.
    pub(super) fn idcode(self) -> u64 {
        match self {
            Self::Stm32f1 | Self::Stm32f4 => 0xe004_2000,
            Self::Stm32g0 => 0x4001_5800,
        }
    }

    /// Whether the chip lets debuggers read its flash.
    pub(super) fn protection(self, memory: &mut dyn ArmMemoryInterface) -> Result<Protection, ArmError> {
        let (name, addr) = match self {
            Self::Stm32f1 => ("FLASH_OBR", 0x4002_201c),
            Self::Stm32f4 => ("FLASH_OPTCR", 0x4002_3c14),
            Self::Stm32g0 => ("FLASH_OPTR", 0x4002_2020),
        };
        let value = memory.read_word_32(addr)?;
        let register = format!("{name} reads {value:#010x}");
        let rdp = match self {
            // RDPRT alone: there is no second level (PM0075 §2.4.1).
            Self::Stm32f1 => {
                return Ok(if value & 2 == 0 { Protection::Open } else { Protection::Level1 { register } });
            }
            Self::Stm32f4 => value >> 8 & 0xff,
            Self::Stm32g0 => value & 0xff,
        };
        Ok(match rdp {
            0xaa => Protection::Open,
            0xcc => Protection::Level2 { register },
            _ => Protection::Level1 { register },
        })
    }

    /// Which of the sectors, all of the chip's in order, its option bytes keep from being erased and written.
    pub(super) fn write_protected(
        self,
        memory: &mut dyn ArmMemoryInterface,
        sectors: &[FlashRange],
    ) -> Result<Vec<FlashRange>, ArmError> {
        let Some((first, last)) = sectors.first().zip(sectors.last()) else { return Ok(Vec::new()) };
        let (start, size) = (first.start.0, last.end().0 - first.start.0);
        let protected: Vec<bool> = match self {
            // A cleared bit for each 4 KiB, the last one for all the rest (PM0075 §2.4.2).
            Self::Stm32f1 => {
                let wrpr = memory.read_word_32(0x4002_2020)?;
                let bit = |sector: &FlashRange| ((sector.start.0 - start) / 4096).min(31);
                sectors.iter().map(|sector| wrpr >> bit(sector) & 1 == 0).collect()
            }
            // nWRP, a bit for each sector; with SPRMOD it is the set bits that protect (RM0390 §3.8.5).
            Self::Stm32f4 => {
                let optcr = memory.read_word_32(0x4002_3c14)?;
                let protects = optcr >> 31;
                (0..sectors.len()).map(|index| index < 12 && optcr >> (16 + index) & 1 == protects).collect()
            }
            // Two areas of pages in each bank, the last one included; none where the first page comes after it
            // (RM0444 §3.5.4).
            Self::Stm32g0 => {
                let optr = memory.read_word_32(0x4002_2020)?;
                let halves = if optr >> 21 & 1 == 1 || size == 512 * 1024 { 2 } else { 1 };
                let mut areas = Vec::new();
                for (bank, register) in [(0, 0x4002_202c), (0, 0x4002_2030), (1, 0x4002_204c), (1, 0x4002_2050)] {
                    if bank < halves {
                        let area = memory.read_word_32(register)?;
                        areas.push((bank, area & 0x7f..=area >> 16 & 0x7f));
                    }
                }
                let of_bank = sectors.len() / halves;
                let inside = |index: usize| {
                    let page = (index % of_bank) as u32;
                    areas.iter().any(|(bank, pages)| *bank == index / of_bank && pages.contains(&page))
                };
                (0..sectors.len()).map(inside).collect()
            }
        };
        Ok(sectors.iter().zip(protected).filter(|(_, protected)| *protected).map(|(sector, _)| *sector).collect())
    }

    /// Lifts read protection, which erases the whole flash. The core has to be halted; the option bytes are in effect
    /// after a reset.
    pub(super) fn lift_protection(self, core: &mut probe_rs::Core<'_>, clock: &dyn Clock) -> Result<(), ProtoError> {
        let doing = "cannot lift the read protection";
        let mut flash = Registers { core, clock, doing };
        match self {
            Self::Stm32f4 => {
                let (optkeyr, sr, optcr) = (0x4002_3c08, 0x4002_3c0c, 0x4002_3c14);
                OPTION_KEYS.iter().try_for_each(|key| flash.set(optkeyr, *key))?;
                // Everything but RDP stays as it is; OPTLOCK is clear.
                let options = flash.get(optcr)? & !0xff03 | 0xaa00;
                flash.set(optcr, options)?;
                flash.set(optcr, options | 1 << 1)?;
                flash.wait(sr, 1 << 16)?;
                flash.set(optcr, options | 1)
            }
            Self::Stm32f1 => {
                let (keyr, optkeyr, sr, cr) = (0x4002_2004, 0x4002_2008, 0x4002_200c, 0x4002_2010);
                KEYS.iter().try_for_each(|key| flash.set(keyr, *key))?;
                KEYS.iter().try_for_each(|key| flash.set(optkeyr, *key))?;
                // OPTER with OPTWRE, then STRT.
                flash.set(cr, 0x220)?;
                flash.set(cr, 0x260)?;
                flash.wait(sr, 1)?;
                // OPTPG: the byte that opens it, its complement is made by the chip.
                flash.set(cr, 0x210)?;
                flash.set_half(0x1fff_f800, 0x00a5)?;
                flash.wait(sr, 1)?;
                flash.set(cr, 0x80)
            }
            Self::Stm32g0 => {
                let (keyr, optkeyr, sr, cr, optr) = (0x4002_2008, 0x4002_200c, 0x4002_2010, 0x4002_2014, 0x4002_2020);
                KEYS.iter().try_for_each(|key| flash.set(keyr, *key))?;
                OPTION_KEYS.iter().try_for_each(|key| flash.set(optkeyr, *key))?;
                let options = flash.get(optr)? & !0xff | 0xaa;
                flash.set(optr, options)?;
                flash.set(cr, 1 << 17)?;
                flash.wait(sr, 0x3 << 16)?;
                // OBL_LAUNCH resets the chip under the access: that is how it succeeds.
                let _ = flash.set(cr, 1 << 27);
                Ok(())
            }
        }
    }
}

impl FlashController {
    /// Clears what the chip keeps of having been blank when its supply came: for that, each further reset would start its
    /// ROM, up to a loss of power. Option bytes stay as they are.
    pub(super) fn forget_blank(
        self,
        core: &mut probe_rs::Core<'_>,
        flash_start: FlashAddr,
    ) -> Result<(), probe_rs::Error> {
        match self {
            Self::Stm32f1 | Self::Stm32f4 => Ok(()),
            Self::Stm32g0 => {
                // EMPTY of FLASH_ACR: loaded with the option bytes, and software may set it for the resets that do not load
                // them (RM0444 §3.3.2, §3.7.1; ST's HAL has HAL_FLASHEx_ForceFlashEmpty for it).
                let (addr, empty) = (0x4002_2000, 1 << 16);
                let acr = core.read_word_32(addr)?;
                if acr & empty == 0 || core.read_word_32(flash_start.0.into())? == u32::MAX {
                    return Ok(());
                }
                core.write_word_32(addr, acr & !empty)
            }
        }
    }
}

/// Registers of a halted chip.
struct Registers<'c, 'p> {
    core: &'c mut probe_rs::Core<'p>,
    clock: &'c dyn Clock,
    doing: &'static str,
}

impl Registers<'_, '_> {
    fn get(&mut self, addr: u64) -> Result<u32, ProtoError> {
        self.core.read_word_32(addr).map_err(|error| failed(self.doing, &error))
    }

    fn set(&mut self, addr: u64, value: u32) -> Result<(), ProtoError> {
        self.core.write_word_32(addr, value).map_err(|error| failed(self.doing, &error))
    }

    fn set_half(&mut self, addr: u64, value: u16) -> Result<(), ProtoError> {
        self.core.write_word_16(addr, value).map_err(|error| failed(self.doing, &error))
    }

    /// Waits until none of `bits` is set.
    fn wait(&mut self, addr: u64, bits: u32) -> Result<(), ProtoError> {
        let deadline = self.clock.now() + ERASE_LIMIT;
        while self.get(addr)? & bits != 0 {
            if self.clock.now() >= deadline {
                return Err(ProtoError::Stuck { doing: self.doing.to_owned(), after: ERASE_LIMIT });
            }
            self.clock.sleep(POLL);
        }
        Ok(())
    }
}
