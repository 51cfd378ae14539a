//! NOR flash with its controller: erases whole sectors, programs whole units, and only ever clears bits.

use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange};
use kflash::chip::Chip;

/// How long the flash takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timing {
    /// As the data sheets say.
    #[default]
    Real,
    /// No time at all.
    Zero,
}

/// What the controller does with a unit that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Clears further bits (F2, F4, F7; SPI flash).
    ClearsBits,
    /// Refuses, unless zeros are written (F0, F1: PGERR, RM0008 §3.3.3; G0, G4: PROGERR, RM0444 §3.3.8).
    Blank,
    /// Writes, and leaves the unit with wrong ECC: reading it faults (H7, RM0433 §4.3.9).
    SpoilsEcc,
}

/// Why the controller refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Outside of the flash, or not a whole number of units.
    Address,
    /// The range is write-protected.
    Protected,
    /// The unit was programmed before.
    NotBlank,
}

/// An operation that has not ended yet.
struct Running {
    start: Duration,
    end: Duration,
    offset: usize,
    before: Vec<u8>,
    erase: bool,
}

/// More than these tell nothing new.
const MOST_VIOLATIONS: usize = 100;

fn violate(violations: &mut Vec<String>, what: impl FnOnce() -> String) {
    if violations.len() < MOST_VIOLATIONS {
        violations.push(what());
    }
}

/// A chip's flash.
pub(crate) struct Nor {
    start: u32,
    data: Vec<u8>,
    sectors: Vec<FlashRange>,
    unit: usize,
    rule: Rule,
    /// One flag for each unit that was programmed since its erase, even with `ff`; only where that matters.
    programmed: Vec<bool>,
    spoilt: Vec<usize>,
    protected: Vec<FlashRange>,
    erase_base: Duration,
    erase_per_kib: Duration,
    program: Duration,
    running: Vec<Running>,
    violations: Vec<String>,
}

