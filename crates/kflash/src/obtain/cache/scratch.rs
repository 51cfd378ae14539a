//! Directories for work in progress.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::folder::TMP;
use super::lock::{Held, take};
use super::{Cache, CacheError, Claim};
use crate::timestamp::Timestamp;

/// Ends the name of the lock beside a directory in `tmp/`.
pub(super) const LOCK: &str = ".lock";

/// A directory for work in progress, in the cache's file system; removed when this is dropped. One whose process was
/// killed is removed by [`Cache::gc`].
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock: PathBuf,
    _claim: Claim,
}

impl Cache {
    /// A new directory for work; `purpose` is a word for those who look into `tmp/`.
    pub fn scratch(&self, purpose: &str) -> Result<Scratch, CacheError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let tmp = self.make(TMP)?;
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let (pid, now) = (std::process::id(), Timestamp::now().seconds());
            let name = format!("{purpose}-{now}-{pid}-{number}");
            let (path, lock) = (tmp.join(&name), tmp.join(name + LOCK));
            // The lock is there before the directory and stays until after it: a directory without one is nobody's.
            let file = match take(&lock, false)? {
                Ok(file) => file,
                // gc just looks at it, or another machine has the same names.
                Err(Held(_)) => continue,
            };
            let claim = Claim::new(file, lock.clone());
            DirBuilder::new().mode(0o700).create(&path).map_err(CacheError::io("make", &path))?;
            return Ok(Scratch { path, lock, _claim: claim });
        }
    }
}

impl Scratch {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now gc finds later.
        if fs::remove_dir_all(&self.path).is_ok() {
            let _ = fs::remove_file(&self.lock);
        }
    }
}
