//! How a chip starts: BOOT0, the empty check, the resident bootloader, the application.

use std::time::Duration;

use crate::board::{State, VirtualBoard};
use crate::crc::rp2040_stage2;
use crate::execute::vector_table;
use crate::katapult::Katapult;
use crate::klipper_mcu::KlipperMcu;
use crate::rom_dfu::RomDfu;
use crate::silicon::{KATAPULT_REQUEST, KATAPULT_START, ROM_REQUEST};

/// Katapult's window for the second of two resets: between 10 and 500 ms after the first
/// (Katapult `src/bootentry.c`).
pub(crate) const DOUBLE_RESET: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Why a chip starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Power-on, or loading the option bytes: the empty flag is taken anew.
    PowerOn,
    /// Any other reset.
    Reset,
}

/// What is installed at the start of the flash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resident {
    None,
    /// Katapult, by the bytes that have to be there.
    Katapult(Vec<u8>),
    /// A vendor's own, which starts what looks like an application.
    Vendor(Vec<u8>),
}

impl VirtualBoard {
    /// Starts the chip at `now`.
    pub(crate) fn boot(&mut self, now: Duration, cause: Cause) {
        let start = self.silicon.chip.flash_start.0;
        if cause == Cause::PowerOn {
            let checks = self.silicon.chip.rom_dfu.as_ref().is_some_and(|rom| rom.empty_check);
            self.empty = checks && self.silicon.flash.word(start) == Some(u32::MAX);
        }
        let unbootable = self.silicon.is("rp2") && !self.second_stage_is_sane();
        if self.boot0 || self.empty || unbootable {
            self.enter_rom(now);
        } else {
            self.start_at(now, self.silicon.boot_base());
        }
    }

    /// The CPU takes its vector table at `addr`.
    pub(crate) fn start_at(&mut self, now: Duration, addr: u32) {
        let base = self.silicon.boot_base();
        let app_start = self.app_start;
        let is_whole = |bytes: &[u8]| self.silicon.flash.rest(base).is_some_and(|flash| flash.starts_with(bytes));
        match &self.resident {
            Resident::Katapult(bytes) if addr == base && is_whole(bytes) => self.start_katapult(now),
            Resident::Vendor(bytes) if addr == base && is_whole(bytes) => {
                if vector_table(&self.silicon.chip, &self.silicon.flash, app_start).is_some() {
                    self.start_application(now, app_start);
                } else {
                    // It waits for an SD card.
                    self.enter(now, State::LockedUp);
                }
            }
            _ => self.start_application(now, addr),
        }
    }

    fn start_katapult(&mut self, now: Duration) {
        let stack = self.silicon.flash.word(self.silicon.boot_base()).unwrap_or_default();
        let code = self.silicon.ram.remove(&stack);
        if code == Some(KATAPULT_START) {
            return self.start_application(now, self.app_start);
        }
        let no_application = matches!(self.silicon.flash.word(self.app_start), Some(0 | u32::MAX));
        if code == Some(KATAPULT_REQUEST) || no_application {
            self.enter_katapult(now);
        } else if self.options.katapult.double_reset {
            self.enter(now, State::AwaitingSecondReset { since: now });
        } else {
            self.start_application(now, self.app_start);
        }
    }

    fn enter_katapult(&mut self, now: Duration) {
        let katapult = Katapult::new(&self.silicon, self.options.katapult.clone(), self.app_start, self.katapult_baud);
        self.enter(now, State::Katapult(Box::new(katapult)));
    }

    /// Starts what lies at `addr`, whole or not.
    pub(crate) fn start_application(&mut self, now: Duration, addr: u32) {
        let Some(firmware) = self.judge.run(&self.silicon.chip, &self.silicon.flash, addr) else {
            return self.enter(now, State::LockedUp);
        };
        let request_at = self.silicon.rom_request_at();
        let asked = self.silicon.ram.remove(&request_at) == Some(ROM_REQUEST);
        if asked && self.silicon.klipper_jumps_to_rom() {
            return self.enter_rom(now);
        }
        self.enter(now, State::Application(Box::new(KlipperMcu::new(firmware, addr, now))));
    }

    /// Starts the chip's ROM bootloader.
    pub(crate) fn enter_rom(&mut self, now: Duration) {
        let state = match &self.options.dfu {
            Some(variant) => State::RomDfu(Box::new(RomDfu::new(variant.clone(), &self.silicon))),
            None => State::RomSilent,
        };
        self.enter(now, state);
    }

    fn second_stage_is_sane(&self) -> bool {
        let stage = self.silicon.flash.read(self.silicon.chip.flash_start.0, 256);
        stage.is_some_and(|stage| stage[252..] == rp2040_stage2(&stage[..252]).to_le_bytes())
    }
}
