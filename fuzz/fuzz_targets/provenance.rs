//! The provenance of an image, as somebody may have put it into the cache: no panic, and what is accepted names no file
//! outside its entry and reads the same once it is written.

#![no_main]

use kflash::obtain::cache::Key;
use kflash::obtain::provenance::{ImageFile, Provenance};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(provenance) = Provenance::parse(data) else { return };
    assert!(ImageFile::NAMES.contains(&provenance.image.name.as_str()));
    let key = Key::of(&provenance);
    assert_eq!(key.to_string().parse(), Ok(key));
    let json = serde_json::to_vec(&provenance).expect("provenance is JSON");
    assert_eq!(Provenance::parse(&json), Ok(provenance));
});
