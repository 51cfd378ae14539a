//! The private peripheral bus as a debugger sees it: debug registers, breakpoints, ROM table (ARMv7-M §C1, ARMv6-M §C1).

use std::collections::BTreeMap;

use super::controller::BusError;
use super::cpu::{CoreState, Cpu, halted_by};
use super::part::{CoreKind, Part};

const CPUID: u32 = 0xe000_ed00;
const AIRCR: u32 = 0xe000_ed0c;
const DFSR: u32 = 0xe000_ed30;
const DHCSR: u32 = 0xe000_edf0;
const DCRSR: u32 = 0xe000_edf4;
const DCRDR: u32 = 0xe000_edf8;
const DEMCR: u32 = 0xe000_edfc;
const FP_CTRL: u32 = 0xe000_2000;
const FP_COMP0: u32 = 0xe000_2008;
const DWT_CTRL: u32 = 0xe000_1000;

const DBGKEY: u32 = 0xa05f;
const VECTKEY: u32 = 0x05fa;
const VECTKEYSTAT: u32 = 0xfa05_0000;
const SYSRESETREQ: u32 = 1 << 2;

const C_DEBUGEN: u32 = 1 << 0;
const C_HALT: u32 = 1 << 1;
const C_STEP: u32 = 1 << 2;
const C_MASKINTS: u32 = 1 << 3;
const S_REGRDY: u32 = 1 << 16;
const S_HALT: u32 = 1 << 17;
const S_SLEEP: u32 = 1 << 18;
const S_LOCKUP: u32 = 1 << 19;
const S_RETIRE_ST: u32 = 1 << 24;
const S_RESET_ST: u32 = 1 << 25;

/// The debug registers in front of a core.
pub(super) struct Debug {
    part: Part,
    dcrdr: u32,
    prigroup: u32,
    maskints: bool,
    fp_enabled: bool,
    comparators: Vec<u32>,
    /// Everything else holds what was written.
    others: BTreeMap<u32, u32>,
    /// DBGMCU and the like, that no reset but power-on changes.
    lasting: BTreeMap<u32, u32>,
    /// AIRCR asked for a reset.
    pub wants_reset: bool,
}

impl Debug {
    pub fn new(part: Part) -> Self {
        let comparators = if part.core == CoreKind::M0Plus { 4 } else { 6 };
        Self {
            part,
            dcrdr: 0,
            prigroup: 0,
            maskints: false,
            fp_enabled: false,
            comparators: vec![0; comparators],
            others: BTreeMap::new(),
            lasting: BTreeMap::new(),
            wants_reset: false,
        }
    }

    /// A system reset, which debug registers outlive.
    pub fn reset(&mut self) {
        self.others.clear();
        self.prigroup = 0;
        self.wants_reset = false;
    }

    fn comparator(&self, addr: u32) -> Option<usize> {
        let index = addr.checked_sub(FP_COMP0)? as usize / 4;
        (index < self.comparators.len()).then_some(index)
    }

    /// Reads a word.
    pub fn read(&mut self, addr: u32, cpu: &mut Cpu) -> Result<u32, BusError> {
        if let Some(index) = self.comparator(addr) {
            return Ok(self.comparators[index]);
        }
        Ok(match addr {
            CPUID => self.part.cpuid,
            AIRCR => VECTKEYSTAT | self.prigroup,
            DFSR => cpu.dfsr,
            DHCSR => self.dhcsr(cpu),
            DCRSR => 0,
            DCRDR => self.dcrdr,
            DEMCR => cpu.demcr,
            FP_CTRL => self.fp_ctrl(),
            // Four comparators (M0+: two), no counters.
            DWT_CTRL => {
                if self.part.core == CoreKind::M0Plus {
                    0x2000_0000
                } else {
                    0x4000_0000
                }
            }
            addr if addr == self.part.idcode.0 => self.part.idcode.1,
            addr if addr & !0xfff == self.part.idcode.0 => self.lasting.get(&addr).copied().unwrap_or(0),
            addr if addr & !0xfff == self.part.rom_table => self.rom_table(addr & 0xfff),
            // The G0's own table leads to the core's.
            addr if addr & !0xfff == CORE_ROM_TABLE => core_rom_table(addr & 0xfff, self.part.core),
            addr if addr & 0xfff >= 0xfd0 && component(addr).is_some() => {
                component_id(addr & 0xfff, component(addr).unwrap_or(0))
            }
            0xe000_0000..=0xe00f_ffff => self.others.get(&addr).copied().unwrap_or(0),
            _ => return Err(BusError),
        })
    }

