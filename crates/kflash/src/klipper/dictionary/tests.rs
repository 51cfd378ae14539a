#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::prelude::*;

use super::*;

const JSON: &str = r#"{"app":"Klipper","build_versions":"gcc: 12","commands":{"identify offset=%u count=%c":1,"reset":-8},
    "config":{"CLOCK_FREQ":180000000,"MCU":"stm32f446xx"},"enumerations":{},"license":"GNU GPLv3",
    "responses":{"identify_response offset=%u data=%.*s":0},"version":"v0.13.0-730-g84104bbbd"}"#;

fn deflate(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn with_config(config: &str) -> Dictionary {
    let json = format!(r#"{{"version":"v1","config":{config},"commands":{{}}}}"#);
    Dictionary::from_zlib(&deflate(json.as_bytes())).unwrap()
}

fn json_value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(
                prop_oneof![
                    Just("app".to_owned()),
                    Just("version".to_owned()),
                    Just("config".to_owned()),
                    Just("commands".to_owned()),
                    Just("MCU".to_owned()),
                    ".{0,4}",
                ],
                inner,
                0..6
            )
            .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_stream_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = Dictionary::from_zlib(&bytes);
        let _ = Dictionary::from_zlib(&[&[0x78, 0xda], bytes.as_slice()].concat());
        let _ = Dictionary::from_zlib(&deflate(&bytes));
    }

    #[test]
    fn no_json_makes_it_panic(value in json_value()) {
        let _ = Dictionary::from_zlib(&deflate(value.to_string().as_bytes()));
    }

    #[test]
    fn names_and_ids_survive(
        version in ".{0,40}",
        commands in prop::collection::btree_map("[a-z_]{1,12}( [a-z]=%[cu]){0,3}", any::<i64>(), 0..20),
    ) {
        let json = serde_json::json!({ "version": version, "commands": commands, "config": {} }).to_string();
        let dictionary = Dictionary::from_zlib(&deflate(json.as_bytes())).unwrap();
        prop_assert_eq!(dictionary.version, version);
        prop_assert_eq!(dictionary.commands, commands);
    }

    #[test]
    fn a_stream_cut_short_or_damaged_is_noticed(cut: prop::sample::Index, bit in 0u8..8) {
        let stream = deflate(JSON.as_bytes());
        let at = cut.index(stream.len());
        let cut_short = Dictionary::from_zlib(&stream[..at]).unwrap_err();
        prop_assert!(matches!(cut_short, DictionaryError::Truncated(_)), "{}", cut_short);
        let mut damaged = stream;
        damaged[at] ^= 1 << bit;
        // Of the header, only the compression level is of no account.
        prop_assume!(at != 1);
        prop_assert!(Dictionary::from_zlib(&damaged).is_err());
    }
}

#[test]
fn what_a_dictionary_says() {
    let dictionary = Dictionary::from_zlib(&deflate(JSON.as_bytes())).unwrap();
    assert_eq!((dictionary.app.as_str(), dictionary.mcu()), ("Klipper", Some("stm32f446xx")));
    assert_eq!(dictionary.clock_freq(), Some(180_000_000));
    assert_eq!(dictionary.commands["reset"], -8);
    assert_eq!(dictionary.responses["identify_response offset=%u data=%.*s"], 0);
    assert_eq!(dictionary, Dictionary::from_json(JSON.as_bytes()).unwrap());
}

#[test]
fn the_digest_is_that_of_the_json() {
    // sha256sum of the 40 bytes.
    let json = br#"{"commands":{},"config":{},"version":""}"#;
    let dictionary = Dictionary::from_json(json).unwrap();
    assert_eq!(dictionary.sha256, "b8fb05e8247202c9e7dcba98a57ffa8f69149642782311a9f303b2b566efefde");
    assert_eq!(dictionary.app, "Klipper");
}

#[test]
fn one_other_byte_makes_another_dictionary() {
    let other = JSON.replace("GNU GPLv3", "GNU GPLv2");
    assert_ne!(Dictionary::from_json(JSON.as_bytes()), Dictionary::from_json(other.as_bytes()));
}

#[test]
fn the_cable_follows_from_the_constants() {
    assert_eq!(with_config("{}").built_for(), BuiltFor::Usb);
    assert_eq!(with_config(r#"{"SERIAL_BAUD":250000}"#).built_for(), BuiltFor::Uart(250_000));
    assert_eq!(with_config(r#"{"CANBUS_FREQUENCY":1000000}"#).built_for(), BuiltFor::Can);
    assert_eq!(with_config(r#"{"CANBUS_BRIDGE":1,"CANBUS_FREQUENCY":1000000}"#).built_for(), BuiltFor::CanBridge);
}

#[test]
fn bytes_that_are_no_dictionary() {
    let error = |stream: &[u8]| Dictionary::from_zlib(stream).unwrap_err();
    assert_eq!(error(b""), DictionaryError::Truncated(0));
    assert_eq!(error(b"\x08\x10\x01\x00"), DictionaryError::Corrupt);
    assert_eq!(error(&[&deflate(JSON.as_bytes()), b"\0".as_slice()].concat()), DictionaryError::TrailingBytes(1));
    assert_eq!(error(&deflate(&vec![b' '; MAX_INFLATED + 1])), DictionaryError::TooLarge);
    assert_eq!(error(&deflate(&vec![b' '; 100 << 20])), DictionaryError::TooLarge);
    let malformed = [
        "",
        "[]",
        "{}",
        "null",
        r#"{"version":"v1","config":{},"commands":[]}"#,
        r#"{"version":"v1","config":{},"commands":{"identify":"1"}}"#,
        r#"{"version":["v1"],"config":{},"commands":{}}"#,
        &format!(r#"{{"version":"v1","commands":{{}},"config":{{"MCU":{}}}}}"#, "[".repeat(100_000)),
    ];
    for json in malformed {
        assert!(matches!(error(&deflate(json.as_bytes())), DictionaryError::Malformed(_)), "{json:.60}");
    }
}
