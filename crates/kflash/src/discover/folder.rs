//! Directories of sysfs and procfs. A look at a host opens hundreds of files in them: names are looked up from the open
//! directory, not from the root.

use std::ffi::{CStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, SeekFrom, Statx, StatxFlags, openat, readlinkat, seek, statx,
};
use rustix::io::Errno;
use rustix::path::Arg;

/// An open directory.
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens a directory by its path.
    pub fn open(path: impl Arg) -> io::Result<Self> {
        Ok(Self(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a directory in this one.
    pub fn folder(&self, name: impl Arg) -> io::Result<Self> {
        Ok(Self(openat(&self.0, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Every name in it but `.` and `..`, in the system's order; none more where it cannot be read, as a device or a process
    /// may leave at any moment.
    pub fn each_name(&self, mut take: impl FnMut(&CStr)) {
        if seek(&self.0, SeekFrom::Start(0)).is_err() {
            return;
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut names = RawDir::new(&self.0, &mut buffer);
        while let Some(Ok(entry)) = names.next() {
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                take(entry.file_name());
            }
        }
    }

    /// The names in it that are text and `wanted`, sorted.
    pub fn names(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut names = Vec::new();
        self.each_name(|name| names.extend(name.to_str().ok().filter(|name| wanted(name)).map(str::to_owned)));
        names.sort();
        names
    }

    /// The first bytes of a file in it, `longest` at most.
    pub fn read(&self, name: impl Arg, longest: usize) -> io::Result<Vec<u8>> {
        let file = openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buffer = [0; 4096];
        let mut bytes = Vec::new();
        while bytes.len() < longest {
            let room = buffer.len().min(longest - bytes.len());
            match rustix::io::read(&file, &mut buffer[..room]) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(bytes)
    }

    /// Where a link in it leads.
    pub fn link(&self, name: impl Arg) -> io::Result<PathBuf> {
        let target = readlinkat(&self.0, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// Major and minor number of the character device that a name in it leads to; `None` where it is none. Asks no server:
    /// a file on a dead network mount must not hang this.
    pub fn char_device(&self, name: impl Arg) -> Option<(u32, u32)> {
        let Statx { stx_mode, stx_rdev_major, stx_rdev_minor, .. } =
            statx(&self.0, name, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok()?;
        let is_device = FileType::from_raw_mode(stx_mode.into()) == FileType::CharacterDevice;
        is_device.then_some((stx_rdev_major, stx_rdev_minor))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    #[test]
    fn names_files_links_and_devices() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("inner")).unwrap();
        fs::write(root.path().join("inner/long"), vec![b'A'; 10_000]).unwrap();
        fs::write(root.path().join(OsStr::from_bytes(b"no\xfftext")), "").unwrap();
        symlink("/dev/full", root.path().join("device")).unwrap();
        symlink("nowhere", root.path().join("dangling")).unwrap();

        let folder = Folder::open(root.path()).unwrap();
        for _ in 0..2 {
            assert_eq!(folder.names(|_| true), ["dangling", "device", "inner"]);
        }
        assert_eq!(folder.names(|name| name.starts_with('d')), ["dangling", "device"]);
        let inner = folder.folder("inner").unwrap();
        assert_eq!(inner.read("long", 9_000).unwrap().len(), 9_000);
        assert_eq!(inner.read("long", 20_000).unwrap().len(), 10_000);
        assert!(folder.read("inner", 10).is_err() && folder.folder("inner/long").is_err());
        assert_eq!(folder.link("dangling").unwrap(), Path::new("nowhere"));
        // Documentation/admin-guide/devices.txt.
        assert_eq!(folder.char_device("device"), Some((1, 7)));
        assert_eq!((folder.char_device("dangling"), folder.char_device("inner")), (None, None));
    }

    #[test]
    fn a_large_directory_is_listed_whole() {
        let root = tempfile::tempdir().unwrap();
        let names: Vec<_> = (1000..2000).map(|number| format!("a-name-that-fills-the-buffer-{number}")).collect();
        for name in &names {
            fs::write(root.path().join(name), "").unwrap();
        }
        assert_eq!(Folder::open(root.path()).unwrap().names(|_| true), names);
    }
}