    /// Writes a word.
    pub fn write(&mut self, addr: u32, value: u32, cpu: &mut Cpu) -> Result<(), BusError> {
        if let Some(index) = self.comparator(addr) {
            self.comparators[index] = value;
            self.set_breakpoints(cpu);
            return Ok(());
        }
        match addr {
            DHCSR if value >> 16 == DBGKEY => self.control(value, cpu),
            DCRSR => {
                let register = value & 0x7f;
                if value >> 16 & 1 == 1 {
                    cpu.set_register(register, self.dcrdr);
                } else {
                    self.dcrdr = cpu.register(register);
                }
            }
            DCRDR => self.dcrdr = value,
            DEMCR => cpu.demcr = value,
            DFSR => cpu.dfsr &= !value,
            AIRCR if value >> 16 == VECTKEY => {
                self.prigroup = value & 0x700;
                self.wants_reset |= value & SYSRESETREQ != 0;
            }
            // KEY: without it the write is ignored.
            FP_CTRL if value & 2 != 0 => {
                self.fp_enabled = value & 1 != 0;
                self.set_breakpoints(cpu);
            }
            DHCSR | AIRCR | FP_CTRL => {}
            addr if addr & !0xfff == self.part.idcode.0 => {
                self.lasting.insert(addr, value);
            }
            0xe000_0000..=0xe00f_ffff => {
                self.others.insert(addr, value);
            }
            _ => return Err(BusError),
        }
        Ok(())
    }

    fn dhcsr(&self, cpu: &mut Cpu) -> u32 {
        let bit = |on: bool, bit: u32| if on { bit } else { 0 };
        let halted = cpu.state == CoreState::Halted;
        bit(cpu.debug_enabled, C_DEBUGEN)
            | bit(halted, C_HALT | S_HALT)
            | bit(cpu.stepping, C_STEP)
            | bit(self.maskints, C_MASKINTS)
            | S_REGRDY
            | bit(cpu.state == CoreState::Sleeping, S_SLEEP)
            | bit(cpu.state == CoreState::LockedUp, S_LOCKUP)
            | bit(std::mem::take(&mut cpu.retired), S_RETIRE_ST)
            // Sticky, and set for as long as the core is in reset.
            | bit(std::mem::replace(&mut cpu.was_reset, cpu.state == CoreState::InReset), S_RESET_ST)
    }

    fn control(&mut self, value: u32, cpu: &mut Cpu) {
        cpu.debug_enabled = value & C_DEBUGEN != 0;
        self.maskints = value & C_MASKINTS != 0;
        if cpu.state == CoreState::InReset {
            return;
        }
        if !cpu.debug_enabled {
            cpu.resume();
        } else if value & C_HALT != 0 {
            if cpu.state != CoreState::Halted {
                cpu.halt(halted_by::REQUEST);
            }
        } else if value & C_STEP != 0 {
            cpu.step();
        } else {
            cpu.resume();
        }
    }

    fn fp_ctrl(&self) -> u32 {
        let code = self.comparators.len() as u32;
        // Two literal comparators beside the code ones (Cortex-M3, M4).
        let literal = if self.part.core == CoreKind::M0Plus { 0 } else { 2 };
        literal << 8 | code << 4 | u32::from(self.fp_enabled)
    }

