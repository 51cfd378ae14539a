//! The index of prebuilt firmware: a JSON document that says which image is for which board.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::location;
use crate::addr::FlashAddr;
use crate::board::{Profile, Route};
use crate::boards::check::is_id;
use crate::digest::Sha256;
use crate::image::MAX_FILE;
use crate::timestamp::Timestamp;

/// The largest index that is read, in bytes.
pub const MAX_INDEX: usize = 4 << 20;

/// The format that this kflash writes and reads.
pub const FORMAT: u32 = 1;

/// Prebuilt firmware, by board. Keys that are not known are passed over, so that an index may say more to a newer kflash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Index {
    /// The version of this format: 1.
    pub format: u32,
    /// When it was made: `2026-01-31T12:00:00Z`.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub created: Timestamp,
    /// Grows with every index that is published in this one's place; an index of a lower number than was seen before is
    /// an old one, replayed.
    pub serial: u64,
    /// The images. Where several are for one board and route, the first is the one that is meant, unless a version is
    /// asked for.
    pub images: Vec<Entry>,
}

/// One image for one board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// The board's id, as `kflash boards` lists it.
    pub board: String,
    /// The route of that board that it is built for; without it, every route that starts the application at `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// `Klipper` or `Kalico`.
    pub app: String,
    /// As the image's dictionary says: `v0.13.0-730-g84104bbbd`.
    pub version: String,
    /// The commit of the tree that it was built from, in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The `MCU` constant of the image's dictionary: `stm32f446xx`.
    pub mcu: String,
    /// Where the application starts: `0x08008000`.
    #[schemars(with = "String", regex(pattern = "^0x[0-9a-f]{8}$"))]
    pub start: FlashAddr,
    /// The file's size in bytes.
    #[schemars(range(min = 1, max = 16_777_216))]
    pub size: u64,
    /// SHA-256 of the file, as lower-case hex.
    #[schemars(with = "String", regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Sha256,
    /// Where the file is: an `https:` URL, or a path below the index's own folder.
    pub url: String,
}

/// Why bytes are no index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// More than [`MAX_INDEX`] bytes.
    #[error("larger than {} MiB, which no index is", MAX_INDEX >> 20)]
    TooLarge,
    /// Not JSON, or without the shape of an index.
    #[error("no index: {0}")]
    Malformed(String),
    /// Written for a newer kflash.
    #[error("an index of format {0}; this kflash reads format {FORMAT}")]
    Format(u32),
    /// A value that cannot be.
    #[error("{key}: {problem}")]
    Wrong {
        /// Which: `images[3].url`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What an index is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The board.
    pub profile: &'a Profile,
    /// One of its routes by id; without it, the first that the index has an image for.
    pub route: Option<&'a str>,
    /// The version, exactly; without it, the first that the index lists.
    pub version: Option<&'a str>,
}

/// Why an index holds nothing that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotListed {
    /// Nothing for this board.
    #[error("nothing for {board}; {}", images_for(.others))]
    Board {
        /// The board.
        board: String,
        /// Boards that it has images for, the first twenty.
        others: Vec<String>,
    },
    /// Images for the board, but for none of the routes in question.
    #[error("nothing for route {} of {board}; it has images for {}", .routes.join(", "), .listed.join(", "))]
    Route {
        /// The board.
        board: String,
        /// The routes in question.
        routes: Vec<String>,
        /// What the board's images are for: routes, or addresses.
        listed: Vec<String>,
    },
    /// Images for the board and route, but of other versions.
    #[error("nothing of version {version} for {board}; it has {}", .listed.join(", "))]
    Version {
        /// The board.
        board: String,
        /// As asked for.
        version: String,
        /// The versions that it has, the first twenty.
        listed: Vec<String>,
    },
}

