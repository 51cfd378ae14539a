//! Any file: no panic, and what comes out keeps what `Image` promises.
//!
//! With a stable toolchain: `RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none image`.

#![no_main]

use kflash::image::{Image, PlaceError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(image) = Image::parse(data) else { return };
    assert!(!image.segments.is_empty() && image.segments.iter().all(|segment| !segment.data.is_empty()));
    assert!(image.segments.windows(2).all(|pair| pair[0].range().end() < pair[1].addr));
    assert!(image.start.as_ref().is_none_or(|start| start.addr == image.segments[0].addr));
    match image.placed(image.range().start) {
        Ok(placed) => {
            assert!(image.segments.iter().all(|segment| placed.bytes(segment.range()) == segment.data));
        }
        Err(error) => assert!(matches!(error, PlaceError::TooFarApart(_))),
    }
});
