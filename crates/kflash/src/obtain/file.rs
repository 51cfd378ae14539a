//! Firmware from a file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use super::cache::{self, Damage, Entry, Lookup};
use super::{From, ObtainError, Obtained};
use crate::image::{Image, MAX_FILE};

/// Reads the firmware file at `path`, or the image in a directory that [`Entry::copy_to`] made. No more than [`MAX_FILE`] bytes are read of a regular file, none of anything else.
pub fn file(path: &Path) -> Result<Obtained, ObtainError> {
    let unreadable = |source| ObtainError::of(path, source);
    // Looked at before it is opened: opening a FIFO would wait for a writer, opening a tty can reset a board.
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if kind.is_dir() && cache::is_copy(path) {
        return copy(path);
    }
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "a device, a pipe or a socket" };
        return Err(ObtainError::NotAFile { path: path.to_owned(), what });
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // One byte more than allowed, so that a larger file is seen to be larger.
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match Image::parse(&bytes) {
        Ok(image) => Ok(Obtained { image, bytes, from: From::File(path.to_owned()) }),
        Err(error) => Err(ObtainError::NotAnImage { path: path.to_owned(), error }),
    }
}

/// An image with all that is known of it, as `kflash build --out` writes it.
fn copy(path: &Path) -> Result<Obtained, ObtainError> {
    match Entry::read_copy(path)? {
        Lookup::Found(entry) => {
            let Entry { image, bytes, .. } = *entry;
            Ok(Obtained { image, bytes, from: From::File(path.to_owned()) })
        }
        Lookup::Absent => Err(ObtainError::Missing(path.to_owned())),
        Lookup::Damaged(Damage { path, what, .. }) => Err(ObtainError::Damaged { path, what }),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io;

    use super::*;
    use crate::exit::ExitCode;

    fn failure(path: &Path) -> (String, ExitCode) {
        let error = file(path).unwrap_err();
        (error.to_string(), error.exit())
    }

    #[test]
    fn a_file_is_read_and_parsed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("klipper.bin");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let image = Image::parse(&[1, 2, 3]).unwrap();
        let obtained = Obtained { image, bytes: vec![1, 2, 3], from: From::File(path.clone()) };
        assert_eq!(file(&path).unwrap(), obtained);
    }

    #[test]
    fn what_is_no_firmware_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("firmware");
        let shown = path.display();
        assert_eq!(failure(&path), (format!("{shown}: no such file"), ExitCode::Usage));
        std::fs::write(&path, "").unwrap();
        assert_eq!(failure(&path), (format!("{shown}: it is empty"), ExitCode::Usage));
        std::fs::write(&path, "# readme").unwrap();
        assert_eq!(failure(&path), (format!("{shown}: it is text, not firmware"), ExitCode::Usage));
        std::fs::write(&path, ":00000001FE").unwrap();
        let damaged = format!("{shown}: not intact Intel HEX: line 1: checksum 0xfe where 0xff is right");
        assert_eq!(failure(&path), (damaged, ExitCode::Refused));
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let large = format!("{shown}: it is larger than 16 MiB, which no firmware is");
        assert_eq!(failure(&path), (large, ExitCode::Usage));
        let directory = format!("{}: not a file but a directory", dir.path().display());
        assert_eq!(failure(dir.path()), (directory, ExitCode::Usage));
        let device = "/dev/zero: not a file but a device, a pipe or a socket".to_owned();
        assert_eq!(failure(Path::new("/dev/zero")), (device, ExitCode::Usage));
    }

    #[test]
    fn permission_is_its_own_failure() {
        let error = ObtainError::of(Path::new("k.bin"), io::ErrorKind::PermissionDenied.into());
        assert_eq!((error.to_string().as_str(), error.exit()), ("k.bin: permission denied", ExitCode::Denied));
        let error = ObtainError::of(Path::new("k.bin"), io::ErrorKind::TimedOut.into());
        assert_eq!((error.to_string().as_str(), error.exit()), ("k.bin: timed out", ExitCode::Usage));
    }
}
