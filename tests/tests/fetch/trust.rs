//! Who signed an index, what it says, and whether the image is what it says.

use kflash_sim::firmware::TestImage;
use serde_json::{Value, json};

use super::farm::{BOARD, Host, IMAGE, INDEX, Key, SIGNATURE, entry, firmware, index, publish};
use super::server::{Reply, Server};

/// A server that gives `image` where an index says this of it.
fn serving(image: &[u8], entry: Value) -> (Server, Key) {
    let (server, key) = (Server::https(), Key::new());
    publish(&server, &key, &index(1, &[entry]));
    server.reply(IMAGE, Reply::file(image));
    (server, key)
}

#[test]
fn an_index_is_believed_if_its_key_signed_it() {
    let image = firmware();
    let (server, key) = serving(&image, entry(&image));
    let host = Host::of(&server, &key);
    let url = server.url(INDEX);

    let signature = key.sign(&index(1, &[entry(&image)]));
    server.forget(SIGNATURE);
    assert_eq!(host.refused(), (format!("{url} is not signed: there is no {url}.minisig"), 3));

    let other = Key::new();
    server.reply(SIGNATURE, Reply::file(other.sign(&index(1, &[entry(&image)]))));
    let (by, wanted) = (other.parsed().id, key.parsed().id);
    assert_eq!(host.refused(), (format!("{url} is not to be trusted: signed by key {by}, not by {wanted}"), 3));

    server.forget(SIGNATURE).reply(SIGNATURE, Reply::file(key.sign(b"another index")));
    let (message, code) = host.refused();
    assert!(message.contains("the signature does not fit"), "{message}");
    assert_eq!(code, 3);

    server.forget(SIGNATURE).reply(SIGNATURE, Reply::file("<html>please log in</html>"));
    assert_eq!(host.refused(), (format!("{url} is not to be trusted: not a minisign signature"), 3));

    server.forget(SIGNATURE).reply(SIGNATURE, Reply::file(signature));
    assert!(server.requests().iter().all(|request| request.path != IMAGE), "nothing was fetched on its word");
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
}

#[test]
fn what_nobody_vouches_for_is_not_even_parsed() {
    let (server, key) = (Server::https(), Key::new());
    server.reply(INDEX, Reply::file("{")).reply(SIGNATURE, Reply::file(key.sign(b"{}")));
    let (message, code) = Host::of(&server, &key).refused();
    assert!(message.contains("the signature does not fit"), "{message}");
    assert_eq!(code, 3);
    publish(&server, &key, b"{");
    let (message, code) = Host::of(&server, &key).refused();
    assert!(message.contains("no index: EOF while parsing"), "{message}");
    assert_eq!(code, 8);
}

#[test]
fn an_unsigned_index_passes_only_with_a_warning() {
    let image = firmware();
    let (server, key) = serving(&image, entry(&image));
    server.forget(SIGNATURE);
    let mut host = Host::of(&server, &key);
    host.source.key = None;
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
    let warnings = host.warnings();
    assert!(warnings[0].contains("anybody could have changed it"), "{warnings:?}");
}

#[test]
fn an_old_index_that_is_replayed_is_refused() {
    let image = firmware();
    let (server, key) = serving(&image, entry(&image));
    let mut host = Host::of(&server, &key);
    publish(&server, &key, &index(7, &[entry(&image)]));
    host.index().unwrap();
    host.index().unwrap();
    publish(&server, &key, &index(6, &[entry(&image)]));
    let (message, code) = host.refused();
    let url = server.url(INDEX);
    let older = "serial 6 of 2026-01-31T12:00:00Z, seen was 7";
    assert_eq!(message, format!("{url} is older than what was fetched before: {older}"));
    assert_eq!(code, 3);

    host.source.allow_old = true;
    assert!(host.index().unwrap().old);
    assert!(host.warnings().iter().any(|text| text.contains("and allowed to be")), "{:?}", host.warnings());
    host.source.allow_old = false;
    assert_eq!(host.refused().1, 3, "what was allowed once is not forgotten");

    // Another key has numbers of its own.
    let other = Key::new();
    publish(&server, &other, &index(1, &[entry(&image)]));
    host.source.key = Some(other.parsed());
    host.index().unwrap();
    publish(&server, &key, &index(8, &[entry(&image)]));
    host.source.key = Some(key.parsed());
    assert!(!host.index().unwrap().old);
}

#[test]
fn a_damaged_note_of_what_was_seen_lets_nothing_pass() {
    let image = firmware();
    let (server, key) = serving(&image, entry(&image));
    let host = Host::of(&server, &key);
    host.index().unwrap();
    let note = host.files().into_iter().find(|file| file.ends_with("seen.json")).unwrap();
    std::fs::write(host.cache.dir().parent().unwrap().join(note), "{\"serial\": 0").unwrap();
    let (message, code) = host.refused();
    assert!(message.contains("seen.json: "), "{message}");
    assert_eq!(code, 3);
}

