//! The controller of STM32G0 (RM0444 §3).

use super::{BusError, KEYS, Lock, OPTION_KEYS};
use crate::flash::Refusal;
use crate::swd::array::Array;

const ACR: u32 = 0x00;
const KEYR: u32 = 0x08;
const OPTKEYR: u32 = 0x0c;
const SR: u32 = 0x10;
const CR: u32 = 0x14;
const OPTR: u32 = 0x20;
const WRP1AR: u32 = 0x2c;
const WRP1BR: u32 = 0x30;
const WRP2AR: u32 = 0x4c;
const WRP2BR: u32 = 0x50;
/// No area: its first page comes after its last.
const NO_PAGES: u32 = 0x7f;

const EMPTY: u32 = 1 << 16;

const EOP: u32 = 1 << 0;
const PROGERR: u32 = 1 << 3;
const WRPERR: u32 = 1 << 4;
const PGAERR: u32 = 1 << 5;
const SIZERR: u32 = 1 << 6;
const PGSERR: u32 = 1 << 7;
const ERRORS: u32 = PROGERR | WRPERR | PGAERR | SIZERR | PGSERR;
const BSY1: u32 = 1 << 16;
/// A double word is half written.
const CFGBSY: u32 = 1 << 18;

const PG: u32 = 1 << 0;
const PER: u32 = 1 << 1;
const MER1: u32 = 1 << 2;
const BKER: u32 = 1 << 13;
const MER2: u32 = 1 << 15;
const STRT: u32 = 1 << 16;
const OPTSTRT: u32 = 1 << 17;
const EOPIE: u32 = 1 << 24;
const OBL_LAUNCH: u32 = 1 << 27;
const OPTLOCK: u32 = 1 << 30;
const LOCK: u32 = 1 << 31;
const CR_WRITABLE: u32 = 0x0f06_bfff;

const RDP: u32 = 0xff;
const RDP_LEVEL_0: u32 = 0xaa;
const RDP_LEVEL_1: u32 = 0xbb;
const DUAL_BANK: u32 = 1 << 21;
/// ST production value, with both banks in use.
const OPTIONS_AS_SHIPPED: u32 = 0xdfff_e1aa;

const PAGE: u32 = 2048;

pub(in crate::swd) struct Stm32G0 {
    lock: Lock,
    option_lock: Lock,
    acr: u32,
    /// The first word was blank when the option bytes were loaded, or software says so.
    empty: bool,
    cr: u32,
    flags: u32,
    options: u32,
    /// What OPTR was set to, in effect after it is loaded.
    optr: u32,
    /// The first half of a double word, with its address.
    half: Option<(u32, [u8; 4])>,
    /// The next reset loads the option bytes.
    loads_options: bool,
    flash_size: u32,
    flash_start: u32,
}

impl Stm32G0 {
    pub fn new(read_protected: bool, array: &Array) -> Self {
        let rdp = if read_protected { RDP_LEVEL_1 } else { RDP_LEVEL_0 };
        let options = OPTIONS_AS_SHIPPED & !RDP | rdp;
        let start = array.nor.sectors().first().map_or(0, |sector| sector.start.0);
        Self {
            lock: Lock::new(),
            option_lock: Lock::new(),
            acr: 0,
            empty: is_blank(array),
            cr: 0,
            flags: 0,
            options,
            optr: options,
            half: None,
            loads_options: false,
            flash_size: array.nor.data().len() as u32,
            flash_start: start,
        }
    }

    pub fn reset(&mut self, power_on: bool, array: &Array) {
        // No other reset loads the option bytes, and looks whether the flash is blank (RM0444 §3.3.2).
        if power_on || std::mem::take(&mut self.loads_options) {
            self.options = self.optr;
            self.empty = is_blank(array);
        }
        self.lock = Lock::new();
        self.option_lock = Lock::new();
        (self.acr, self.cr, self.flags, self.half) = (0x600, 0, 0, None);
    }

    /// Whether a reset starts the ROM instead of the flash.
    pub fn starts_rom(&self) -> bool {
        self.empty
    }

    pub fn read_protected(&self) -> bool {
        self.options & RDP != RDP_LEVEL_0
    }

