//! The highest serial number seen of each index, so that an old one that is replayed is known to be one.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{FetchError, Index, Location, PublicKey};
use crate::digest::Sha256;
use crate::obtain::cache::{Cache, CacheError, Shelf};

/// What is noted of an index.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    /// Where it is.
    index: String,
    /// The number of the key that signed it.
    key: String,
    serial: u64,
}

/// Compares an index, signed by `key`, with what was seen at this place before, and notes it if it is newer. An older one
/// is an error, unless `allowed`; whether it is one.
pub(super) fn compare(
    cache: &Cache,
    at: &Location,
    key: &PublicKey,
    index: &Index,
    allowed: bool,
) -> Result<bool, FetchError> {
    // Not the key's number alone: anybody can make a key of that number.
    let name = Sha256::of(format!("{at}\n{}", key.to_base64()).as_bytes()).to_string();
    let Some(claim) = cache.claim_folder(Shelf::Indexes, &name, false, &mut |_| true)? else {
        return Err(FetchError::Interrupted);
    };
    let path = claim.path().join("seen.json");
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| FetchError::Cache(CacheError::Io { doing, path, source })
    };
    let seen = match fs::read(&path) {
        Ok(json) => {
            let damaged =
                |error: serde_json::Error| FetchError::Seen { path: path.clone(), problem: error.to_string() };
            Some(serde_json::from_slice::<Seen>(&json).map_err(damaged)?.serial)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(io("read", &path)(error)),
    };
    match seen {
        Some(seen) if index.serial < seen && allowed => return Ok(true),
        Some(seen) if index.serial < seen => {
            let (index, serial, created) = (at.to_string(), index.serial, index.created);
            return Err(FetchError::Replayed { index, serial, created, seen });
        }
        Some(seen) if index.serial == seen => return Ok(false),
        _ => {}
    }
    let note = Seen { index: at.to_string(), key: key.id.clone(), serial: index.serial };
    let json = serde_json::to_vec_pretty(&note).map_err(|error| io("write", &path)(error.into()))?;
    let new = claim.path().join("new");
    fs::create_dir_all(claim.path()).map_err(io("make", claim.path()))?;
    fs::write(&new, json).map_err(io("write", &new))?;
    fs::rename(&new, &path).map_err(io("write", &path))?;
    Ok(false)
}
