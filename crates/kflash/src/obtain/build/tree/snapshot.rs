//! A copy of a tree to build in.
//!
//! Of each commit the cache holds one checkout, `trees/COMMIT/tree`, and the git index that belongs to it. A snapshot
//! consists of hard links to the files of the checkout, which costs 2500 links and no bytes, of the changed files of a
//! work tree over them, and of a small git directory that borrows the objects of the original repository: Klipper asks
//! git for its version in the directory that it is built in, and gets the same answer as in the person's tree. The index
//! holds modification times, which hard links share, so that git need not read the files again.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::git::{Git, Repository};
use super::sparse::Sparse;
use super::{Looked, Source, Tree, TreeError, files};
use crate::digest::Sha256;
use crate::flash::Interrupt;
use crate::obtain::build::Environment;
use crate::obtain::cache::{Cache, Claim, Scratch, Shelf};

/// By how much an index is younger than the files it tells of. git reads every file again whose time is not older than
/// its index.
const YOUNGER: Duration = Duration::from_secs(10);
/// Most paths that one git command is given.
const AT_ONCE: usize = 200;

/// A copy of a tree. Dropped, it is removed, with all that is beside it.
#[derive(Debug)]
pub struct Snapshot {
    dir: PathBuf,
    _scratch: Scratch,
    /// Keeps the repository whose objects it borrows.
    _mirror: Option<Claim>,
}

impl Snapshot {
    /// The directory to build in. Its parent is this snapshot's alone, and empty but for it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Tree {
    /// Copies the tree into `cache`: exactly what it was when it was looked at, else it fails.
    pub fn snapshot(
        &self,
        cache: &Cache,
        environment: &Environment,
        interrupt: &Interrupt,
    ) -> Result<Snapshot, TreeError> {
        let git = Git { environment, interrupt };
        match (&self.source, &self.commit) {
            (Source::WorkTree { dir, repository }, Some(commit)) if self.changes_sha256.is_some() => {
                let snapshot = self.of_commit_in(&git, cache, repository, commit)?;
                self.lay_over(&git, repository, dir, &snapshot)?;
                Ok(snapshot)
            }
            (Source::WorkTree { repository, .. } | Source::Commit(repository), Some(commit)) => {
                let snapshot = self.of_commit_in(&git, cache, repository, commit)?;
                self.check_version(&git, &snapshot)?;
                Ok(snapshot)
            }
            (Source::Files(dir) | Source::WorkTree { dir, .. }, _) => self.copied(dir, cache),
            (Source::Commit(repository), None) => Err(self.changed(&repository.place)),
        }
    }

    /// A tree without git.
    fn copied(&self, dir: &Path, cache: &Cache) -> Result<Snapshot, TreeError> {
        let snapshot = new(cache, None)?;
        let files = files::below(dir, Path::new(""))?;
        let copied = files::digest(dir, files.iter().map(PathBuf::as_path), Some(&snapshot.dir))?;
        if self.changes_sha256 == Some(copied) { Ok(snapshot) } else { Err(self.other_files(copied)) }
    }

