//! What a board sends in answer to `identify`: as a zlib stream, and as the JSON in one; and that compared with another.

#![no_main]

use kflash::klipper::dictionary::Dictionary;
use kflash::klipper::wire::{Verdict, compare};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = Dictionary::from_zlib(data);
    if let Ok(dictionary) = Dictionary::from_json(data) {
        let _ = (dictionary.mcu(), dictionary.clock_freq(), dictionary.built_for());
        assert_eq!(dictionary.sha256.len(), 64);
        assert_eq!(compare(&dictionary, &dictionary).verdict, Verdict::Current);
    }
    // Two in one input.
    let half = data.len() / 2;
    if let (Ok(running), Ok(tree)) = (Dictionary::from_json(&data[..half]), Dictionary::from_json(&data[half..])) {
        let compared = compare(&running, &tree);
        assert_eq!(compared.reasons.is_empty(), compared.verdict <= Verdict::Compatible);
        for reason in compared.reasons {
            let _ = reason.difference.to_string();
        }
    }
});
