//! Removing what nobody needs any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{cache, store};
use crate::board::BoardId;
use crate::digest::Sha256;
use crate::obtain::cache::{Cache, DeviceKeys, Entry, Lookup, Ran, RanImage, Shelf, Swept, Why};
use crate::timestamp::Timestamp;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A sweep of what was not used for 30 days, in as many days from now.
fn gc(cache: &Cache, in_days: u32, dry_run: bool) -> Swept {
    let swept = cache.gc(30 * DAY, Timestamp::from(SystemTime::now() + in_days * DAY), dry_run).unwrap();
    assert!(swept.failed.is_empty(), "{swept:?}");
    swept
}

fn removed(swept: &Swept) -> Vec<(PathBuf, Why)> {
    swept.removed.iter().map(|removed| (removed.path.clone(), removed.why)).collect()
}

fn is_there(cache: &Cache, entry: &Entry) -> bool {
    matches!(cache.find(&entry.key).unwrap(), Lookup::Found(_))
}

fn ran(entry: &Entry, image: bool) -> Ran {
    let image = image.then_some(RanImage { key: entry.key, sha256: entry.provenance.image.sha256 });
    Ran {
        time: Timestamp::now(),
        board: BoardId("octopus".into()),
        app: "Klipper".into(),
        version: entry.provenance.version.clone(),
        dictionary_sha256: entry.provenance.dictionary_sha256,
        image,
    }
}

#[test]
fn what_is_old_and_not_needed_goes() {
    let (_dir, cache) = cache();
    assert!(gc(&cache, 31, false).removed.is_empty());
    assert!(!cache.dir().exists(), "nothing is made");
    let entry = store(&cache, "v1");
    assert!(gc(&cache, 29, false).removed.is_empty());
    assert!(is_there(&cache, &entry));
    let path = Path::new("images").join(entry.key.to_string());
    let dry = gc(&cache, 31, true);
    assert_eq!((removed(&dry), dry.images_kept), (vec![(path, Why::Unused)], 0));
    assert_eq!(dry.removed[0].bytes, cache.list().unwrap()[0].bytes);
    assert!(is_there(&cache, &entry), "a dry run removes nothing");
    assert_eq!(removed(&gc(&cache, 31, false)), removed(&dry));
    assert!(!is_there(&cache, &entry));
}

#[test]
fn using_an_image_keeps_it() {
    let (_dir, cache) = cache();
    let entry = store(&cache, "v1");
    let long_ago = SystemTime::now() - 40 * DAY;
    fs::File::open(&entry.path).unwrap().set_modified(long_ago).unwrap();
    assert_eq!(gc(&cache, 0, true).removed.len(), 1);
    assert!(is_there(&cache, &entry));
    assert!(gc(&cache, 0, false).removed.is_empty());
}

#[test]
fn what_a_device_runs_or_ran_before_stays() {
    let (_dir, cache) = cache();
    let entries: Vec<_> = ["v1", "v2", "v3", "v4"].iter().map(|version| store(&cache, version)).collect();
    let device = |serial: &str| DeviceKeys { serial: Some(serial.into()), place: "1-1".into() };
    let by = |n: usize, image| ran(&entries[n], image);
    cache.remember(&device("a"), [by(0, true), by(1, false), by(2, true), by(1, false), by(2, true)]).unwrap();
    cache.remember(&device("b"), [by(2, true)]).unwrap();
    let swept = gc(&cache, 1000, false);
    assert_eq!((swept.removed.len(), swept.images_kept), (2, 2));
    let left: Vec<_> = entries.iter().map(|entry| is_there(&cache, entry)).collect();
    assert_eq!(left, [false, true, true, false]);
}

