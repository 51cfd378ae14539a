//! The bus: flash, RAM and registers, as core and debugger see them below the private peripheral bus.

use std::collections::BTreeMap;

use armagnac::memory::{Env, MemoryAccessError, MemoryInterface, MemoryReadResult, MemoryWriteResult};
use kflash::chip::Chip;

use super::array::Array;
use super::controller::{BusError, Controller};
use super::part::{Family, Part};

/// The private peripheral bus and above: not mapped here.
pub(super) const END: u32 = 0xe000_0000;

/// Peripherals: registers that hold what was written.
const PERIPHERALS: std::ops::Range<u32> = 0x4000_0000..0x6000_0000;
/// System memory, one-time-programmable and option bytes.
const SYSTEM: std::ops::Range<u32> = 0x1fff_0000..0x2000_0000;

/// Where the ROM bootloader lies, and what stands for it: vectors, and `b .` in a loop.
const ROM_START: u32 = 0x1fff_0000;
const ROM: [u8; 10] = [0x00, 0x10, 0x00, 0x20, 0x09, 0x00, 0xff, 0x1f, 0xfe, 0xe7];

/// What lies on the bus.
pub(super) struct Memory {
    pub array: Array,
    pub controller: Controller,
    /// A debugger is connected: read protection shuts the flash.
    pub debugged: bool,
    /// Address 0 is the ROM's, since the last reset, and not the flash's.
    pub rom: bool,
    part: Part,
    ram: Vec<(u32, Vec<u8>)>,
    registers: BTreeMap<u32, u32>,
    /// Unique id and flash size.
    factory: Vec<(u32, Vec<u8>)>,
}

impl Memory {
    pub fn new(chip: &Chip, part: Part, array: Array, controller: Controller, uid: [u8; 12]) -> Self {
        let size_kib = (chip.flash().size.0 / 1024) as u16;
        let size = chip.flash_size_register.map(|at| (at.0, size_kib.to_le_bytes().to_vec()));
        let uid = chip.uid_register.map(|at| (at.0, uid.to_vec()));
        let rom = (part.family == Family::G0).then(|| (ROM_START, ROM.to_vec()));
        // RAM comes up with anything in it.
        let noise =
            |start: u32, size: u32| (0..size).map(move |at| ((start + at).wrapping_mul(0x9e37_79b9) >> 24) as u8);
        let ram = chip.ram.iter().map(|ram| (ram.start.0, noise(ram.start.0, ram.size.0).collect()));
        Self {
            rom: controller.starts_rom(),
            array,
            controller,
            debugged: false,
            part,
            ram: ram.collect(),
            registers: BTreeMap::new(),
            factory: rom.into_iter().chain(size).chain(uid).collect(),
        }
    }

    /// A reset: peripherals are as after power-on; RAM stays.
    pub fn reset(&mut self, power_on: bool) {
        self.array.interrupt();
        self.array.wants_reset = false;
        self.controller.reset(power_on, &self.array);
        self.rom = self.controller.starts_rom();
        self.registers.clear();
    }

    /// Where the flash starts, of which address 0 is an alias unless the ROM runs.
    fn flash_offset(&self, addr: u32) -> Option<u32> {
        let start = self.array.nor.sectors().first()?.start.0;
        let size = self.array.nor.data().len() as u32;
        let from_start = addr.checked_sub(start).filter(|offset| *offset < size);
        from_start.or_else(|| (addr < size && !self.rom).then_some(addr)).map(|offset| start + offset)
    }

    fn ram(&mut self, addr: u32, size: usize) -> Option<&mut [u8]> {
        self.ram.iter_mut().find_map(|(start, bytes)| {
            let offset = addr.checked_sub(*start)? as usize;
            bytes.get_mut(offset..offset.checked_add(size)?)
        })
    }

    /// The system memory's byte at `addr`.
    fn factory_byte(&self, addr: u32) -> u8 {
        let mut known = self.factory.iter();
        let known = known.find_map(|(start, bytes)| bytes.get(addr.checked_sub(*start)? as usize));
        let option = || {
            let (start, halves) = self.controller.option_bytes()?;
            let offset = addr.checked_sub(start)? as usize;
            halves.get(offset / 2).map(|half| half.to_le_bytes()[offset % 2])
        };
        known.copied().or_else(option).unwrap_or(0xff)
    }