    pub fn read(&mut self, offset: u32, array: &mut Array) -> u32 {
        match offset {
            ACR => self.acr | if self.empty { EMPTY } else { 0 },
            SR => {
                let busy = array.poll();
                if !busy {
                    self.cr &= !(STRT | OPTSTRT);
                }
                let half = if self.half.is_some() { CFGBSY } else { 0 };
                self.flags | half | if busy { BSY1 } else { 0 }
            }
            CR => {
                let lock = if self.lock.locked { LOCK } else { 0 };
                let option_lock = if self.option_lock.locked { OPTLOCK } else { 0 };
                self.cr | lock | option_lock
            }
            OPTR => self.optr,
            WRP1AR => self.protected_pages(0, array),
            WRP2AR => self.protected_pages(1, array),
            WRP1BR | WRP2BR => NO_PAGES,
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u32, value: u32, array: &mut Array) -> Result<(), BusError> {
        match offset {
            ACR => (self.acr, self.empty) = (value & !EMPTY, value & EMPTY != 0),
            KEYR => return self.lock.key(KEYS, value, "FLASH_CR", array),
            OPTKEYR => return self.option_lock.key(OPTION_KEYS, value, "the option bytes", array),
            SR => self.flags &= !value,
            CR if !self.lock.admits(value & LOCK != 0, value, array) => {}
            CR => self.control(value, array),
            OPTR if self.option_lock.locked => {
                array.violate(|| format!("FLASH_OPTR is locked, {value:#010x} was written"));
            }
            OPTR => self.optr = value,
            _ => {}
        }
        Ok(())
    }

    fn control(&mut self, value: u32, array: &mut Array) {
        self.cr = value & CR_WRITABLE & !(STRT | OPTSTRT | OBL_LAUNCH);
        if value & OPTLOCK != 0 {
            self.option_lock.shut();
        }
        if value & LOCK != 0 {
            self.lock.shut();
            self.option_lock.shut();
        } else if value & OPTSTRT != 0 && !self.option_lock.locked {
            if self.read_protected() && self.optr & RDP == RDP_LEVEL_0 {
                array.wipe();
            }
            self.cr |= OPTSTRT;
        } else if value & OBL_LAUNCH != 0 && !self.option_lock.locked {
            self.loads_options = true;
            array.wants_reset = true;
        } else if value & STRT != 0 {
            self.start(array);
        }
    }

    fn end_of_operation(&self) -> u32 {
        if self.cr & EOPIE != 0 { EOP } else { 0 }
    }

    /// The one area of a bank's pages that is write-protected, as its register has it.
    fn protected_pages(&self, bank: usize, array: &Array) -> u32 {
        let of_bank = match self.bank_2() {
            Some(start) => ((start - self.flash_start) / PAGE) as usize,
            None => array.nor.sectors().len(),
        };
        let pages = array.nor.protected_sectors().filter(|index| index / of_bank == bank).map(|index| index % of_bank);
        let pages: Vec<usize> = pages.collect();
        match (pages.first(), pages.last()) {
            (Some(first), Some(last)) => *first as u32 | (*last as u32) << 16,
            _ => NO_PAGES,
        }
    }

    /// Where the banks part. 512 KiB are always two banks (RM0444 §3.3.1).
    fn bank_2(&self) -> Option<u32> {
        let dual = self.options & DUAL_BANK != 0 || self.flash_size == 512 * 1024;
        dual.then_some(self.flash_start + self.flash_size / 2)
    }

    fn start(&mut self, array: &mut Array) {
        // Errors have to be cleared first (RM0444 §3.3.7).
        if self.flags & ERRORS != 0 {
            self.flags |= PGSERR;
            return;
        }
        let page = self.cr >> 3 & 0x3ff;
        let end = self.flash_start + self.flash_size;
        let done = match self.cr & (PER | MER1 | MER2) {
            PER => {
                let second = self.bank_2().filter(|_| self.cr & BKER != 0);
                let limit = if second.is_some() { end } else { self.bank_2().unwrap_or(end) };
                let addr = second.unwrap_or(self.flash_start) + page * PAGE;
                if addr < limit { array.erase(addr) } else { Err(Refusal::Address) }
            }
            banks if banks & PER == 0 && banks != 0 => {
                let sectors: Vec<_> = array.nor.sectors().iter().map(|sector| sector.start.0).collect();
                let bank_2 = self.bank_2().unwrap_or(end);
                let wanted = |addr: &u32| banks & if *addr < bank_2 { MER1 } else { MER2 } != 0;
                sectors.into_iter().filter(wanted).try_for_each(|addr| array.erase(addr))
            }
            _ => {
                array.violate(|| format!("STRT with FLASH_CR {:#010x}", self.cr));
                Err(Refusal::Address)
            }
        };
        match done {
            Ok(()) => {
                self.cr |= STRT;
                self.flags |= self.end_of_operation();
            }
            Err(Refusal::Protected) => self.flags |= WRPERR,
            Err(Refusal::Address | Refusal::NotBlank) => self.flags |= PGSERR,
        }
    }

    pub fn program(&mut self, addr: u32, bytes: &[u8], array: &mut Array) -> Result<(), BusError> {
        if !array.stall() {
            return Err(BusError);
        }
        if self.lock.locked || self.cr & PG == 0 {
            array.violate(|| format!("write to {addr:#010x} with FLASH_CR {:#010x}", self.cr));
            self.flags |= PGSERR;
            return Ok(());
        }
        if self.flags & ERRORS != 0 {
            self.flags |= PGSERR;
            return Ok(());
        }
        let Ok(word) = <[u8; 4]>::try_from(bytes) else {
            array.violate(|| format!("{} bytes to {addr:#010x}, which takes words", bytes.len()));
            self.flags |= SIZERR;
            return Ok(());
        };
        let Some((first, low)) = self.half.take() else {
            if addr.is_multiple_of(8) {
                self.half = Some((addr, word));
            } else {
                self.flags |= PGAERR;
            }
            return Ok(());
        };
        if addr != first + 4 {
            self.flags |= PGAERR;
            return Ok(());
        }
        self.flags |= match array.program(first, &[low, word].concat()) {
            Ok(()) => self.end_of_operation(),
            Err(Refusal::Protected) => WRPERR,
            Err(Refusal::NotBlank) => PROGERR,
            Err(Refusal::Address) => PGAERR,
        };
        Ok(())
    }
}

/// Whether the first word of the flash is erased.
fn is_blank(array: &Array) -> bool {
    array.nor.data().iter().take(4).all(|byte| *byte == 0xff)
}
