//! The serial wire debug port of a chip: SW-DP, AHB access port, debug registers, and a processor that really executes
//! what a debugger puts into its RAM, against a flash controller that enforces its rules.
//!
//! A [`Target`] is driven transfer by transfer, as on the wire: reads of the access port are posted. Time is its own: it
//! passes with transfers, instructions and status reads.

mod access_port;
mod array;
mod controller;
mod cpu;
pub mod dap;
mod debug;
mod memory;
mod part;
mod port;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use kflash::addr::FlashRange;
use kflash::chip::Chip;

use self::access_port::{Access, AccessPort};
use self::array::Array;
use self::controller::{BusError, Controller};
pub use self::cpu::CoreState;
use self::cpu::Cpu;
use self::debug::Debug;
use self::memory::{END, Memory};
use self::part::Part;
use self::port::{Line, SwdPort};
pub use self::port::{Port, Refused};
use crate::flash::{Nor, Timing};

/// How a chip differs from one as it leaves the factory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How long the flash takes.
    pub timing: Timing,
    /// Read protection level 1.
    pub read_protected: bool,
    /// Ranges that are write-protected.
    pub write_protected: Vec<FlashRange>,
    /// The 12-byte unique id.
    pub uid: [u8; 12],
}

/// What is wrong with a target or with the wires to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// No wire reaches it: nothing is acknowledged.
    pub absent: bool,
    /// Transfers to the access port from now on that are answered WAIT.
    pub waits: u64,
    /// Transfers to the access port from now on that fail on the bus.
    pub faults: u64,
    /// Its reset line is held by something else.
    pub held_in_reset: bool,
    /// The flash never gets done.
    pub flash_stuck: bool,
    /// Its firmware uses the pins for something else as soon as it runs.
    pub takes_pins: bool,
}

/// A chip with its debug port.
pub struct Target {
    part: Part,
    port: SwdPort,
    ap: AccessPort,
    debug: Debug,
    cpu: Cpu,
    memory: Rc<RefCell<Memory>>,
    trouble: Trouble,
    powered: bool,
    /// The probe pulls the reset line low.
    reset_asserted: bool,
}

impl Target {
    /// A powered chip with `contents` in its flash, each part with its address.
    pub fn new(chip: &Chip, contents: &[(u32, Vec<u8>)], options: Options) -> Result<Self, String> {
        let part = Part::of(chip).ok_or_else(|| format!("the debug port of {} is not modelled", chip.id))?;
        let mut nor = Nor::new(chip, options.timing, options.write_protected);
        for (addr, bytes) in contents {
            nor.preload(*addr, bytes)?;
        }
        let array = Array::new(nor);
        let controller = Controller::new(part.family, options.read_protected, &array);
        let memory = Rc::new(RefCell::new(Memory::new(chip, part, array, controller, options.uid)));
        let mut target = Self {
            part,
            port: SwdPort::new(part.dpidr),
            ap: AccessPort::new(part.ap_idr, part.rom_table, part.core),
            debug: Debug::new(part),
            cpu: Cpu::new(part.core, Rc::clone(&memory))?,
            memory,
            trouble: Trouble::default(),
            powered: true,
            reset_asserted: false,
        };
        target.cpu.start()?;
        Ok(target)
    }

    /// Switches the supply. Off, what the flash was doing is left half done; on, everything starts anew.
    pub fn power(&mut self, on: bool) -> Result<(), String> {
        if self.powered == on {
            return Ok(());
        }
        self.powered = on;
        if on {
            self.port.power_on();
            self.ap = AccessPort::new(self.part.ap_idr, self.part.rom_table, self.part.core);
            self.debug = Debug::new(self.part);
            self.cpu.debug_enabled = false;
            self.cpu.demcr = 0;
            self.cpu.breakpoints.clear();
            self.reset(true)
        } else {
            self.memory.borrow_mut().array.interrupt();
            self.cpu.state = CoreState::InReset;
            Ok(())
        }
    }

