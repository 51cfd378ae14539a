//! The directories of the cache: made for their user alone, and refused where others may write.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::{Cache, CacheError};

/// Tells backup programs that nothing in here is worth keeping (bford.info/cachedir).
const TAG: (&str, &str) = ("CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# The cache of kflash.\n");

/// A directory of the cache that others work in by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    /// Downloads that were cut off.
    Downloads,
    /// What was seen of indexes of prebuilt firmware. Stays, as long as the cache does.
    Indexes,
    /// Repositories that were cloned.
    Git,
    /// Checkouts, by commit.
    Trees,
}

pub(super) const IMAGES: &str = "images";
pub(super) const DEVICES: &str = "devices";
pub(super) const TMP: &str = "tmp";
pub(super) const LOCKS: &str = "locks";
/// What was resolved before, under the digest of what was asked for.
pub(super) const RESOLVED: &str = "resolved";
/// The directory of the output of builds.
pub const LOGS: &str = "logs";

impl Shelf {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Downloads => "downloads",
            Self::Indexes => "indexes",
            Self::Git => "git",
            Self::Trees => "trees",
        }
    }
}

impl Cache {
    /// The directory of build logs; made if it is not there.
    pub fn logs(&self) -> Result<PathBuf, CacheError> {
        self.make(LOGS)
    }

    /// Whether there is a cache; an error if it is one that others may write to.
    pub(super) fn is_there(&self) -> Result<bool, CacheError> {
        let found = match fs::metadata(&self.dir) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(CacheError::io("read", &self.dir)(error)),
        };
        if !found.is_dir() {
            return Err(CacheError::NoDirectory(self.dir.clone()));
        }
        let untrusted = |why| CacheError::Untrusted { path: self.dir.clone(), why };
        let us = rustix::process::geteuid().as_raw();
        // As sshd does for its keys: root can do anything anyway, everybody else could plant firmware.
        if found.uid() != us && found.uid() != 0 {
            return Err(untrusted(format!("it belongs to user {}", found.uid())));
        }
        match found.mode() {
            mode if mode & 0o002 != 0 => Err(untrusted("every user may write to it".into())),
            mode if mode & 0o020 != 0 => Err(untrusted(format!("group {} may write to it", found.gid()))),
            _ => Ok(true),
        }
    }

    /// The path of one of its directories.
    pub(super) fn at_folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// One of its directories; made if it is not there.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf, CacheError> {
        if !self.is_there()? {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.dir);
            made.map_err(CacheError::io("make the cache", &self.dir))?;
            self.is_there()?;
            // Only for others: a cache without it works.
            let _ = fs::write(self.dir.join(TAG.0), TAG.1);
        }
        let path = self.at_folder(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(CacheError::io("make", &path)(error)),
            Ok(()) => Ok(path),
            // A link could lead what is written, and what gc removes, anywhere.
            Err(_) if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) => Ok(path),
            Err(_) => Err(CacheError::NoDirectory(path)),
        }
    }
}

/// Bytes of all files below `path`. No link is followed.
pub(super) fn size(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| size(&entry.path())).sum()
}
