//! An index of what the cache holds, with the images beside it: one machine builds for a farm.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::index::{Entry, FORMAT, Index, IndexError, MAX_INDEX};
use super::location::{LocationError, Url};
use super::secret::{SecretError, Signer};
use super::{PublicKey, SIGNATURE_SUFFIX};
use crate::board::{BoardId, Profile};
use crate::chip::Chip;
use crate::exit::ExitCode;
use crate::obtain::build::kconfig::Request;
use crate::obtain::cache::{Cache, CacheError, Listed, Lookup};
use crate::obtain::provenance::{Built, Fetched, MadeFor, Origin, Provenance};
use crate::timestamp::Timestamp;

/// The index's name in the directory that it is published to.
pub const INDEX: &str = "index.json";
/// The directory of the images, beside the index.
const IMAGES: &str = "images";

/// What is published where.
#[derive(Debug)]
pub struct Publication<'a> {
    /// Where the images come from.
    pub cache: &'a Cache,
    /// The directory that index, signature and images are written to; made if it is not there.
    pub out: &'a Path,
    /// The boards whose images are published: an image is given out for a board only if it was built as its profile
    /// says.
    pub boards: &'a [(Profile, Chip)],
    /// The URL at which `out` will be served, where the index will lie elsewhere than the images; without it, the index
    /// names them beside itself.
    pub base: Option<&'a Url>,
    /// Who vouches for it.
    pub signer: Option<&'a Signer>,
    /// The moment that the index is said to be made at.
    pub now: Timestamp,
}

/// What was published.
#[derive(Debug, Serialize)]
pub struct Published {
    /// The index's file.
    pub index: PathBuf,
    /// Its number.
    pub serial: u64,
    /// When it was made.
    pub created: Timestamp,
    /// Images that it names. Of several for a board and route, the one of the latest commit comes first: it is the one
    /// that is meant where no version is asked for.
    pub images: Vec<Entry>,
    /// Images of the cache that it does not name, and why.
    pub left_out: Vec<LeftOut>,
    /// The key that checks its signature.
    pub key: Option<KeyShown>,
}

/// A public key, for whoever fetches.
#[derive(Debug, Serialize)]
pub struct KeyShown {
    /// Its number.
    pub id: String,
    /// The base64 line of it.
    pub base64: String,
}

/// An image that was not published.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    /// What is found in the cache: its key, or a path.
    pub image: String,
    /// Why.
    pub why: String,
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The cache has nothing to publish.
    #[error("{} holds no image to publish", cache.display())]
    Nothing {
        /// The cache.
        cache: PathBuf,
        /// Images that could not be published, and why.
        left_out: Vec<LeftOut>,
    },
    /// Something else than an index lies in its place, and is not overwritten.
    #[error("{} is not overwritten: {error}", path.display())]
    NotAnIndex {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: IndexError,
    },
    /// The system refuses.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The index would be larger than what is read of one.
    #[error("an index of {0} bytes would be too large to be read")]
    TooLarge(usize),
    /// The URL makes no names of images.
    #[error(transparent)]
    Base(#[from] LocationError),
    /// It cannot be signed.
    #[error("cannot sign: {0}")]
    Secret(#[from] SecretError),
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl PublishError {
    /// The exit code.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Nothing { .. } | Self::NotAnIndex { .. } | Self::TooLarge(_) | Self::Base(_) | Self::Secret(_) => {
                ExitCode::Usage
            }
            Self::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => ExitCode::Denied,
            Self::Io { .. } => ExitCode::Usage,
            Self::Cache(error) => error.exit(),
        }
    }
}

/// Publishes. The index is written last, so that whoever reads meanwhile finds all that it names.
pub fn publish(what: &Publication<'_>) -> Result<Published, PublishError> {
    let path = what.out.join(INDEX);
    let serial = next_serial(&path, what.now)?;
    let mut listed = what.cache.list()?;
    listed.sort_by_key(|one| std::cmp::Reverse(one.provenance.as_ref().map(age)));
    let (mut images, mut left_out, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for one in &listed {
        match what.entries(one) {
            Ok(None) => {}
            Ok(Some((entries, bytes))) => {
                let new: Vec<_> = entries
                    .into_iter()
                    .filter(|entry| seen.insert((entry.board.clone(), entry.route.clone(), entry.sha256)))
                    .collect();
                if let Some(first) = new.first() {
                    write(&what.out.join(IMAGES).join(file_name(first)), &bytes)?;
                }
                images.extend(new);
            }
            Err(why) => {
                let image = one.key.map_or_else(String::new, |key| key.to_string());
                left_out.push(LeftOut { image, why: why? });
            }
        }
    }
    if images.is_empty() {
        return Err(PublishError::Nothing { cache: what.cache.dir().to_owned(), left_out });
    }
    let index = Index { format: FORMAT, created: what.now, serial, images };
    let json = serde_json::to_vec_pretty(&index).map_err(|error| io(&path)(error.into()))?;
    // It is read back as whoever fetches will.
    Index::parse(&json).map_err(|error| match error {
        IndexError::TooLarge => PublishError::TooLarge(json.len()),
        error => PublishError::NotAnIndex { path: path.clone(), error },
    })?;
    let beside = what.out.join(format!("{INDEX}{SIGNATURE_SUFFIX}"));
    match what.signer {
        Some(signer) => {
            let comment = format!("kflash index, serial {serial}, {}", what.now);
            write(&beside, signer.sign(&json, &comment)?.as_bytes())?;
        }
        // The signature of the index before is none of this one.
        None => match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&beside)(error)),
            _ => {}
        },
    }
    write(&path, &json)?;
    let key = what.signer.map(|signer| KeyShown::of(&signer.public));
    Ok(Published { index: path, serial, created: what.now, images: index.images, left_out, key })
}

