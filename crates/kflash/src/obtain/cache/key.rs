//! What an image is found by.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::digest::{ParseSha256Error, Sha256};
use crate::obtain::provenance::{Built, Origin, Provenance};

/// What an image is found by: a digest over all that makes it what it is. As text 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(Sha256);

impl Key {
    /// Of an image built from this: tree, version string (it ends up in the image), resolved configuration, toolchain.
    /// What was asked for, where the tree lies and who builds does not count.
    pub fn of_build(built: &Built) -> Self {
        let mut parts = Parts::new("built");
        parts.add(built.commit.as_deref().unwrap_or_default());
        parts.add(&built.tree_sha256.map(|sha256| sha256.to_string()).unwrap_or_default());
        parts.add(&built.describe);
        parts.add(&built.config_sha256.to_string());
        parts.add_all(&built.toolchain);
        parts.key()
    }

    /// Of an image of this digest that is downloaded.
    pub fn of_fetched(image: &Sha256) -> Self {
        let mut parts = Parts::new("fetched");
        parts.add(&image.to_string());
        parts.key()
    }

    /// Of an image of this digest that a person gave in a file.
    pub fn of_file(image: &Sha256) -> Self {
        let mut parts = Parts::new("file");
        parts.add(&image.to_string());
        parts.key()
    }

    /// Of the image of this provenance.
    pub fn of(provenance: &Provenance) -> Self {
        match &provenance.origin {
            Origin::Built(built) => Self::of_build(built),
            Origin::Fetched(_) => Self::of_fetched(&provenance.image.sha256),
            Origin::File { .. } => Self::of_file(&provenance.image.sha256),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Key {
    type Err = ParseSha256Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A digest over texts, each with its length before it: no two lists of texts run into the same bytes.
struct Parts(sha2::Sha256);

impl Parts {
    fn new(kind: &str) -> Self {
        let mut parts = Self(sha2::Sha256::new());
        parts.add("kflash image 1");
        parts.add(kind);
        parts
    }

    fn add(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn add_all(&mut self, texts: &BTreeMap<String, String>) {
        self.0.update((texts.len() as u64).to_le_bytes());
        for (name, value) in texts {
            self.add(name);
            self.add(value);
        }
    }

    fn key(self) -> Key {
        Key(Sha256::finish(self.0))
    }
}
