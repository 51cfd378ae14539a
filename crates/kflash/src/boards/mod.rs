//! The boards that kflash knows: the set in `boards/`, built in, and profile files by path.

pub(crate) mod check;
pub(crate) mod nearest;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use include_dir::{Dir, File, include_dir};
use serde::de::DeserializeOwned;

use crate::board::Profile;
use crate::chip::Chip;

static BUILT_IN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../boards");

/// More than any profile needs; a larger file is not read.
const LARGEST_FILE: u64 = 256 << 10;

/// Why a board cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// No built-in board has this name.
    #[error("no board named {wanted:?}{}", .nearest.as_ref().map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default())]
    NoSuchBoard {
        /// The name that was asked for.
        wanted: String,
        /// The most similar id or alias.
        nearest: Option<String>,
    },
    /// A profile names a chip that is neither built in nor in `chips/` beside it.
    #[error("{file}: chip: no chip named {chip:?}{}", .nearest.as_ref().map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default())]
    NoSuchChip {
        /// The profile.
        file: PathBuf,
        /// The chip's id.
        chip: String,
        /// The most similar id.
        nearest: Option<String>,
    },
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file is far larger than a profile can be.
    #[error("{file}: larger than {} KiB: no profile", LARGEST_FILE >> 10)]
    TooLarge {
        /// The file.
        file: PathBuf,
    },
    /// A file is no profile or no chip.
    #[error("{file}:{line}: {problem}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// What is wrong with it, keys named.
        problem: String,
    },
    /// A file contradicts itself or its chip.
    #[error("{file}: {key}: {problem}")]
    Wrong {
        /// The file.
        file: PathBuf,
        /// The key: `routes.dfu.enter`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Every built-in board with its chip, by id.
pub fn builtin() -> Result<Vec<(Profile, Chip)>, BoardError> {
    let chips = builtin_chips()?;
    let files = BUILT_IN.files().filter(|file| is_toml(file.path()));
    let mut boards: Vec<_> = files.map(|file| built_in(file, &chips)).collect::<Result<_, _>>()?;
    boards.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
    Ok(boards)
}

/// Every built-in chip.
pub fn builtin_chips() -> Result<Vec<Chip>, BoardError> {
    let files = BUILT_IN.get_dir("chips").into_iter().flat_map(Dir::files).filter(|file| is_toml(file.path()));
    files.map(|file| chip(&Path::new("boards").join(file.path()), file.contents())).collect()
}

/// How a chip's flash is written by SWD: a target description of probe-rs, in YAML, for the chip of this id.
#[cfg(feature = "swd")]
pub fn swd_definition(chip: &str) -> Option<&'static str> {
    BUILT_IN.get_file(format!("swd/{chip}.yaml"))?.contents_utf8()
}

/// The board of this id or alias; or of the profile file at this path, when it holds a slash or ends in `.toml`. A profile
/// file takes its chip from the built-in ones, else from `chips/` beside it.
pub fn find(id_or_path: &str) -> Result<(Profile, Chip), BoardError> {
    if id_or_path.contains('/') || is_toml(Path::new(id_or_path)) {
        return read(Path::new(id_or_path));
    }
    // A board's file is named after its id: the others need not be read.
    if let Some(file) = BUILT_IN.get_file(format!("{id_or_path}.toml")) {
        return built_in(file, &builtin_chips()?);
    }
    let mut boards = builtin()?;
    let named = |profile: &Profile| {
        let mut names = profile.aliases.iter().chain([&profile.id.0]);
        names.any(|name| name.eq_ignore_ascii_case(id_or_path))
    };
    if let Some(found) = boards.iter().position(|(profile, _)| named(profile)) {
        return Ok(boards.swap_remove(found));
    }
    let names = boards.iter().flat_map(|(profile, _)| profile.aliases.iter().chain([&profile.id.0]));
    let nearest = nearest::nearest(id_or_path, names.map(String::as_str)).map(str::to_owned);
    Err(BoardError::NoSuchBoard { wanted: id_or_path.to_owned(), nearest })
}

/// A profile from the text of a file; `chips` are those it may name. `file` is for messages alone.
pub fn profile(file: &Path, text: &[u8], chips: &[Chip]) -> Result<(Profile, Chip), BoardError> {
    let profile: Profile = parse(file, text)?;
    let Some(chip) = chips.iter().find(|chip| chip.id == profile.chip) else {
        let nearest = nearest::nearest(&profile.chip, chips.iter().map(|chip| chip.id.as_str())).map(str::to_owned);
        return Err(BoardError::NoSuchChip { file: file.to_owned(), chip: profile.chip, nearest });
    };
    check::profile(&profile, chip).map_err(|wrong| wrong.in_file(file))?;
    Ok((profile, chip.clone()))
}

/// A chip from the text of a file. `file` is for messages alone.
pub fn chip(file: &Path, text: &[u8]) -> Result<Chip, BoardError> {
    let chip = parse(file, text)?;
    check::chip(&chip).map_err(|wrong| wrong.in_file(file))?;
    Ok(chip)
}

fn built_in(file: &File<'_>, chips: &[Chip]) -> Result<(Profile, Chip), BoardError> {
    profile(&Path::new("boards").join(file.path()), file.contents(), chips)
}

fn read(path: &Path) -> Result<(Profile, Chip), BoardError> {
    let text = read_bounded(path)?;
    let mut chips = builtin_chips()?;
    match profile(path, &text, &chips) {
        Err(BoardError::NoSuchChip { chip: id, .. }) if check::is_id(&id) => {
            let beside = path.with_file_name("chips").join(format!("{id}.toml"));
            if beside.exists() {
                chips.push(chip(&beside, &read_bounded(&beside)?)?);
            }
            profile(path, &text, &chips)
        }
        result => result,
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, BoardError> {
    let unreadable = |source| BoardError::Unreadable { file: path.to_owned(), source };
    let mut text = Vec::new();
    fs::File::open(path).map_err(unreadable)?.take(LARGEST_FILE + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(BoardError::TooLarge { file: path.to_owned() });
    }
    Ok(text)
}

fn parse<T: DeserializeOwned>(file: &Path, text: &[u8]) -> Result<T, BoardError> {
    let malformed = |at: usize, problem| {
        let line = 1 + text.iter().take(at).filter(|&&byte| byte == b'\n').count();
        BoardError::Malformed { file: file.to_owned(), line, problem }
    };
    let text = std::str::from_utf8(text).map_err(|error| malformed(error.valid_up_to(), "not UTF-8".to_owned()))?;
    toml::from_str(text).map_err(|error| {
        let problem = nearest::with_suggestion(&error.message().replace('\n', ", "));
        malformed(error.span().map_or(0, |span| span.start), problem)
    })
}

fn is_toml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "toml")
}

#[cfg(test)]
mod tests;
