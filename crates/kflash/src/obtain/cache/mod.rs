//! The cache: images with their provenance, what each device ran, and the working directories of builds.
//!
//! ```text
//! images/KEY/   klipper.bin (or .uf2, .elf.hex, .elf), klipper.dict, config, provenance.json
//! devices/      what each device ran
//! git/ trees/   repositories and checkouts of builds    logs/  their output
//! downloads/    what came before a download was cut off  indexes/  the newest index seen at each place
//! resolved/     configurations by what was asked for
//! tmp/          work in progress                        locks/ who works on what
//! ```
//!
//! Many runs may share a cache. Whatever is stored is written and flushed in `tmp/` and then moved into its place in one
//! step, under one lock, so that a run killed at any moment leaves an entry whole or not there; what it leaves in `tmp/`
//! is known by a lock that died with it. Every read compares every byte with its digest: what differs is damaged, and is
//! not used.
//!
//! Digests tell accidents, not forgery: whoever can write to the cache can have any firmware flashed. So a cache is only
//! used if it belongs to this user or to root, and nobody else may write to it; one that kflash makes is for its user
//! alone.

mod copy;
mod device;
mod entry;
mod error;
mod files;
mod folder;
mod gc;
mod key;
mod lock;
mod resolved;
mod scratch;
mod sealed;
mod store;

use std::path::{Path, PathBuf};

pub use self::copy::is_copy;
pub use self::device::{DeviceKeys, Memory, Previous, Ran, RanImage, Remembered};
pub use self::entry::{Entry, Listed, Lookup};
pub use self::error::{CacheError, Damage};
pub use self::folder::{LOGS, Shelf};
pub use self::gc::{NotRemoved, Removed, Swept, Why};
pub use self::key::Key;
pub use self::lock::Claim;
pub use self::scratch::Scratch;

/// A cache in a directory. Nothing is made before something is stored.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// The cache in `dir`, which need not exist.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

#[cfg(test)]
mod tests;