impl KeyShown {
    fn of(key: &PublicKey) -> Self {
        Self { id: key.id.clone(), base64: key.to_base64() }
    }
}

impl Publication<'_> {
    /// What an image of the cache is published as, and its bytes; `None` if it is for none of the boards. The error is
    /// why it is left out, or why nothing can be published at all.
    #[expect(clippy::type_complexity, reason = "read by one caller")]
    fn entries(&self, one: &Listed) -> Result<Option<(Vec<Entry>, Vec<u8>)>, Result<String, PublishError>> {
        let left_out = |why: &str| Err(Ok(why.to_owned()));
        let (Some(key), Some(provenance)) = (&one.key, &one.provenance) else {
            return left_out("it is damaged");
        };
        let named = |made_for: &&MadeFor| self.boards.iter().any(|(profile, _)| profile.id == made_for.board);
        let mut made_for: Vec<_> = provenance.boards.iter().filter(named).collect();
        if made_for.is_empty() {
            return Ok(None);
        }
        let commit = match &provenance.origin {
            Origin::File { path } => return left_out(&format!("it comes from the file {path}")),
            Origin::Built(built) if built.dirty => return left_out("it was built from a tree with changes"),
            Origin::Built(built) => {
                made_for.retain(|made_for| self.is_as_the_profile_says(made_for, built));
                if made_for.is_empty() {
                    return left_out("it was built with other symbols than its board's profile has");
                }
                built.commit.clone()
            }
            Origin::Fetched(Fetched { key_id: None, .. }) => {
                return left_out("it was fetched by an index that nobody signed");
            }
            Origin::Fetched(fetched) => fetched.commit.clone(),
        };
        let (Some(mcu), Some(start)) = (&provenance.mcu, provenance.start) else {
            return left_out("where it starts, and on which MCU, is not known");
        };
        let bytes = match self.cache.find(key).map_err(|error| Err(error.into()))? {
            Lookup::Found(found) => found.bytes,
            Lookup::Absent => return left_out("it was removed meanwhile"),
            Lookup::Damaged(damage) => return left_out(&damage.what),
        };
        let entry = |board: &BoardId, route: &Option<String>| -> Result<Entry, Result<String, PublishError>> {
            let mut entry = Entry {
                board: board.to_string(),
                route: route.clone(),
                app: provenance.app.clone(),
                version: provenance.version.clone(),
                commit: commit.clone(),
                mcu: mcu.clone(),
                start,
                size: provenance.image.size,
                sha256: provenance.image.sha256,
                url: String::new(),
            };
            entry.url = self.url(&entry).map_err(|error| Err(error.into()))?;
            // A version that no index can name stands in nobody's way.
            entry.check().map_err(|(key, problem)| Ok(format!("{key}: {problem}")))?;
            Ok(entry)
        };
        let entries = made_for.into_iter().map(|made_for| entry(&made_for.board, &made_for.route));
        Ok(Some((entries.collect::<Result<_, _>>()?, bytes)))
    }

    /// Whether what a person sets for one printer had no part in it.
    fn is_as_the_profile_says(&self, made_for: &MadeFor, built: &Built) -> bool {
        let of = |(profile, chip): &(Profile, Chip)| {
            let route = profile.routes.iter().find(|route| Some(&route.id) == made_for.route.as_ref())?;
            Request::of_route(profile, chip, route, &[]).ok()
        };
        let board = self.boards.iter().find(|(profile, _)| profile.id == made_for.board);
        board.and_then(of).is_some_and(|request| *request.symbols() == built.requested)
    }

    fn url(&self, entry: &Entry) -> Result<String, LocationError> {
        let path = format!("{IMAGES}/{}", file_name(entry));
        match self.base {
            None => Ok(path),
            Some(base) => base.below(&path).map(|url| url.to_string()),
        }
    }
}

/// What tells newer firmware from older: when it was committed; of one commit, what was made last.
fn age(provenance: &Provenance) -> (Option<Timestamp>, Timestamp) {
    let committed = match &provenance.origin {
        Origin::Built(built) => built.committed,
        Origin::Fetched(_) | Origin::File { .. } => None,
    };
    (committed, provenance.time)
}

/// Named by its digest. The format is told by the content, so that the name needs no ending.
fn file_name(entry: &Entry) -> String {
    entry.sha256.to_string()
}

/// A number above that of the index that is there, if one is; else the time, so that it grows even where each index is
/// published to a new directory.
fn next_serial(path: &Path, now: Timestamp) -> Result<u64, PublishError> {
    let before = match fs::metadata(path).map(|found| (found.is_file(), found.len())) {
        Ok((true, size)) if size <= MAX_INDEX as u64 => {
            let json = fs::read(path).map_err(io(path))?;
            let index = Index::parse(&json);
            index.map_err(|error| PublishError::NotAnIndex { path: path.to_owned(), error })?.serial
        }
        Ok(_) => {
            let error = IndexError::Malformed("no file of its size".into());
            return Err(PublishError::NotAnIndex { path: path.to_owned(), error });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(io(path)(error)),
    };
    Ok(now.seconds().max(before.saturating_add(1)))
}

/// Writes a file in one step.
fn write(path: &Path, bytes: &[u8]) -> Result<(), PublishError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    fs::create_dir_all(folder).map_err(io(folder))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(name);
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(|error| {
        let _ = fs::remove_file(&new);
        io(path)(error)
    })
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> PublishError {
    let path = path.to_owned();
    move |source| PublishError::Io { path, source }
}
