//! An index of prebuilt firmware, and the places that its entries name: no panic, and none leads out of the index's folder,
//! from a server to a file, or from HTTPS to plain HTTP.

#![no_main]

use kflash::obtain::fetch::{Index, Location};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(index) = Index::parse(data) else { return };
    let server = Location::parse("https://firmware.example/stable/index.json").expect("a URL");
    let folder = Location::parse("/srv/firmware/index.json").expect("a path");
    for entry in &index.images {
        assert!(!entry.board.contains('/') && !entry.version.contains(char::is_control));
        if let Ok(place) = server.of_reference(&entry.url) {
            assert!(place.to_string().starts_with("https://"), "{place}");
        }
        if let Ok(Location::File(path)) = folder.of_reference(&entry.url) {
            assert!(path.starts_with("/srv/firmware") && !path.to_string_lossy().contains(".."), "{}", path.display());
        }
    }
    let json = serde_json::to_vec(&index).expect("an index is JSON");
    assert_eq!(Index::parse(&json), Ok(index));
});
