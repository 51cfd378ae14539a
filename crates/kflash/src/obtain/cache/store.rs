//! Storing and removing images: prepared in `tmp/`, then moved in one step under the lock of all short changes.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use super::entry::{CONFIG, DICTIONARY, MAX_CONFIG, MAX_PROVENANCE, PROVENANCE, describes};
use super::files::{sync_folder, write_new};
use super::folder::IMAGES;
use super::{Cache, CacheError, Entry, Key, Lookup, sealed};
use crate::digest::Sha256;
use crate::image::Image;
use crate::obtain::provenance::{Fetched, MadeFor, Origin, Provenance};

impl Cache {
    /// Stores an image: the bytes of its file, and for one that was built its resolved configuration.
    ///
    /// Where the cache holds an image of this key already, that one stays and is returned, made for the boards of both.
    /// A damaged one is replaced.
    pub fn store(&self, provenance: &Provenance, bytes: &[u8], config: Option<&[u8]>) -> Result<Entry, CacheError> {
        let inconsistent = CacheError::Inconsistent;
        let image = Image::parse(bytes).map_err(|_| inconsistent("it is no intact image"))?;
        let dictionary = image.dictionary_json().ok_or(inconsistent("it holds no data dictionary"))?;
        if !describes(provenance, &image, bytes) {
            return Err(inconsistent("provenance and image say different things"));
        }
        let config = match (&provenance.origin, config) {
            (Origin::Built(built), Some(config)) if Sha256::of(config) == built.config_sha256 => Some(config),
            (Origin::Built(_), _) => return Err(inconsistent("provenance is of another configuration")),
            (_, _) => None,
        };
        if config.is_some_and(|config| config.len() > MAX_CONFIG) {
            return Err(inconsistent("the configuration is too long"));
        }
        let key = Key::of(provenance);

        let scratch = self.scratch("store")?;
        let new = scratch.path().join("new");
        DirBuilder::new().mode(0o700).create(&new).map_err(CacheError::io("make", &new))?;
        write_new(&new.join(&provenance.image.name), bytes)?;
        write_new(&new.join(DICTIONARY), &dictionary)?;
        if let Some(config) = config {
            write_new(&new.join(CONFIG), config)?;
        }
        write_new(&new.join(PROVENANCE), &text(provenance)?)?;
        sync_folder(&new)?;

        let images = self.make(IMAGES)?;
        let path = images.join(key.to_string());
        let _lock = self.write_lock()?;
        match self.look(&key)? {
            Lookup::Found(entry) => return self.grow(*entry, &provenance.boards),
            Lookup::Damaged(_) => {
                // Out of the way in one step, too; it goes with the scratch directory.
                fs::rename(&path, scratch.path().join("damaged")).map_err(CacheError::io("replace", &path))?;
            }
            Lookup::Absent => {}
        }
        fs::rename(&new, &path).map_err(CacheError::io("write", &path))?;
        sync_folder(&images)?;
        Ok(Entry {
            key,
            provenance: provenance.clone(),
            image,
            bytes: bytes.to_vec(),
            dictionary,
            config: config.map(<[u8]>::to_vec),
            path,
        })
    }

    /// Notes that the image of `entry` is one for these boards, too.
    pub fn made_for<'a>(
        &self,
        entry: Entry,
        boards: impl IntoIterator<Item = &'a MadeFor>,
    ) -> Result<Entry, CacheError> {
        let boards: Vec<_> = boards.into_iter().filter(|board| !entry.provenance.boards.contains(board)).collect();
        if boards.is_empty() {
            return Ok(entry);
        }
        let _lock = self.write_lock()?;
        // Others may have added theirs meanwhile.
        match self.look(&entry.key)? {
            Lookup::Found(entry) => self.grow(*entry, boards),
            Lookup::Absent | Lookup::Damaged(_) => Ok(entry),
        }
    }

    /// Notes that a signed index, `fetched`, names an image that came by an index which nobody signed.
    pub fn vouched(&self, entry: Entry, fetched: Fetched) -> Result<Entry, CacheError> {
        let unsigned =
            |entry: &Entry| matches!(&entry.provenance.origin, Origin::Fetched(Fetched { key_id: None, .. }));
        if fetched.key_id.is_none() || !unsigned(&entry) {
            return Ok(entry);
        }
        let _lock = self.write_lock()?;
        match self.look(&entry.key)? {
            Lookup::Found(entry) if unsigned(&entry) => {
                self.rewrite(*entry, |provenance| provenance.origin = Origin::Fetched(fetched))
            }
            Lookup::Found(entry) => Ok(*entry),
            Lookup::Absent | Lookup::Damaged(_) => Ok(entry),
        }
    }

    /// Adds boards to an entry, under the lock.
    fn grow<'a>(&self, entry: Entry, boards: impl IntoIterator<Item = &'a MadeFor>) -> Result<Entry, CacheError> {
        self.rewrite(entry, |provenance| provenance.boards.extend(boards.into_iter().cloned()))
    }

    /// Changes what is known of an entry, under the lock.
    fn rewrite(&self, mut entry: Entry, change: impl FnOnce(&mut Provenance)) -> Result<Entry, CacheError> {
        let before = entry.provenance.clone();
        change(&mut entry.provenance);
        if entry.provenance != before {
            let scratch = self.scratch("rewrite")?;
            let new = scratch.path().join(PROVENANCE);
            write_new(&new, &text(&entry.provenance)?)?;
            let path = entry.path.join(PROVENANCE);
            fs::rename(&new, &path).map_err(CacheError::io("write", &path))?;
            sync_folder(&entry.path)?;
        }
        Ok(entry)
    }

    /// Removes what the cache holds for `key`, damaged or not; whether there was something.
    pub fn remove(&self, key: &Key) -> Result<bool, CacheError> {
        let path = self.image_path(key);
        if !self.is_there()? || fs::symlink_metadata(&path).is_err() {
            return Ok(false);
        }
        self.discard(&path)
    }

    /// Removes something in the cache: first out of its place in one step, so that nobody sees half of it. Returns whether
    /// it was still there.
    pub(super) fn discard(&self, path: &Path) -> Result<bool, CacheError> {
        let scratch = self.scratch("remove")?;
        let _lock = self.write_lock()?;
        match fs::rename(path, scratch.path().join("removed")) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CacheError::io("remove", path)(error)),
        }
    }
}

pub(super) fn text(provenance: &Provenance) -> Result<Vec<u8>, CacheError> {
    let text = sealed::seal(provenance).map_err(|_| CacheError::Inconsistent("provenance is no JSON"))?;
    if text.len() > MAX_PROVENANCE {
        return Err(CacheError::Inconsistent("provenance is too long"));
    }
    Ok(text)
}
