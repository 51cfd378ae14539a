//! The controller of STM32F10x with one bank (PM0075).

use super::{BusError, KEYS, Lock};
use crate::flash::Refusal;
use crate::swd::array::Array;

/// Where the option bytes lie: RDP, USER, Data0, Data1, WRP0 to WRP3, a half-word each.
pub(super) const OPTION_BYTES: u32 = 0x1fff_f800;

const ACR: u32 = 0x00;
const KEYR: u32 = 0x04;
const OPTKEYR: u32 = 0x08;
const SR: u32 = 0x0c;
const CR: u32 = 0x10;
const AR: u32 = 0x14;
const OBR: u32 = 0x1c;
const WRPR: u32 = 0x20;

const BSY: u32 = 1 << 0;
const PGERR: u32 = 1 << 2;
const WRPRTERR: u32 = 1 << 4;
const EOP: u32 = 1 << 5;

const PG: u32 = 1 << 0;
const PER: u32 = 1 << 1;
const MER: u32 = 1 << 2;
const OPTPG: u32 = 1 << 4;
const OPTER: u32 = 1 << 5;
const STRT: u32 = 1 << 6;
const LOCK: u32 = 1 << 7;
const OPTWRE: u32 = 1 << 9;
const CR_WRITABLE: u32 = PG | PER | MER | OPTPG | OPTER;

/// The RDP byte with its complement that leaves the flash open.
const RDPRT_KEY: u16 = 0x5aa5;
const BLANK: u16 = 0xffff;
/// As shipped: open, software watchdog, no reset in standby and stop, no write protection.
const AS_SHIPPED: [u16; 8] = [RDPRT_KEY, 0x00ff, 0x00ff, 0x00ff, 0x00ff, 0x00ff, 0x00ff, 0x00ff];

pub(in crate::swd) struct Stm32F1 {
    lock: Lock,
    option_lock: Lock,
    acr: u32,
    cr: u32,
    ar: u32,
    flags: u32,
    options: [u16; 8],
    /// In effect since the last reset.
    protected: bool,
    wrpr: u32,
}

impl Stm32F1 {
    pub fn new(read_protected: bool, array: &Array) -> Self {
        let mut options = AS_SHIPPED;
        for index in array.nor.protected_sectors() {
            // A bit for each 4 KiB, the last one for all the rest (PM0075 §2.4.2).
            let bit = (index / 2).min(31);
            options[4 + bit / 8] &= !(1 << (bit % 8)) & 0xff;
        }
        if read_protected {
            // Blank option bytes, as a wrong complement, protect (PM0075 §2.4.1).
            options[0] = 0x00ff;
        }
        let mut it = Self {
            lock: Lock::new(),
            option_lock: Lock::new(),
            acr: 0,
            cr: 0,
            ar: 0,
            flags: 0,
            options,
            protected: read_protected,
            wrpr: u32::MAX,
        };
        it.reset();
        it
    }

    pub fn reset(&mut self) {
        let wrp = self.options[4..].iter().rev();
        *self = Self {
            lock: Lock::new(),
            option_lock: Lock::new(),
            acr: 0x30,
            cr: 0,
            ar: 0,
            flags: 0,
            options: self.options,
            protected: self.options[0] != RDPRT_KEY,
            wrpr: wrp.fold(0, |bits, half| bits << 8 | u32::from(half & 0xff)),
        };
    }

    pub fn read_protected(&self) -> bool {
        self.protected
    }

    pub fn option_bytes(&self) -> &[u16] {
        &self.options
    }

    pub fn read(&mut self, offset: u32, array: &mut Array) -> u32 {
        match offset {
            ACR => self.acr,
            SR => {
                let busy = array.poll();
                if !busy {
                    self.cr &= !STRT;
                }
                self.flags | if busy { BSY } else { 0 }
            }
            CR => {
                let lock = if self.lock.locked { LOCK } else { 0 };
                let option_lock = if self.option_lock.locked { 0 } else { OPTWRE };
                self.cr | lock | option_lock
            }
            OBR => u32::from(self.protected) << 1 | u32::from(self.options[1] & 0xff) << 2 | 0x03ff_ffe0,
            WRPR => self.wrpr,
            _ => 0,
        }
    }

    pub fn write(&mut self, offset: u32, value: u32, array: &mut Array) -> Result<(), BusError> {
        match offset {
            ACR => self.acr = value,
            KEYR => return self.lock.key(KEYS, value, "FLASH_CR", array),
            OPTKEYR => return self.option_lock.key(KEYS, value, "the option bytes", array),
            SR => self.flags &= !value,
            CR if !self.lock.admits(value & LOCK != 0, value, array) => {}
            CR => {
                self.cr = value & CR_WRITABLE;
                if value & OPTWRE == 0 {
                    self.option_lock.shut();
                }
                if value & LOCK != 0 {
                    self.lock.shut();
                    self.option_lock.shut();
                } else if value & STRT != 0 {
                    self.start(array);
                }
            }
            AR => self.ar = value,
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, array: &mut Array) {
        let done = match self.cr {
            PER => array.erase(self.ar),
            MER => array.erase_all(),
            OPTER if !self.option_lock.locked => {
                self.options = [BLANK; 8];
                Ok(())
            }
            _ => {
                array.violate(|| format!("STRT with FLASH_CR {:#010x}", self.cr));
                return;
            }
        };
        match done {
            Ok(()) => {
                self.cr |= STRT;
                self.flags |= EOP;
            }
            Err(Refusal::Protected) => self.flags |= WRPRTERR,
            // A page that is not there is erased without a word.
            Err(Refusal::Address | Refusal::NotBlank) => self.flags |= EOP,
        }
    }

    pub fn program(&mut self, addr: u32, bytes: &[u8], array: &mut Array) -> Result<(), BusError> {
        if !array.stall() {
            return Err(BusError);
        }
        // Anything but a half-word is a bus error (PM0075 §2.3.3).
        let &[low, high] = bytes else {
            array.violate(|| format!("{} bytes to {addr:#010x}, which takes half-words", bytes.len()));
            return Err(BusError);
        };
        if addr.wrapping_sub(OPTION_BYTES) < 16 {
            return self.program_option(addr, low, array);
        }
        if self.lock.locked || self.cr & PG == 0 {
            array.violate(|| format!("write to {addr:#010x} with FLASH_CR {:#010x}", self.cr));
            return Err(BusError);
        }
        self.flags |= match array.program(addr, &[low, high]) {
            Ok(()) => EOP,
            Err(Refusal::Protected) => WRPRTERR,
            Err(Refusal::Address | Refusal::NotBlank) => PGERR,
        };
        Ok(())
    }

    fn program_option(&mut self, addr: u32, low: u8, array: &mut Array) -> Result<(), BusError> {
        if self.option_lock.locked || self.cr & OPTPG == 0 {
            array.violate(|| format!("write to the option byte at {addr:#010x} with FLASH_CR {:#010x}", self.cr));
            return Err(BusError);
        }
        let Some(half) = self.options.get_mut((addr - OPTION_BYTES) as usize / 2) else { return Err(BusError) };
        if *half != BLANK {
            self.flags |= PGERR;
            return Ok(());
        }
        // The complement is made by the controller (PM0075 §2.3.5).
        *half = u16::from_le_bytes([low, !low]);
        let opens = addr == OPTION_BYTES && *half == RDPRT_KEY;
        if opens && self.protected {
            array.wipe();
        }
        self.flags |= EOP;
        Ok(())
    }
}
