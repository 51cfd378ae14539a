//! The operations of a plan in their interruption-safe order, and the way back from a cut in each.
//!
//! The application is made invalid first, its first page (Katapult) or transfer block (DfuSe) is written last, and only
//! what was read back is started.

use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::board::{BootloaderKind, Profile};
use crate::proto::Protocol;

use super::Fate;
use super::route::Chosen;
use super::{Known, Op, PlannedOp, Region, WayBack};

/// Katapult's block in every build read; DfuSe's transfer in the older ROMs. Replaced by the target's own word.
const USUAL_KATAPULT_BLOCK: u32 = 64;
const USUAL_DFU_TRANSFER: u32 = 2048;
/// A page of every flash algorithm in `boards/swd/`.
const USUAL_SWD_PAGE: u32 = 1024;

/// What the operations are made from.
pub struct Layout {
    /// What is written: the image, rounded up to whole blocks.
    pub written: FlashRange,
    /// The sectors that hold it.
    pub sectors: Vec<FlashRange>,
    /// Bytes in one write transfer.
    pub block: FlashSize,
}

impl Layout {
    /// Rounds `image` up to what the protocol and the chip write at once, and finds its sectors. `None` where that passes
    /// the end of the address space.
    pub fn new(known: &Known<'_>, chosen: &Chosen<'_>, image: FlashRange) -> Option<Self> {
        let usual = match chosen.route.protocol {
            Protocol::Katapult => USUAL_KATAPULT_BLOCK,
            Protocol::Dfuse => USUAL_DFU_TRANSFER,
            Protocol::Swd => USUAL_SWD_PAGE,
        };
        let block = known.target.map_or(FlashSize(usual), |target| target.info.block_size);
        // DfuSe and SWD take any length; only the chip's own unit counts. Katapult takes whole blocks.
        let unit = match chosen.route.protocol {
            Protocol::Katapult => block.0.max(known.chip.program_unit.0),
            Protocol::Dfuse | Protocol::Swd => known.chip.program_unit.0,
        };
        let size = image.size.0.checked_next_multiple_of(unit)?;
        let written = FlashRange::new(image.start, FlashSize(size))?;
        let sectors = known.sectors().filter(|sector| sector.overlaps(written)).collect();
        Some(Self { written, sectors, block })
    }

    /// What is written last: it holds the vector table.
    pub fn first_block(&self) -> FlashRange {
        FlashRange { start: self.written.start, size: self.block.min(self.written.size) }
    }

    pub fn after(&self, addr: FlashAddr) -> Option<FlashRange> {
        FlashRange::between(addr, self.written.end()).filter(|range| !range.is_empty())
    }
}

/// The operations for a route.
pub fn operations(known: &Known<'_>, chosen: &Chosen<'_>, layout: &Layout) -> Vec<PlannedOp> {
    match chosen.route.protocol {
        Protocol::Katapult => katapult(known, layout),
        Protocol::Dfuse => dfuse(known, chosen, layout),
        // The probe stays: it can always do it again.
        Protocol::Swd => sector_by_sector(layout, WayBack::Swd, WayBack::Swd),
    }
}

fn katapult(known: &Known<'_>, layout: &Layout) -> Vec<PlannedOp> {
    let begun = past_the_first_word(known.profile);
    let mut ops = Vec::new();
    let mut plan = |op, way_back| ops.push(PlannedOp { op, way_back });
    let written = layout.written;
    let first_page = layout.sectors.first().map_or(written, |sector| FlashRange {
        start: written.start,
        size: FlashSize(sector.end().min(written.end()).0 - written.start.0),
    });
    if let Some(rest) = layout.after(first_page.end()) {
        // Zeros, never ff: on ECC flash a unit programmed with ff looks blank and must not be programmed again.
        let size = layout.block.max(known.chip.program_unit);
        plan(Op::Invalidate { block: FlashRange { start: written.start, size } }, WayBack::Cable);
        plan(Op::Write { range: rest }, WayBack::Cable);
    }
    // From its first block on, Katapult takes the application for valid.
    plan(Op::Write { range: first_page }, begun);
    plan(Op::Finish, begun);
    plan(Op::ReadBack { range: written }, WayBack::Cable);
    plan(Op::Start { addr: written.start }, WayBack::Cable);
    ops
}

fn dfuse(known: &Known<'_>, chosen: &Chosen<'_>, layout: &Layout) -> Vec<PlannedOp> {
    let hands = &known.profile.hands;
    let boot0 = if hands.boot0.is_some() { WayBack::Boot0 } else { WayBack::Swd };
    // With Katapult before it, a blank application comes up in Katapult, if the board can be flashed that way.
    let in_katapult = chosen.bootloader.kind == BootloaderKind::Katapult
        && (known.profile.routes.iter())
            .any(|route| route.bootloader == chosen.bootloader.id && route.protocol == Protocol::Katapult);
    let (blank, begun) =
        if in_katapult { (WayBack::Cable, past_the_first_word(known.profile)) } else { (boot0, boot0) };
    sector_by_sector(layout, blank, begun)
}

/// Erases every sector, writes the first block last. The ways back are those from a blank application, and from one whose
/// first block is being written.
fn sector_by_sector(layout: &Layout, blank: WayBack, begun: WayBack) -> Vec<PlannedOp> {
    let mut ops = Vec::new();
    let mut plan = |op, way_back| ops.push(PlannedOp { op, way_back });
    // The vector table goes with the first sector, so that nothing starts what is left of the old application.
    for &sector in &layout.sectors {
        plan(Op::Erase { sector }, blank);
    }
    let written = layout.written;
    let first_block = layout.first_block();
    if let Some(rest) = layout.after(first_block.end()) {
        plan(Op::Write { range: rest }, blank);
    }
    plan(Op::Write { range: first_block }, begun);
    // What shares a sector is restored by SWD only now.
    plan(Op::Finish, if begun == WayBack::Swd { begun } else { WayBack::Cable });
    plan(Op::ReadBack { range: written }, WayBack::Cable);
    plan(Op::Start { addr: written.start }, WayBack::Cable);
    ops
}

/// The way back while a bootloader already takes a half-written application for valid.
fn past_the_first_word(profile: &Profile) -> WayBack {
    let hands = &profile.hands;
    if profile.opening_resets {
        // kflash resets it twice through the port.
        WayBack::Cable
    } else if hands.double_reset.is_some() {
        WayBack::DoubleReset
    } else if hands.boot0.is_some() {
        WayBack::Boot0
    } else {
        WayBack::Swd
    }
}

/// The flash from end to end.
pub fn regions(known: &Known<'_>, chosen: &Chosen<'_>, layout: &Layout) -> Vec<Region> {
    let flash = known.flash();
    let mut regions = Vec::new();
    let mut add = |from: FlashAddr, to: FlashAddr, name: &str, fate| {
        if let Some(range) = FlashRange::between(from, to).filter(|range| !range.is_empty()) {
            regions.push(Region { range, name: name.into(), fate });
        }
    };
    let erased_to = layout.sectors.last().map_or(layout.written.end(), |sector| sector.end()).min(flash.end());
    add(flash.start, layout.written.start, &format!("{} bootloader", chosen.bootloader.id), Fate::Kept);
    add(layout.written.start, layout.written.end(), "application", Fate::Written);
    let restored = chosen.route.protocol == Protocol::Swd;
    let rest = if restored { Fate::Kept } else { Fate::Erased };
    add(layout.written.end(), erased_to, "rest of the last sector", rest);
    add(erased_to, flash.end(), "free", Fate::Kept);
    regions
}
