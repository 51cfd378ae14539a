//! Integers of Klipper's messages: whatever can be read can be written, in as few bytes or fewer.

#![no_main]

use kflash::klipper::vlq;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((value, rest)) = vlq::take(data) {
        let mut bytes = Vec::new();
        vlq::put(value, &mut bytes);
        assert!(bytes.len() <= data.len() - rest.len());
        assert_eq!(vlq::take(&bytes), Some((value, &[][..])));
    }
    if let Some((text, rest)) = vlq::take_bytes(data) {
        assert_eq!(1 + text.len() + rest.len(), data.len());
    }
});
