//! The flash array behind a controller: the cells, what they are busy with, and the model's time.

use std::time::Duration;

use kflash::addr::FlashRange;

use crate::flash::{Nor, Refusal};

/// Status reads that a long operation lasts. Silicon needs millions, which would be interpreted one by one.
const POLLS: u32 = 500;
/// The least time that passes between two status reads.
const LEAST_STEP: Duration = Duration::from_micros(20);

/// More than these tell nothing new.
const MOST_VIOLATIONS: usize = 100;

/// Cells with a state machine of their own.
pub(super) struct Array {
    pub nor: Nor,
    pub now: Duration,
    /// Until when it works, and how much of that passes with each status read.
    busy: Option<(Duration, Duration)>,
    /// A broken one never gets done.
    pub stuck: bool,
    /// The controller asks for a system reset.
    pub wants_reset: bool,
    violations: Vec<String>,
}

impl Array {
    pub fn new(nor: Nor) -> Self {
        Self { nor, now: Duration::ZERO, busy: None, stuck: false, wants_reset: false, violations: Vec::new() }
    }

    /// Records that software broke a rule of the controller.
    pub fn violate(&mut self, what: impl FnOnce() -> String) {
        if self.violations.len() < MOST_VIOLATIONS {
            self.violations.push(what());
        }
    }

    /// What software did against the rules of controller and cells.
    pub fn violations(&self) -> Vec<String> {
        [self.violations.as_slice(), self.nor.violations()].concat()
    }

    /// Forgets what was recorded.
    pub fn forgive(&mut self) {
        self.violations.clear();
        self.nor.forgive();
    }

    /// Erases the sector that holds `addr`.
    pub fn erase(&mut self, addr: u32) -> Result<(), Refusal> {
        let end = self.nor.erase(self.now, addr)?;
        self.work_until(end);
        Ok(())
    }

    /// Erases every sector: what write protection forbids stays.
    pub fn erase_all(&mut self) -> Result<(), Refusal> {
        let sectors: Vec<FlashRange> = self.nor.sectors().to_vec();
        sectors.iter().try_for_each(|sector| self.erase(sector.start.0))
    }

    /// Programs whole units.
    pub fn program(&mut self, addr: u32, bytes: &[u8]) -> Result<(), Refusal> {
        let end = self.nor.program(self.now, addr, bytes)?;
        self.work_until(end);
        Ok(())
    }

    /// Programs part of a unit, where the cells take any number of bytes.
    pub fn program_within_unit(&mut self, addr: u32, bytes: &[u8]) -> Result<(), Refusal> {
        let unit = self.nor.unit().max(bytes.len());
        let before = addr as usize % unit;
        if before + bytes.len() > unit {
            return Err(Refusal::Address);
        }
        let mut whole = vec![0xff; unit];
        whole[before..before + bytes.len()].copy_from_slice(bytes);
        self.program(addr - before as u32, &whole)
    }

    /// Erases everything and lifts write protection, as going back to read protection level 0 does.
    pub fn wipe(&mut self) {
        self.nor.protect([].into_iter());
        // Nothing is protected any more, and every sector is there.
        let _ = self.erase_all();
    }

    fn work_until(&mut self, end: Duration) {
        let end = self.busy.map_or(end, |(before, _)| before.max(end));
        let step = (end.saturating_sub(self.now) / POLLS).max(LEAST_STEP);
        self.busy = (end > self.now || self.stuck).then_some((end, step));
    }

    /// A status read: whether it still works. Time passes, so that software that polls gets done.
    pub fn poll(&mut self) -> bool {
        let Some((end, step)) = self.busy else { return false };
        self.now += step;
        if self.now >= end && !self.stuck {
            self.busy = None;
        }
        self.busy.is_some()
    }

    /// Whether it works, without any time passing.
    pub fn is_busy(&self) -> bool {
        self.busy.is_some_and(|(end, _)| end > self.now || self.stuck)
    }

    /// The bus is held until it is done; `false` if that never comes.
    pub fn stall(&mut self) -> bool {
        if self.stuck && self.busy.is_some() {
            return false;
        }
        if let Some((end, _)) = self.busy.take() {
            self.now = self.now.max(end);
        }
        true
    }

    /// A reset or the loss of power: what has not ended is left half done.
    pub fn interrupt(&mut self) {
        self.nor.interrupt(self.now);
        self.busy = None;
    }
}
