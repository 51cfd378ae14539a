//! What accidents and enemies do to an entry.

use std::fs;

use serde_json::{Value, json};

use super::{cache, damage, found, image, provenance, provenance_of, store};
use crate::obtain::cache::{Cache, Entry, Lookup, sealed};
use crate::obtain::provenance::{Origin, Provenance};

const FILES: [&str; 4] = ["klipper.bin", "klipper.dict", "config", "provenance.json"];

fn is_damaged(cache: &Cache, entry: &Entry) -> bool {
    matches!(cache.find(&entry.key).unwrap(), Lookup::Damaged(_))
}

#[test]
fn every_byte_counts() {
    let (_dir, cache) = cache();
    let entry = store(&cache, "v1");
    for name in FILES {
        let path = entry.path.join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, flipped).unwrap();
            assert!(is_damaged(&cache, &entry), "byte {at} of {name}");
        }
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(is_damaged(&cache, &entry), "{name} cut to {length} bytes");
        }
        fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
        assert!(is_damaged(&cache, &entry), "a byte after {name}");
        fs::write(&path, &whole).unwrap();
        assert_eq!(found(&cache, &entry.key), entry);
    }
}

/// What is said of an entry whose provenance an enemy changed, digest included.
fn forged(change: impl FnOnce(&mut Value)) -> String {
    let (_dir, cache) = cache();
    let entry = store(&cache, "v1");
    let path = entry.path.join("provenance.json");
    let mut json: Value = serde_json::from_slice(&sealed::unseal(&fs::read(&path).unwrap()).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, sealed::seal(&json).unwrap()).unwrap();
    damage(&cache, &entry.key)
}

#[test]
fn forged_provenance_is_compared_with_the_image() {
    let differs = "its bytes are not those that were stored";
    let other = "provenance.json: it says other things of the image than the image does";
    let malformed = |said: String| assert!(said.starts_with("provenance.json: provenance is malformed: "), "{said}");
    let contradicts = |said: String, what: &str| {
        assert_eq!(said, format!("provenance.json: provenance contradicts itself: {what}"));
    };
    assert_eq!(forged(|json| json["version"] = "v2".into()), other);
    assert_eq!(forged(|json| json["app"] = "Kalico".into()), other);
    assert_eq!(forged(|json| json["mcu"] = Value::Null), other);
    for name in ["../../../../etc/passwd", "/etc/passwd", "provenance.json", "klipper.dict", "", ".", "klipper.bin\0"] {
        contradicts(forged(|json| json["image"]["name"] = name.into()), "no image has this name");
    }
    assert_eq!(forged(|json| json["image"]["name"] = "klipper.uf2".into()), "klipper.uf2: it is missing");
    contradicts(forged(|json| json["image"]["size"] = 0.into()), "no image has this size");
    contradicts(forged(|json| json["image"]["size"] = u64::MAX.into()), "no image has this size");
    assert_eq!(forged(|json| json["image"]["size"] = 1.into()), format!("klipper.bin: {differs}"));
    assert_eq!(
        forged(|json| json["image"]["sha256"] = json["dictionary_sha256"].clone()),
        format!("klipper.bin: {differs}")
    );
    assert_eq!(
        forged(|json| json["dictionary_sha256"] = json["image"]["sha256"].clone()),
        format!("klipper.dict: {differs}")
    );
    malformed(forged(|json| json["image"]["sha256"] = "A".repeat(64).into()));
    malformed(forged(|json| json["start"] = "0x100000000".into()));
    malformed(forged(|json| json["time"] = "yesterday".into()));
    malformed(forged(|json| json["more"] = 1.into()));
    malformed(forged(|json| json["origin"] = json!({"sent": {}})));
    malformed(forged(|json| drop(json.as_object_mut().unwrap().remove("boards"))));
    contradicts(forged(|json| json["format"] = 2.into()), "its layout is of another version of kflash");
    contradicts(forged(|json| json["origin"]["built"]["commit"] = "HEAD".into()), "a commit is 40 or 64 hex digits");
    contradicts(
        forged(|json| json["origin"]["built"]["dirty"] = true.into()),
        "either the commit or a digest tells the tree",
    );
    assert_eq!(
        forged(|json| json["origin"]["built"]["describe"] = "v2".into()),
        "provenance.json: it is another image's"
    );
    assert_eq!(
        forged(|json| json["kflash"] = "x".repeat(300 * 1024).into()),
        "provenance.json: it has more than 262144 bytes"
    );
}

#[test]
fn json_that_is_nested_without_end_is_malformed() {
    let (_dir, cache) = cache();
    let entry = store(&cache, "v1");
    let path = entry.path.join("provenance.json");
    let json = format!("{{\"format\": {}", "[".repeat(200_000));
    let rest = json.strip_prefix('{').unwrap();
    let digest = crate::digest::Sha256::of(rest.as_bytes());
    fs::write(&path, format!("{{\n  \"sha256\": \"{digest}\",{rest}")).unwrap();
    assert!(damage(&cache, &entry.key).contains("provenance is malformed"));
}

#[test]
fn provenance_is_read_as_it_is_written() {
    let fetched = |key_id| {
        Origin::Fetched(crate::obtain::provenance::Fetched {
            index: "https://farm.local/index.json".into(),
            key_id,
            url: "https://farm.local/x.bin".into(),
            version: "v1".into(),
            commit: Some("84104bbb".into()),
        })
    };
    let origins = [fetched(None), fetched(Some("RW".into())), Origin::File { path: "\u{1b}/x".into() }];
    let others = origins.map(|origin| provenance_of(&image("v1"), origin, "octopus"));
    for provenance in others.into_iter().chain([provenance("v1", "octopus")]) {
        let json = serde_json::to_vec(&provenance).unwrap();
        assert_eq!(Provenance::parse(&json).unwrap(), provenance);
    }
}
