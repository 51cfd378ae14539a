//! The source tree: which one is meant, what exactly is in it, and a copy of it to build in.
//!
//! The person's tree is only read: a build in it would leave `.config`, `out/` and `__pycache__` behind, Kalico's
//! Makefile writes into `src/extras`, and git takes locks.

mod changes;
mod error;
mod files;
mod git;
mod mirror;
mod recognise;
mod snapshot;
mod sparse;
mod url;
mod version;

use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::thread;

pub use error::TreeError;
pub use snapshot::Snapshot;
pub use version::ref_of_version;

use crate::digest::Sha256;
use crate::flash::Interrupt;
use crate::obtain::build::Environment;
use crate::obtain::cache::Cache;
use crate::timestamp::Timestamp;
use changes::Changes;
use git::{Git, Repository};
use version::describe;

/// A Klipper or Kalico tree, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    source: Source,
    app: String,
    version: String,
    commit: Option<String>,
    committed: Option<Timestamp>,
    origin: Option<String>,
    changes_sha256: Option<Sha256>,
}

/// Where the files are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    /// In a directory without git.
    Files(PathBuf),
    /// In the work tree of a repository.
    WorkTree { dir: PathBuf, repository: Repository },
    /// In a commit of a repository.
    Commit(Repository),
}

impl Tree {
    /// The tree in the directory `dir`, with whatever was changed in it.
    pub fn at(dir: &Path, environment: &Environment, interrupt: &Interrupt) -> Result<Self, TreeError> {
        let git = Git { environment, interrupt };
        let place = dir.display().to_string();
        let not = |problem| TreeError::NotATree { place: place.clone(), problem };
        let dir = match fs::canonicalize(dir) {
            Ok(dir) if dir.is_dir() => dir,
            Ok(_) => return Err(not("it is no directory".to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(not("there is no such directory".to_owned()));
            }
            Err(error) => return Err(TreeError::io(dir)(error)),
        };
        let app = recognise::app(|file| read(&dir.join(file)))?.map_err(not)?;
        if fs::symlink_metadata(dir.join(".git")).is_err() {
            return Self::without_git(dir, app);
        }
        let repository =
            Repository { git_dir: dir.join(".git"), work_tree: Some(dir.clone()), place: dir.display().to_string() };
        let (looked, origin) = at_once(|| Looked::at(&git, &repository, &dir), || origin(&git, &repository));
        let looked = looked?;
        let changes_sha256 = if looked.changes.is_empty() { None } else { Some(looked.changes.digest(&dir, None)?) };
        Ok(Self {
            app,
            version: looked.version,
            committed: Some(looked.committed),
            commit: Some(looked.commit),
            origin: origin?,
            changes_sha256,
            source: Source::WorkTree { dir, repository },
        })
    }

    /// The first of `candidates` that is a tree. Directories that are none are passed over, other failures are not.
    pub fn first_of(
        candidates: &[PathBuf],
        environment: &Environment,
        interrupt: &Interrupt,
    ) -> Result<Self, TreeError> {
        for candidate in candidates {
            match Self::at(candidate, environment, interrupt) {
                Err(TreeError::NotATree { .. }) => {}
                result => return result,
            }
        }
        Err(TreeError::NoneOf(candidates.to_vec()))
    }

    /// What `reference` (a branch, tag or commit, which may be shortened) of the repository in `dir` holds, whatever is
    /// checked out there.
    pub fn at_reference(
        dir: &Path,
        reference: &str,
        environment: &Environment,
        interrupt: &Interrupt,
    ) -> Result<Self, TreeError> {
        let git = Git { environment, interrupt };
        let reference = mirror::checked_reference(reference)?;
        let place = dir.display().to_string();
        let git_dir = fs::canonicalize(dir.join(".git")).map_err(|_| TreeError::NotATree {
            place: place.clone(),
            problem: "it is no git repository, so that it has no commits to choose from".to_owned(),
        })?;
        let repository = Repository { git_dir, work_tree: None, place };
        let Some(commit) = mirror::commit(&git, &repository, reference)? else {
            let reference = reference.to_owned();
            return Err(TreeError::NoSuchReference { place: repository.place, reference });
        };
        let origin = origin(&git, &repository)?;
        Self::of_commit(&git, repository, commit, origin)
    }

    /// What `reference` (`None`: the default branch) of the repository at `url` holds. It is cloned into `cache` once;
    /// the server is asked again when the reference is a branch or not known yet. `progress` gets git's own lines.
    pub fn fetch(
        url: &str,
        reference: Option<&str>,
        cache: &Cache,
        environment: &Environment,
        interrupt: &Interrupt,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, TreeError> {
        let git = Git { environment, interrupt };
        let (repository, commit) = mirror::fetch(&git, url, reference, cache, progress)?;
        let origin = Some(repository.place.clone());
        Self::of_commit(&git, repository, commit, origin)
    }

    fn of_commit(
        git: &Git<'_>,
        repository: Repository,
        commit: String,
        origin: Option<String>,
    ) -> Result<Self, TreeError> {
        let app = recognise::app(|file| {
            let object = format!("{commit}:{}", file.display());
            let text = git.ask(&repository, &["cat-file", "blob", &object])?;
            Ok::<_, TreeError>(text.ok().filter(|text| text.len() <= recognise::MOST))
        })?;
        let place = format!("{} at {commit}", repository.place);
        let app = app.map_err(|problem| TreeError::NotATree { place, problem })?;
        let version = describe(git, &repository, &commit)?;
        let (_, committed) = commit_of(git, &repository, &commit)?;
        let source = Source::Commit(repository);
        Ok(Self {
            source,
            app,
            version,
            commit: Some(commit),
            committed: Some(committed),
            origin,
            changes_sha256: None,
        })
    }

    fn without_git(dir: PathBuf, app: String) -> Result<Self, TreeError> {
        let version = read(&dir.join("klippy/.version")).unwrap_or(None).unwrap_or_default();
        let version = String::from_utf8_lossy(&version).trim().to_owned();
        let files = files::below(&dir, Path::new(""))?;
        let changes_sha256 = Some(files::digest(&dir, files.iter().map(PathBuf::as_path), None)?);
        let version = if version.is_empty() { "?".to_owned() } else { version };
        let source = Source::Files(dir);
        Ok(Self { source, app, version, commit: None, committed: None, origin: None, changes_sha256 })
    }

    /// The application's name in its dictionaries: `Klipper`, `Kalico`.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// What firmware of this tree reports as its version, or begins its version with: `git describe`, or what
    /// klippy/.version holds, else `?`. Firmware of a dirty tree or of one without git adds time and host.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether Klipper calls firmware of this tree dirty: files that git tracks were changed.
    pub fn is_dirty(&self) -> bool {
        self.version.ends_with("-dirty")
    }

    /// The commit, in full. `None` without git.
    pub fn commit(&self) -> Option<&str> {
        self.commit.as_deref()
    }

    /// When it was committed. `None` without git.
    pub fn committed(&self) -> Option<Timestamp> {
        self.committed
    }

    /// Where the repository came from, without credentials.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// The directory or URL that it was taken from, for messages.
    pub fn place(&self) -> &str {
        match &self.source {
            Source::Files(dir) => dir.to_str().unwrap_or("a directory"),
            Source::WorkTree { repository, .. } | Source::Commit(repository) => &repository.place,
        }
    }

    /// The directory that it is in. `None` of a commit, whatever is checked out.
    pub fn dir(&self) -> Option<&Path> {
        match &self.source {
            Source::Files(dir) | Source::WorkTree { dir, .. } => Some(dir),
            Source::Commit(_) => None,
        }
    }

    /// The SHA-256 over path, kind and content of every file that differs from the commit or is not
    /// known to git (what git ignores does not count); without git, over every file. `None` where the commit says all.
    pub fn sha256(&self) -> Option<Sha256> {
        self.changes_sha256
    }

    /// What tells this tree from every other, in one line: commit, digest and version. The version belongs to it: of one
    /// commit, a repository with other tags makes other firmware.
    pub fn id(&self) -> String {
        let commit = self.commit.as_deref().unwrap_or("none");
        let changes = self.changes_sha256.map_or_else(|| "none".to_owned(), |digest| digest.to_string());
        format!("commit {commit} changes {changes} version {}", self.version)
    }
}

/// What git says of a work tree.
struct Looked {
    commit: String,
    committed: Timestamp,
    version: String,
    changes: Changes,
}

impl Looked {
    fn at(git: &Git<'_>, repository: &Repository, dir: &Path) -> Result<Self, TreeError> {
        let (version, (head, changes)) = at_once(
            || describe(git, repository, "HEAD"),
            || at_once(|| commit_of(git, repository, "HEAD"), || Changes::of(git, repository, dir)),
        );
        let ((commit, committed), changes) = (head?, changes?);
        let mut version = version?;
        // Somebody checked out another commit between the two.
        if !ref_of_version(&version).is_some_and(|hash| commit.starts_with(hash)) {
            version = describe(git, repository, &commit)?;
        }
        // What `--dirty` adds. With it, git would lock the index and write it.
        if !changes.tracked.is_empty() {
            version.push_str("-dirty");
        }
        Ok(Self { commit, committed, version, changes })
    }
}

/// The hash of a commit, and when it was made.
fn commit_of(git: &Git<'_>, repository: &Repository, name: &str) -> Result<(String, Timestamp), TreeError> {
    // 1795240575 84104bbb..
    let line = git.line(repository, &["rev-list", "--max-count=1", "--timestamp", name, "--"])?;
    let (seconds, commit) = line.split_once(' ').unwrap_or_default();
    Ok((commit.to_owned(), Timestamp::of_seconds(seconds.parse().unwrap_or_default())))
}

/// Does both at once: they wait for git, and a build whose image is in the cache waits for little else.
fn at_once<A: Send, B>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        (a.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), b)
    })
}

/// The URL of `origin`, else of any remote.
fn origin(git: &Git<'_>, repository: &Repository) -> Result<Option<String>, TreeError> {
    let remotes = git.ask(repository, &["config", "--get-regexp", "^remote\\..*\\.url$"])?;
    let remotes = String::from_utf8_lossy(&remotes.unwrap_or_default()).into_owned();
    let mut urls = remotes.lines().filter_map(|line| line.split_once(' '));
    let origin = urls.clone().find(|(key, _)| *key == "remote.origin.url").or_else(|| urls.next());
    Ok(origin.map(|(_, url)| url::without_credentials(url)))
}

/// A file of a tree, if it is one and not too large.
fn read(path: &Path) -> Result<Option<Vec<u8>>, TreeError> {
    match fs::metadata(path) {
        Ok(file) if file.is_file() && file.len() <= recognise::MOST as u64 => {}
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(TreeError::io(path)(error)),
        _ => return Ok(None),
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(TreeError::io(path))?;
    file.take(recognise::MOST as u64).read_to_end(&mut text).map_err(TreeError::io(path))?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests;
