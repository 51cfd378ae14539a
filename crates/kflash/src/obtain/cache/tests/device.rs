//! What each device ran.

use std::fs;

use super::{cache, image, provenance, provenance_of, store};
use crate::board::BoardId;
use crate::digest::Sha256;
use crate::discover::{Device, Mode, Place, UsbId, UsbIdentity};
use crate::obtain::cache::{Cache, DeviceKeys, Entry, Lookup, Previous, Ran, RanImage};
use crate::obtain::provenance::Origin;
use crate::timestamp::Timestamp;

fn octopus() -> BoardId {
    BoardId("octopus".into())
}

fn device(serial: Option<&str>, place: &str) -> DeviceKeys {
    DeviceKeys { serial: serial.map(str::to_owned), place: place.into() }
}

/// The firmware of `entry`, which kflash flashed.
fn flashed(entry: &Entry) -> Ran {
    let image = RanImage { key: entry.key, sha256: entry.provenance.image.sha256 };
    Ran { image: Some(image), ..seen(entry) }
}

/// The firmware of `entry`, known by its dictionary only.
fn seen(entry: &Entry) -> Ran {
    Ran {
        time: Timestamp::now(),
        board: octopus(),
        app: "Klipper".into(),
        version: entry.provenance.version.clone(),
        dictionary_sha256: entry.provenance.dictionary_sha256,
        image: None,
    }
}

fn previous(cache: &Cache, device: &DeviceKeys, running: Option<&Entry>) -> Previous {
    cache.previous(device, running.map(|entry| entry.provenance.dictionary_sha256), &octopus()).unwrap()
}

#[track_caller]
fn is_image(previous: Previous, entry: &Entry) {
    match previous {
        Previous::Image { entry: found, .. } => assert_eq!(found.provenance.version, entry.provenance.version),
        other => panic!("{other:?}"),
    }
}

