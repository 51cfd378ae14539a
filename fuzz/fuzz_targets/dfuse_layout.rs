//! The layout string of a DfuSe alternate.

#![no_main]

use kflash::proto::dfuse::layout::Layout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(layout) = Layout::parse(text) else { return };
    assert!(!layout.sectors.is_empty() && layout.sectors.len() <= 16384);
    let mut ranges: Vec<_> = layout.sectors.iter().map(|sector| sector.range).collect();
    ranges.sort_unstable();
    assert!(ranges.iter().all(|range| !range.is_empty()));
    assert!(ranges.windows(2).all(|pair| !pair[0].overlaps(pair[1])));
});
