#![expect(clippy::unwrap_used, reason = "tests")]

mod copy;
mod damage;
mod device;
mod gc;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use tempfile::TempDir;

use super::*;
use crate::board::BoardId;
use crate::digest::Sha256;
use crate::exit::ExitCode;
use crate::image::Image;
use crate::obtain::provenance::{Built, MadeFor, Origin, Provenance};
use crate::timestamp::Timestamp;

/// A raw image with a dictionary of this version.
pub(super) fn image(version: &str) -> Vec<u8> {
    let json = format!(
        r#"{{"app": "Klipper", "version": "{version}", "config": {{"MCU": "stm32f446xx"}}, "commands": {{"identify offset=%u count=%c": 1}}}}"#
    );
    let mut stream = ZlibEncoder::new(Vec::new(), Compression::best());
    stream.write_all(json.as_bytes()).unwrap();
    [vec![0xa5; 300], stream.finish().unwrap()].concat()
}

pub(super) const CONFIG: &[u8] = b"CONFIG_MACH_STM32F446=y\n";

pub(super) fn board(id: &str) -> MadeFor {
    MadeFor { board: BoardId(id.into()), route: Some("dfu".into()) }
}

fn built(describe: &str) -> Built {
    Built {
        tree: "/home/pi/klipper".into(),
        commit: Some("84104bbb".repeat(5)),
        committed: None,
        describe: describe.into(),
        dirty: false,
        tree_sha256: None,
        requested: BTreeMap::from([("MACH_STM32F446".into(), "y".into())]),
        config_sha256: Sha256::of(CONFIG),
        toolchain: BTreeMap::from([("arm-none-eabi-gcc".into(), "12.2.1".into())]),
    }
}

fn provenance_of(bytes: &[u8], origin: Origin, id: &str) -> Provenance {
    let image = Image::parse(bytes).unwrap();
    Provenance::of(&image, bytes, origin, None, [board(id)], Timestamp::now()).unwrap()
}

/// Provenance of the image of this version, built for a board of this id.
pub(super) fn provenance(version: &str, id: &str) -> Provenance {
    provenance_of(&image(version), Origin::Built(built(version)), id)
}

pub(super) fn cache() -> (TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::at(dir.path().join("kflash"));
    (dir, cache)
}

pub(super) fn store(cache: &Cache, version: &str) -> Entry {
    cache.store(&provenance(version, "octopus"), &image(version), Some(CONFIG)).unwrap()
}

fn found(cache: &Cache, key: &Key) -> Entry {
    match cache.find(key).unwrap() {
        Lookup::Found(entry) => *entry,
        other => panic!("{other:?}"),
    }
}

