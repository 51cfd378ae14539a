//! The controller of STM32F40x, F41x, F446 (RM0090 §3, RM0390 §3).

use super::{BusError, KEYS, Lock, OPTION_KEYS};
use crate::flash::Refusal;
use crate::swd::array::Array;

const ACR: u32 = 0x00;
const KEYR: u32 = 0x04;
const OPTKEYR: u32 = 0x08;
const SR: u32 = 0x0c;
const CR: u32 = 0x10;
const OPTCR: u32 = 0x14;
const OPTCR1: u32 = 0x18;
/// Sectors of one bank.
const ONE_BANK: usize = 12;

const EOP: u32 = 1 << 0;
const WRPERR: u32 = 1 << 4;
const PGAERR: u32 = 1 << 5;
const PGPERR: u32 = 1 << 6;
const PGSERR: u32 = 1 << 7;
const ERRORS: u32 = WRPERR | PGAERR | PGPERR | PGSERR;
const BSY: u32 = 1 << 16;

const PG: u32 = 1 << 0;
const SER: u32 = 1 << 1;
const MER: u32 = 1 << 2;
const STRT: u32 = 1 << 16;
const EOPIE: u32 = 1 << 24;
const LOCK: u32 = 1 << 31;
const CR_WRITABLE: u32 = 0x8301_03ff;

const OPTLOCK: u32 = 1 << 0;
const OPTSTRT: u32 = 1 << 1;
const RDP: u32 = 0xff << 8;
const RDP_LEVEL_0: u32 = 0xaa << 8;
const RDP_LEVEL_1: u32 = 0x55 << 8;
const RDP_LEVEL_2: u32 = 0xcc << 8;
/// As shipped: level 0, software watchdog, no write protection, brown-out reset off.
const OPTIONS_AS_SHIPPED: u32 = 0x0fff_aaed;

pub(in crate::swd) struct Stm32F4 {
    lock: Lock,
    option_lock: Lock,
    acr: u32,
    cr: u32,
    errors: u32,
    /// The option bytes in effect, as OPTCR shows them.
    options: u32,
    /// What OPTCR was set to since it was unlocked.
    optcr: u32,
}

impl Stm32F4 {
    pub fn new(read_protected: bool, array: &Array) -> Self {
        let rdp = if read_protected { RDP_LEVEL_1 } else { RDP_LEVEL_0 };
        // nWRP: a cleared bit protects its sector.
        let protected = array.nor.protected_sectors().fold(0, |bits, index| bits | 1 << (16 + index));
        let options = (OPTIONS_AS_SHIPPED & !RDP | rdp) & !protected;
        Self { lock: Lock::new(), option_lock: Lock::new(), acr: 0, cr: 0, errors: 0, options, optcr: options }
    }

    pub fn reset(&mut self) {
        *self = Self {
            lock: Lock::new(),
            option_lock: Lock::new(),
            acr: 0,
            cr: 0,
            errors: 0,
            options: self.options,
            optcr: self.options,
        };
    }

    pub fn read_protected(&self) -> bool {
        self.options & RDP != RDP_LEVEL_0
    }

    pub fn read(&mut self, offset: u32, array: &mut Array) -> u32 {
        match offset {
            ACR => self.acr,
            SR => {
                let busy = array.poll();
                if !busy {
                    self.cr &= !STRT;
                    self.optcr &= !OPTSTRT;
                }
                self.errors | if busy { BSY } else { 0 }
            }
            CR => self.cr | if self.lock.locked { LOCK } else { 0 },
            OPTCR => self.optcr & !OPTLOCK | u32::from(self.option_lock.locked),
            // Nothing is write-protected in the second bank.
            OPTCR1 if array.nor.sectors().len() > ONE_BANK => 0x0fff_0000,
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u32, value: u32, array: &mut Array) -> Result<(), BusError> {
        match offset {
            ACR => self.acr = value,
            KEYR => return self.lock.key(KEYS, value, "FLASH_CR", array),
            OPTKEYR => return self.option_lock.key(OPTION_KEYS, value, "FLASH_OPTCR", array),
            SR => self.errors &= !value,
            CR if !self.lock.admits(value & LOCK != 0, value, array) => {}
            CR => self.control(value, array),
            OPTCR if self.option_lock.locked => {
                array.violate(|| format!("FLASH_OPTCR is locked, {value:#010x} was written"));
            }
            OPTCR => self.set_options(value, array),
            _ => {}
        }
        Ok(())
    }

    fn control(&mut self, value: u32, array: &mut Array) {
        self.cr = value & CR_WRITABLE & !(STRT | LOCK);
        if value & LOCK != 0 {
            self.lock.shut();
            self.cr = 0;
        } else if value & STRT != 0 {
            self.start(array);
        }
    }

    fn start(&mut self, array: &mut Array) {
        let index = (self.cr >> 3 & 0x1f) as usize;
        let sector = array.nor.sectors().get(index).map(|sector| sector.start.0);
        let done = match (self.cr & (SER | MER), sector) {
            (SER, Some(start)) => array.erase(start),
            (MER, _) => array.erase_all(),
            (SER, None) => Err(Refusal::Address),
            _ => {
                array.violate(|| format!("STRT with FLASH_CR {:#010x}", self.cr));
                Err(Refusal::Address)
            }
        };
        match done {
            Ok(()) => {
                self.cr |= STRT;
                self.errors |= if self.cr & EOPIE != 0 { EOP } else { 0 };
            }
            Err(Refusal::Protected) => self.errors |= WRPERR,
            Err(Refusal::Address | Refusal::NotBlank) => self.errors |= PGSERR,
        }
    }

    pub fn program(&mut self, addr: u32, bytes: &[u8], array: &mut Array) -> Result<(), BusError> {
        // Writes wait while another operation runs (RM0090 §3.6.3).
        if !array.stall() {
            return Err(BusError);
        }
        if self.lock.locked || self.cr & PG == 0 {
            array.violate(|| format!("write to {addr:#010x} with FLASH_CR {:#010x}", self.cr));
            self.errors |= PGSERR;
        } else if self.errors & ERRORS == 0 {
            self.errors |= self.program_one(addr, bytes, array);
        }
        Ok(())
    }

    /// One access of PSIZE bytes; the error bits that it raises.
    fn program_one(&self, addr: u32, bytes: &[u8], array: &mut Array) -> u32 {
        let size = 1_usize << (self.cr >> 8 & 3);
        if bytes.len() != size {
            array.violate(|| format!("{} bytes to {addr:#010x} with PSIZE for {size}", bytes.len()));
            return PGPERR;
        }
        match array.program_within_unit(addr, bytes) {
            Ok(()) => 0,
            Err(Refusal::Protected) => WRPERR,
            Err(Refusal::Address) => PGAERR,
            Err(Refusal::NotBlank) => PGSERR,
        }
    }

    fn set_options(&mut self, value: u32, array: &mut Array) {
        self.optcr = value & !OPTSTRT & !OPTLOCK;
        if value & OPTLOCK != 0 {
            self.option_lock.shut();
            self.optcr = self.options;
        } else if value & OPTSTRT != 0 {
            if self.options & RDP == RDP_LEVEL_2 {
                return array.violate(|| "option bytes cannot be changed at level 2".into());
            }
            let lifts = self.read_protected() && value & RDP == RDP_LEVEL_0;
            self.options = self.optcr | OPTLOCK;
            array.nor.protect((0..array.nor.sectors().len()).filter(|index| value >> (16 + index) & 1 == 0));
            if lifts {
                // Back to level 0 erases all of the flash (RM0090 §3.7.3).
                array.wipe();
            }
        }
    }
}
