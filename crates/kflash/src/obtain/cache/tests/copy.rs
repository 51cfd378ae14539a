use std::path::Path;

use super::*;
use crate::obtain::{self, From, ObtainError};

fn copy(path: &Path) -> Entry {
    match Entry::read_copy(path).unwrap() {
        Lookup::Found(entry) => *entry,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_is_all_that_the_cache_holds_and_takes_the_place_of_an_older_one() {
    let (dir, cache) = cache();
    let to = dir.path().join("mcu");
    for version in ["v1", "v2"] {
        let entry = store(&cache, version);
        entry.copy_to(&to).unwrap();
        assert!(is_copy(&to));
        assert_eq!(copy(&to), Entry { path: to.canonicalize().unwrap(), ..entry });
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the cache, and the copy");
    let obtained = obtain::file(&to).unwrap();
    assert_eq!((obtained.bytes, obtained.from), (image("v2"), From::File(to)));
}

#[test]
fn what_is_no_copy_is_left_alone() {
    let (dir, cache) = cache();
    let entry = store(&cache, "v1");
    let to = dir.path().join("documents");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("thesis"), "x").unwrap();
    let error = entry.copy_to(&to).unwrap_err();
    assert!(error.to_string().contains("something else"), "{error}");
    assert!(to.join("thesis").exists());
    assert!(matches!(obtain::file(&to), Err(ObtainError::NotAFile { what: "a directory", .. })));
}

#[test]
fn a_damaged_copy_is_no_firmware() {
    let (dir, cache) = cache();
    let to = dir.path().join("mcu");
    let entry = store(&cache, "v1");
    for name in ["klipper.bin", "klipper.dict", "config", "provenance.json"] {
        entry.copy_to(&to).unwrap();
        let path = to.join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let error = obtain::file(&to).unwrap_err();
        assert!(matches!(&error, ObtainError::Damaged { path, .. } if path.ends_with(name)), "{error}");
        assert_eq!(error.exit(), ExitCode::Refused);
        if name != "provenance.json" {
            fs::remove_file(path).unwrap();
            assert_eq!(obtain::file(&to).unwrap_err().exit(), ExitCode::Refused);
        }
    }
}
