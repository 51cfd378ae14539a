//! The flash of a board as a picture in text: what lies where, and what happens to it.
//!
//! Drawn as data sheets draw a memory map, each region with its addresses and with a height that grows with its size.

use std::fmt::Write;

use kflash::addr::FlashAddr;
use kflash::plan::{Fate, Region};

use crate::render::line::bytes;

/// Columns within the frame, the strip at its left aside.
const WIDTH: usize = 38;
/// Lines that all regions share in proportion to their size, over one line for each.
const SHARED_LINES: u64 = 8;

/// Draws `regions`, which are sorted and do not overlap.
pub fn picture(regions: &[Region]) -> String {
    let mut text = String::new();
    let all: u64 = regions.iter().map(|region| u64::from(region.range.size.0)).sum();
    let mut end = None;
    for region in regions {
        let corners = if end.is_none() { ['┌', '┬', '┐'] } else { ['├', '┼', '┤'] };
        frame(&mut text, region.range.start, corners);
        let size = u64::from(region.range.size.0);
        let lines = 1 + (size * SHARED_LINES + all / 2) / all.max(1);
        let strip = strip(region.fate);
        let label_width = WIDTH - 2;
        let size = bytes(size);
        let name: String = region.name.chars().take(label_width - size.len() - 1).collect();
        let gap = label_width - name.chars().count() - size.len();
        let _ = writeln!(text, "             │{strip}│ {name}{:gap$}{size} │ {}", "", fate(region.fate));
        for _ in 1..lines {
            let _ = writeln!(text, "             │{strip}│{:WIDTH$}│", "");
        }
        end = Some(region.range.end());
    }
    if let Some(end) = end {
        frame(&mut text, end, ['└', '┴', '┘']);
    }
    text
}

/// A line of the frame, with the address that it stands for.
fn frame(text: &mut String, address: FlashAddr, [left, middle, right]: [char; 3]) {
    let _ = writeln!(text, "  {address} {left}──{middle}{}{right}", "─".repeat(WIDTH));
}

fn strip(fate: Fate) -> &'static str {
    match fate {
        Fate::Kept => "  ",
        Fate::Written => "██",
        Fate::Erased => "░░",
    }
}

/// What happens to a region, in words.
fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Kept => "kept",
        Fate::Written => "erased and written",
        Fate::Erased => "erased",
    }
}

#[cfg(test)]
mod tests {
    use kflash::addr::{FlashRange, FlashSize};

    use super::*;

    fn region(start: u32, size: u32, name: &str, fate: Fate) -> Region {
        Region { range: FlashRange { start: FlashAddr(start), size: FlashSize(size) }, name: name.into(), fate }
    }

    #[test]
    fn a_flash_is_drawn_with_addresses_and_fates() {
        let picture = picture(&[
            region(0x0800_0000, 0x8000, "Katapult", Fate::Kept),
            region(0x0800_8000, 0xa580, "application", Fate::Written),
            region(0x0801_2580, 0xda80, "rest of the sector", Fate::Erased),
            region(0x0802_0000, 0x6_0000, "free", Fate::Kept),
        ]);
        assert_eq!(
            format!("\n{picture}"),
            "
  0x08000000 ┌──┬──────────────────────────────────────┐
             │  │ Katapult                      32 KiB │ kept
             │  │                                      │
  0x08008000 ├──┼──────────────────────────────────────┤
             │██│ application                 41.4 KiB │ erased and written
             │██│                                      │
  0x08012580 ├──┼──────────────────────────────────────┤
             │░░│ rest of the sector          54.6 KiB │ erased
             │░░│                                      │
  0x08020000 ├──┼──────────────────────────────────────┤
             │  │ free                         384 KiB │ kept
             │  │                                      │
             │  │                                      │
             │  │                                      │
             │  │                                      │
             │  │                                      │
             │  │                                      │
  0x08080000 └──┴──────────────────────────────────────┘
"
        );
    }

    #[test]
    fn nothing_and_names_without_end_do_no_harm() {
        assert_eq!(picture(&[]), "");
        let long = picture(&[region(0, 0, &"x".repeat(500), Fate::Kept)]);
        assert!(long.lines().all(|line| line.chars().count() < 80), "{long}");
    }
}
