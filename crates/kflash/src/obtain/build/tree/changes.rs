//! What of a work tree differs from its commit.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::files;
use super::git::{Git, Repository, paths};
use super::{TreeError, at_once};
use crate::digest::Sha256;

/// Where a Kalico tree takes firmware modules that a person adds. git is told to ignore them; the build takes them in.
const MODULES: &str = "src/extras";

/// Paths that differ from the commit, relative to the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// git tracks them: changed, added or removed.
    pub tracked: BTreeSet<PathBuf>,
    /// git does not know them and does not ignore them.
    pub untracked: BTreeSet<PathBuf>,
}

impl Changes {
    /// The changes in the work tree `dir`.
    pub fn of(git: &Git<'_>, repository: &Repository, dir: &Path) -> Result<Self, TreeError> {
        let status = ["status", "--porcelain=v1", "-z", "--untracked-files=no", "--no-renames"];
        // The tree's own .gitignore counts, a person's does not: installers of plugins hide sources from git there.
        let mut list = vec!["ls-files", "--others", "-z", "--exclude-per-directory=.gitignore"];
        list.extend(files::LEFT_BEHIND.iter().flat_map(|pattern| ["--exclude", *pattern]));
        let (status, list) = at_once(|| git.read(repository, &status), || git.read(repository, &list));
        // `XY path`, where X and Y are the states in index and work tree.
        let status = status?;
        let entries = status.split(|&byte| byte == 0).filter_map(|entry| entry.get(3..));
        let tracked = entries.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect();
        let mut untracked = BTreeSet::new();
        for path in paths(&list?) {
            untracked.extend(listed(dir, path)?);
        }
        if dir.join(MODULES).is_dir() {
            for path in paths(&git.read(repository, &["ls-files", "--others", "-z", "--", MODULES])?) {
                for path in listed(dir, path)? {
                    // The files directly in it are made by every build.
                    let of_module = path.components().count() > 3 || dir.join(&path).is_symlink();
                    if of_module && !files::is_left_behind(&path) {
                        untracked.insert(path);
                    }
                }
            }
        }
        Ok(Self { tracked, untracked })
    }

    pub fn is_empty(&self) -> bool {
        self.tracked.is_empty() && self.untracked.is_empty()
    }

    /// The digest of what changed, and its copy; see [`files::digest`].
    pub fn digest(&self, from: &Path, into: Option<&Path>) -> Result<Sha256, TreeError> {
        let all: BTreeSet<_> = self.tracked.iter().chain(&self.untracked).map(PathBuf::as_path).collect();
        files::digest(from, all.into_iter(), into)
    }
}

/// An untracked path. One that ends in a slash is a repository in the tree, of which git lists no more.
fn listed(dir: &Path, path: &Path) -> Result<Vec<PathBuf>, TreeError> {
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        files::below(dir, path)
    } else {
        Ok(vec![path.to_owned()])
    }
}
