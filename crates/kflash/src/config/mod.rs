//! The configuration: printers with their boards, and where firmware comes from. A TOML file, whose path the caller
//! knows.

mod check;
mod cluster;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

pub use self::cluster::Cluster;
pub use self::tree::{GitTree, Tree};
use crate::boards::nearest::{nearest, with_suggestion};
use crate::identify::Selector;

/// More than thousands of printers need; a larger file is not read.
const LARGEST_FILE: u64 = 1 << 20;

/// Printers with their boards, and where firmware comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The Klipper or Kalico tree that firmware is built from, where a printer names no other: a directory, or a git
    /// repository and what to check out of it. Without it: ~/klipper, else ~/kalico.
    pub klipper: Option<Tree>,
    /// Where prebuilt firmware is fetched from.
    pub fetch: Option<Fetch>,
    /// The printers.
    #[serde(default)]
    pub printers: Vec<Printer>,
}

/// Where prebuilt firmware is fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fetch {
    /// URL of the index: https://, file://, or http:// on this machine itself.
    pub index: String,
    /// The minisign public key that the index has to be signed with: the line of base64 that begins with RW.
    pub key: Option<String>,
    /// A PEM file of certificate authorities to trust instead of the usual ones.
    pub ca: Option<PathBuf>,
}

/// A printer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Printer {
    /// Its name, for --printer: lower-case letters, digits, dots, dashes and underscores.
    pub name: String,
    /// Its Moonraker, which is asked whether it prints before a board is touched.
    pub moonraker: Option<Moonraker>,
    /// The tree that firmware for its boards is built from.
    pub klipper: Option<Tree>,
    /// Where its Klipper runs in Kubernetes, for `kflash job`.
    pub cluster: Option<Cluster>,
    /// Its boards.
    pub boards: Vec<Board>,
}

/// A printer's Moonraker.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Moonraker {
    /// Its address: http://voron.local:7125
    pub url: String,
    /// Its API key, where it does not trust this machine. Better kept in a file of its own.
    #[schemars(with = "Option<String>")]
    pub api_key: Option<ApiKey>,
    /// A file that holds the API key and nothing else.
    pub api_key_file: Option<PathBuf>,
    /// A PEM file of certificate authorities to trust instead of the usual ones, where the address is an https:// one.
    pub ca: Option<PathBuf>,
}

/// A secret: never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// A board of a printer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    /// Its name among the printer's boards; without it, the board's id.
    #[serde(default)]
    pub name: String,
    /// What it is: an id or alias from `kflash boards`, or the path of a profile file.
    pub board: String,
    /// The device: port path, serial number, tty, tcp:// or usbip:// address. Where several are stated, either finds
    /// it, and what is visible must agree.
    #[serde(default, deserialize_with = "selectors")]
    #[schemars(with = "Vec<String>")]
    pub device: Vec<Selector>,
    /// The route that firmware is built for, where the device does not tell: an id from `kflash boards BOARD`.
    pub route: Option<String>,
    /// Klipper Kconfig symbols beyond those of the board's profile.
    #[serde(default)]
    pub symbols: BTreeMap<String, String>,
    /// Where its firmware comes from; without it, built if a tree and a toolchain are there, else fetched.
    pub firmware: Option<Source>,
}

impl Board {
    /// Klipper's name of its micro-controller: its section in printer.cfg is `[mcu]` or `[mcu NAME]`.
    pub fn section(&self) -> String {
        let unnamed = self.name == "mcu" || self.name == self.board.to_ascii_lowercase();
        if unnamed { "mcu".to_owned() } else { format!("mcu {}", self.name) }
    }
}

/// Where firmware comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Built from the printer's tree.
    Build,
    /// Fetched from the index.
    Fetch,
    /// A file: bin, Intel HEX, UF2 or ELF.
    File(PathBuf),
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It is far larger than a configuration can be.
    #[error("{}: larger than {} KiB: no configuration", file.display(), LARGEST_FILE >> 10)]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// It is no configuration.
    #[error("{}:{line}: {problem}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it, keys named.
        problem: String,
    },
    /// It contradicts itself, or says what cannot be.
    #[error("{}: {key}: {problem}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The key: `printers.voron.boards.mcu.symbols`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No printer has this name.
    #[error("no printer named {wanted:?}{}", suggestion(.nearest.as_deref()))]
    NoSuchPrinter {
        /// The name that was asked for.
        wanted: String,
        /// The most similar name.
        nearest: Option<String>,
    },
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

impl Config {
    /// Reads the file at `path`. What begins with `~/` in it lies in `home`; other relative paths, beside the file.
    pub fn read(path: &Path, home: Option<&Path>) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { file: path.to_owned(), source };
        // Opening a FIFO would wait for a writer.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, "not a file")));
        }
        let mut text = Vec::new();
        File::open(path).map_err(unreadable)?.take(LARGEST_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
        if text.len() as u64 > LARGEST_FILE {
            return Err(ConfigError::TooLarge { file: path.to_owned() });
        }
        Self::parse(path, &text, home)
    }

    /// The configuration in the text of `file`, with paths as [`read`](Self::read) has them. Reads no file.
    pub fn parse(file: &Path, text: &[u8], home: Option<&Path>) -> Result<Self, ConfigError> {
        let malformed = |at: usize, problem| {
            let line = 1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count();
            ConfigError::Malformed { file: file.to_owned(), line, problem }
        };
        let text = str::from_utf8(text).map_err(|error| malformed(error.valid_up_to(), "not UTF-8".to_owned()))?;
        let mut config: Self = toml::from_str(text).map_err(|error| {
            let problem = with_suggestion(&error.message().replace('\n', ", "));
            malformed(error.span().map_or(0, |span| span.start), problem)
        })?;
        check::config(&mut config, file.parent().unwrap_or(Path::new("")), home)
            .map_err(|(key, problem)| ConfigError::Wrong { file: file.to_owned(), key, problem })?;
        Ok(config)
    }

    /// The printer of this name.
    pub fn printer(&self, name: &str) -> Result<&Printer, ConfigError> {
        self.printers.iter().find(|printer| printer.name == name).ok_or_else(|| {
            let names = self.printers.iter().map(|printer| printer.name.as_str());
            ConfigError::NoSuchPrinter { wanted: name.to_owned(), nearest: nearest(name, names).map(str::to_owned) }
        })
    }

    /// The tree that is configured for a printer, or for all.
    pub fn tree_of<'a>(&'a self, printer: Option<&'a Printer>) -> Option<&'a Tree> {
        printer.and_then(|printer| printer.klipper.as_ref()).or(self.klipper.as_ref())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// A key from its text; surrounding white space is no part of it. `None` if it cannot be one: empty, or with
    /// characters that an HTTP header cannot carry.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The key itself.
    #[cfg(feature = "moonraker")]
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ApiKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Not as a `String`: serde would show what it is instead.
        let text = match toml::Value::deserialize(from)? {
            toml::Value::String(text) => Self::new(&text),
            _ => None,
        };
        text.ok_or_else(|| serde::de::Error::custom("no API key: a line of letters and digits, in quotes"))
    }
}

fn selectors<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Selector>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

/// The first name that occurs twice.
fn twice<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests;
