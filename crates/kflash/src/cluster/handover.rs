//! Small files from one container of a pod to another.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest file of this kind, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// A file that is handed over between containers cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The operating system says so.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// `read`, `write` or `remove`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its word.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{} is not what kflash writes there: {problem}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Writes `value` as JSON to `path`, whole or not at all.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Result<(), HandoverError> {
    let failed = |source| HandoverError::Io { what: "write", path: path.to_owned(), source };
    let json = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let written = File::create(&new).and_then(|mut file| {
        file.write_all(&json)?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&new, path)).map_err(failed)
}

/// Takes `path` away, after making sure that it can be written.
pub(crate) fn clear(path: &Path) -> Result<(), HandoverError> {
    write(path, &())?;
    fs::remove_file(path).map_err(|source| HandoverError::Io { what: "remove", path: path.to_owned(), source })
}

/// Reads what [`write`] wrote; `None` where there is no such file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, HandoverError> {
    let failed = |source| HandoverError::Io { what: "read", path: path.to_owned(), source };
    let wrong = |problem| HandoverError::Content { path: path.to_owned(), problem };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut json = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut json).map_err(failed)?;
    if json.len() as u64 > MAX_FILE {
        return Err(wrong(format!("it is larger than {MAX_FILE} bytes")));
    }
    serde_json::from_slice(&json).map(Some).map_err(|error| wrong(error.to_string()))
}
