//! Repositories that were fetched: bare mirrors in the cache, one for each URL.

use std::ffi::OsString;
use std::fs;

use sha2::{Digest as _, Sha256};

use super::git::{Git, Repository};
use super::{TreeError, url};
use crate::klipper::dictionary::hex;
use crate::obtain::cache::{Cache, Claim, Shelf};

/// Where the server's default branch is kept.
const DEFAULT: &str = "refs/kflash/HEAD";
/// Longest reference that is taken.
const LONGEST: usize = 250;

/// The mirror of `url` in `cache`, and the commit that `reference` names there.
pub(super) fn fetch(
    git: &Git<'_>,
    url: &str,
    reference: Option<&str>,
    cache: &Cache,
    progress: &mut dyn FnMut(&str),
) -> Result<(Repository, String), TreeError> {
    let reference = reference.map(checked_reference).transpose()?;
    let url = url::checked(url)?;
    let shown = url::without_credentials(&url);
    let name = hex(&Sha256::digest(&shown));
    let _mirror = claim(git, cache, &name, true)?;
    // Snapshots of running builds share the first; only one may fetch.
    let _fetching = claim(git, cache, &format!("{name}.fetch"), false)?;
    let git_dir = fs::canonicalize(cache.dir()).map_err(TreeError::io(cache.dir()))?.join("git").join(name);
    let repository = Repository { git_dir: git_dir.clone(), work_tree: None, place: shown };

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

/// Claims the mirror `name`, once others let go of it.
pub(super) fn claim(git: &Git<'_>, cache: &Cache, name: &str, shared: bool) -> Result<Claim, TreeError> {
    let claim = cache.claim_folder(Shelf::Git, name, shared, &mut |_| !git.interrupt.requested())?;
    claim.ok_or(TreeError::Interrupted)
}
