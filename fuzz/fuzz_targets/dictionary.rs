//! What a board sends in answer to `identify`: as a zlib stream, and as the JSON in one.

#![no_main]

use kflash::klipper::dictionary::Dictionary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Dictionary::from_zlib(data);
    if let Ok(dictionary) = Dictionary::from_json(data) {
        let _ = (dictionary.mcu(), dictionary.clock_freq(), dictionary.built_for());
        assert_eq!(dictionary.sha256.len(), 64);
    }
});
