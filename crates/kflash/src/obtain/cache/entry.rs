//! Images in the cache, as they are read: every byte compared with its digest.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::files::{Fault, Folder};
use super::folder::IMAGES;
use super::{Cache, CacheError, Damage, Key, sealed};
use crate::digest::Sha256;
use crate::image::{Image, MAX_FILE};
use crate::klipper::zlib::MAX_INFLATED;
use crate::obtain::provenance::{ImageFile, Origin, Provenance};
use crate::timestamp::Timestamp;

pub(super) const PROVENANCE: &str = "provenance.json";
pub(super) const DICTIONARY: &str = "klipper.dict";
pub(super) const CONFIG: &str = "config";
/// Bytes of a `provenance.json`; real ones have two thousand.
pub(super) const MAX_PROVENANCE: usize = 256 * 1024;
/// Bytes of a resolved configuration; real ones have ten thousand.
pub(super) const MAX_CONFIG: usize = 1 << 20;
const DIFFERS: &str = "its bytes are not those that were stored";
/// How often an entry may be exchanged while it is read.
const ATTEMPTS: u32 = 100;

/// An image in the cache, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it is found by.
    pub key: Key,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The image.
    pub image: Image,
    /// The bytes of its file.
    pub bytes: Vec<u8>,
    /// The JSON text of its dictionary.
    pub dictionary: Vec<u8>,
    /// The resolved configuration that it was built with.
    pub config: Option<Vec<u8>>,
    /// Its directory in the cache.
    pub path: PathBuf,
}

/// What a cache holds for a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// An image.
    Found(Box<Entry>),
    /// Nothing.
    Absent,
    /// Something that is not used; storing the image again replaces it.
    Damaged(Damage),
}

/// An image in the list of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listed {
    /// What it is found by; `None` where the name in the cache is no key.
    pub key: Option<Key>,
    /// Where it comes from; `None` if it is damaged.
    pub provenance: Option<Provenance>,
    /// What is wrong with it.
    pub damage: Option<Damage>,
    /// Bytes that it takes.
    pub bytes: u64,
    /// When it was last stored or used.
    pub used: Timestamp,
}

impl Cache {
    /// The image of `key`. It counts as used now.
    pub fn find(&self, key: &Key) -> Result<Lookup, CacheError> {
        let found = self.look(key)?;
        if let Lookup::Found(entry) = &found
            && let Ok(folder) = Folder::open(&entry.path)
        {
            folder.touch();
        }
        Ok(found)
    }

    /// Where the image of `key` lies.
    pub(super) fn image_path(&self, key: &Key) -> PathBuf {
        self.at_folder(IMAGES).join(key.to_string())
    }

    /// The image of `key`; that it was looked at is not noted.
    pub(super) fn look(&self, key: &Key) -> Result<Lookup, CacheError> {
        if !self.is_there()? {
            return Ok(Lookup::Absent);
        }
        let path = self.image_path(key);
        let damaged = |path, what| Ok(Lookup::Damaged(Damage { key: Some(*key), path, what }));
        for _ in 0..ATTEMPTS {
            let folder = match Folder::open(&path) {
                Ok(folder) => folder,
                Err(Fault::Missing) => return Ok(Lookup::Absent),
                Err(Fault::Damaged { path, what }) => return damaged(path, what),
                Err(Fault::System(error)) => return Err(error),
            };
            match read(&folder, &path, Some(key)) {
                Ok(entry) => return Ok(Lookup::Found(Box::new(entry))),
                Err(Fault::System(error)) => return Err(error),
                // It was removed or exchanged while it was read.
                Err(_) if !folder.is_current() => {}
                Err(Fault::Missing) => return damaged(path, "a file is missing".into()),
                Err(Fault::Damaged { path, what }) => return damaged(path, what),
            }
        }
        damaged(path, "it never stays the same for long enough to be read".into())
    }