    /// The files of the commit alone, with a git directory.
    fn of_commit_in(
        &self,
        git: &Git<'_>,
        cache: &Cache,
        repository: &Repository,
        commit: &str,
    ) -> Result<Snapshot, TreeError> {
        let sparse = Sparse::of(git, repository)?;
        let name = match &sparse {
            Some(sparse) => format!("{commit}-{}", sparse.id()),
            None => commit.to_owned(),
        };
        let claim = |shared| {
            let claim = cache.claim_folder(Shelf::Trees, &name, shared, &mut |_| !git.interrupt.requested());
            claim?.ok_or(TreeError::Interrupted)
        };
        let mut damaged = false;
        loop {
            let shared = claim(true)?;
            if shared.path().is_dir() {
                let snapshot = new(cache, self.mirror(git, cache)?)?;
                if self.link(git, repository, commit, shared.path(), &snapshot)? {
                    return Ok(snapshot);
                }
                // A build wrote into it, or somebody else.
                if std::mem::replace(&mut damaged, true) {
                    return Err(self.changed("a damaged checkout"));
                }
            }
            drop(shared);
            let alone = claim(false)?;
            // Somebody else was first.
            if !damaged && alone.path().is_dir() {
                continue;
            }
            let made = check_out(git, cache, repository, commit, sparse.as_ref())?;
            let old = made.path().join("old");
            match fs::rename(alone.path(), &old) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(TreeError::io(alone.path())(error)),
                _ => fs::rename(made.path().join("made"), alone.path()).map_err(TreeError::io(alone.path()))?,
            }
        }
    }

    /// Keeps the mirror that the tree is in, if it is in one.
    fn mirror(&self, git: &Git<'_>, cache: &Cache) -> Result<Option<Claim>, TreeError> {
        let Source::Commit(repository) = &self.source else { return Ok(None) };
        let git_dir = repository.git_dir.parent().and_then(Path::parent);
        let of_cache = git_dir.is_some_and(|dir| fs::canonicalize(cache.dir()).is_ok_and(|cache| cache == dir));
        let name = repository.git_dir.file_name().and_then(OsStr::to_str).filter(|_| of_cache);
        name.map(|name| super::mirror::claim(git, cache, name, true)).transpose()
    }

    /// Whether the checkout was linked whole and is what git says the commit is.
    fn link(
        &self,
        git: &Git<'_>,
        repository: &Repository,
        commit: &str,
        checkout: &Path,
        snapshot: &Snapshot,
    ) -> Result<bool, TreeError> {
        let index = snapshot.dir.join(".git/index");
        let linked = link_all(&checkout.join("tree"), &snapshot.dir).and_then(|()| {
            fs::create_dir_all(snapshot.dir.join(".git"))?;
            fs::copy(checkout.join("index"), &index)?;
            File::options().append(true).open(&index)?.set_modified(SystemTime::now() + YOUNGER)
        });
        match linked {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            result => result.map_err(TreeError::io(checkout))?,
        }
        self.make_git_dir(git, repository, commit, &snapshot.dir)?;
        let differ = git.read(&own(&snapshot.dir), &["diff-files", "--name-only", "-z"])?;
        Ok(differ.is_empty())
    }

    /// A git directory that knows the commit, its tags and nothing else, and answers as the person's.
    fn make_git_dir(&self, git: &Git<'_>, repository: &Repository, commit: &str, dir: &Path) -> Result<(), TreeError> {
        let git_dir = dir.join(".git");
        let objects = git.line(repository, &["rev-parse", "--git-path", "objects"])?;
        let shallow = git.line(repository, &["rev-parse", "--git-path", "shallow"])?;
        // Absolute, as the git directory is that git was given; or relative to where git ran.
        let from = repository.work_tree.as_deref().unwrap_or(&repository.git_dir);
        let tags = git.read(repository, &["for-each-ref", "--format=%(objectname) %(refname)", "refs/tags"])?;
        // As many digits as the person's git shortens the commit to.
        let digits = self.version.trim_end_matches("-dirty");
        let digits = digits.rsplit("-g").next().unwrap_or(digits).len().clamp(4, commit.len());
        let (format, extensions) = match commit.len() {
            64 => (1, "[extensions]\n\tobjectFormat = sha256\n"),
            _ => (0, ""),
        };
        let config = format!(
            "[core]\n\trepositoryformatversion = {format}\n\tbare = false\n\tabbrev = {digits}\n\ttrustctime = false\n\
             \tcheckStat = minimal\n\tautocrlf = false\n\tfilemode = true\n\tsymlinks = true\n\
             \tattributesFile = /dev/null\n\thooksPath = /dev/null\n\tfsmonitor =\n\tuntrackedCache = false\n{extensions}"
        );
        let write = || {
            fs::create_dir_all(git_dir.join("objects/info"))?;
            fs::create_dir_all(git_dir.join("refs"))?;
            let objects = fs::canonicalize(from.join(objects))?;
            fs::write(git_dir.join("objects/info/alternates"), objects.as_os_str().as_encoded_bytes())?;
            fs::write(git_dir.join("packed-refs"), tags)?;
            fs::write(git_dir.join("config"), config)?;
            match fs::copy(from.join(shallow), git_dir.join("shallow")) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::write(git_dir.join("HEAD"), format!("{commit}\n"))
        };
        write().map_err(TreeError::io(&git_dir))
    }

    /// Copies the changed files of a work tree over the files of its commit.
    fn lay_over(
        &self,
        git: &Git<'_>,
        repository: &Repository,
        dir: &Path,
        snapshot: &Snapshot,
    ) -> Result<(), TreeError> {
        let now = Looked::at(git, repository, dir)?;
        if Some(&now.commit) != self.commit.as_ref() || now.version != self.version {
            return Err(self.changed(&now.version));
        }
        let copied = now.changes.digest(dir, Some(&snapshot.dir))?;
        if self.changes_sha256 != Some(copied) {
            return Err(self.other_files(copied));
        }
        // The index is told, so that it does not depend on times whether git calls the snapshot dirty. No object is
        // written: one that is there already would be touched, which is the person's.
        let tracked: Vec<&Path> = now.changes.tracked.iter().map(PathBuf::as_path).collect();
        let (there, gone): (Vec<_>, Vec<_>) = tracked.iter().partition(|path| files::is_there(&snapshot.dir, path));
        update_index(git, snapshot, &["--force-remove"], &gone)?;
        update_index(git, snapshot, &["--add", "--info-only"], &there)?;
        // Files that are as in the commit, but not in the person's index.
        if self.is_dirty() && self.check_version(git, snapshot).is_err() {
            update_index(git, snapshot, &["--force-remove"], &tracked)?;
        }
        self.check_version(git, snapshot)
    }

    /// Klipper must find in the snapshot the version that it finds in the person's tree.
    fn check_version(&self, git: &Git<'_>, snapshot: &Snapshot) -> Result<(), TreeError> {
        let version = git.line(&own(&snapshot.dir), &["describe", "--always", "--tags", "--long", "--dirty"])?;
        if version == self.version { Ok(()) } else { Err(self.changed(&version)) }
    }

    fn changed(&self, is: &str) -> TreeError {
        TreeError::Changed { place: self.place().to_owned(), was: self.version.clone(), is: is.to_owned() }
    }

    fn other_files(&self, copied: Sha256) -> TreeError {
        let was = self.changes_sha256.map_or_else(|| self.version.clone(), |digest| digest.to_string());
        TreeError::Changed { place: self.place().to_owned(), was, is: copied.to_string() }
    }
}

