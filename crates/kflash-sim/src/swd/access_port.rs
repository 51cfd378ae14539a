//! The AHB access port: a debugger's window onto the bus (ADIv5.2 §C2).

use super::part::CoreKind;

/// Register addresses with their bank.
const CSW: u8 = 0x00;
const TAR: u8 = 0x04;
const DRW: u8 = 0x0c;
const BD0: u8 = 0x10;
const BD3: u8 = 0x1c;
const CFG: u8 = 0xf4;
const BASE: u8 = 0xf8;
const IDR: u8 = 0xfc;

const SIZE: u32 = 0x7;
const ADDR_INC: u32 = 0x30;
const SINGLE: u32 = 0x10;
const PACKED: u32 = 0x20;
/// DeviceEn: read only.
const DEVICE_EN: u32 = 1 << 6;
/// Size, AddrInc and the bus's protection bits.
const CSW_WRITABLE: u32 = 0x7f00_0037;

/// What a register access comes to on the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Done inside the port, with the value read.
    Done(u32),
    /// Bytes of memory: address, bytes in each access, number of accesses, and whether TAR advances.
    Memory { addr: u32, size: usize, count: usize },
}

/// The registers of a MEM-AP.
#[derive(Clone, Debug)]
pub(super) struct AccessPort {
    idr: u32,
    base: u32,
    csw: u32,
    tar: u32,
    has_packed: bool,
    /// Bits of TAR that advance: the architecture promises 10, the Cortex-M3 and M4 have 12 and debuggers rely on it.
    wraps_at: u32,
}

impl AccessPort {
    pub fn new(idr: u32, base: u32, core: CoreKind) -> Self {
        let large = core != CoreKind::M0Plus;
        Self {
            idr,
            base: base | 3,
            csw: 0x2300_0002,
            tar: 0,
            has_packed: large,
            wraps_at: if large { 0xfff } else { 0x3ff },
        }
    }

    /// What reading `register` comes to.
    pub fn read(&self, register: u8) -> Access {
        match register {
            CSW => Access::Done(self.csw | DEVICE_EN),
            TAR => Access::Done(self.tar),
            CFG => Access::Done(0),
            BASE => Access::Done(self.base),
            IDR => Access::Done(self.idr),
            DRW => self.data(),
            BD0..=BD3 => self.banked(register),
            _ => Access::Done(0),
        }
    }

    /// What writing `register` comes to.
    pub fn write(&mut self, register: u8, value: u32) -> Access {
        match register {
            CSW => {
                self.csw = value & CSW_WRITABLE;
                if !self.has_packed && self.csw & ADDR_INC == PACKED {
                    self.csw &= !ADDR_INC;
                }
            }
            TAR => self.tar = value,
            DRW => return self.data(),
            BD0..=BD3 => return self.banked(register),
            _ => {}
        }
        Access::Done(0)
    }

    fn size(&self) -> usize {
        match self.csw & SIZE {
            0 => 1,
            1 => 2,
            _ => 4,
        }
    }

    fn data(&self) -> Access {
        let count = if self.csw & ADDR_INC == PACKED { 4 / self.size() } else { 1 };
        Access::Memory { addr: self.tar, size: self.size(), count }
    }

    fn banked(&self, register: u8) -> Access {
        Access::Memory { addr: self.tar & !0xf | u32::from(register & 0xc), size: 4, count: 1 }
    }

    /// The address after an access of `size` bytes at `addr`.
    pub fn after(&self, addr: u32, size: usize) -> u32 {
        addr & !self.wraps_at | addr.wrapping_add(size as u32) & self.wraps_at
    }

    /// TAR moves on after an access through DRW.
    pub fn advance(&mut self, register: u8, to: u32) {
        if register == DRW && matches!(self.csw & ADDR_INC, SINGLE | PACKED) {
            self.tar = to;
        }
    }
}