    /// All images, the damaged ones too, by key.
    pub fn list(&self) -> Result<Vec<Listed>, CacheError> {
        let mut all = Vec::new();
        for path in self.names(IMAGES)? {
            let name = path.file_name().unwrap_or_default();
            let key: Option<Key> = name.to_str().and_then(|name| name.parse().ok());
            let found = match key {
                Some(key) => self.look(&key)?,
                None => Lookup::Damaged(Damage { key, path: path.clone(), what: "its name is no key".into() }),
            };
            let (provenance, damage) = match found {
                Lookup::Found(entry) => (Some(entry.provenance), None),
                Lookup::Damaged(damage) => (None, Some(damage)),
                // Removed meanwhile.
                Lookup::Absent => continue,
            };
            let modified = fs::symlink_metadata(&path).and_then(|found| found.modified());
            let used = modified.map(Timestamp::from).unwrap_or_default();
            all.push(Listed { key, provenance, damage, bytes: super::folder::size(&path), used });
        }
        Ok(all)
    }

    /// What lies in one of the cache's directories, sorted; hidden files are none of ours (NFS makes such).
    pub(super) fn names(&self, folder: &str) -> Result<Vec<PathBuf>, CacheError> {
        let path = self.at_folder(folder);
        if !self.is_there()? || fs::symlink_metadata(&path).is_ok_and(|found| !found.is_dir()) {
            return Ok(Vec::new());
        }
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(CacheError::io("read", &path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(CacheError::io("read", &path))?;
            if !entry.file_name().as_encoded_bytes().starts_with(b".") {
                names.push(entry.path());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Reads an entry, of this key where that is known, and compares all that can be compared.
pub(super) fn read(folder: &Folder, path: &Path, key: Option<&Key>) -> Result<Entry, Fault> {
    let file = |name: &str, max| match folder.read(name, max) {
        Err(Fault::Missing) => Err(Fault::damaged(&path.join(name), "it is missing")),
        read => read,
    };
    let wrong = |name: &str, what: &str| Fault::damaged(&path.join(name), what);

    let json = sealed::unseal(&file(PROVENANCE, MAX_PROVENANCE)?).ok_or_else(|| wrong(PROVENANCE, DIFFERS))?;
    let provenance = Provenance::parse(&json).map_err(|error| wrong(PROVENANCE, &error.to_string()))?;
    let its_own = Key::of(&provenance);
    if key.is_some_and(|key| its_own != *key) {
        return Err(wrong(PROVENANCE, "it is another image's"));
    }
    // Of a fixed list of names: none leads out of the directory.
    let name = provenance.image.name.as_str();
    let bytes = file(name, MAX_FILE)?;
    if bytes.len() as u64 != provenance.image.size || Sha256::of(&bytes) != provenance.image.sha256 {
        return Err(wrong(name, DIFFERS));
    }
    let dictionary = file(DICTIONARY, MAX_INFLATED)?;
    if Sha256::of(&dictionary) != provenance.dictionary_sha256 {
        return Err(wrong(DICTIONARY, DIFFERS));
    }
    let config = match &provenance.origin {
        Origin::Built(built) => {
            let config = file(CONFIG, MAX_CONFIG)?;
            if Sha256::of(&config) != built.config_sha256 {
                return Err(wrong(CONFIG, DIFFERS));
            }
            Some(config)
        }
        Origin::Fetched(_) | Origin::File { .. } => None,
    };
    // What follows no accident causes, but provenance that somebody made up.
    let image = Image::parse(&bytes).map_err(|error| wrong(name, &error.to_string()))?;
    if !describes(&provenance, &image, &bytes) {
        return Err(wrong(PROVENANCE, "it says other things of the image than the image does"));
    }
    Ok(Entry { key: its_own, provenance, image, bytes, dictionary, config, path: path.to_owned() })
}

/// Whether `provenance` says of `image` what that says of itself.
pub(super) fn describes(provenance: &Provenance, image: &Image, bytes: &[u8]) -> bool {
    let Some(dictionary) = &image.dictionary else { return false };
    provenance.image == ImageFile::of(image, bytes)
        && provenance.dictionary_sha256.to_string() == dictionary.sha256
        && provenance.app == dictionary.app
        && provenance.version == dictionary.version
        && provenance.mcu.as_deref() == dictionary.mcu()
}
