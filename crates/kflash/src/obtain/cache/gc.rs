//! Removing what nobody needs any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::device::kept;
use super::folder::{LOCKS, LOGS, RESOLVED, TMP, size};
use super::lock::{self, WRITE, folder_lock};
use super::scratch::LOCK;
use super::{Cache, CacheError, Shelf};
use crate::timestamp::Timestamp;

/// What gc did, or would do.
#[derive(Debug, Default, Serialize)]
pub struct Swept {
    /// What was removed.
    pub removed: Vec<Removed>,
    /// What could not be.
    pub failed: Vec<NotRemoved>,
    /// Images that stay.
    pub images_kept: usize,
}

/// Something that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its path in the cache, such as `images/KEY`.
    pub path: PathBuf,
    /// Bytes that it took.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// Something that could not be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotRemoved {
    /// Its path in the cache.
    pub path: PathBuf,
    /// Why not.
    pub error: String,
}

/// Why something is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It is damaged, and not used for that.
    Damaged,
    /// It was not used for long.
    Unused,
    /// Work of a process that is no more.
    Leftover,
}

impl Cache {
    /// Removes images, downloads, repositories, checkouts, logs and resolved configurations that were not used for
    /// `unused_for` before `now`, what is damaged, and the leftovers of processes that are no more. With `dry_run` only
    /// says what that would be.
    ///
    /// What a device runs, or ran before, stays; so does what another process works on.
    pub fn gc(&self, unused_for: Duration, now: Timestamp, dry_run: bool) -> Result<Swept, CacheError> {
        let mut sweep = Sweep { cache: self, dry_run, swept: Swept::default() };
        let old = |used: Timestamp| now.since(used) >= unused_for;
        // Leftovers first: on a full disk what follows needs some room.
        for path in self.names(TMP)? {
            sweep.leftover(&path);
        }
        let memory = self.devices()?;
        let kept = kept(&memory);
        for damage in &memory.damage {
            sweep.remove(&damage.path, Why::Damaged, || self.discard(&damage.path));
        }
        for listed in self.list()? {
            let path = match (&listed.key, &listed.damage) {
                (_, Some(damage)) if listed.key.is_none() => damage.path.clone(),
                (Some(key), _) => self.image_path(key),
                (None, _) => continue,
            };
            let why = match &listed.provenance {
                None => Why::Damaged,
                Some(provenance) => {
                    let needed = kept.iter().any(|ran| match &ran.image {
                        Some(image) => provenance.image.sha256 == image.sha256,
                        None => provenance.dictionary_sha256 == ran.dictionary_sha256,
                    });
                    if needed || !old(listed.used) {
                        sweep.swept.images_kept += 1;
                        continue;
                    }
                    Why::Unused
                }
            };
            sweep.remove(&path, why, || self.discard(&path));
        }
        for shelf in [Shelf::Downloads, Shelf::Git, Shelf::Trees] {
            for path in self.names(shelf.name())?.into_iter().filter(|path| old(used(path))) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let lock = self.at_folder(LOCKS).join(folder_lock(shelf, &name));
                sweep.unless_held(&lock, &path, Why::Unused, || self.discard(&path));
            }
        }
        for folder in [LOGS, RESOLVED] {
            for path in self.names(folder)?.into_iter().filter(|path| old(used(path))) {
                sweep.remove(&path, Why::Unused, || self.discard(&path));
            }
        }
        if !dry_run {
            for path in self.names(LOCKS)?.into_iter().filter(|path| !path.ends_with(WRITE)) {
                // Locks that nobody holds are nothing but names; what fails here is tried again another time.
                if let Ok(Ok(_held)) = lock::take(&path, false) {
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(sweep.swept)
    }
}

struct Sweep<'a> {
    cache: &'a Cache,
    dry_run: bool,
    swept: Swept,
}

impl Sweep<'_> {
    /// Removes `path` by `remove`, which says whether it was still there. What fails stops nothing else.
    fn remove(&mut self, path: &Path, why: Why, remove: impl FnOnce() -> Result<bool, CacheError>) {
        let name = path.strip_prefix(self.cache.dir()).unwrap_or(path).to_owned();
        let bytes = size(path);
        match if self.dry_run { Ok(true) } else { remove() } {
            Ok(true) => self.swept.removed.push(Removed { path: name, bytes, why }),
            Ok(false) => {}
            Err(error) => self.swept.failed.push(NotRemoved { path: name, error: error.to_string() }),
        }
    }

    /// The same, if nobody holds `lock`; holding it meanwhile.
    fn unless_held(&mut self, lock: &Path, path: &Path, why: Why, remove: impl FnOnce() -> Result<bool, CacheError>) {
        if self.dry_run && !lock.exists() {
            return self.remove(path, why, remove);
        }
        match lock::take(lock, false) {
            Ok(Ok(_held)) => self.remove(path, why, remove),
            Ok(Err(_)) => {}
            Err(error) => self.remove(path, why, || Err(error)),
        }
    }

    /// Removes a directory of work in progress, or its lock, if its process is no more.
    fn leftover(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        let of_lock = name.to_str().and_then(|name| name.strip_suffix(LOCK));
        // A lock goes with its directory.
        if of_lock.is_some_and(|work| path.with_file_name(work).exists() || !path.exists()) {
            return;
        }
        if of_lock.is_some() {
            return self.unless_held(path, path, Why::Leftover, || removed(path, fs::remove_file(path)));
        }
        let mut lock = path.as_os_str().to_owned();
        lock.push(LOCK);
        let lock = PathBuf::from(lock);
        self.unless_held(&lock, path, Why::Leftover, || {
            let is_dir = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
            let gone = removed(path, if is_dir { fs::remove_dir_all(path) } else { fs::remove_file(path) })?;
            removed(&lock, fs::remove_file(&lock))?;
            Ok(gone)
        });
    }
}

fn removed(path: &Path, result: io::Result<()>) -> Result<bool, CacheError> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(CacheError::io("remove", path)(error)),
    }
}

/// When something was last used, as its time of modification tells.
fn used(path: &Path) -> Timestamp {
    fs::symlink_metadata(path).and_then(|found| found.modified()).map(Timestamp::from).unwrap_or_default()
}
