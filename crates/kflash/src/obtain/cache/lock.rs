//! Locks in the cache: a `flock`, released by the system when its process ends, however it ends.
//!
//! The file is opened for writing, as NFS needs it for an exclusive lock. A lock holds only if its file is still the one
//! at its path once it is taken: so gc may remove the files of locks that nobody holds.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::files::Folder;
use super::folder::LOCKS;
use super::{Cache, CacheError, Key, Shelf};

/// How long is waited for the lock of all short changes. Holding it takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a lock that is held.
const POLL: Duration = Duration::from_millis(20);
/// The lock of all short changes.
pub(super) const WRITE: &str = "write.lock";

/// Something in the cache that nobody else works on; released when this is dropped or the process ends.
#[derive(Debug)]
pub struct Claim {
    _file: File,
    path: PathBuf,
}

impl Claim {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { _file: file, path }
    }

    /// What is claimed: the directory of a tree or repository, the lock's file of a key.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A lock was not taken: who holds it, where known.
#[derive(Debug)]
pub(super) struct Held(pub Option<u32>);

impl Cache {
    /// Claims `key`, so that its image is made once: where two runs want it, one waits and then finds it. While another
    /// holds it `waiting` is asked, with the process's id where known, whether to wait on: `None` if not.
    pub fn claim(&self, key: &Key, waiting: &mut dyn FnMut(Option<u32>) -> bool) -> Result<Option<Claim>, CacheError> {
        let path = self.make(LOCKS)?.join(format!("{key}.lock"));
        let file = wait(&path, false, waiting)?;
        Ok(file.map(|file| Claim::new(file, path)))
    }

    /// Claims the directory `name` on a shelf, which may not be there yet: shared with others who only read it, or alone.
    /// It is not removed meanwhile, and counts as used now. `waiting` as for [`Cache::claim`].
    pub fn claim_folder(
        &self,
        shelf: Shelf,
        name: &str,
        shared: bool,
        waiting: &mut dyn FnMut(Option<u32>) -> bool,
    ) -> Result<Option<Claim>, CacheError> {
        if !is_name(name) {
            return Err(CacheError::BadName(name.to_owned()));
        }
        let lock = self.make(LOCKS)?.join(folder_lock(shelf, name));
        let path = self.make(shelf.name())?.join(name);
        let file = wait(&lock, shared, waiting)?;
        if let (Some(_), Ok(folder)) = (&file, Folder::open(&path)) {
            folder.touch();
        }
        Ok(file.map(|file| Claim::new(file, path)))
    }

    /// The lock under which all short changes are made.
    pub(super) fn write_lock(&self) -> Result<Claim, CacheError> {
        let path = self.make(LOCKS)?.join(WRITE);
        let (since, mut holder) = (Instant::now(), None);
        let mut waiting = |pid| {
            holder = pid;
            since.elapsed() < PATIENCE
        };
        match wait(&path, false, &mut waiting)? {
            Some(file) => Ok(Claim::new(file, path)),
            None => Err(CacheError::Locked { path, pid: holder }),
        }
    }
}

/// The name of the lock of a directory on a shelf.
pub(super) fn folder_lock(shelf: Shelf, name: &str) -> String {
    format!("{}-{name}.lock", shelf.name())
}

/// Whether a directory may have this name: it leads nowhere else, and is not hidden.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=128).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain)
}

fn wait(path: &Path, shared: bool, waiting: &mut dyn FnMut(Option<u32>) -> bool) -> Result<Option<File>, CacheError> {
    loop {
        match take(path, shared)? {
            Ok(file) => return Ok(Some(file)),
            Err(Held(pid)) if !waiting(pid) => return Ok(None),
            // The other side is another process: no injected clock makes it go faster.
            Err(Held(_)) => std::thread::sleep(POLL),
        }
    }
}

/// Takes the lock at `path`, if nobody holds it.
pub(super) fn take(path: &Path, shared: bool) -> Result<Result<File, Held>, CacheError> {
    let failed = |source| CacheError::io("lock", path)(source);
    loop {
        let mut file = open(path).map_err(failed)?;
        let taken = if shared { file.try_lock_shared() } else { file.try_lock() };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Err(Held(read_pid(&mut file)))),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let held = file.metadata().map_err(failed)?;
        let at_path = std::fs::symlink_metadata(path);
        if !at_path.is_ok_and(|found| (found.dev(), found.ino()) == (held.dev(), held.ino())) {
            // Its file was removed between opening and locking it.
            continue;
        }
        if !shared {
            // Only for a message.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        }
        return Ok(Ok(file));
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
