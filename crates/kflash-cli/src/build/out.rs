//! `--out`: an image with its dictionary and its provenance, as files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kflash::exit::ExitCode;
use kflash::obtain::build::{Firmware, Outcome};

use crate::failure::Failure;
use crate::which::Wanted;

/// Makes the directory, if it is not there.
pub fn make(dir: &Path) -> Result<(), Failure> {
    fs::create_dir_all(dir).map_err(|error| failed("make", dir, &error))
}

/// Writes what was built for a board to `dir`; returns the image's path, if there is one.
pub fn write(dir: &Path, wanted: &Wanted, outcome: &Outcome) -> Result<Option<PathBuf>, Failure> {
    let Ok(firmware) = outcome else { return Ok(None) };
    let stem = stem(wanted, firmware);
    let ending = match firmware.entry.provenance.image.name.rsplit_once('.') {
        Some((_, ending)) => ending,
        None => "bin",
    };
    let image = dir.join(format!("{stem}.{ending}"));
    let provenance = serde_json::to_string_pretty(&firmware.entry.provenance)
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot write the provenance: {error}")))?;
    put(&dir.join(format!("{stem}.dict")), &firmware.entry.dictionary)?;
    put(&dir.join(format!("{stem}.provenance.json")), format!("{provenance}\n").as_bytes())?;
    // The image last: where it is, the others are, too.
    put(&image, &firmware.entry.bytes)?;
    Ok(Some(image))
}

/// BOARD-VERSION, of a configured one PRINTER-BOARD-VERSION, in characters that a file name can have. A version is
/// whatever a tag was named.
fn stem(wanted: &Wanted, firmware: &Firmware) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' };
    let version: String = firmware.entry.provenance.version.chars().map(plain).take(120).collect();
    format!("{}-{version}", wanted.shown().replace('/', "-"))
}

/// Writes a file in one step: whoever reads it meanwhile sees the old one or the new one.
fn put(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    fs::write(&new, bytes).and_then(|()| fs::rename(&new, path)).map_err(|error| {
        let _ = fs::remove_file(&new);
        failed("write", path, &error)
    })
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ExitCode::Denied,
        _ => ExitCode::Usage,
    };
    Failure::new(exit, format!("cannot {doing} {}: {error}", path.display()))
}
