//! Repositories that were fetched: bare mirrors in the cache, one for each URL.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::git::{Git, Repository};
use super::{TreeError, url};
use crate::klipper::dictionary::hex;

/// Where the server's default branch is kept.
const DEFAULT: &str = "refs/kflash/HEAD";
/// Longest reference that is taken.
const LONGEST: usize = 250;
/// How often a mirror is looked at that another run fetches into.
const LOOK: Duration = Duration::from_millis(50);

/// The mirror of `url` in `cache`, and the commit that `reference` names there.
pub(super) fn fetch(
    git: &Git<'_>,
    url: &str,
    reference: Option<&str>,
    cache: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<(Repository, String), TreeError> {
    let reference = reference.map(checked_reference).transpose()?;
    let url = url::checked(url)?;
    let shown = url::without_credentials(&url);
    let mirrors = cache.join("git");
    fs::create_dir_all(&mirrors).map_err(TreeError::io(&mirrors))?;
    let mirrors = fs::canonicalize(&mirrors).map_err(TreeError::io(&mirrors))?;
    let git_dir = mirrors.join(hex(&Sha256::digest(&shown)));
    let repository = Repository { git_dir: git_dir.clone(), work_tree: None, place: shown };
    let _lock = lock(git, &git_dir)?;

    if !git_dir.join("HEAD").exists() {
        git.init_bare(&git_dir)?;
    }
    // A branch moves; a tag and a commit do not.
    if let Some(reference) = reference
        && commit_at(git, &repository, &format!("refs/heads/{reference}"))?.is_none()
        && let Some(commit) = commit(git, &repository, reference)?
    {
        return Ok((repository, commit));
    }
    let refspecs = [format!("+HEAD:{DEFAULT}"), "+refs/heads/*:refs/heads/*".into(), "+refs/tags/*:refs/tags/*".into()];
    git.fetch(&git_dir, &url, &refspecs.map(OsString::from), progress)?;
    let Some(reference) = reference else {
        let reference = "HEAD".to_owned();
        let commit = commit_at(git, &repository, DEFAULT)?;
        return match commit {
            Some(commit) => Ok((repository, commit)),
            None => Err(TreeError::NoSuchReference { place: repository.place, reference }),
        };
    };
    if let Some(commit) = commit(git, &repository, reference)? {
        return Ok((repository, commit));
    }
    // On no branch any more: servers give a commit that is asked for in full.
    if is_hash(reference) && [40, 64].contains(&reference.len()) {
        let wanted = [OsString::from(format!("{reference}:refs/kflash/{reference}"))];
        if git.fetch(&git_dir, &url, &wanted, progress).is_ok()
            && let Some(commit) = commit(git, &repository, reference)?
        {
            return Ok((repository, commit));
        }
    }
    Err(TreeError::NoSuchReference { place: repository.place, reference: reference.to_owned() })
}

/// Refuses what git would take for an option, an expression or a path.
pub(super) fn checked_reference(reference: &str) -> Result<&str, TreeError> {
    let plain = |c: char| c.is_alphanumeric() || "._-/+#".contains(c);
    let refused = reference.starts_with(['-', '/', '.']) || reference.contains("..") || !reference.chars().all(plain);
    if refused || reference.is_empty() || reference.len() > LONGEST {
        return Err(TreeError::BadReference(reference.to_owned()));
    }
    Ok(reference)
}

/// The commit that a branch, a tag, a remote's branch or a (shortened) hash names, in this order.
pub(super) fn commit(git: &Git<'_>, repository: &Repository, reference: &str) -> Result<Option<String>, TreeError> {
    for folder in ["refs/heads", "refs/tags", "refs/remotes/origin", "refs/remotes"] {
        if let Some(commit) = commit_at(git, repository, &format!("{folder}/{reference}"))? {
            return Ok(Some(commit));
        }
    }
    if is_hash(reference) { commit_at(git, repository, reference) } else { Ok(None) }
}

fn commit_at(git: &Git<'_>, repository: &Repository, name: &str) -> Result<Option<String>, TreeError> {
    let commit = git.ask(repository, &["rev-parse", "--quiet", "--verify", &format!("{name}^{{commit}}")])?;
    Ok(commit.ok().map(|commit| String::from_utf8_lossy(&commit).trim().to_owned()))
}

fn is_hash(reference: &str) -> bool {
    (4..=64).contains(&reference.len()) && reference.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Waits for other runs that fetch into the mirror. The system releases the lock, however a run ends.
fn lock(git: &Git<'_>, git_dir: &Path) -> Result<File, TreeError> {
    let path = PathBuf::from(format!("{}.lock", git_dir.display()));
    let file = File::create(&path).map_err(TreeError::io(&path))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if git.interrupt.requested() => return Err(TreeError::Interrupted),
            Err(TryLockError::WouldBlock) => thread::sleep(LOOK),
            Err(TryLockError::Error(source)) => return Err(TreeError::io(&path)(source)),
        }
    }
}