    /// A word of the peripherals.
    fn register(&mut self, addr: u32) -> u32 {
        let offset = addr.wrapping_sub(self.part.controller);
        if offset < 0x400 {
            return self.controller.read(offset, &mut self.array);
        }
        if addr == self.part.idcode.0 {
            return self.part.idcode.1;
        }
        self.registers.get(&addr).copied().unwrap_or(0)
    }

    /// Reads `size` bytes, 1, 2 or 4.
    pub fn read(&mut self, addr: u32, size: usize) -> Result<u32, BusError> {
        let addr = if self.rom && addr < ROM.len() as u32 { ROM_START + addr } else { addr };
        let mut word = [0; 4];
        if let Some(bytes) = self.ram(addr, size) {
            word[..size].copy_from_slice(bytes);
            return Ok(u32::from_le_bytes(word));
        }
        if let Some(at) = self.flash_offset(addr) {
            if self.debugged && self.controller.read_protected() || !self.array.stall() {
                return Err(BusError);
            }
            word[..size].copy_from_slice(self.array.nor.read(at, size).ok_or(BusError)?);
            return Ok(u32::from_le_bytes(word));
        }
        if SYSTEM.contains(&addr) {
            for (index, byte) in word[..size].iter_mut().enumerate() {
                *byte = self.factory_byte(addr + index as u32);
            }
            return Ok(u32::from_le_bytes(word));
        }
        if PERIPHERALS.contains(&addr) {
            let register = self.register(addr & !3) >> (8 * (addr & 3));
            return Ok(if size == 4 { register } else { register & ((1 << (8 * size)) - 1) });
        }
        Err(BusError)
    }

    /// Writes the low `size` bytes of `value`.
    pub fn write(&mut self, addr: u32, size: usize, value: u32) -> Result<(), BusError> {
        let bytes = value.to_le_bytes();
        if let Some(ram) = self.ram(addr, size) {
            ram.copy_from_slice(&bytes[..size]);
            return Ok(());
        }
        if let Some(at) = self.flash_offset(addr) {
            if self.debugged && self.controller.read_protected() {
                return Err(BusError);
            }
            return self.controller.program(at, &bytes[..size], &mut self.array);
        }
        if SYSTEM.contains(&addr) {
            return self.controller.program(addr, &bytes[..size], &mut self.array);
        }
        if !PERIPHERALS.contains(&addr) {
            return Err(BusError);
        }
        let offset = addr.wrapping_sub(self.part.controller);
        if offset < 0x400 {
            if size != 4 {
                self.array.violate(|| format!("{size} bytes were written to the flash controller at {addr:#010x}"));
            }
            return self.controller.write(offset & !3, value, &mut self.array);
        }
        let shift = 8 * (addr & 3);
        let mask = if size == 4 { u32::MAX } else { ((1 << (8 * size)) - 1) << shift };
        let register = self.registers.entry(addr & !3).or_default();
        *register = *register & !mask | value << shift & mask;
        Ok(())
    }
}

impl MemoryInterface for Memory {
    fn read_u8(&mut self, address: u32, _: &mut Env) -> MemoryReadResult<u8> {
        self.read(address, 1).map(|value| value as u8).map_err(MemoryAccessError::from)
    }

    fn read_u16le(&mut self, address: u32, _: &mut Env) -> MemoryReadResult<u16> {
        self.read(address, 2).map(|value| value as u16).map_err(MemoryAccessError::from)
    }

    fn read_u32le(&mut self, address: u32, _: &mut Env) -> MemoryReadResult<u32> {
        self.read(address, 4).map_err(MemoryAccessError::from)
    }

    fn write_u8(&mut self, address: u32, value: u8, _: &mut Env) -> MemoryWriteResult {
        self.write(address, 1, value.into()).map_err(MemoryAccessError::from)
    }

    fn write_u16le(&mut self, address: u32, value: u16, _: &mut Env) -> MemoryWriteResult {
        self.write(address, 2, value.into()).map_err(MemoryAccessError::from)
    }

    fn write_u32le(&mut self, address: u32, value: u32, _: &mut Env) -> MemoryWriteResult {
        self.write(address, 4, value).map_err(MemoryAccessError::from)
    }

    fn size(&self) -> u32 {
        END
    }
}

impl From<BusError> for MemoryAccessError {
    fn from(BusError: BusError) -> Self {
        Self::HardwareError
    }
}
