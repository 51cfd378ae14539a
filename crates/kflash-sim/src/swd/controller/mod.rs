//! Flash controllers: the registers through which software erases and programs.
//!
//! Written from the reference manuals. A controller refuses as silicon does, by its error bits; what silicon leaves
//! undefined is recorded as a violation.

mod stm32f1;
mod stm32f4;
mod stm32g0;

use self::stm32f1::Stm32F1;
use self::stm32f4::Stm32F4;
use self::stm32g0::Stm32G0;
use super::array::Array;
use super::part::Family;

/// The bus answers with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BusError;

/// The keys that unlock every STM32 controller's control register, and those of its option bytes (F0, F1: the first two).
const KEYS: [u32; 2] = [0x4567_0123, 0xcdef_89ab];
const OPTION_KEYS: [u32; 2] = [0x0819_2a3b, 0x4c5d_6e7f];

/// A register that opens on two keys in order, and stays shut until a reset after a wrong one.
#[derive(Clone, Copy, Debug)]
struct Lock {
    locked: bool,
    step: usize,
    spoilt: bool,
}

impl Lock {
    fn new() -> Self {
        Self { locked: true, step: 0, spoilt: false }
    }

    /// A write to the key register.
    fn key(&mut self, keys: [u32; 2], value: u32, what: &str, array: &mut Array) -> Result<(), BusError> {
        if self.spoilt || !self.locked || keys[self.step] != value {
            array.violate(|| format!("{value:#010x} is not the next key of {what}: locked until reset"));
            *self = Self { locked: true, step: 0, spoilt: true };
            return Err(BusError);
        }
        self.step += 1;
        if self.step == keys.len() {
            *self = Self { locked: false, step: 0, spoilt: false };
        }
        Ok(())
    }

    /// Whether a write to the control register has any effect. `relocks`: it sets the lock bit, which always may be.
    fn admits(&self, relocks: bool, value: u32, array: &mut Array) -> bool {
        if self.locked && !relocks {
            array.violate(|| format!("FLASH_CR is locked, {value:#010x} was written"));
        } else if !self.locked && array.is_busy() {
            array.violate(|| format!("{value:#010x} was written to FLASH_CR while busy"));
        }
        !self.locked && !array.is_busy()
    }

    /// Shut again by software.
    fn shut(&mut self) {
        self.locked = true;
        self.step = 0;
    }
}

/// A flash controller.
pub(super) enum Controller {
    F1(Stm32F1),
    F4(Stm32F4),
    G0(Stm32G0),
}

impl Controller {
    /// One as it leaves the factory, with the array's write protection, and read-protected at level 1 or not.
    pub fn new(family: Family, read_protected: bool, array: &Array) -> Self {
        match family {
            Family::F1 => Self::F1(Stm32F1::new(read_protected, array)),
            Family::F4 => Self::F4(Stm32F4::new(read_protected, array)),
            Family::G0 => Self::G0(Stm32G0::new(read_protected, array)),
        }
    }

    /// A reset: unlocked registers are locked again; option bytes stay, and are loaded where that takes a reset.
    pub fn reset(&mut self, power_on: bool, array: &Array) {
        match self {
            Self::F1(it) => it.reset(),
            Self::F4(it) => it.reset(),
            Self::G0(it) => it.reset(power_on, array),
        }
    }

    /// A word of its registers.
    pub fn read(&mut self, offset: u32, array: &mut Array) -> u32 {
        match self {
            Self::F1(it) => it.read(offset, array),
            Self::F4(it) => it.read(offset, array),
            Self::G0(it) => it.read(offset, array),
        }
    }

    /// A write to its registers.
    pub fn write(&mut self, offset: u32, value: u32, array: &mut Array) -> Result<(), BusError> {
        match self {
            Self::F1(it) => it.write(offset, value, array),
            Self::F4(it) => it.write(offset, value, array),
            Self::G0(it) => it.write(offset, value, array),
        }
    }

    /// A write to the flash's addresses.
    pub fn program(&mut self, addr: u32, bytes: &[u8], array: &mut Array) -> Result<(), BusError> {
        match self {
            Self::F1(it) => it.program(addr, bytes, array),
            Self::F4(it) => it.program(addr, bytes, array),
            Self::G0(it) => it.program(addr, bytes, array),
        }
    }

    /// Whether a reset starts the ROM, for the flash was blank.
    pub fn starts_rom(&self) -> bool {
        match self {
            Self::F1(_) | Self::F4(_) => false,
            Self::G0(it) => it.starts_rom(),
        }
    }

    /// Whether read protection keeps debuggers out of the flash.
    pub fn read_protected(&self) -> bool {
        match self {
            Self::F1(it) => it.read_protected(),
            Self::F4(it) => it.read_protected(),
            Self::G0(it) => it.read_protected(),
        }
    }

    /// The half-words of option bytes that lie in memory, of families that program them there.
    pub fn option_bytes(&self) -> Option<(u32, &[u16])> {
        match self {
            Self::F1(it) => Some((stm32f1::OPTION_BYTES, it.option_bytes())),
            Self::F4(_) | Self::G0(_) => None,
        }
    }
}