/// The repository that a snapshot or checkout in `dir` is.
fn own(dir: &Path) -> Repository {
    Repository { git_dir: dir.join(".git"), work_tree: Some(dir.to_owned()), place: dir.display().to_string() }
}

fn update_index(git: &Git<'_>, snapshot: &Snapshot, options: &[&str], paths: &[&Path]) -> Result<(), TreeError> {
    for paths in paths.chunks(AT_ONCE) {
        let command = ["update-index"].iter().chain(options).chain(&["--"]).map(OsStr::new);
        let paths = paths.iter().map(|path| path.as_os_str());
        git.read(&own(&snapshot.dir), &command.chain(paths).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// An empty snapshot.
fn new(cache: &Cache, mirror: Option<Claim>) -> Result<Snapshot, TreeError> {
    let scratch = cache.scratch("build")?;
    let dir = scratch.path().join("tree");
    fs::create_dir(&dir).map_err(TreeError::io(&dir))?;
    Ok(Snapshot { dir, _scratch: scratch, _mirror: mirror })
}

/// Checks `commit` out into `made/tree`, with its index in `made/index`.
fn check_out(
    git: &Git<'_>,
    cache: &Cache,
    repository: &Repository,
    commit: &str,
    sparse: Option<&Sparse>,
) -> Result<Scratch, TreeError> {
    let scratch = cache.scratch("checkout")?;
    let made = scratch.path().join("made");
    let dir = made.join("tree");
    fs::create_dir_all(&dir).map_err(TreeError::io(&dir))?;
    let of_commit = Tree {
        source: Source::Commit(repository.clone()),
        app: String::new(),
        version: commit.to_owned(),
        commit: Some(commit.to_owned()),
        committed: None,
        origin: None,
        changes_sha256: None,
    };
    of_commit.make_git_dir(git, repository, commit, &dir)?;
    let options = sparse.map(|sparse| sparse.apply(&dir.join(".git"))).transpose()?;
    let command = ["-c", "checkout.workers=0", "read-tree", "--reset", "-u", "HEAD"];
    let command: Vec<_> = options.iter().flatten().map(String::as_str).chain(command).collect();
    git.read(&own(&dir), &command)?;
    fs::rename(dir.join(".git/index"), made.join("index")).map_err(TreeError::io(&dir))?;
    fs::remove_dir_all(dir.join(".git")).map_err(TreeError::io(&dir))?;
    for path in files::all_below(&dir)? {
        let whole = dir.join(&path);
        let kind = fs::symlink_metadata(&whole).map_err(TreeError::io(&whole))?;
        if kind.is_symlink() {
            let target = fs::read_link(&whole).map_err(TreeError::io(&whole))?;
            files::check_link(Path::new(&repository.place), &path, target.as_os_str())?;
        } else {
            // Snapshots share the file: a build that would write into it fails instead.
            let mode = Permissions::from_mode(kind.mode() & 0o555);
            fs::set_permissions(&whole, mode).map_err(TreeError::io(&whole))?;
        }
    }
    Ok(scratch)
}

/// Hard links every file below `from` into `to`; where the file system has none, copies with their times.
fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            fs::create_dir(&target)?;
            link_all(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else if let Err(error) = fs::hard_link(&source, &target) {
            if error.kind() == ErrorKind::NotFound {
                return Err(error);
            }
            fs::copy(&source, &target)?;
            File::open(&target)?.set_modified(fs::metadata(&source)?.modified()?)?;
        }
    }
    Ok(())
}
