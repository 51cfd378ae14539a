//! Stage 3: the firmware, from a file or built from a Klipper tree.

use std::path::{Path, PathBuf};

use self::cache::{CacheError, Entry, Key};
use crate::exit::ExitCode;
use crate::image::{Image, ImageError};

pub mod build;
pub mod cache;
#[cfg(feature = "fetch")]
pub mod fetch;
mod file;
pub mod provenance;

pub use file::file;

/// Firmware, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Obtained {
    /// The image.
    pub image: Image,
    /// The bytes of its file.
    pub bytes: Vec<u8>,
    /// Where it comes from.
    pub from: From,
}

/// Where firmware comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// This file, as the person named it.
    File(PathBuf),
    /// The cache, into which everything goes that is built or fetched.
    Cache(Key),
}

impl std::convert::From<Entry> for Obtained {
    fn from(entry: Entry) -> Self {
        Self { image: entry.image, bytes: entry.bytes, from: From::Cache(entry.key) }
    }
}

/// Why no firmware was obtained.
#[derive(Debug, thiserror::Error)]
pub enum ObtainError {
    /// There is no such file.
    #[error("{}: no such file", .0.display())]
    Missing(PathBuf),
    /// A directory, a socket, a device.
    #[error("{}: not a file but {what}", path.display())]
    NotAFile {
        /// As given.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The permissions do not allow it.
    #[error("{}: permission denied", .0.display())]
    Denied(PathBuf),
    /// It cannot be read for another reason.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// An image that kflash wrote to a directory is not as it was written.
    #[error("{}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Such a directory cannot be read.
    #[error(transparent)]
    Copy(#[from] CacheError),
    /// It is no firmware image, or a damaged one.
    #[error("{}: {error}", path.display())]
    NotAnImage {
        /// As given.
        path: PathBuf,
        /// Why.
        error: ImageError,
    },
}

impl ObtainError {
    fn of(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            std::io::ErrorKind::NotFound => Self::Missing(path),
            std::io::ErrorKind::PermissionDenied => Self::Denied(path),
            _ => Self::Unreadable { path, source },
        }
    }

    /// The exit code: a damaged image is refused; a file that is none, or none at all, was given by mistake.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Denied(_) => ExitCode::Denied,
            Self::NotAnImage { error: ImageError::Empty | ImageError::TooLarge | ImageError::Mistake(_), .. }
            | Self::Missing(_)
            | Self::NotAFile { .. }
            | Self::Unreadable { .. } => ExitCode::Usage,
            Self::NotAnImage { .. } | Self::Damaged { .. } => ExitCode::Refused,
            Self::Copy(error) => error.exit(),
        }
    }
}
