//! The lock on a device's place: two runs of kflash on a host never meet, whoever runs them.
//!
//! It is a `flock` on a file named after the place, in the first of these directories that takes it: `/run/lock`, which
//! every user may write to on Debian and its kin; `/run/kflash`, which a pod mounts and root makes; `/run/user/UID`; and
//! last one that the caller names. Users without a directory in common do not meet here, but at the device's node, which
//! is opened exclusively.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::discover::Place;
use crate::host::LockError;

/// A lock; released when this is dropped, or by the system when the process ends. The file stays: removing it would let
/// two runs hold locks on two files of one name.
#[derive(Debug)]
pub(crate) struct PlaceLock {
    _file: File,
}

impl PlaceLock {
    /// Takes the lock of `place` on the host in `root`.
    pub fn take(root: &Path, last: Option<&Path>, place: &Place) -> Result<Self, LockError> {
        let name = file_name(place);
        let mut refused = None;
        for folder in folders(root, last) {
            let path = folder.join(&name);
            match open(&path) {
                Ok(file) => return Self::hold(file, &path, place),
                // What the last directory says is what a person can mend.
                Err(source) => refused = Some(LockError::Io { place: path.display().to_string(), source }),
            }
        }
        let none = || LockError::Io {
            place: format!("{place}: no directory for lock files below {}", root.join("run").display()),
            source: io::Error::from(ErrorKind::NotFound),
        };
        Err(refused.unwrap_or_else(none))
    }

    fn hold(mut file: File, path: &Path, place: &Place) -> Result<Self, LockError> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held { place: place.to_string(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => {
                return Err(LockError::Io { place: path.display().to_string(), source });
            }
        }
        // The number only serves a message: where another user owns the file, it may be missing.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

fn folders(root: &Path, last: Option<&Path>) -> Vec<PathBuf> {
    let own = root.join("run/kflash");
    // Only made where there is a `/run`, and only root can make it.
    if root.join("run").is_dir() && fs::create_dir(&own).is_ok() {
        let _ = fs::set_permissions(&own, fs::Permissions::from_mode(0o1777));
    }
    let user = root.join(format!("run/user/{}", rustix::process::getuid().as_raw()));
    let mut folders = vec![root.join("run/lock"), own, user];
    folders.extend(last.map(Path::to_owned));
    folders.retain(|folder| folder.is_dir());
    folders
}

/// Opens the lock file, or makes it for every user to open.
fn open(path: &Path) -> io::Result<File> {
    // Nor is waited for the other end of a FIFO that somebody left there.
    let follow_no_link = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
    let open = |write: bool| OpenOptions::new().read(true).write(write).custom_flags(follow_no_link).open(path);
    // Not O_CREAT at once: with fs.protected_regular it is refused for another user's file in a sticky directory.
    match open(true) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return open(false),
        result => return result,
    }
    let mut create = OpenOptions::new();
    match create.read(true).write(true).create_new(true).custom_flags(follow_no_link).open(path) {
        Ok(file) => {
            // Against the umask: the next run may be another user's.
            file.set_permissions(fs::Permissions::from_mode(0o666))?;
            Ok(file)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => open(true).or_else(|_| open(false)),
        Err(error) => Err(error),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// `kflash.usb-1-1.4.lock`: the place in characters that a file name may hold.
fn file_name(place: &Place) -> String {
    let (kind, name) = match place {
        Place::Usb(path) => ("usb", path.to_string()),
        Place::Tty(node) => ("tty", node.strip_prefix("/dev").unwrap_or(node).display().to_string()),
        Place::Tcp(address) => ("tcp", address.clone()),
        Place::Usbip { server, busid } => ("usbip", format!("{server}_{busid}")),
        Place::Probe(probe) => ("probe", probe.clone()),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    format!("kflash.{kind}-{}.lock", name.chars().map(plain).take(150).collect::<String>())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn place(path: &str) -> Place {
        Place::Usb(path.parse().unwrap())
    }

    #[test]
    fn one_place_one_run() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("run")).unwrap();
        let lock = PlaceLock::take(root.path(), None, &place("1-1.4")).unwrap();
        assert!(root.path().join("run/kflash/kflash.usb-1-1.4.lock").is_file());
        let _other = PlaceLock::take(root.path(), None, &place("1-1.5")).unwrap();
        match PlaceLock::take(root.path(), None, &place("1-1.4")).unwrap_err() {
            LockError::Held { place, pid } => assert_eq!((place.as_str(), pid), ("1-1.4", Some(std::process::id()))),
            error @ LockError::Io { .. } => panic!("{error}"),
        }
        drop(lock);
        PlaceLock::take(root.path(), None, &place("1-1.4")).unwrap();
    }

    #[test]
    fn all_users_meet_in_run_lock() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/lock")).unwrap();
        let _lock = PlaceLock::take(root.path(), None, &place("1-1")).unwrap();
        let file = root.path().join("run/lock/kflash.usb-1-1.lock");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    }

    #[test]
    fn a_link_in_the_way_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/lock")).unwrap();
        fs::write(root.path().join("precious"), "data").unwrap();
        std::os::unix::fs::symlink("../../precious", root.path().join("run/lock/kflash.usb-1-1.lock")).unwrap();
        PlaceLock::take(root.path(), None, &place("1-1")).unwrap();
        assert_eq!(fs::read_to_string(root.path().join("precious")).unwrap(), "data");
        assert!(root.path().join("run/kflash/kflash.usb-1-1.lock").is_file(), "the next directory serves");
    }

    #[test]
    fn without_run_the_named_directory_serves() {
        let (root, last) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tty = Place::Tty("/dev/pts/../x y".into());
        let _lock = PlaceLock::take(root.path(), Some(last.path()), &tty).unwrap();
        assert!(last.path().join("kflash.tty-pts_.._x_y.lock").is_file());
        let error = PlaceLock::take(root.path(), None, &tty).unwrap_err().to_string();
        let run = root.path().join("run");
        let expected = format!("cannot lock {tty}: no directory for lock files below {}", run.display());
        assert!(error.starts_with(&expected), "{error}");
    }
}