#[test]
fn damage_goes_at_once() {
    let (_dir, cache) = cache();
    let (bad, good) = (store(&cache, "v1"), store(&cache, "v2"));
    cache.remember(&DeviceKeys { serial: None, place: "1-1".into() }, [ran(&bad, true), ran(&good, true)]).unwrap();
    fs::remove_file(bad.path.join("klipper.bin")).unwrap();
    fs::write(cache.dir().join("images/readme"), "no key").unwrap();
    fs::write(cache.dir().join("devices/readme"), "no device").unwrap();
    let swept = gc(&cache, 0, false);
    assert!(swept.removed.iter().all(|removed| removed.why == Why::Damaged));
    assert_eq!((swept.removed.len(), swept.images_kept), (3, 1));
    assert!(is_there(&cache, &good));
    assert_eq!((cache.list().unwrap().len(), cache.devices().unwrap().damage.len()), (1, 0));
}

#[test]
fn leftovers_of_the_dead_go_and_work_in_progress_stays() {
    let (_dir, cache) = cache();
    let alive = cache.scratch("build").unwrap();
    let tmp = cache.dir().join("tmp");
    // As a killed run leaves them: a directory with its lock, and either alone.
    fs::create_dir_all(tmp.join("build-1-2-3/deep/down")).unwrap();
    fs::write(tmp.join("build-1-2-3/half"), "written").unwrap();
    fs::write(tmp.join("build-1-2-3.lock"), "99").unwrap();
    fs::create_dir(tmp.join("store-1-2-4")).unwrap();
    fs::write(tmp.join("store-1-2-5.lock"), "99").unwrap();
    let dry = gc(&cache, 0, true);
    assert_eq!(dry.removed.len(), 3, "{dry:?}");
    assert!(tmp.join("build-1-2-3/half").exists() && !tmp.join("store-1-2-4.lock").exists());
    assert_eq!(removed(&gc(&cache, 0, false)), removed(&dry));
    assert!(alive.path().is_dir());
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 2, "the living directory and its lock");
    drop(alive);
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn a_link_is_removed_and_not_what_it_leads_to() {
    let (dir, cache) = cache();
    let precious = dir.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("data"), "data").unwrap();
    drop(cache.scratch("x").unwrap());
    cache.logs().unwrap();
    for name in ["tmp/build-1-2-3", "images", "logs/link"] {
        std::os::unix::fs::symlink(&precious, cache.dir().join(name)).unwrap();
    }
    let later = Timestamp::from(SystemTime::now() + 31 * DAY);
    cache.gc(30 * DAY, later, false).unwrap();
    assert_eq!(fs::read_to_string(precious.join("data")).unwrap(), "data");
    assert!(!cache.dir().join("tmp/build-1-2-3").is_symlink() && !cache.dir().join("logs/link").is_symlink());
}

#[test]
fn trees_and_logs_go_when_they_are_old_and_nobody_works_on_them() {
    let (_dir, cache) = cache();
    for name in ["used", "unused"] {
        let claim = cache.claim_folder(Shelf::Trees, name, false, &mut |_| false).unwrap().unwrap();
        fs::create_dir(claim.path()).unwrap();
        fs::write(claim.path().join("Makefile"), "all:").unwrap();
    }
    fs::write(cache.logs().unwrap().join("build.log"), "make").unwrap();
    assert!(gc(&cache, 29, false).removed.is_empty());
    let used = cache.claim_folder(Shelf::Trees, "used", true, &mut |_| false).unwrap().unwrap();
    let expected = [("trees/unused".into(), Why::Unused), ("logs/build.log".into(), Why::Unused)];
    assert_eq!(removed(&gc(&cache, 31, true)), expected);
    assert_eq!(removed(&gc(&cache, 31, false)), expected);
    assert!(used.path().join("Makefile").is_file());
    drop(used);
    // Locks without a holder go, too, and no lock that is held.
    let locks = || {
        let names = fs::read_dir(cache.dir().join("locks")).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let key = crate::obtain::cache::Key::of_file(&Sha256::of(b""));
    let claim = cache.claim(&key, &mut |_| false).unwrap();
    gc(&cache, 0, false);
    assert_eq!(locks(), [format!("{key}.lock"), "write.lock".into()]);
    drop(claim);
    gc(&cache, 0, false);
    assert_eq!(locks(), ["write.lock"]);
}
