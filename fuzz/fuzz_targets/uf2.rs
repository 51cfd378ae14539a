//! UF2 with right magic numbers and few blocks, so that the fuzzer gets behind them.

#![no_main]

use kflash::image::Image;
use libfuzzer_sys::fuzz_target;

/// Bytes of the input that become the header of a block and the start of its payload.
const PER_BLOCK: usize = 32;

fuzz_target!(|data: &[u8]| {
    let mut file = Vec::new();
    for input in data.chunks(PER_BLOCK) {
        let mut block = [0; 512];
        block[..8].copy_from_slice(b"UF2\nWQ]\x9e");
        block[8..8 + input.len()].copy_from_slice(input);
        // Small numbers of blocks and bytes are what gets past the first checks.
        for at in [17, 18, 19, 21, 22, 23, 25, 26, 27] {
            block[at] = 0;
        }
        block[508..].copy_from_slice(&0x0ab1_6f30u32.to_le_bytes());
        file.extend_from_slice(&block);
    }
    if let Ok(image) = Image::parse(&file) {
        assert!(image.segments.windows(2).all(|pair| pair[0].range().end() < pair[1].addr));
    }
});
