//! A cache's image as a directory elsewhere, with all that is known of it: to be read where there is no such cache.

use std::fs;
use std::io;
use std::path::Path;

use super::entry::{CONFIG, DICTIONARY, PROVENANCE, read};
use super::files::{Fault, Folder};
use super::{CacheError, Damage, Entry, Lookup, store};

impl Entry {
    /// Writes it to the directory `to`, which is made, or replaced if it holds an image; whoever looks meanwhile sees the
    /// one before, none, or this.
    pub fn copy_to(&self, to: &Path) -> Result<(), CacheError> {
        if fs::symlink_metadata(to).is_ok() && !is_copy(to) {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "there is something else, and no image");
            return Err(CacheError::io("write", to)(source));
        }
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let [new, old] = ["new", "old"].map(|what| to.with_file_name(format!(".{name}.{what}.{}", std::process::id())));
        let written = self.write(&new).and_then(|()| {
            let there = fs::rename(to, &old).is_ok();
            fs::rename(&new, to).map_err(CacheError::io("write", to))?;
            if there { fs::remove_dir_all(&old).map_err(CacheError::io("remove", &old)) } else { Ok(()) }
        });
        if written.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        written
    }

    fn write(&self, folder: &Path) -> Result<(), CacheError> {
        let put = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).map_err(CacheError::io("write", &path))
        };
        fs::create_dir(folder).map_err(CacheError::io("make", folder))?;
        put(&self.provenance.image.name, &self.bytes)?;
        put(DICTIONARY, &self.dictionary)?;
        if let Some(config) = &self.config {
            put(CONFIG, config)?;
        }
        put(PROVENANCE, &store::text(&self.provenance)?)
    }

    /// Reads the copy in the directory `path`, and compares all that can be compared.
    pub fn read_copy(path: &Path) -> Result<Lookup, CacheError> {
        let damaged = |path, what| Ok(Lookup::Damaged(Damage { key: None, path, what }));
        // A person's own link to a copy is none of a hostile cache.
        let Ok(path) = path.canonicalize() else { return Ok(Lookup::Absent) };
        match Folder::open(&path).and_then(|folder| read(&folder, &path, None)) {
            Ok(entry) => Ok(Lookup::Found(Box::new(entry))),
            Err(Fault::Missing) => Ok(Lookup::Absent),
            Err(Fault::Damaged { path, what }) => damaged(path, what),
            Err(Fault::System(error)) => Err(error),
        }
    }
}

/// Whether the directory at `path` is one that an image was copied to, intact or not.
pub fn is_copy(path: &Path) -> bool {
    path.join(PROVENANCE).is_file()
}
