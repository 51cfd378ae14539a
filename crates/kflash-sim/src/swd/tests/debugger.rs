//! A debugger of a few lines, from the architecture's documents.

use super::chip;
use crate::swd::{Options, Port, Refused, Target};

pub const DHCSR: u32 = 0xe000_edf0;
pub const DCRSR: u32 = 0xe000_edf4;
pub const DCRDR: u32 = 0xe000_edf8;
pub const DEMCR: u32 = 0xe000_edfc;
pub const AIRCR: u32 = 0xe000_ed0c;
pub const HALT: u32 = 0xa05f_0003;
pub const RUN: u32 = 0xa05f_0001;
pub const STEP: u32 = 0xa05f_0005;
pub const S_HALT: u32 = 1 << 17;
pub const S_LOCKUP: u32 = 1 << 19;
pub const S_RESET_ST: u32 = 1 << 25;

/// A target with a debugger on its wires.
pub struct Debugger(pub Target);

impl Debugger {
    pub fn new(id: &str, options: Options) -> Self {
        Self(Target::new(&chip(id), &[], options).unwrap())
    }

    /// Connected, powered up, and ready for words that advance TAR.
    pub fn connected(id: &str, options: Options) -> Self {
        let mut it = Self::new(id, options);
        it.connect();
        it
    }

    pub fn line_reset(&mut self) {
        self.0.swj(56, &[0xff; 7]);
        self.0.swj(8, &[0]);
    }

    pub fn connect(&mut self) {
        self.0.swj(56, &[0xff; 7]);
        self.0.swj(16, &[0x9e, 0xe7]);
        self.line_reset();
        self.0.read(Port::Debug, 0).unwrap();
        self.0.write(Port::Debug, 4, 0x5000_0000).unwrap();
        self.select(0);
        self.0.write(Port::Access, 0, 0x2300_0012).unwrap();
    }

    /// Sets SELECT.
    pub fn select(&mut self, value: u32) {
        if self.0.write(Port::Debug, 8, value) == Err(Refused::Wait) {
            self.0.write(Port::Debug, 8, value).unwrap();
        }
    }

    /// A read of an access port's register in the selected bank, with its result.
    pub fn ap(&mut self, addr: u8) -> Result<u32, Refused> {
        match self.0.read(Port::Access, addr) {
            Err(Refused::Wait) => self.0.read(Port::Access, addr)?,
            answer => answer?,
        };
        self.0.read(Port::Debug, 0xc)
    }

    pub fn clear(&mut self) {
        self.0.write(Port::Debug, 0, 0x1e).unwrap();
    }

    pub fn try_get(&mut self, addr: u32) -> Result<u32, Refused> {
        self.0.write(Port::Access, 4, addr)?;
        let got = self.ap(0xc);
        if got.is_err() {
            self.clear();
        }
        got
    }

    pub fn get(&mut self, addr: u32) -> u32 {
        self.try_get(addr).unwrap()
    }

    /// `false` where the bus refused.
    pub fn try_set(&mut self, addr: u32, value: u32) -> bool {
        self.0.write(Port::Access, 4, addr).unwrap();
        self.0.write(Port::Access, 0xc, value).unwrap();
        let refused = self.0.read(Port::Debug, 0xc).is_err();
        if refused {
            self.clear();
        }
        !refused
    }

    pub fn set(&mut self, addr: u32, value: u32) {
        assert!(self.try_set(addr, value), "{addr:#010x} refused");
    }

    /// Bytes in each access: 0 is one, 1 two, 2 four.
    pub fn size(&mut self, csw_size: u32) {
        self.0.write(Port::Access, 0, 0x2300_0010 | csw_size).unwrap();
    }

    /// A half-word into its byte lanes.
    pub fn set_half(&mut self, addr: u32, half: u16) -> bool {
        self.size(1);
        let done = self.try_set(addr, u32::from(half) << (8 * (addr & 2)));
        self.size(2);
        done
    }

    pub fn register(&mut self, number: u32) -> u32 {
        self.set(DCRSR, number);
        self.get(DCRDR)
    }

    pub fn set_register(&mut self, number: u32, value: u32) {
        self.set(DCRDR, value);
        self.set(DCRSR, 1 << 16 | number);
    }

    /// Half-words of code into RAM.
    pub fn load(&mut self, addr: u32, code: &[u16]) {
        for (index, pair) in code.chunks(2).enumerate() {
            let high = pair.get(1).copied().unwrap_or(0xbe00);
            self.set(addr + 4 * index as u32, u32::from(pair[0]) | u32::from(high) << 16);
        }
    }

    /// Looks until `register` has none of `bits`.
    pub fn wait(&mut self, register: u32, bits: u32) -> u32 {
        for _ in 0..100_000 {
            let value = self.get(register);
            if value & bits == 0 {
                return value;
            }
        }
        panic!("{bits:#x} of {register:#010x} stay set");
    }
}