impl Index {
    /// The index in these bytes. Whoever calls this has checked their signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, IndexError> {
        if bytes.len() > MAX_INDEX {
            return Err(IndexError::TooLarge);
        }
        let malformed = |error: serde_json::Error| IndexError::Malformed(error.to_string());
        // The format alone first: another one may have another shape.
        let Form { format } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format != FORMAT {
            return Err(IndexError::Format(format));
        }
        let index: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        for (n, entry) in index.images.iter().enumerate() {
            entry.check().map_err(|(key, problem)| IndexError::Wrong { key: format!("images[{n}].{key}"), problem })?;
        }
        Ok(index)
    }

    /// The image that is meant for a board, and the route it is for: the first route of the board that has one.
    pub fn find<'a>(&'a self, wanted: &Wanted<'a>) -> Result<(&'a Entry, &'a Route), NotListed> {
        let Wanted { profile, route, version } = *wanted;
        let board = || profile.id.to_string();
        let of_board: Vec<_> = self.images.iter().filter(|entry| entry.board == profile.id.0).collect();
        if of_board.is_empty() {
            let others = few(self.images.iter().map(|entry| entry.board.clone()));
            return Err(NotListed::Board { board: board(), others });
        }
        let routes: Vec<_> = profile.routes.iter().filter(|it| route.is_none_or(|id| it.id == id)).collect();
        let fitting = || {
            routes.iter().flat_map(|&route| {
                let start = profile.bootloader_of(route).map(|bootloader| bootloader.app_start);
                let fits = move |entry: &&Entry| match &entry.route {
                    Some(id) => *id == route.id,
                    None => Some(entry.start) == start,
                };
                of_board.iter().copied().filter(fits).map(move |entry| (entry, route))
            })
        };
        if let Some(found) = fitting().find(|(entry, _)| version.is_none_or(|version| entry.version == version)) {
            return Ok(found);
        }
        let listed = few(fitting().map(|(entry, _)| entry.version.clone()));
        match version {
            Some(version) if !listed.is_empty() => {
                Err(NotListed::Version { board: board(), version: version.to_owned(), listed })
            }
            _ => Err(NotListed::Route {
                board: board(),
                routes: routes.iter().map(|route| route.id.clone()).collect(),
                listed: few(of_board.iter().map(|it| it.route.clone().unwrap_or_else(|| it.start.to_string()))),
            }),
        }
    }
}

/// The first key that is looked at.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

impl Entry {
    /// A key and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let commit = |text: &str| {
            matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let text = |text: &str| (1..=200).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        let ensure = |key, holds: bool, value: &str, problem: &str| {
            if holds { Ok(()) } else { Err((key, describe(value, problem))) }
        };
        ensure("board", is_id(&self.board), &self.board, "no board's id")?;
        let route = self.route.as_deref();
        ensure("route", route.is_none_or(is_id), route.unwrap_or_default(), "no route's id")?;
        ensure("app", text(&self.app), &self.app, "no application's name")?;
        ensure("version", text(&self.version), &self.version, "no version")?;
        let of = self.commit.as_deref();
        ensure("commit", of.is_none_or(commit), of.unwrap_or_default(), "no commit in full")?;
        ensure("mcu", text(&self.mcu), &self.mcu, "no MCU's name")?;
        if self.size == 0 || self.size > MAX_FILE as u64 {
            return Err(("size", format!("{} bytes is no firmware's size", self.size)));
        }
        location::is_reference(&self.url).map_err(|error| ("url", error.to_string()))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} for {}", self.app, self.version, self.board)
    }
}

fn images_for(boards: &[String]) -> String {
    if boards.is_empty() { "it is empty".to_owned() } else { format!("it has images for {}", boards.join(", ")) }
}

/// A value with what is wrong with it; of a long one, its beginning.
fn describe(value: &str, problem: &str) -> String {
    let mut short: String = value.chars().take(64).collect();
    if short.len() < value.len() {
        short.push('…');
    }
    format!("{short:?} is {problem}")
}

/// The first twenty different ones.
fn few(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut few = Vec::new();
    for value in values {
        if few.len() < 20 && !few.contains(&value) {
            few.push(value);
        }
    }
    few
}

#[cfg(test)]
mod tests;