fn damage(cache: &Cache, key: &Key) -> String {
    match cache.find(key).unwrap() {
        Lookup::Damaged(damage) => {
            assert_eq!(damage.key, Some(*key));
            format!("{}: {}", damage.path.file_name().unwrap().to_string_lossy(), damage.what)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_stored_is_found() {
    let (_dir, cache) = cache();
    let key = Key::of(&provenance("v1", "octopus"));
    assert_eq!(cache.find(&key).unwrap(), Lookup::Absent);
    assert!(!cache.dir().exists(), "looking makes nothing");
    let stored = store(&cache, "v1");
    assert_eq!(stored.key, key);
    assert_eq!(found(&cache, &key), stored);
    assert_eq!((stored.bytes, stored.config.as_deref()), (image("v1"), Some(CONFIG)));
    assert_eq!(Sha256::of(&stored.dictionary).to_string(), stored.image.dictionary.unwrap().sha256);
    let [listed] = &cache.list().unwrap()[..] else { panic!() };
    assert_eq!((listed.key, listed.provenance.as_ref()), (Some(key), Some(&stored.provenance)));
    assert_eq!(fs::read_dir(cache.dir().join("tmp")).unwrap().count(), 0, "nothing is left behind");
    assert!(cache.remove(&key).unwrap());
    assert_eq!((cache.find(&key).unwrap(), cache.remove(&key).unwrap()), (Lookup::Absent, false));
    assert!(cache.list().unwrap().is_empty());
}

#[test]
fn an_image_belongs_to_many_boards() {
    let (_dir, cache) = cache();
    let first = store(&cache, "v1");
    let second = cache.store(&provenance("v1", "spider"), &image("v1"), Some(CONFIG)).unwrap();
    assert_eq!(first.key, second.key);
    assert_eq!(second.provenance.boards, [board("octopus"), board("spider")].into());
    // From an entry that was read before the other board was added.
    cache.made_for(first, [&board("leviathan")]).unwrap();
    let all = found(&cache, &second.key);
    assert_eq!(all.provenance.boards, [board("leviathan"), board("octopus"), board("spider")].into());
}

#[test]
fn the_key_is_all_that_makes_an_image_and_nothing_else() {
    let key = |change: fn(&mut Built)| {
        let mut built = built("v1");
        change(&mut built);
        Key::of_build(&built)
    };
    let same = key(|_| ());
    assert_eq!(key(|built| built.tree = "/elsewhere".into()), same);
    assert_eq!(key(|built| built.requested.clear()), same);
    let changes: [fn(&mut Built); 6] = [
        |built| built.commit = None,
        |built| built.tree_sha256 = Some(Sha256::of(b"tree")),
        |built| built.describe = "v2".into(),
        |built| built.config_sha256 = Sha256::of(b"config"),
        |built| built.toolchain = BTreeMap::from([("arm-none-eabi-gcc".into(), "12.2.2".into())]),
        |built| built.toolchain = BTreeMap::from([("arm-none-eabi-gcc12.2.1".into(), String::new())]),
    ];
    let mut keys: Vec<_> = changes.map(key).into();
    let sha256 = Sha256::of(b"image");
    keys.extend([same, Key::of_fetched(&sha256), Key::of_file(&sha256)]);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 9);
}

#[test]
fn damage_is_told_not_used_and_mended_by_storing_again() {
    type DamageIt<'a> = &'a dyn Fn(&Path);
    let (dir, cache) = cache();
    let Entry { key, path, .. } = store(&cache, "v1");
    let cases: [(&str, DamageIt<'_>); 8] = [
        ("klipper.bin: its bytes are not those that were stored", &|path| fs::write(path, image("v2")).unwrap()),
        ("klipper.bin: it is missing", &|path| fs::remove_file(path).unwrap()),
        ("klipper.dict: its bytes are not those that were stored", &|path| fs::write(path, "{}").unwrap()),
        ("config: its bytes are not those that were stored", &|path| fs::write(path, "").unwrap()),
        ("config: it is no file", &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("klipper.bin: it has more than 16777216 bytes", &|path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 40).unwrap();
        }),
        ("provenance.json: its bytes are not those that were stored", &|path| {
            let text = fs::read_to_string(path).unwrap();
            fs::write(path, text.replace("octopus", "octopod")).unwrap();
        }),
        ("klipper.bin: it is a symbolic link", &|path| {
            let elsewhere = dir.path().join("elsewhere");
            fs::rename(path, &elsewhere).unwrap();
            symlink(elsewhere, path).unwrap();
        }),
    ];
    for (said, damage_it) in cases {
        damage_it(&path.join(said.split(':').next().unwrap()));
        assert_eq!(damage(&cache, &key), said);
        let [listed] = &cache.list().unwrap()[..] else { panic!() };
        assert!(listed.provenance.is_none() && listed.damage.is_some());
        store(&cache, "v1");
        found(&cache, &key);
    }
    // The directory itself.
    for plant in
        [|path: &Path, to: &Path| symlink(to, path).unwrap(), |path: &Path, _: &Path| fs::write(path, "x").unwrap()]
    {
        let precious = dir.path().join("precious");
        fs::rename(&path, &precious).unwrap();
        plant(&path, &precious);
        assert!(damage(&cache, &key).starts_with(&key.to_string()), "{}", damage(&cache, &key));
        store(&cache, "v1");
        found(&cache, &key);
        assert!(precious.join("klipper.bin").is_file(), "what a link leads to is left alone");
        fs::remove_dir_all(&precious).unwrap();
    }
}

#[test]
fn an_entry_in_another_ones_place_is_not_that_one() {
    let (_dir, cache) = cache();
    let (one, two) = (store(&cache, "v1"), store(&cache, "v2"));
    fs::remove_dir_all(&two.path).unwrap();
    fs::rename(&one.path, &two.path).unwrap();
    assert_eq!(damage(&cache, &two.key), "provenance.json: it is another image's");
}

#[test]
fn what_contradicts_itself_is_not_stored() {
    let (_dir, cache) = cache();
    let v1 = provenance("v1", "octopus");
    let refused = |bytes: &[u8], config: Option<&[u8]>| {
        let error = cache.store(&v1, bytes, config).unwrap_err();
        assert_eq!(error.exit(), ExitCode::Refused, "{error}");
    };
    refused(&image("v2"), Some(CONFIG));
    refused(&image("v1"), Some(b"CONFIG_OTHER=y\n"));
    refused(&image("v1"), None);
    refused(b"", Some(CONFIG));
    refused(&[1, 2, 3], Some(CONFIG));
}

#[test]
fn a_cache_that_others_may_write_to_is_refused() {
    let (_dir, cache) = cache();
    let Entry { key, .. } = store(&cache, "v1");
    let mode = |mode| fs::set_permissions(cache.dir(), fs::Permissions::from_mode(mode)).unwrap();
    assert_eq!(fs::metadata(cache.dir()).unwrap().permissions().mode() & 0o7777, 0o700);
    for (bits, who) in [(0o777, "every user"), (0o1777, "every user"), (0o770, "group ")] {
        mode(bits);
        let error = cache.find(&key).unwrap_err();
        assert!(error.to_string().contains(who), "{error}");
        assert_eq!(error.exit(), ExitCode::Denied);
        assert!(cache.store(&provenance("v2", "octopus"), &image("v2"), Some(CONFIG)).is_err());
        assert!(cache.list().is_err() && cache.scratch("work").is_err() && cache.remove(&key).is_err());
    }
    mode(0o755);
    found(&cache, &key);
}

#[test]
fn a_folder_that_leads_elsewhere_is_not_written_to() {
    for folder in ["images", "tmp", "locks"] {
        let (dir, cache) = cache();
        let elsewhere = dir.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::create_dir(cache.dir()).unwrap();
        symlink(&elsewhere, cache.dir().join(folder)).unwrap();
        assert!(cache.store(&provenance("v1", "octopus"), &image("v1"), Some(CONFIG)).is_err());
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }
}

#[test]
fn a_key_is_claimed_by_one_at_a_time() {
    let (_dir, cache) = cache();
    let key = Key::of_file(&Sha256::of(b""));
    let claim = cache.claim(&key, &mut |_| panic!("nobody holds it")).unwrap().unwrap();
    let mut holders = Vec::new();
    let not_waited_for = cache.claim(&key, &mut |pid| {
        holders.push(pid);
        holders.len() < 3
    });
    assert!(not_waited_for.unwrap().is_none());
    assert_eq!(holders, [Some(std::process::id()); 3]);
    assert!(cache.claim(&Key::of_fetched(&Sha256::of(b"")), &mut |_| false).unwrap().is_some(), "another key is free");
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cache.claim(&key, &mut |_| true).unwrap().is_some());
        drop(claim);
        waiting.join().unwrap()
    });
    assert!(waiting);
}

