//! What was resolved before: a request for a tree that neither has changed need not be resolved again.

use std::fs;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::entry::MAX_CONFIG;
use super::files::{Folder, sync_folder, write_new};
use super::folder::RESOLVED;
use super::{Cache, CacheError, sealed};
use crate::digest::Sha256;

impl Cache {
    /// What was resolved for the request of this digest. What is damaged counts as not there: it can be made again.
    pub fn resolved<T: DeserializeOwned>(&self, request: &Sha256) -> Result<Option<T>, CacheError> {
        if !self.is_there()? {
            return Ok(None);
        }
        // JSON takes more room than what it quotes.
        let read = Folder::open(&self.at_folder(RESOLVED))
            .and_then(|folder| folder.read(&request.to_string(), 4 * MAX_CONFIG));
        let json = read.ok().and_then(|bytes| sealed::unseal(&bytes));
        Ok(json.and_then(|json| serde_json::from_slice(&json).ok()))
    }

    /// Remembers what was resolved for the request of this digest.
    pub fn remember_resolved(&self, request: &Sha256, what: &impl Serialize) -> Result<(), CacheError> {
        let text = sealed::seal(what).map_err(|_| CacheError::Inconsistent("it is no JSON"))?;
        let scratch = self.scratch("resolved")?;
        let new = scratch.path().join("new");
        write_new(&new, &text)?;
        let folder = self.make(RESOLVED)?;
        let path = folder.join(request.to_string());
        fs::rename(&new, &path).map_err(CacheError::io("write", &path))?;
        sync_folder(&folder)
    }
}
