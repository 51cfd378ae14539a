//! The serial wire debug port (ADIv5.2 §B2, §B4): line states, registers, acknowledgements.

use std::time::Duration;

use super::controller::BusError;

/// A transfer of 46 bits at 4 MHz.
pub(super) const TRANSFER: Duration = Duration::from_micros(12);

/// Which registers a transfer is for: the APnDP bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The debug port's own.
    Debug,
    /// The selected access port's.
    Access,
}

/// A transfer that was not acknowledged with OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Busy: try again.
    Wait,
    /// An error is sticky until it is cleared.
    Fault,
    /// Nothing drives the line.
    Silence,
}

/// What the line's history amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// JTAG, as after power-on.
    Jtag,
    /// A line reset came: DPIDR has to be read next.
    Reset,
    /// Transfers are answered.
    Connected,
    /// Out of step: a line reset is needed.
    Lost,
}

const SWITCH_TO_SWD: u64 = 0xe79e;
const SWITCH_TO_JTAG: u64 = 0xe73c;
/// High bits that make a line reset.
const LINE_RESET: u32 = 50;

/// Register addresses.
const DPIDR_ABORT: u8 = 0x0;
const CTRL_STAT: u8 = 0x4;
const SELECT: u8 = 0x8;
const RDBUFF: u8 = 0xc;

const STICKYERR: u32 = 1 << 5;
const READOK: u32 = 1 << 6;
const CDBGPWRUPREQ: u32 = 1 << 28;
const CSYSPWRUPREQ: u32 = 1 << 30;
const CTRL_WRITABLE: u32 = 0x5000_0f0d;
const STKERRCLR: u32 = 1 << 2;

/// The registers of an SW-DP.
pub(super) struct SwdPort {
    dpidr: u32,
    pub line: Line,
    ones: u32,
    shifted: u64,
    control: u32,
    select: u32,
    sticky_error: bool,
    read_ok: bool,
    /// A write to the access port may not be through yet.
    writing: bool,
    /// The result of the last read of an access port.
    pub posted: u32,
}

impl SwdPort {
    pub fn new(dpidr: u32) -> Self {
        Self {
            dpidr,
            line: Line::Jtag,
            ones: 0,
            shifted: 0,
            control: 0,
            select: 0,
            sticky_error: false,
            read_ok: true,
            writing: false,
            posted: 0,
        }
    }

    pub fn power_on(&mut self) {
        *self = Self::new(self.dpidr);
    }

    /// Bits on the line outside of a transfer.
    pub fn sequence(&mut self, bits: usize, data: &[u8]) {
        for index in 0..bits {
            let bit = data.get(index / 8).map_or(0, |byte| byte >> (index % 8) & 1);
            self.shifted = self.shifted >> 1 | u64::from(bit) << 63;
            self.ones = if bit == 1 { self.ones.saturating_add(1) } else { 0 };
            match self.shifted >> 48 {
                SWITCH_TO_SWD => self.line = Line::Lost,
                SWITCH_TO_JTAG => self.line = Line::Jtag,
                _ => {}
            }
            if self.ones >= LINE_RESET && self.line != Line::Jtag {
                self.line = Line::Reset;
            }
        }
    }

    /// Whether and how a transfer is acknowledged.
    pub fn expect(&mut self, port: Port, read: bool, addr: u8) -> Result<(), Refused> {
        let reads_id = port == Port::Debug && read && addr == DPIDR_ABORT;
        match self.line {
            Line::Connected => {}
            Line::Reset if reads_id => {
                self.line = Line::Connected;
                self.select = 0;
            }
            Line::Reset | Line::Jtag | Line::Lost => return Err(Refused::Silence),
        }
        let needs_ap = port == Port::Access;
        // A transfer that has to wait for a write before it is answered WAIT once: reads of the access port, and SELECT. So
        // in 5000 cases of the recordings of an STM32F429, with no exception.
        let waits = needs_ap && read || port == Port::Debug && !read && addr == SELECT;
        if std::mem::replace(&mut self.writing, needs_ap && !read) && waits {
            return Err(Refused::Wait);
        }
        if self.sticky_error && (needs_ap || read && addr == RDBUFF) {
            return Err(Refused::Fault);
        }
        if needs_ap && self.control & CDBGPWRUPREQ == 0 {
            self.sticky_error = true;
            return Err(Refused::Fault);
        }
        Ok(())
    }

    /// DPBANKSEL.
    fn bank(&self) -> u32 {
        self.select & 0xf
    }

    /// Reads a register of the debug port.
    pub fn read(&self, addr: u8) -> u32 {
        match (addr, self.bank()) {
            (DPIDR_ABORT, _) => self.dpidr,
            (CTRL_STAT, 0) => {
                let acknowledged = (self.control & (CDBGPWRUPREQ | CSYSPWRUPREQ)) << 1;
                let error = if self.sticky_error { STICKYERR } else { 0 };
                let read_ok = if self.read_ok { READOK } else { 0 };
                self.control | acknowledged | error | read_ok
            }
            // DLCR: TURNROUND 1.
            (CTRL_STAT, 1) => 0x40,
            (CTRL_STAT, _) => 0,
            // RESEND and RDBUFF.
            _ => self.posted,
        }
    }

    /// Writes a register of the debug port.
    pub fn write(&mut self, addr: u8, value: u32) {
        match addr {
            DPIDR_ABORT if value & STKERRCLR != 0 => self.sticky_error = false,
            CTRL_STAT if self.bank() == 0 => self.control = value & CTRL_WRITABLE,
            SELECT => self.select = value,
            _ => {}
        }
    }

    /// The access port's register that an address means: its bank comes from SELECT.
    pub fn ap_register(&self, addr: u8) -> u8 {
        (self.select & 0xf0) as u8 | addr & 0xc
    }

    /// Whether SELECT names the one access port that there is.
    pub fn selects_first_ap(&self) -> bool {
        self.select >> 24 == 0
    }

    /// A read of an access port came to its end.
    pub fn complete(&mut self, read: Result<u32, BusError>) {
        self.read_ok = read.is_ok();
        if let Ok(value) = read {
            self.posted = value;
        } else {
            self.fault();
        }
    }

    /// The error is sticky now.
    pub fn fault(&mut self) {
        self.sticky_error = true;
    }
}
