//! Stage 3: the firmware. So far: from a file.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::exit::ExitCode;
use crate::image::{Image, ImageError, MAX_FILE};

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
    /// The exit code: a damaged image is refused; a file that is none, or none at all, was given by mistake.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Denied(_) => ExitCode::Denied,
            Self::NotAnImage { error: ImageError::Empty | ImageError::TooLarge | ImageError::Mistake(_), .. }
            | Self::Missing(_)
            | Self::NotAFile { .. }
            | Self::Unreadable { .. } => ExitCode::Usage,
            Self::NotAnImage { .. } => ExitCode::Refused,
        }
    }
}

/// Reads the firmware file at `path`. No more than [`MAX_FILE`] bytes are read of a regular file, none of anything else.
pub fn file(path: &Path) -> Result<Image, ObtainError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => ObtainError::Missing(path.to_owned()),
        std::io::ErrorKind::PermissionDenied => ObtainError::Denied(path.to_owned()),
        _ => ObtainError::Unreadable { path: path.to_owned(), source },
    };
    // Looked at before it is opened: opening a FIFO would wait for a writer, opening a tty can reset a board.
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "a device, a pipe or a socket" };
        return Err(ObtainError::NotAFile { path: path.to_owned(), what });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // One byte more than allowed, so that a larger file is seen to be larger.
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Image::parse(&bytes).map_err(|error| ObtainError::NotAnImage { path: path.to_owned(), error })
}