    /// Sets what is wrong from now on.
    pub fn set_trouble(&mut self, trouble: Trouble) -> Result<(), String> {
        let released = self.trouble.held_in_reset && !trouble.held_in_reset;
        self.trouble = trouble;
        self.memory.borrow_mut().array.stuck = trouble.flash_stuck;
        if trouble.held_in_reset {
            self.hold_reset();
        } else if released && !self.reset_asserted {
            self.reset(false)?;
        }
        Ok(())
    }

    /// Drives the reset line: `false` pulls it low.
    pub fn set_reset(&mut self, high: bool) -> Result<(), String> {
        if !high {
            self.reset_asserted = true;
            self.hold_reset();
        } else if std::mem::take(&mut self.reset_asserted) && !self.trouble.held_in_reset {
            self.reset(false)?;
        }
        Ok(())
    }

    /// The level of the reset line.
    pub fn reset_is_high(&self) -> bool {
        self.powered && !self.reset_asserted && !self.trouble.held_in_reset
    }

    fn hold_reset(&mut self) {
        self.memory.borrow_mut().reset(false);
        self.debug.reset();
        self.cpu.stop();
    }

    fn reset(&mut self, power_on: bool) -> Result<(), String> {
        self.memory.borrow_mut().reset(power_on);
        self.debug.reset();
        if self.reset_is_high() {
            self.cpu.start()?;
        } else {
            self.hold_reset();
        }
        Ok(())
    }

    /// Lets the processor execute for a while. It makes no progress but in this call.
    pub fn run(&mut self) -> Result<(), String> {
        if self.powered {
            self.memory.borrow_mut().debugged = self.cpu.debug_enabled;
            self.cpu.run();
            self.follow_up()?;
        }
        Ok(())
    }

    /// Time passes in which nobody looks.
    pub fn wait(&mut self, duration: Duration) {
        self.memory.borrow_mut().array.now += duration;
    }

    /// Resets that software or a debugger asked for.
    fn follow_up(&mut self) -> Result<(), String> {
        let asked = self.memory.borrow().array.wants_reset;
        if asked || self.debug.wants_reset { self.reset(false) } else { Ok(()) }
    }

    /// A sequence of levels on SWDIO, the lowest bit of the first byte first: line reset, switch from JTAG.
    pub fn swj(&mut self, bits: usize, data: &[u8]) {
        self.port.sequence(bits, data);
    }

    /// A read transfer. Of the access port it gives the result of the read before it.
    pub fn read(&mut self, port: Port, addr: u8) -> Result<u32, Refused> {
        self.transfer(port, true, addr)?;
        match port {
            Port::Debug => Ok(self.port.read(addr)),
            Port::Access => {
                let register = self.port.ap_register(addr);
                let posted = self.port.posted;
                if self.port.selects_first_ap() {
                    let read = self.access(register, self.ap.read(register), None);
                    self.port.complete(read);
                } else {
                    self.port.complete(Ok(0));
                }
                Ok(posted)
            }
        }
    }

    /// A write transfer.
    pub fn write(&mut self, port: Port, addr: u8, value: u32) -> Result<(), Refused> {
        self.transfer(port, false, addr)?;
        match port {
            Port::Debug => self.port.write(addr, value),
            Port::Access if self.port.selects_first_ap() => {
                let register = self.port.ap_register(addr);
                let access = self.ap.write(register, value);
                if self.access(register, access, Some(value)).is_err() {
                    self.port.fault();
                }
            }
            Port::Access => {}
        }
        Ok(())
    }

