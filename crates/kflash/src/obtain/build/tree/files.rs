//! Files of a tree, read without following symbolic links, and copied without writing through any.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;
use sha2::Digest as _;

use super::TreeError;
use crate::digest::Sha256;

/// Most files and links that are copied.
pub(super) const MOST: usize = 100_000;
/// Most bytes that are copied. Klipper has 0.2 GiB.
pub(super) const LARGEST: u64 = 2 << 30;

/// Modification time of copied files: unlike that of any file of a checkout, so that git's index, which holds the
/// checkout's, cannot take them for it.
const COPIED: Duration = Duration::from_secs(1_000_000_000);

/// The digest of some files of the tree in `from`: of path, kind and content of each. With `into`, each is copied there
/// in the same pass, so that the digest is that of the copy. What is missing in `from` is missing in `into`, too.
pub(super) fn digest<'a>(
    from: &Path,
    paths: impl Iterator<Item = &'a Path>,
    into: Option<&Path>,
) -> Result<Sha256, TreeError> {
    let root = openat(CWD, from, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| TreeError::io(from)(error.into()))?;
    let mut digest = sha2::Sha256::new();
    let mut left = LARGEST;
    for (count, path) in paths.enumerate() {
        if count >= MOST {
            return Err(TreeError::TooLarge(from.to_owned()));
        }
        let whole = from.join(path);
        if !is_inside(path) {
            return Err(TreeError::NotAFile { path: whole, what: "a path out of the tree" });
        }
        let (kind, content) = match found(&root, path).map_err(TreeError::io(&whole))? {
            Found::Missing => {
                into.map_or(Ok(()), |into| remove(into, path)).map_err(TreeError::io(&whole))?;
                ("missing", sha2::Sha256::digest([]))
            }
            Found::Link(target) => {
                check_link(from, path, &target)?;
                let link = |into| replace(into, path, |place| std::os::unix::fs::symlink(&target, place));
                into.map_or(Ok(()), link).map_err(TreeError::io(&whole))?;
                ("link", sha2::Sha256::digest(target.as_bytes()))
            }
            Found::Other(what) => return Err(TreeError::NotAFile { path: whole, what }),
            Found::File(mut file) => {
                let mode = file.metadata().map_err(TreeError::io(&whole))?.mode();
                let kind = if mode & 0o100 == 0 { "file" } else { "program" };
                let mut content = sha2::Sha256::new();
                let poured = match into {
                    None => pour(&mut file, &mut left, &mut content, &mut io::sink()),
                    Some(into) => replace(into, path, |place| {
                        let mut copy = File::create_new(place)?;
                        pour(&mut file, &mut left, &mut content, &mut copy)?;
                        copy.set_permissions(Permissions::from_mode(if kind == "file" { 0o644 } else { 0o755 }))?;
                        copy.set_modified(SystemTime::UNIX_EPOCH + COPIED)
                    }),
                };
                poured.map_err(|error| match error.kind() {
                    ErrorKind::FileTooLarge => TreeError::TooLarge(from.to_owned()),
                    _ => TreeError::io(&whole)(error),
                })?;
                (kind, content.finalize())
            }
        };
        digest.update(kind);
        digest.update([0]);
        digest.update(path.as_os_str().as_bytes());
        digest.update([0]);
        digest.update(content);
    }
    Ok(Sha256::finish(digest))
}

fn pour(file: &mut File, left: &mut u64, content: &mut sha2::Sha256, to: &mut dyn io::Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        *left = left.checked_sub(count as u64).ok_or(ErrorKind::FileTooLarge)?;
        content.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
    }
}

/// Every file and link below `dir` of the tree in `from`, relative to the tree, sorted; but for what a build leaves
/// behind, and repositories.
pub(super) fn below(from: &Path, dir: &Path) -> Result<Vec<PathBuf>, TreeError> {
    walk(from, dir, is_left_behind)
}

/// Every file and link in `dir`, relative to it.
pub(super) fn all_below(dir: &Path) -> Result<Vec<PathBuf>, TreeError> {
    walk(dir, Path::new(""), |_| false)
}

