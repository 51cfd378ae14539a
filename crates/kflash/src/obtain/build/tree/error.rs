//! Why there is no tree to build from.

use std::io;
use std::path::{Path, PathBuf};

use crate::exit::ExitCode;
use crate::obtain::cache::CacheError;

/// Why there is no tree to build from, or no copy of it.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The directory holds something else.
    #[error("{place}: no Klipper or Kalico tree: {problem}")]
    NotATree {
        /// Directory, or URL and commit.
        place: String,
        /// What it lacks.
        problem: String,
    },
    /// None of several directories is one.
    #[error("no Klipper or Kalico tree at {}", listed(.0))]
    NoneOf(Vec<PathBuf>),
    /// A text is no git reference that is taken.
    #[error("{0:?} is no branch, tag or commit")]
    BadReference(String),
    /// A text is no URL that is taken.
    #[error("{url:?} is no URL of a git repository: {problem}")]
    BadUrl {
        /// Without credentials.
        url: String,
        /// Why.
        problem: &'static str,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{place}: no branch, tag or commit {reference:?}")]
    NoSuchReference {
        /// Directory or URL.
        place: String,
        /// As wanted.
        reference: String,
    },
    /// The program is missing.
    #[error("git is not installed")]
    NoGit,
    /// git failed on a repository.
    #[error("{place}: git {command} fails: {message}")]
    Git {
        /// Directory or URL.
        place: String,
        /// The command.
        command: String,
        /// git's last words.
        message: String,
    },
    /// git could not fetch.
    #[error("cannot fetch {url}: {message}")]
    Fetch {
        /// Without credentials.
        url: String,
        /// git's last words.
        message: String,
    },
    /// The tree is not what it was when it was looked at.
    #[error("{place}: changed while it was copied: it was {was}, the copy is {is}")]
    Changed {
        /// Directory or URL.
        place: String,
        /// Its version or digest before.
        was: String,
        /// What the copy has.
        is: String,
    },
    /// A symbolic link leads out of the tree.
    #[error("{place}: {link} is a symbolic link out of the tree, to {target:?}")]
    LinkOutside {
        /// Directory or URL.
        place: String,
        /// The link, in the tree.
        link: String,
        /// Where it leads.
        target: String,
    },
    /// Something in the tree is neither file, directory nor link.
    #[error("{}: not a file but {what}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// No tree has so many files, or so large ones.
    #[error("{}: more than {} files or {} GiB to copy, which no Klipper tree has", .0.display(), super::files::MOST, super::files::LARGEST >> 30)]
    TooLarge(PathBuf),
    /// The system's error at a path.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A signal asked to stop.
    #[error("stopped by a signal")]
    Interrupted,
}

impl TreeError {
    /// What a system call on `path` fails with.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// The exit code: what names no tree was given by mistake; a tree that cannot be built from is a failed build.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::NotATree { .. }
            | Self::NoneOf(_)
            | Self::BadReference(_)
            | Self::BadUrl { .. }
            | Self::NoSuchReference { .. } => ExitCode::Usage,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => ExitCode::Denied,
            Self::NoGit
            | Self::Git { .. }
            | Self::Changed { .. }
            | Self::LinkOutside { .. }
            | Self::NotAFile { .. }
            | Self::TooLarge(_)
            | Self::Io { .. } => ExitCode::Build,
            Self::Fetch { .. } => ExitCode::Fetch,
            Self::Cache(error) => error.exit(),
            Self::Interrupted => ExitCode::Cancelled,
        }
    }
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}