    /// Breakpoints as the comparators of an FPB version 1 (ARMv7-M §C1.11.5) and of a BPU hold them.
    fn set_breakpoints(&self, cpu: &mut Cpu) {
        let enabled = self.comparators.iter().filter(|comparator| self.fp_enabled && **comparator & 1 != 0);
        let addresses = enabled.flat_map(|comparator| {
            let addr = comparator & 0x1fff_fffc;
            let lower = (comparator >> 30 & 1 != 0).then_some(addr);
            let upper = (comparator >> 31 & 1 != 0).then_some(addr + 2);
            [lower, upper]
        });
        cpu.breakpoints = addresses.flatten().collect();
    }

    fn rom_table(&self, offset: u32) -> u32 {
        if self.part.rom_table == CORE_ROM_TABLE {
            return core_rom_table(offset, self.part.core);
        }
        match offset {
            0 => CORE_ROM_TABLE.wrapping_sub(self.part.rom_table) | 3,
            0xfcc => 1,
            // ST's JEP106 code and the chip's DEV_ID.
            offset => table_id(offset, self.part.idcode.1 & 0xfff, (0x20, 0)),
        }
    }
}

const CORE_ROM_TABLE: u32 = 0xe00f_f000;

/// The core's components: SCS, DWT, FPB, ITM, and TPIU and ETM where there are.
fn core_rom_table(offset: u32, core: CoreKind) -> u32 {
    let entry = |base: u32, present: u32| base.wrapping_sub(CORE_ROM_TABLE) | 2 | present;
    let large = core != CoreKind::M0Plus;
    match offset {
        0x00 => entry(0xe000_e000, 1),
        0x04 => entry(0xe000_1000, 1),
        0x08 => entry(0xe000_2000, 1),
        0x0c if large => entry(0xe000_0000, 1),
        0x10 if large => entry(0xe004_0000, 1),
        0x14 if large => entry(0xe004_1000, 1),
        // System memory is on the bus.
        0xfcc => 1,
        offset => {
            let part = match core {
                CoreKind::M0Plus => 0x4c0,
                CoreKind::M3 => 0x4c3,
                CoreKind::M4 => 0x4c4,
            };
            table_id(offset, part, (0x3b, 4))
        }
    }
}

/// Peripheral and component id of a ROM table (ADIv5.2 §D1.2): part number, JEP106 code and continuation.
fn table_id(offset: u32, part: u32, (code, continuation): (u32, u32)) -> u32 {
    match offset {
        0xfd0 => continuation,
        0xfe0 => part & 0xff,
        0xfe4 => (code & 0xf) << 4 | part >> 8,
        0xfe8 => 8 | code >> 4,
        0xff0 => 0x0d,
        0xff4 => 0x10,
        0xff8 => 0x05,
        0xffc => 0xb1,
        _ => 0,
    }
}

/// The low byte of the part number of the component that lies there.
fn component(addr: u32) -> Option<u32> {
    Some(match addr >> 12 {
        0xe000e => 0x0c,
        0xe0001 => 0x02,
        0xe0002 => 0x03,
        0xe0000 => 0x01,
        0xe0040 => 0xa1,
        0xe0041 => 0x25,
        _ => return None,
    })
}

fn component_id(offset: u32, part: u32) -> u32 {
    // TPIU and ETM are CoreSight components, the others generic IP.
    let coresight = part > 0x20;
    match offset {
        0xfd0 => 4,
        0xfe0 => part,
        0xfe4 => {
            if coresight {
                0xb9
            } else {
                0xb0
            }
        }
        0xfe8 => 0x0b,
        0xff0 => 0x0d,
        0xff4 => {
            if coresight {
                0x90
            } else {
                0xe0
            }
        }
        0xff8 => 0x05,
        0xffc => 0xb1,
        _ => 0,
    }
}