fn walk(from: &Path, dir: &Path, skip: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, TreeError> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let whole = from.join(&folder);
        for entry in fs::read_dir(&whole).map_err(TreeError::io(&whole))? {
            let entry = entry.map_err(TreeError::io(&whole))?;
            let path = folder.join(entry.file_name());
            if skip(&path) {
                continue;
            }
            match entry.file_type().map_err(TreeError::io(&whole))? {
                kind if kind.is_dir() => folders.push(path),
                kind if kind.is_file() || kind.is_symlink() => found.push(path),
                _ => {}
            }
            if found.len() + folders.len() > MOST {
                return Err(TreeError::TooLarge(from.to_owned()));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What builds and Python leave in a tree, which its own .gitignore names, too: `--exclude` patterns of git, and the same
/// for a tree without git.
pub(super) const LEFT_BEHIND: [&str; 7] =
    ["/.config", "/.config.old", "/klippy/.version", "/out", "*.pyc", "*.so", "__pycache__"];

pub(super) fn is_left_behind(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    LEFT_BEHIND.iter().any(|pattern| match (pattern.strip_prefix('/'), pattern.strip_prefix('*')) {
        // It holds the version of a tree without git.
        (Some("klippy/.version"), _) => false,
        (Some(whole), _) => path == Path::new(whole),
        (_, Some(ending)) => name.as_bytes().ends_with(ending.as_bytes()),
        (None, None) => name == OsStr::new(pattern),
    }) || name == ".git"
}

enum Found {
    File(File),
    Link(OsString),
    Missing,
    Other(&'static str),
}

/// Opens `path` below `root`. No component is followed if it is a link, whoever exchanges it meanwhile.
fn found(root: &OwnedFd, path: &Path) -> io::Result<Found> {
    let mut folder = root.try_clone()?;
    let missing = |error: Errno| match error {
        // Of a parent: a link or a file where there was a directory.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Ok(Found::Missing),
        error => Err(io::Error::from(error)),
    };
    for component in path.parent().into_iter().flat_map(Path::components) {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&folder, component.as_os_str(), flags, Mode::empty()) {
            Ok(inner) => folder = inner,
            Err(error) => return missing(error),
        }
    }
    let name = path.file_name().unwrap_or_default();
    let stat = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(error) => return missing(error),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            // Should it have become a pipe since, opening it must not wait for a writer.
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = File::from(openat(&folder, name, flags, Mode::empty())?);
            Ok(if file.metadata()?.is_file() { Found::File(file) } else { Found::Other("a pipe or a device") })
        }
        FileType::Symlink => {
            let target = readlinkat(&folder, name, Vec::new())?;
            Ok(Found::Link(OsStr::from_bytes(target.as_bytes()).to_owned()))
        }
        // Where there was a file; what is in it is listed by itself.
        FileType::Directory => Ok(Found::Missing),
        _ => Ok(Found::Other("a pipe, a socket or a device")),
    }
}

/// Puts something at `path` below `into` by `make`, in place of what is there.
fn replace(into: &Path, path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut place = into.to_owned();
    for component in path.parent().into_iter().flat_map(Path::components) {
        place.push(component);
        match fs::symlink_metadata(&place) {
            Ok(kind) if kind.is_dir() => continue,
            Ok(_) => fs::remove_file(&place)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        fs::create_dir(&place)?;
    }
    remove(into, path)?;
    make(&into.join(path))
}

/// Removes what is at `path` below `into`, unless a link leads there.
fn remove(into: &Path, path: &Path) -> io::Result<()> {
    let place = into.join(path);
    match fs::symlink_metadata(&place) {
        _ if !in_folders(into, path) => Ok(()),
        Ok(kind) if kind.is_dir() => fs::remove_dir_all(&place),
        Ok(_) => fs::remove_file(&place),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether there is a file or a link at `path` below `dir`, and no link leads there.
pub(super) fn is_there(dir: &Path, path: &Path) -> bool {
    in_folders(dir, path) && fs::symlink_metadata(dir.join(path)).is_ok_and(|kind| !kind.is_dir())
}

/// Whether every parent of `path` below `dir` is a directory and no link to one.
fn in_folders(dir: &Path, path: &Path) -> bool {
    let parents = path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty());
    parents.map(|parent| dir.join(parent)).all(|parent| fs::symlink_metadata(parent).is_ok_and(|kind| kind.is_dir()))
}

/// Whether `path` is relative, names something, and is not in a repository.
fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(name) if name != ".git"))
        && path.file_name().is_some()
}

/// Refuses a link that leads out of the tree where a firmware build may follow it. Elsewhere it is a plugin of the
/// host, as many installers leave in `klippy/extras`: it is kept as a link and never followed.
pub(super) fn check_link(tree: &Path, path: &Path, target: &OsStr) -> Result<(), TreeError> {
    if leads_inside(path, target) || !is_built_from(path) {
        return Ok(());
    }
    Err(TreeError::LinkOutside {
        place: tree.display().to_string(),
        link: path.display().to_string(),
        target: target.to_string_lossy().into_owned(),
    })
}

/// Whether a link at `path` with this target stays in the tree: it climbs no further than to the tree, and only at its
/// start, since what follows may go through other links.
fn leads_inside(path: &Path, target: &OsStr) -> bool {
    let parts: Vec<_> = Path::new(target).components().filter(|part| *part != Component::CurDir).collect();
    let climbed = parts.iter().take_while(|part| **part == Component::ParentDir).count();
    let depth = path.components().count().saturating_sub(1);
    climbed <= depth && parts[climbed..].iter().all(|part| matches!(part, Component::Normal(_)))
}

/// Whether a firmware build may read `path`: these directories, the Makefile, and of the host the protocol's module.
fn is_built_from(path: &Path) -> bool {
    let built_from = ["lib", "scripts", "src"];
    built_from.iter().any(|folder| path.starts_with(folder))
        || path == Path::new("Makefile")
        || path.parent() == Some(Path::new("klippy"))
        || path == Path::new("klippy")
}
