//! How the cache fails.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Key;
use crate::exit::ExitCode;
use crate::obtain::provenance::ProvenanceError;

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Others may write to it, and so put any firmware on a board.
    #[error("{}: not used as a cache: {why}", path.display())]
    Untrusted {
        /// The cache's directory.
        path: PathBuf,
        /// Who may.
        why: String,
    },
    /// It is a file, or something else.
    #[error("{}: not a directory", .0.display())]
    NoDirectory(PathBuf),
    /// The system refuses.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, `make`.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process holds it for too long.
    #[error("{} is locked{}", path.display(), by(*pid))]
    Locked {
        /// The lock's file.
        path: PathBuf,
        /// Who holds it, where known.
        pid: Option<u32>,
    },
    /// What is to be stored does not belong together.
    #[error("not stored: {0}")]
    Inconsistent(&'static str),
    /// What is to be stored has no provenance.
    #[error("not stored: {0}")]
    Provenance(#[from] ProvenanceError),
    /// The name of a tree or repository is none that a directory can have.
    #[error("{0:?} is no name for a directory in the cache")]
    BadName(String),
}

/// What is wrong with something in the cache. It is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: damaged: {what}", path.display())]
pub struct Damage {
    /// Which entry, for an image.
    pub key: Option<Key>,
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong.
    pub what: String,
}

impl CacheError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// The exit code. What the system refuses (permissions, a file system that is full or read-only) trying again does
    /// not mend.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Untrusted { .. } => ExitCode::Denied,
            Self::Io { source, .. } => match source.kind() {
                ErrorKind::PermissionDenied
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::StorageFull
                | ErrorKind::QuotaExceeded => ExitCode::Denied,
                _ => ExitCode::Internal,
            },
            Self::Locked { .. } => ExitCode::Busy,
            Self::Inconsistent(_) | Self::Provenance(_) => ExitCode::Refused,
            Self::NoDirectory(_) | Self::BadName(_) => ExitCode::Usage,
        }
    }
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
}