    /// What comes before every transfer: whether it is answered, and how.
    fn transfer(&mut self, port: Port, read: bool, addr: u8) -> Result<(), Refused> {
        self.memory.borrow_mut().array.now += port::TRANSFER;
        if !self.powered || self.trouble.absent || self.trouble.takes_pins && self.cpu.ran_firmware {
            self.port.line = Line::Lost;
            return Err(Refused::Silence);
        }
        self.port.expect(port, read, addr)?;
        if port == Port::Access {
            if let Some(left) = self.trouble.waits.checked_sub(1) {
                self.trouble.waits = left;
                return Err(Refused::Wait);
            }
            if let Some(left) = self.trouble.faults.checked_sub(1) {
                self.trouble.faults = left;
                self.port.fault();
                return Err(Refused::Fault);
            }
        }
        Ok(())
    }

    /// Carries out an access to memory: `value` is what to write.
    fn access(&mut self, register: u8, access: Access, value: Option<u32>) -> Result<u32, BusError> {
        let Access::Memory { mut addr, size, count } = access else {
            let Access::Done(value) = access else { return Err(BusError) };
            return Ok(value);
        };
        let mut word = 0;
        for _ in 0..count {
            // Data lies in the byte lanes of its address.
            let lane = 8 * (addr & 3);
            let mask = if size == 4 { u32::MAX } else { (1 << (8 * size)) - 1 };
            match value {
                Some(value) => self.bus_write(addr, size, value >> lane & mask)?,
                None => word |= (self.bus_read(addr, size)? & mask) << lane,
            }
            addr = self.ap.after(addr, size);
        }
        self.ap.advance(register, addr);
        self.follow_up().map_err(|_| BusError)?;
        Ok(word)
    }

    fn bus_read(&mut self, addr: u32, size: usize) -> Result<u32, BusError> {
        if !addr.is_multiple_of(size as u32) {
            return Err(BusError);
        }
        if addr >= END {
            let word = self.debug.read(addr & !3, &mut self.cpu)?;
            return Ok(word >> (8 * (addr & 3)));
        }
        let mut memory = self.memory.borrow_mut();
        memory.debugged = true;
        memory.read(addr, size)
    }

    fn bus_write(&mut self, addr: u32, size: usize, value: u32) -> Result<(), BusError> {
        if !addr.is_multiple_of(size as u32) {
            return Err(BusError);
        }
        if addr >= END {
            return self.debug.write(addr & !3, value, &mut self.cpu);
        }
        // Held in reset, a peripheral keeps its reset values.
        if self.cpu.state == CoreState::InReset && (0x4000_0000..0x6000_0000).contains(&addr) {
            return Ok(());
        }
        let mut memory = self.memory.borrow_mut();
        memory.debugged = true;
        memory.write(addr, size, value)
    }

    /// Resets of the processor so far.
    pub fn resets(&self) -> u64 {
        self.cpu.resets
    }

    /// What the processor does.
    pub fn core(&self) -> CoreState {
        self.cpu.state
    }

    /// Whether its last reset started the ROM bootloader, for its flash was blank.
    pub fn starts_rom(&self) -> bool {
        self.memory.borrow().rom
    }

    /// Whether a debugger is on it: C_DEBUGEN.
    pub fn is_debugged(&self) -> bool {
        self.cpu.debug_enabled
    }

    /// The program counter, and the instructions executed so far.
    pub fn progress(&self) -> (u32, u64) {
        (self.cpu.pc(), self.cpu.executed())
    }

    /// All of the flash, from its start.
    pub fn flash(&self) -> Vec<u8> {
        self.memory.borrow().array.nor.data().to_vec()
    }

    /// A word of RAM or flash; `None` where nothing lies.
    pub fn word(&self, addr: u32) -> Option<u32> {
        let mut memory = self.memory.borrow_mut();
        let debugged = std::mem::replace(&mut memory.debugged, false);
        let word = memory.read(addr, 4).ok();
        memory.debugged = debugged;
        word
    }

    /// What software did against the rules of the flash and its controller, in words.
    pub fn violations(&self) -> Vec<String> {
        self.memory.borrow().array.violations()
    }

    /// Forgets the violations so far.
    pub fn forgive(&mut self) {
        self.memory.borrow_mut().array.forgive();
    }
}
