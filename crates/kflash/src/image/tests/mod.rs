//! Tests of the containers, with encoders of their own.

#![expect(clippy::unwrap_used, reason = "tests")]

mod any_bytes;
mod elf;
mod hex;
mod mistakes;
mod uf2;

use proptest::prelude::*;

use super::*;

/// Bytes that no check for constant files, text or other formats objects to.
const FIRMWARE: &[u8] = &[0, 0x20, 0x01, 0xff, 0x80, 0x7f, 0x02];

/// Segments as a parser should find them: sorted, none empty, a gap between any two.
fn segments() -> impl Strategy<Value = Vec<Segment>> {
    let pieces = prop::collection::vec((1u32..5000, prop::collection::vec(any::<u8>(), 1..600)), 1..6);
    (0u32..0xfffe_0000, pieces).prop_map(|(mut addr, pieces)| {
        pieces
            .into_iter()
            .map(|(gap, data)| {
                let segment = Segment { addr: FlashAddr(addr + gap), data };
                addr = segment.range().end().0;
                segment
            })
            .collect()
    })
}