impl Nor {
    pub(crate) fn new(chip: &Chip, timing: Timing, protected: Vec<FlashRange>) -> Self {
        let flash = chip.flash();
        let unit = chip.program_unit.0.max(1) as usize;
        let family = chip.id.get(..7).unwrap_or(&chip.id);
        let rule = match family {
            "stm32h7" => Rule::SpoilsEcc,
            "stm32f0" | "stm32f1" | "stm32f3" | "gd32vf1" => Rule::Blank,
            _ if chip.ecc => Rule::Blank,
            _ => Rule::ClearsBits,
        };
        // Typical values of the data sheets; H7 and F7 as seen through their ROMs
        // (tests/data/silicon/dfu_status_sequences.jsonl).
        let (erase_base, erase_per_kib, program) = match family {
            "stm32f0" | "stm32f1" | "stm32f3" | "gd32vf1" => (24_000, 0, 53),
            "stm32g0" | "stm32g4" | "stm32l4" => (22_000, 0, 85),
            "stm32h7" => (4_000, 7_000, 120),
            "rp2040" => (45_000, 0, 700),
            _ => (200_000, 5_000, 16),
        };
        let micros = |n: u64| if timing == Timing::Zero { Duration::ZERO } else { Duration::from_micros(n) };
        Self {
            start: flash.start.0,
            data: vec![0xff; flash.size.0 as usize],
            sectors: chip.sectors().collect(),
            unit,
            rule,
            programmed: if chip.ecc { vec![false; flash.size.0 as usize / unit] } else { Vec::new() },
            spoilt: Vec::new(),
            protected,
            erase_base: micros(erase_base),
            erase_per_kib: micros(erase_per_kib),
            program: micros(program),
            running: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// All of it.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// What broke the controller's rules so far.
    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    pub(crate) fn contains(&self, addr: u32) -> bool {
        addr >= self.start && ((addr - self.start) as usize) < self.data.len()
    }

    /// `length` bytes at `addr`; `None` outside of the flash or where the ECC is spoilt.
    pub(crate) fn read(&self, addr: u32, length: usize) -> Option<&[u8]> {
        let offset = addr.checked_sub(self.start)? as usize;
        let bytes = self.data.get(offset..offset.checked_add(length)?)?;
        let spoilt =
            self.spoilt.iter().any(|&unit| unit * self.unit < offset + length && offset < (unit + 1) * self.unit);
        (!spoilt).then_some(bytes)
    }

    /// The little-endian word at `addr`.
    pub(crate) fn word(&self, addr: u32) -> Option<u32> {
        self.read(addr, 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    /// Everything from `addr` to the end of the flash.
    pub(crate) fn rest(&self, addr: u32) -> Option<&[u8]> {
        let offset = addr.checked_sub(self.start)? as usize;
        self.read(addr, self.data.len().checked_sub(offset)?)
    }

    /// The sector that holds `addr`.
    pub(crate) fn sector(&self, addr: u32) -> Option<FlashRange> {
        let after = self.sectors.partition_point(|sector| sector.start.0 <= addr);
        self.sectors[..after].last().copied().filter(|sector| sector.contains(FlashAddr(addr)))
    }

    /// Every sector.
    pub(crate) fn sectors(&self) -> &[FlashRange] {
        &self.sectors
    }

    /// Bytes that are programmed at once.
    #[cfg(feature = "swd")]
    pub(crate) fn unit(&self) -> usize {
        self.unit
    }

    /// Indexes of the write-protected sectors.
    #[cfg(feature = "swd")]
    pub(crate) fn protected_sectors(&self) -> impl Iterator<Item = usize> + '_ {
        let protected = |sector: &FlashRange| self.protected.iter().any(|range| range.overlaps(*sector));
        self.sectors.iter().enumerate().filter(move |(_, sector)| protected(sector)).map(|(index, _)| index)
    }

    /// Write-protects these sectors and no others.
    #[cfg(feature = "swd")]
    pub(crate) fn protect(&mut self, indexes: impl Iterator<Item = usize>) {
        self.protected = indexes.filter_map(|index| self.sectors.get(index).copied()).collect();
    }

    /// Forgets what broke the rules so far.
    #[cfg(feature = "swd")]
    pub(crate) fn forgive(&mut self) {
        self.violations.clear();
    }

    /// Puts bytes there as a factory would.
    pub(crate) fn preload(&mut self, addr: u32, bytes: &[u8]) -> Result<(), String> {
        let range = addr
            .checked_sub(self.start)
            .map(|offset| offset as usize..offset as usize + bytes.len())
            .filter(|range| range.end <= self.data.len())
            .ok_or_else(|| format!("{} bytes at {addr:#010x} do not fit the flash", bytes.len()))?;
        self.data[range.clone()].copy_from_slice(bytes);
        if !self.programmed.is_empty() {
            self.programmed[range.start / self.unit..range.end.div_ceil(self.unit)].fill(true);
        }
        Ok(())
    }

    /// Takes every unit that reads as erased for erased.
    pub(crate) fn forget_blank(&mut self) {
        for (programmed, unit) in self.programmed.iter_mut().zip(self.data.chunks(self.unit)) {
            *programmed = unit.iter().any(|&byte| byte != 0xff);
        }
    }

    /// Erases the sector that holds `addr`, from `now` on; returns when it is done.
    pub(crate) fn erase(&mut self, now: Duration, addr: u32) -> Result<Duration, Refusal> {
        let Some(sector) = self.sector(addr) else {
            violate(&mut self.violations, || format!("erase outside of the flash at {addr:#010x}"));
            return Err(Refusal::Address);
        };
        if self.protected.iter().any(|range| range.overlaps(sector)) {
            return Err(Refusal::Protected);
        }
        let offset = (sector.start.0 - self.start) as usize;
        let range = offset..offset + sector.size.0 as usize;
        let end = now + self.erase_base + self.erase_per_kib * (sector.size.0 / 1024);
        self.begin(now, end, range.clone(), true);
        self.data[range.clone()].fill(0xff);
        let units = range.start / self.unit..range.end / self.unit;
        if !self.programmed.is_empty() {
            self.programmed[units.clone()].fill(false);
        }
        self.spoilt.retain(|unit| !units.contains(unit));
        Ok(end)
    }

    /// Programs `bytes` at `addr`, from `now` on; returns when it is done. Units before the one refused stay written.
    pub(crate) fn program(&mut self, now: Duration, addr: u32, bytes: &[u8]) -> Result<Duration, Refusal> {
        let offset = addr.wrapping_sub(self.start) as usize;
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.data.len()) {
            violate(&mut self.violations, || format!("program outside of the flash at {addr:#010x}"));
            return Err(Refusal::Address);
        }
        if !offset.is_multiple_of(self.unit) || !bytes.len().is_multiple_of(self.unit) {
            violate(&mut self.violations, || format!("program of {} bytes off a unit at {addr:#010x}", bytes.len()));
            return Err(Refusal::Address);
        }
        let overlaps = |range: &FlashRange| addr < range.end().0 && range.start.0 < addr + bytes.len() as u32;
        if self.protected.iter().any(overlaps) {
            return Err(Refusal::Protected);
        }
        let end = now + self.program * (bytes.len() / self.unit) as u32;
        self.begin(now, end, offset..offset + bytes.len(), false);
        for (index, new) in bytes.chunks_exact(self.unit).enumerate() {
            let at = offset + index * self.unit;
            let unit = at / self.unit;
            let old = &mut self.data[at..at + self.unit];
            let blank = match self.programmed.get_mut(unit) {
                Some(flag) => !std::mem::replace(flag, true),
                None => old.iter().all(|&byte| byte == 0xff),
            };
            let zeros = new.iter().all(|&byte| byte == 0);
            match self.rule {
                Rule::Blank if !blank && !zeros => {
                    violate(&mut self.violations, || {
                        format!("unit at {:#010x} programmed twice", self.start as usize + at)
                    });
                    return Err(Refusal::NotBlank);
                }
                Rule::SpoilsEcc if !blank => {
                    violate(&mut self.violations, || {
                        format!("unit at {:#010x} programmed twice", self.start as usize + at)
                    });
                    if !self.spoilt.contains(&unit) {
                        self.spoilt.push(unit);
                    }
                }
                _ => {}
            }
            for (old, new) in old.iter_mut().zip(new) {
                *old &= new;
            }
        }
        Ok(end)
    }

    /// Supply or reset cut what runs: what has not ended is left half done.
    pub(crate) fn interrupt(&mut self, now: Duration) {
        while let Some(running) = self.running.pop() {
            if running.end <= now {
                continue;
            }
            let whole = running.end.saturating_sub(running.start).as_nanos().max(1);
            let done = now.saturating_sub(running.start).as_nanos();
            let kept = (running.before.len() as u128 * done / whole) as usize;
            let data = &mut self.data[running.offset..running.offset + running.before.len()];
            for (index, (byte, before)) in data.iter_mut().zip(&running.before).enumerate().skip(kept) {
                // Cells in the middle of an erase read as anything above what they held.
                let weak = if running.erase && done > 0 { (index as u8).wrapping_mul(0x9d) & 0x55 } else { 0 };
                *byte = before | weak;
            }
            if running.erase && !self.programmed.is_empty() {
                let units = running.offset / self.unit..(running.offset + running.before.len()) / self.unit;
                self.programmed[units].fill(true);
            }
        }
    }

    fn begin(&mut self, start: Duration, end: Duration, range: std::ops::Range<usize>, erase: bool) {
        // A program that follows its erase at once was asked for with it.
        self.running.retain(|running| running.end >= start);
        if end > start {
            self.running.push(Running { start, end, offset: range.start, before: self.data[range].to_vec(), erase });
        }
    }
}
