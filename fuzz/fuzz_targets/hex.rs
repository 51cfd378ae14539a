//! Intel HEX with right digits and checksums, so that the fuzzer gets behind them: each input line becomes a record.

#![no_main]

use std::fmt::Write as _;

use kflash::image::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut text = String::new();
    for record in data.split(|&byte| byte == b'\n') {
        // The stated length is right most of the time: only a record of 255 bytes can be short or long.
        let mut bytes = vec![record.len().saturating_sub(3).min(255) as u8];
        bytes.extend_from_slice(record);
        let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        bytes.push(sum.wrapping_neg());
        text.push(':');
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text.push_str(":00000001FF\n");
    if let Ok(image) = Image::parse(text.as_bytes()) {
        assert!(image.segments.windows(2).all(|pair| pair[0].range().end() < pair[1].addr));
    }
});
