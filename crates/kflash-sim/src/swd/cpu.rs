//! The processor: executes code, halts, steps and locks up.
//!
//! There are no interrupts and no exceptions: a fault is a lock-up, as it is without handlers.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use armagnac::core::{ArmVersion, Config, Emulator as _, Event, Processor};
use armagnac::decoder::Lut16AndGrouped32InstructionDecoder;

use super::memory::{END, Memory};
use super::part::CoreKind;

/// Instructions between two looks of the host. Few, so that the host sees an erase running; firmware that no debugger is
/// after needs no more than to be seen running.
const SLICE: u32 = 1000;
const UNDEBUGGED_SLICE: u32 = 50;
/// An instruction at 100 MHz.
const INSTRUCTION: Duration = Duration::from_nanos(10);
/// Interrupts of the largest chip modelled.
const INTERRUPTS: usize = 100;

/// Where the code region ends (ARMv7-M §B3.1).
const RAM: u32 = 0x2000_0000;

/// Opcodes that are looked at before they are executed.
const BRANCH_TO_ITSELF: u32 = 0xe7fe;
const WFE: u32 = 0xbf20;
const WFI: u32 = 0xbf30;
const BKPT: u32 = 0xbe00;

/// Bits of DFSR (ARMv7-M §C1.6.1).
pub(super) mod halted_by {
    pub const REQUEST: u32 = 1 << 0;
    pub const BREAKPOINT: u32 = 1 << 1;
    pub const VECTOR_CATCH: u32 = 1 << 3;
}

/// What the processor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreState {
    /// Its reset line is held.
    InReset,
    /// Executes.
    Running,
    /// WFI or WFE.
    Sleeping,
    /// A fault without a handler, or a blank vector table.
    LockedUp,
    /// In debug state.
    Halted,
}

/// A processor on its bus.
pub(super) struct Cpu {
    processor: Processor,
    memory: Rc<RefCell<Memory>>,
    version: ArmVersion,
    pub state: CoreState,
    /// C_DEBUGEN.
    pub debug_enabled: bool,
    /// C_STEP.
    pub stepping: bool,
    /// DEMCR, which outlives a reset.
    pub demcr: u32,
    /// DFSR.
    pub dfsr: u32,
    /// S_RESET_ST and S_RETIRE_ST: since they were last read.
    pub was_reset: bool,
    pub retired: bool,
    /// Addresses at which it halts.
    pub breakpoints: Vec<u32>,
    /// How often it came out of reset.
    pub resets: u64,
    /// Whether it has executed anything but what a debugger put into RAM since then.
    pub ran_firmware: bool,
    executed: u64,
}

const VC_CORERESET: u32 = 1 << 0;
/// Any of the fault catches of DEMCR.
const VC_FAULTS: u32 = 0x7f0;

impl Cpu {
    pub fn new(kind: CoreKind, memory: Rc<RefCell<Memory>>) -> Result<Self, String> {
        let version = match kind {
            CoreKind::M0Plus => ArmVersion::V6M,
            CoreKind::M3 => ArmVersion::V7M,
            CoreKind::M4 => ArmVersion::V7EM,
        };
        let mut processor = processor(version, &memory)?;
        processor.instruction_decoder = Box::new(Lut16AndGrouped32InstructionDecoder::new(version));
        Ok(Self {
            processor,
            memory,
            version,
            state: CoreState::InReset,
            debug_enabled: false,
            stepping: false,
            demcr: 0,
            dfsr: 0,
            was_reset: true,
            retired: false,
            breakpoints: Vec::new(),
            resets: 0,
            ran_firmware: false,
            executed: 0,
        })
    }

    /// Instructions executed so far.
    pub fn executed(&self) -> u64 {
        self.executed
    }

    /// Its reset begins.
    pub fn stop(&mut self) {
        self.state = CoreState::InReset;
        self.was_reset = true;
        self.ran_firmware = false;
    }

    /// Comes out of reset: takes the vector table and runs, or halts where reset is caught.
    pub fn start(&mut self) -> Result<(), String> {
        self.stop();
        let mut fresh = processor(self.version, &self.memory)?;
        // Its tables take long to make.
        std::mem::swap(&mut fresh.instruction_decoder, &mut self.processor.instruction_decoder);
        self.processor = fresh;
        self.resets += 1;
        // As an STM32F429 was seen to do; the architecture leaves it open.
        self.retired = false;
        self.stepping = false;
        let vector = |addr| self.memory.borrow_mut().read(addr, 4);
        let vectors = vector(0).and_then(|stack| Ok((stack, vector(4)?)));
        let (stack, reset) = vectors.unwrap_or((u32::MAX, u32::MAX));
        let registers = &mut self.processor.registers;
        registers.msp = stack & !3;
        registers.lr = u32::MAX;
        registers.pc = reset & !1;
        registers.psr.set_t(reset & 1 == 1);
        self.state = CoreState::Running;
        // Ignored without C_DEBUGEN (ARMv7-M §C1.6.5).
        if self.debug_enabled && self.demcr & VC_CORERESET != 0 {
            self.halt(halted_by::VECTOR_CATCH);
        }
        Ok(())
    }

    /// Enters debug state; ends a lock-up.
    pub fn halt(&mut self, why: u32) {
        self.state = CoreState::Halted;
        self.dfsr |= why;
    }