#[test]
fn folders_are_shared_or_claimed_alone_and_their_names_lead_nowhere() {
    let (_dir, cache) = cache();
    let claim = |shared| cache.claim_folder(Shelf::Trees, "84104bbb", shared, &mut |_| false).unwrap();
    let (one, two) = (claim(true).unwrap(), claim(true).unwrap());
    assert_eq!(one.path(), cache.dir().join("trees/84104bbb"));
    assert!(claim(false).is_none());
    drop((one, two));
    let alone = claim(false).unwrap();
    assert!(claim(true).is_none());
    drop(alone);
    for name in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a b", "a\0", &"x".repeat(129)] {
        let error = cache.claim_folder(Shelf::Git, name, true, &mut |_| false).unwrap_err();
        assert_eq!(error.exit(), ExitCode::Usage, "{name:?}: {error}");
    }
}

#[test]
fn scratch_directories_go_when_their_work_is_done() {
    let (_dir, cache) = cache();
    let scratch = cache.scratch("build").unwrap();
    let other = cache.scratch("build").unwrap();
    fs::write(scratch.path().join("half"), "written").unwrap();
    assert_ne!(scratch.path(), other.path());
    let path: PathBuf = scratch.path().into();
    drop(scratch);
    assert!(!path.exists() && other.path().is_dir());
    drop(other);
    assert_eq!(fs::read_dir(cache.dir().join("tmp")).unwrap().count(), 0);
}
