#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::boards;

const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn image(board: &str, version: &str) -> Value {
    json!({
        "board": board,
        "route": "katapult-usb",
        "app": "Klipper",
        "version": version,
        "commit": "84104bbbd1e3e4b4e3a1e3f8f7a7f8b6b1b7f1a2",
        "mcu": "stm32f446xx",
        "start": "0x08008000",
        "size": 44516,
        "sha256": SHA256,
        "url": "images/klipper.bin",
    })
}

fn document(images: &[Value]) -> Value {
    json!({"format": 1, "created": "2026-01-31T12:00:00Z", "serial": 7, "images": images})
}

fn parse(document: &Value) -> Result<Index, IndexError> {
    Index::parse(document.to_string().as_bytes())
}

/// What is said of an image with this in place of a key's value.
fn problem(key: &str, value: impl Into<Value>) -> String {
    let mut image = image("btt-octopus-v1.1-f446", "v1");
    image[key] = value.into();
    parse(&document(&[image])).unwrap_err().to_string()
}

#[test]
fn an_index_is_read_and_written_the_same() {
    let document = document(&[image("btt-octopus-v1.1-f446", "v0.13.0-730-g84104bbbd")]);
    let index = parse(&document).unwrap();
    assert_eq!(index.images[0].start, FlashAddr(0x0800_8000));
    assert_eq!(serde_json::to_value(&index).unwrap(), document);
}

#[test]
fn what_a_newer_kflash_adds_is_passed_over_and_another_format_is_not() {
    let mut document = document(&[image("a", "v1")]);
    document["signed-by"] = json!({"who": "me"});
    document["images"][0]["notes"] = json!("none");
    document["images"][0].as_object_mut().unwrap().remove("commit");
    assert_eq!(parse(&document).unwrap().images[0].commit, None);
    let newer = json!({"format": 2, "pictures": []});
    assert_eq!(parse(&newer).unwrap_err().to_string(), "an index of format 2; this kflash reads format 1");
}

#[test]
fn names_that_could_be_paths_or_steer_a_terminal_are_refused() {
    assert_eq!(problem("board", "../../etc"), "images[0].board: \"../../etc\" is no board's id");
    assert_eq!(problem("board", "a\0b"), "images[0].board: \"a\\0b\" is no board's id");
    assert_eq!(problem("route", "/etc"), "images[0].route: \"/etc\" is no route's id");
    assert_eq!(problem("version", "v1\u{1b}[2J"), "images[0].version: \"v1\\u{1b}[2J\" is no version");
    assert_eq!(problem("version", "\u{202e}1v"), "images[0].version: \"\\u{202e}1v\" is no version");
    assert_eq!(problem("app", ""), "images[0].app: \"\" is no application's name");
    assert_eq!(problem("mcu", "x\n"), "images[0].mcu: \"x\\n\" is no MCU's name");
    assert_eq!(problem("commit", "HEAD"), "images[0].commit: \"HEAD\" is no commit in full");
    assert_eq!(problem("size", 0), "images[0].size: 0 bytes is no firmware's size");
    assert_eq!(problem("size", u64::MAX), "images[0].size: 18446744073709551615 bytes is no firmware's size");
    for url in ["../a", "/etc/passwd", "file:///etc/passwd", "http://example.org/a", "a\u{1b}b", "C:\\a", ""] {
        assert!(problem("url", url).starts_with("images[0].url: "), "{url:?}");
    }
    let long = problem("board", "x".repeat(100_000));
    assert!(long.len() < 200, "{long}");
}

#[test]
fn malformed_documents_are_refused() {
    for document in ["", "{", "[]", "null", "<html>", "{\"format\": 1}", &"[".repeat(100_000)] {
        assert!(matches!(Index::parse(document.as_bytes()), Err(IndexError::Malformed(_))), "{document:.20}");
    }
    for (key, value) in [("start", json!("134250496")), ("sha256", json!(SHA256.to_uppercase())), ("size", json!(-1))] {
        assert!(problem(key, value).starts_with("no index: "), "{key}");
    }
    let mut document = document(&[]);
    document["created"] = json!("yesterday");
    assert!(parse(&document).is_err());
    assert_eq!(Index::parse(&vec![b' '; MAX_INDEX + 1]), Err(IndexError::TooLarge));
}

