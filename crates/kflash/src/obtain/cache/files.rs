//! Files of the cache, read as if an enemy had put them there, and written to last.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::CacheError;

/// A directory, open: what is read through it belongs together, even if another takes its place meanwhile.
pub(super) struct Folder {
    fd: OwnedFd,
    path: PathBuf,
}

/// Why something could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is not there.
    Missing,
    /// It is not what it should be.
    Damaged { path: PathBuf, what: String },
    /// The system refuses.
    System(CacheError),
}

impl Fault {
    pub(super) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }

    fn of(path: &Path, error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Missing,
            Errno::LOOP => Self::damaged(path, "it is a symbolic link"),
            Errno::NOTDIR => Self::damaged(path, "it is no directory"),
            // A worn card: what cannot be read is made anew, elsewhere on it.
            Errno::IO => Self::damaged(path, "it cannot be read"),
            error => Self::System(CacheError::io("read", path)(error.into())),
        }
    }
}

impl Folder {
    /// Opens the directory at `path`, which must not be a link.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self { fd, path: path.to_owned() }),
            // Linux tells a link from another thing only where it is not asked for a directory.
            Err(Errno::NOTDIR) if path.is_symlink() => Err(Fault::of(path, Errno::LOOP)),
            Err(error) => Err(Fault::of(path, error)),
        }
    }

    /// Whether it is still the one at its path.
    pub(super) fn is_current(&self) -> bool {
        let (Ok(open), Ok(at_path)) = (rustix::fs::fstat(&self.fd), std::fs::symlink_metadata(&self.path)) else {
            return false;
        };
        (open.st_dev, open.st_ino) == (at_path.dev(), at_path.ino())
    }

    /// The file `name` in it, of at most `max` bytes.
    pub(super) fn read(&self, name: &str, max: usize) -> Result<Vec<u8>, Fault> {
        let path = self.path.join(name);
        // Nor is waited for the other end of a FIFO.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).map_err(|error| Fault::of(&path, error));
        read(File::from(opened?), &path, max)
    }

    /// Notes that it is in use now.
    pub(super) fn touch(&self) {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        // A cache that is only read keeps its times.
        let _ = rustix::fs::futimens(&self.fd, &times);
    }
}

fn read(file: File, path: &Path, max: usize) -> Result<Vec<u8>, Fault> {
    let of = |error: io::Error| match error.raw_os_error() {
        Some(code) => Fault::of(path, Errno::from_raw_os_error(code)),
        None => Fault::System(CacheError::io("read", path)(error)),
    };
    let found = file.metadata().map_err(of)?;
    if !found.is_file() {
        return Err(Fault::damaged(path, "it is no file"));
    }
    let too_large = || Fault::damaged(path, format!("it has more than {max} bytes"));
    if found.len() > max as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(found.len() as usize);
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(of)?;
    if bytes.len() > max { Err(too_large()) } else { Ok(bytes) }
}

/// Writes a new file, down to the disk.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(CacheError::io("write", path))
}

/// Writes down to the disk what the directory at `path` lists.
pub(super) fn sync_folder(path: &Path) -> Result<(), CacheError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(CacheError::io("write", path))
}
