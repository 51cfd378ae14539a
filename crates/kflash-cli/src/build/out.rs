//! `--out`: images with all that is known of them, each in a directory that is named after its board.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kflash::exit::ExitCode;
use kflash::obtain::cache::Entry;

use crate::failure::Failure;
use crate::which::Wanted;

/// Makes the directory, if it is not there.
pub fn make(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| {
        let exit = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ExitCode::Denied,
            _ => ExitCode::Usage,
        };
        Failure::new(exit, format!("cannot make {}: {error}", dir.display()))
    })
}

/// Writes the image of a board to `dir`; returns its path.
pub fn write(dir: &Path, wanted: &Wanted, entry: &Entry) -> Result<PathBuf, Failure> {
    let to = dir.join(wanted.shown().rsplit('/').next().unwrap_or_default());
    entry.copy_to(&to)?;
    Ok(to.join(&entry.provenance.image.name))
}