fn octopus() -> Profile {
    boards::find("btt-octopus-v1.1-f446").unwrap().0
}

fn found(images: &[Value], route: Option<&str>, version: Option<&str>) -> Result<(String, String), String> {
    let profile = octopus();
    let index = parse(&document(images)).unwrap();
    let found = index.find(&Wanted { profile: &profile, route, version });
    found.map(|(entry, route)| (entry.version.clone(), route.id.clone())).map_err(|error| error.to_string())
}

fn image_of(version: &str, route: &str) -> (String, String) {
    (version.to_owned(), route.to_owned())
}

#[test]
fn the_first_image_of_the_boards_first_route_is_meant() {
    let octopus = "btt-octopus-v1.1-f446";
    let mut without_bootloader = image(octopus, "v3");
    without_bootloader["route"] = json!("dfu");
    without_bootloader["start"] = json!("0x08000000");
    let mut by_start = image(octopus, "v4");
    by_start.as_object_mut().unwrap().remove("route");
    let images =
        [image("fysetc-spider", "v1"), without_bootloader, image(octopus, "v2"), image(octopus, "v1"), by_start];
    assert_eq!(found(&images, None, None), Ok(image_of("v2", "katapult-usb")));
    assert_eq!(found(&images, None, Some("v1")), Ok(image_of("v1", "katapult-usb")));
    assert_eq!(found(&images, None, Some("v3")), Ok(image_of("v3", "dfu")));
    assert_eq!(found(&images, None, Some("v4")), Ok(image_of("v4", "katapult-usb")));
    assert_eq!(found(&images, Some("dfu"), None), Ok(image_of("v3", "dfu")));
    assert_eq!(found(&images, Some("vendor-dfu"), None), Ok(image_of("v4", "vendor-dfu")));
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let images = [image("fysetc-spider", "v1")];
    let nothing = "nothing for btt-octopus-v1.1-f446; it has images for fysetc-spider";
    assert_eq!(found(&images, None, None), Err(nothing.to_owned()));
    assert_eq!(found(&[], None, None), Err("nothing for btt-octopus-v1.1-f446; it is empty".to_owned()));
    let images = [image("btt-octopus-v1.1-f446", "v1"), image("btt-octopus-v1.1-f446", "v2")];
    let nothing = "nothing for route dfu of btt-octopus-v1.1-f446; it has images for katapult-usb";
    assert_eq!(found(&images, Some("dfu"), None), Err(nothing.to_owned()));
    let nothing = "nothing of version v3 for btt-octopus-v1.1-f446; it has v1, v2";
    assert_eq!(found(&images, None, Some("v3")), Err(nothing.to_owned()));
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Index::parse(&bytes);
    }

    /// Whatever is accepted names no path but one below the index, and nothing that a terminal acts on.
    #[test]
    fn what_is_accepted_is_harmless(key in "board|route|app|version|commit|mcu|sha256|url", value in "\\PC{0,9}|[a-z/.]{0,9}|[\\x00-\\x7f]{0,9}") {
        let mut changed = image("btt-octopus-v1.1-f446", "v1");
        changed[key] = json!(value);
        if let Ok(index) = parse(&document(&[changed])) {
            let Entry { board, route, app, version, commit, mcu, url, .. } = &index.images[0];
            let texts = [Some(board), route.as_ref(), Some(app), Some(version), commit.as_ref(), Some(mcu), Some(url)];
            prop_assert!(texts.into_iter().flatten().all(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~'))));
            prop_assert!(!url.starts_with('/') && url.split('/').all(|part| part != ".."));
            prop_assert!(!board.contains('/'));
        }
    }
}