#[test]
fn back_and_forth() {
    let (_dir, cache) = cache();
    let me = device(Some("2900"), "1-1");
    let (one, two, three) = (store(&cache, "v1"), store(&cache, "v2"), store(&cache, "v3"));
    let unknown = |previous| match previous {
        Previous::Unknown { remembered, .. } => remembered.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(unknown(previous(&cache, &me, None)), 0);
    cache.remember(&me, [flashed(&one)]).unwrap();
    assert_eq!(unknown(previous(&cache, &me, Some(&one))), 1);
    cache.remember(&me, [flashed(&two)]).unwrap();
    is_image(previous(&cache, &me, Some(&two)), &one);
    is_image(previous(&cache, &me, None), &one);
    // Another program put the first back, or something new.
    is_image(previous(&cache, &me, Some(&one)), &two);
    is_image(previous(&cache, &me, Some(&three)), &two);
    cache.remember(&me, [flashed(&one)]).unwrap();
    is_image(previous(&cache, &me, None), &two);
    // The same again is no other firmware.
    cache.remember(&me, [flashed(&one), flashed(&one)]).unwrap();
    is_image(previous(&cache, &me, Some(&one)), &two);
}

#[test]
fn what_somebody_else_flashed_is_found_by_its_dictionary() {
    let (_dir, cache) = cache();
    let me = device(Some("2900"), "1-1");
    let (one, two) = (store(&cache, "v1"), store(&cache, "v2"));
    cache.remember(&me, [seen(&one), flashed(&two)]).unwrap();
    is_image(previous(&cache, &me, Some(&two)), &one);
    cache.remove(&one.key).unwrap();
    match previous(&cache, &me, Some(&two)) {
        Previous::NotStored { ran, damage: None } => assert_eq!((ran.version.as_str(), ran.image), ("v1", None)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn images_of_one_dictionary_are_told_apart_or_not_chosen() {
    let (_dir, cache) = cache();
    let me = device(Some("2900"), "1-1");
    let two = store(&cache, "v2");
    // The same firmware for another start address has the same dictionary.
    let file = |padding: usize, id: &str| {
        let bytes = [vec![0x5a; padding], image("v1")].concat();
        let from = provenance_of(&bytes, Origin::File { path: "klipper.bin".into() }, id);
        cache.store(&from, &bytes, None).unwrap()
    };
    let (near, far) = (file(8, "spider"), file(16, "spider"));
    cache.remember(&me, [seen(&near), flashed(&two)]).unwrap();
    match previous(&cache, &me, Some(&two)) {
        Previous::Several { keys, .. } => {
            let mut both = vec![near.key, far.key];
            both.sort();
            assert_eq!(keys, both);
        }
        other => panic!("{other:?}"),
    }
    // One that was made for this board goes first.
    let own = file(24, "octopus");
    match previous(&cache, &me, Some(&two)) {
        Previous::Image { entry, .. } => assert_eq!(entry.key, own.key),
        other => panic!("{other:?}"),
    }
    // And where kflash flashed it, it is known.
    cache.remember(&me, [flashed(&far), flashed(&two)]).unwrap();
    match previous(&cache, &me, Some(&two)) {
        Previous::Image { entry, .. } => assert_eq!(entry.key, far.key),
        other => panic!("{other:?}"),
    }
    // Even if its entry is gone, but not if only another image has its dictionary.
    cache.remove(&far.key).unwrap();
    assert!(matches!(previous(&cache, &me, Some(&two)), Previous::NotStored { damage: None, .. }));
}

#[test]
fn a_damaged_image_is_named_and_another_copy_serves() {
    let (_dir, cache) = cache();
    let me = device(Some("2900"), "1-1");
    let (one, two) = (store(&cache, "v1"), store(&cache, "v2"));
    cache.remember(&me, [flashed(&one), flashed(&two)]).unwrap();
    fs::write(one.path.join("klipper.bin"), "x").unwrap();
    assert!(matches!(previous(&cache, &me, Some(&two)), Previous::NotStored { damage: Some(_), .. }));
    let from = provenance_of(&image("v1"), Origin::File { path: "klipper.bin".into() }, "octopus");
    cache.store(&from, &image("v1"), None).unwrap();
    is_image(previous(&cache, &me, Some(&two)), &one);
}

#[test]
fn a_board_is_known_by_its_serial_wherever_it_is_and_without_one_by_its_place() {
    let (_dir, cache) = cache();
    let (one, two, three) = (store(&cache, "v1"), store(&cache, "v2"), store(&cache, "v3"));
    cache.remember(&device(Some("2900"), "1-1"), [flashed(&one), flashed(&two)]).unwrap();
    is_image(previous(&cache, &device(Some("2900"), "1-4"), None), &one);
    assert!(matches!(previous(&cache, &device(Some("3000"), "1-1"), None), Previous::Unknown { .. }));
    // In the ROM it has no serial number of its own.
    is_image(previous(&cache, &device(None, "1-1"), None), &one);
    // The board that was there last counts.
    let mut later = flashed(&three);
    later.time = Timestamp::from(std::time::SystemTime::now() + std::time::Duration::from_secs(60));
    cache.remember(&device(Some("3000"), "1-1"), [later]).unwrap();
    is_image(previous(&cache, &device(None, "1-1"), Some(&one)), &three);
}

#[test]
fn a_board_of_another_kind_at_the_same_place_ran_something_else() {
    let (_dir, cache) = cache();
    let uart = device(None, "1-1");
    let (one, two) = (store(&cache, "v1"), store(&cache, "v2"));
    cache.remember(&uart, [flashed(&one), flashed(&two)]).unwrap();
    let spider = BoardId("spider".into());
    match cache.previous(&uart, None, &spider).unwrap() {
        Previous::Unknown { remembered, .. } => assert_eq!(remembered.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_serial_of_the_chip_is_one() {
    let keys = |mode, serial: &str| {
        let usb = UsbIdentity {
            id: UsbId::new(0x1d50, 0x614e),
            revision: 0,
            bus: 1,
            number: 2,
            manufacturer: None,
            product: None,
            serial: Some(serial.into()),
        };
        let place = Place::Usb("1-1.4".parse().unwrap());
        DeviceKeys::of(&Device { place, mode, usb: Some(usb), tty: None, usbfs: None, mcu: None })
    };
    assert_eq!(keys(Mode::Klipper, "2900"), device(Some("2900"), "1-1.4"));
    assert_eq!(keys(Mode::Katapult, "2900"), device(Some("2900"), "1-1.4"));
    for (mode, serial) in
        [(Mode::Klipper, "12345"), (Mode::Klipper, ""), (Mode::Dfu, "FFFFFFFEFFFF"), (Mode::UartBridge, "0001")]
    {
        assert_eq!(keys(mode, serial), device(None, "1-1.4"));
    }
}

#[test]
fn the_memory_is_short_and_damage_to_it_is_told() {
    let (_dir, cache) = cache();
    let me = device(Some("2900"), "1-1");
    let entry = store(&cache, "v1");
    let numbered = |n: u8| Ran { dictionary_sha256: Sha256::of(&[n]), ..seen(&entry) };
    cache.remember(&me, (0..100).map(numbered)).unwrap();
    let memory = cache.devices().unwrap();
    assert_eq!((memory.devices.len(), memory.devices[0].ran.len(), memory.damage.len()), (1, 8, 0));
    assert_eq!(memory.devices[0].ran[7].dictionary_sha256, Sha256::of(&[99]));

    let file = fs::read_dir(cache.dir().join("devices")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[1..]).unwrap();
    assert_eq!(cache.devices().unwrap().damage.len(), 1);
    match previous(&cache, &me, None) {
        Previous::Unknown { remembered, damage } => assert_eq!((remembered.len(), damage.len()), (0, 1)),
        other => panic!("{other:?}"),
    }
    // Another device's file in its place.
    fs::write(file.with_file_name("0".repeat(32) + ".json"), &whole).unwrap();
    assert_eq!(cache.devices().unwrap().damage.len(), 2);
    cache.remember(&me, [flashed(&entry)]).unwrap();
    assert_eq!(cache.devices().unwrap().devices.len(), 1, "it begins anew");
    assert!(matches!(cache.find(&provenance_key()).unwrap(), Lookup::Found(_)));
}

fn provenance_key() -> crate::obtain::cache::Key {
    crate::obtain::cache::Key::of(&provenance("v1", "octopus"))
}