    /// Leaves debug state.
    pub fn resume(&mut self) {
        if self.state == CoreState::Halted {
            self.state = CoreState::Running;
        }
    }

    /// Executes one instruction and halts.
    pub fn step(&mut self) {
        self.resume();
        self.stepping = true;
        self.execute(1);
    }

    /// Executes for a while.
    pub fn run(&mut self) {
        self.execute(if self.debug_enabled { SLICE } else { UNDEBUGGED_SLICE });
    }

    fn execute(&mut self, most: u32) {
        for _ in 0..most {
            if self.state != CoreState::Running {
                return;
            }
            self.execute_one();
            if self.memory.borrow().array.wants_reset {
                return;
            }
        }
    }

    fn execute_one(&mut self) {
        let pc = self.processor.registers.pc;
        if self.debug_enabled && self.breakpoints.contains(&pc) && !self.stepping {
            return self.halt(halted_by::BREAKPOINT);
        }
        if !self.processor.registers.psr.t() || pc >= END {
            return self.fault();
        }
        let Ok(opcode) = self.memory.borrow_mut().read(pc, 2) else { return self.fault() };
        match opcode {
            // Nothing can change: no need to burn time on it.
            BRANCH_TO_ITSELF if !self.stepping => self.retired = true,
            // The emulator would spin for ever.
            WFE | WFI => {
                self.processor.registers.pc = pc + 2;
                self.state = CoreState::Sleeping;
            }
            opcode if opcode & 0xff00 == BKPT => {
                return if self.debug_enabled { self.halt(halted_by::BREAKPOINT) } else { self.fault() };
            }
            _ => {
                // Panics on registers of the system control space that it lacks.
                let event = std::panic::catch_unwind(AssertUnwindSafe(|| self.processor.next_event()));
                match event {
                    Ok(Ok(Event::Reset)) => self.memory.borrow_mut().array.wants_reset = true,
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => {
                        self.processor.registers.pc = pc;
                        return self.fault();
                    }
                }
            }
        }
        self.executed += 1;
        self.ran_firmware |= pc < RAM;
        self.retired = true;
        self.memory.borrow_mut().array.now += INSTRUCTION;
        if self.stepping {
            self.stepping = false;
            self.halt(halted_by::REQUEST);
        }
    }

    fn fault(&mut self) {
        if self.debug_enabled && self.demcr & VC_FAULTS != 0 {
            self.halt(halted_by::VECTOR_CATCH);
        } else {
            self.state = CoreState::LockedUp;
        }
    }

    /// The program counter.
    pub fn pc(&self) -> u32 {
        self.processor.registers.pc
    }

    /// A core register by its number in DCRSR (ARMv7-M §C1.6.3).
    pub fn register(&mut self, number: u32) -> u32 {
        let registers = &mut self.processor.registers;
        match number {
            15 => registers.pc,
            16 => registers.psr.get(),
            17 => registers.msp,
            18 => registers.psp,
            20 => {
                let (control, fault) = (registers.control.read(), u32::from(registers.faultmask.pm()));
                control << 24 | fault << 16 | u32::from(registers.primask.pm())
            }
            13 => registers.sp(),
            number => general(registers, number).map_or(0, |register| *register),
        }
    }

    /// Sets a core register.
    pub fn set_register(&mut self, number: u32, value: u32) {
        let registers = &mut self.processor.registers;
        match number {
            15 => registers.pc = value & !1,
            16 => registers.psr.set(value),
            17 => registers.msp = value & !3,
            18 => registers.psp = value & !3,
            20 => {
                registers.control.set_privileged_bit(value >> 24 & 1 != 0);
                registers.control.set_spsel(value >> 25 & 1 != 0);
                registers.faultmask.set_pm(value >> 16 & 1 != 0);
                registers.primask.set_pm(value & 1 != 0);
            }
            13 => *registers.sp_mut() = value & !3,
            number => {
                if let Some(register) = general(registers, number) {
                    *register = value;
                }
            }
        }
    }
}

fn general(registers: &mut armagnac::registers::CoreRegisters, number: u32) -> Option<&mut u32> {
    Some(match number {
        0 => &mut registers.r0,
        1 => &mut registers.r1,
        2 => &mut registers.r2,
        3 => &mut registers.r3,
        4 => &mut registers.r4,
        5 => &mut registers.r5,
        6 => &mut registers.r6,
        7 => &mut registers.r7,
        8 => &mut registers.r8,
        9 => &mut registers.r9,
        10 => &mut registers.r10,
        11 => &mut registers.r11,
        12 => &mut registers.r12,
        14 => &mut registers.lr,
        _ => return None,
    })
}

fn processor(version: ArmVersion, memory: &Rc<RefCell<Memory>>) -> Result<Processor, String> {
    let config = match version {
        ArmVersion::V6M => Config::v6m(),
        ArmVersion::V7M => Config::v7m(),
        ArmVersion::V7EM | ArmVersion::V8M => Config::v7em(),
    };
    let mut processor = Processor::new(config.external_exceptions(INTERRUPTS));
    processor.map_iface(0, memory.clone()).map_err(|_| "the memory does not fit the bus".to_owned())?;
    Ok(processor)
}