#[test]
fn an_image_of_another_digest_is_refused_and_forgotten() {
    let image = firmware();
    let (server, key) = serving(&image, entry(&image));
    let mut other = image.clone();
    other[4711] ^= 1;
    server.forget(IMAGE).reply(IMAGE, Reply::file(other));
    let host = Host::of(&server, &key);
    let (message, code) = host.refused();
    assert!(message.contains("is not the file that the index means: its SHA-256 is "), "{message}");
    assert_eq!(code, 3);
    assert_eq!(server.requests().iter().filter(|request| request.path == IMAGE).count(), 1);
    server.forget(IMAGE).reply(IMAGE, Reply::file(image.as_slice()));
    assert_eq!(host.fetch().unwrap().entry.bytes, image);
}

#[test]
fn an_image_has_to_be_what_the_index_says() {
    let wrong = |key: &str, value: Value| {
        let image = firmware();
        let mut entry = entry(&image);
        entry[key] = value;
        let (server, key) = serving(&image, entry);
        let (message, code) = Host::of(&server, &key).refused();
        assert_eq!(code, 3, "{message}");
        (message, server.requests().iter().any(|request| request.path == IMAGE))
    };
    let (message, asked) = wrong("version", json!("v0.12.0"));
    assert!(
        message.contains("dictionary says Klipper v0.13.0-730-g84104bbbd for stm32f446xx; index says"),
        "{message}"
    );
    assert!(asked);
    assert!(wrong("app", json!("Kalico")).0.contains("index says Kalico"));
    let (message, asked) = wrong("mcu", json!("stm32f103xe"));
    assert!(message.contains("index says stm32f103xe; btt-octopus-v1.1-f446 carries stm32f446xx"), "{message}");
    assert!(!asked, "what contradicts the board is not even asked for");
    let (message, asked) = wrong("start", json!("0x08000000"));
    assert!(message.contains("index says 0x08000000; route katapult-usb"), "{message}");
    assert!(!asked);
}

#[test]
fn an_image_has_to_be_for_the_board() {
    let wrong = |image: Vec<u8>| {
        let (server, key) = serving(&image, entry(&image));
        let (message, code) = Host::of(&server, &key).refused();
        assert_eq!(code, 3, "{message}");
        message
    };
    let other = wrong(TestImage::klipper("stm32f446xx", 0x0800_0000).build());
    assert!(other.contains("image starts at 0x08000000; index says 0x08008000"), "{other}");
    let other = wrong(TestImage::klipper("stm32g0b1xx", 0x0800_8000).build());
    assert!(other.contains("dictionary names stm32g0b1xx"), "{other}");
    let uart = kflash::klipper::dictionary::BuiltFor::Uart(250_000);
    let other = wrong(TestImage::klipper("stm32f446xx", 0x0800_8000).built_for(uart).build());
    assert!(other.contains("image talks over a UART at 250000 baud"), "{other}");
    let other = wrong(TestImage::katapult("stm32f446xx", 0x0800_8000).build());
    assert!(other.contains("it is a Katapult bootloader"), "{other}");
    let other = wrong(TestImage::klipper("stm32f446xx", 0x0800_8000).size(600_000).build());
    assert!(other.contains("application region is 0x08008000..0x08080000"), "{other}");
    let other = wrong(b"<html><body>not found</body></html>".to_vec());
    assert!(other.contains("is no firmware"), "{other}");
}

#[test]
fn no_name_in_an_index_becomes_a_path() {
    let image = firmware();
    let hostile = ["../../../../tmp/evil", "/etc/passwd", "a\0b", "..", "\u{1b}]0;evil\u{7}", "a\nb", "~/.ssh/config"];
    for name in hostile {
        for key in ["board", "route", "url", "commit", "sha256"] {
            let mut entry = entry(&image);
            entry[key] = json!(name);
            let (server, key_pair) = serving(&image, entry);
            let host = Host::of(&server, &key_pair);
            let (message, code) = host.refused();
            assert_eq!(code, 8, "{key} {name:?}: {message}");
            assert!(message.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{message:?}");
            assert_eq!(host.files(), [] as [String; 0], "{key} {name:?}");
        }
    }
    // Text that is only shown reaches nobody's terminal as more than text.
    for key in ["version", "app", "mcu"] {
        let mut entry = entry(&image);
        entry[key] = json!("v1\u{1b}[2J");
        let (server, key_pair) = serving(&image, entry);
        assert_eq!(Host::of(&server, &key_pair).refused().1, 8);
    }
}

#[test]
fn files_in_the_cache_are_named_by_digests() {
    let image = firmware();
    let (server, key) = serving(&image, entry(&image));
    let host = Host::of(&server, &key);
    host.fetch().unwrap();
    let known = |part: &str| {
        let word =
            ["cache", "images", "indexes", "locks", "write.lock", "CACHEDIR.TAG", "seen.json", "provenance.json"];
        let digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let lock = part.trim_start_matches("downloads-").trim_start_matches("indexes-").trim_end_matches(".lock");
        word.contains(&part) || part.starts_with("klipper.") || digest(lock)
    };
    for file in host.files() {
        assert!(file.split('/').all(known), "{file}");
    }
    assert!(!host.files().iter().any(|file| file.contains(BOARD)));
}
