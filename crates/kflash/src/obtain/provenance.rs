//! Where an image comes from: what is known of its making, kept beside it as `provenance.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::addr::FlashAddr;
use crate::board::BoardId;
use crate::digest::Sha256;
use crate::image::{Format, Image, MAX_FILE};
use crate::timestamp::Timestamp;

/// The layout of `provenance.json`; another number is another layout.
const FORMAT: u32 = 1;

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The layout of this text: 1.
    format: u32,
    /// The version of kflash that wrote it.
    pub kflash: String,
    /// When the image was made, fetched or read from a file.
    pub time: Timestamp,
    /// How it came about.
    pub origin: Origin,
    /// `Klipper` or `Kalico`, as its dictionary says.
    pub app: String,
    /// Its version, as its dictionary says.
    pub version: String,
    /// Its `MCU`, as its dictionary says.
    pub mcu: Option<String>,
    /// Where the application starts; `None` where neither image nor route told.
    pub start: Option<FlashAddr>,
    /// The image's file.
    pub image: ImageFile,
    /// SHA-256 of the dictionary's JSON text.
    pub dictionary_sha256: Sha256,
    /// What it was made for, or flashed to.
    pub boards: BTreeSet<MadeFor>,
}

/// How an image came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Built by kflash.
    Built(Built),
    /// Downloaded.
    Fetched(Fetched),
    /// A file that a person named.
    File {
        /// Its path, as given.
        path: String,
    },
}

/// What an image was built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Built {
    /// The tree: a directory, or the URL of a git repository.
    pub tree: String,
    /// The commit that is checked out, 40 or 64 hex digits; `None` for a tree without git.
    pub commit: Option<String>,
    /// When it was committed; `None` for a tree without git.
    pub committed: Option<Timestamp>,
    /// `git describe`, or what else the tree calls its version.
    pub describe: String,
    /// Whether the tree differs from the commit.
    pub dirty: bool,
    /// SHA-256 of all that is built from, where no commit tells that: the tree is dirty or without git.
    pub tree_sha256: Option<Sha256>,
    /// The symbols that were asked for.
    pub requested: BTreeMap<String, String>,
    /// SHA-256 of the resolved configuration.
    pub config_sha256: Sha256,
    /// Versions of the tools that the image depends on, by name.
    pub toolchain: BTreeMap<String, String>,
}

/// Where an image was downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// The URL of the index that named it.
    pub index: String,
    /// The id of the key that signed the index; `None` if it was unsigned and allowed to be.
    pub key_id: Option<String>,
    /// The URL of the image.
    pub url: String,
    /// Its version, as the index says.
    pub version: String,
    /// The commit that it was built from, as the index says.
    pub commit: Option<String>,
}

/// The file that an image came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageFile {
    /// Its name in the cache: [`ImageFile::NAMES`].
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// A board, and the way that it is flashed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeFor {
    /// The board.
    pub board: BoardId,
    /// The route of its profile; `None` where the image was not made for one.
    pub route: Option<String>,
}

/// Why an image or a text has no provenance that can be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvenanceError {
    /// The image holds no data dictionary.
    #[error("the image holds no data dictionary: it is no Klipper application")]
    NoDictionary,
    /// The text is no JSON of this shape.
    #[error("provenance is malformed: {0}")]
    Malformed(String),
    /// It contradicts itself.
    #[error("provenance contradicts itself: {0}")]
    Contradiction(&'static str),
}

impl ImageFile {
    /// The names that an image can have, by its format.
    pub const NAMES: [&str; 4] = ["klipper.bin", "klipper.elf", "klipper.elf.hex", "klipper.uf2"];

    /// `image`, read from `bytes`.
    pub fn of(image: &Image, bytes: &[u8]) -> Self {
        let name = match image.format {
            Format::Bin => "klipper.bin",
            Format::Elf => "klipper.elf",
            Format::IntelHex => "klipper.elf.hex",
            Format::Uf2 => "klipper.uf2",
        };
        Self { name: name.to_owned(), size: bytes.len() as u64, sha256: Sha256::of(bytes) }
    }
}

impl Provenance {
    /// The provenance of `image`, read from `bytes` at `time`. It starts at `start`, where that is known better than from
    /// the image itself.
    pub fn of(
        image: &Image,
        bytes: &[u8],
        origin: Origin,
        start: Option<FlashAddr>,
        boards: impl IntoIterator<Item = MadeFor>,
        time: Timestamp,
    ) -> Result<Self, ProvenanceError> {
        let dictionary = image.dictionary.as_ref().ok_or(ProvenanceError::NoDictionary)?;
        let malformed = |error: crate::digest::ParseSha256Error| ProvenanceError::Malformed(error.to_string());
        let provenance = Self {
            format: FORMAT,
            kflash: env!("CARGO_PKG_VERSION").to_owned(),
            time,
            origin,
            app: dictionary.app.clone(),
            version: dictionary.version.clone(),
            mcu: dictionary.mcu().map(str::to_owned),
            start: start.or(image.start.as_ref().map(|start| start.addr)),
            image: ImageFile::of(image, bytes),
            dictionary_sha256: dictionary.sha256.parse().map_err(malformed)?,
            boards: boards.into_iter().collect(),
        };
        provenance.check()?;
        Ok(provenance)
    }

    /// The provenance in the JSON text `json`. Nothing in it is believed that contradicts the rest.
    pub fn parse(json: &[u8]) -> Result<Self, ProvenanceError> {
        let provenance: Self =
            serde_json::from_slice(json).map_err(|error| ProvenanceError::Malformed(error.to_string()))?;
        provenance.check()?;
        Ok(provenance)
    }

    /// Whether the tree that it was built from differed from its commit.
    pub fn dirty(&self) -> bool {
        matches!(&self.origin, Origin::Built(built) if built.dirty)
    }

    /// Whether it was made for this board, or flashed to one.
    pub fn is_for(&self, board: &BoardId) -> bool {
        self.boards.iter().any(|made_for| made_for.board == *board)
    }

    fn check(&self) -> Result<(), ProvenanceError> {
        let rules = [
            (self.format == FORMAT, "its layout is of another version of kflash"),
            (ImageFile::NAMES.contains(&self.image.name.as_str()), "no image has this name"),
            ((1..=MAX_FILE as u64).contains(&self.image.size), "no image has this size"),
        ];
        let of_origin = match &self.origin {
            Origin::Built(built) => {
                let hex = |commit: &String| {
                    let digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
                    matches!(commit.len(), 40 | 64) && commit.bytes().all(digit)
                };
                let told_by_commit = built.commit.is_some() && !built.dirty;
                vec![
                    (built.commit.as_ref().is_none_or(hex), "a commit is 40 or 64 hex digits"),
                    (told_by_commit == built.tree_sha256.is_none(), "either the commit or a digest tells the tree"),
                ]
            }
            Origin::Fetched(_) | Origin::File { .. } => Vec::new(),
        };
        match rules.into_iter().chain(of_origin).find(|(kept, _)| !kept) {
            Some((_, broken)) => Err(ProvenanceError::Contradiction(broken)),
            None => Ok(()),
        }
    }
}
