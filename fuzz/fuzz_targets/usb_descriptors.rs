//! What a USB device says of itself: a configuration, the DFU interface in it, a string.

#![no_main]

use kflash::link::descriptor::{decode_string, interfaces};
use kflash::proto::dfuse::functional::dfu_interface;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let found = interfaces(bytes);
    let others: usize = found.iter().flat_map(|interface| &interface.others).map(|other| other.len()).sum();
    assert!(9 * found.len() + others <= bytes.len());
    if let Ok(dfu) = dfu_interface(bytes) {
        assert!(!dfu.alternates.is_empty() && dfu.alternates.is_sorted());
    }
    assert!(decode_string(bytes).chars().count() <= bytes.len());
});
