//! The version that a Klipper host or firmware reports: what git makes of a commit, and the commit in it.

use super::TreeError;
use super::git::{Git, Repository};

/// Fewest digits of a commit's hash that git shortens to.
const SHORTEST: usize = 7;

/// The version that Klipper takes from git for `commit`, but for `-dirty`.
pub(super) fn describe(git: &Git<'_>, repository: &Repository, commit: &str) -> Result<String, TreeError> {
    const DESCRIBE: [&str; 4] = ["describe", "--always", "--tags", "--long"];

    // git weighs ten tags against each other, for which it reads most of the history: no other part of a build whose
    // image is in the cache takes as long. Without a merge since the nearest tag there is nothing to weigh.
    let nearest = git.line(repository, &[&DESCRIBE[..], &["--candidates=1", commit]].concat())?;
    let Some(tag) = nearest.rsplitn(3, '-').nth(2) else { return Ok(nearest) };
    let since = format!("refs/tags/{tag}..{commit}");
    match git.ask(repository, &["rev-list", "--max-count=1", "--merges", &since, "--"])? {
        Ok(merges) if merges.is_empty() => Ok(nearest),
        _ => git.line(repository, &[&DESCRIBE[..], &[commit]].concat()),
    }
}

/// The commit, tag or branch that `version` was made of: `v0.12.0-439-g1fe54bd5-prind` gives `1fe54bd5`.
///
/// Klipper and Kalico report `git describe --always --tags --long --dirty`: `TAG-COMMITS-gHASH`, or the bare hash where
/// no tag is reachable (a shallow clone); firmware and container images add `-dirty`, a time and a host, `-prind`. A tag
/// alone (`v0.13.0`), as some packages report, is returned as it is. `None` where the version names nothing (`?`).
pub fn ref_of_version(version: &str) -> Option<&str> {
    let version = version.trim();
    let parts: Vec<&str> = version.split('-').collect();
    let described = parts.windows(2).rev().find_map(|pair| {
        let number = !pair[0].is_empty() && pair[0].bytes().all(|digit| digit.is_ascii_digit());
        pair[1].strip_prefix('g').filter(|hash| number && is_hash(hash))
    });
    if described.is_some() {
        return described;
    }
    let first = parts[0];
    if is_hash(first) || is_release(first) { Some(first) } else { None }
}

fn is_hash(text: &str) -> bool {
    (SHORTEST..=64).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// `v0.13.0`, `v2026.07.00`.
fn is_release(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|digit| digit.is_ascii_digit());
    text.strip_prefix('v').is_some_and(|numbers| numbers.contains('.') && numbers.split('.').all(number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_as_hosts_report_them() {
        for (version, reference) in [
            ("v0.12.0-439-g1fe54bd5-prind", Some("1fe54bd5")),
            ("v0.13.0-730-g84104bbbd", Some("84104bbbd")),
            ("v0.13.0-730-g84104bbbd-dirty", Some("84104bbbd")),
            ("v0.12.0-439-g1fe54bd5-dirty-20240131_120000-voron", Some("1fe54bd5")),
            ("v2026.07.00-30-gf2532ee34", Some("f2532ee34")),
            ("my-2-gabcdef0-branch-1-g1234567", Some("1234567")),
            ("1fe54bd5", Some("1fe54bd5")),
            ("1fe54bd5-dirty", Some("1fe54bd5")),
            ("1fe54bd5-20240131_120000-1-host", Some("1fe54bd5")),
            ("v0.13.0", Some("v0.13.0")),
            ("v0.13.0-prind", Some("v0.13.0")),
            ("?", None),
            ("?-20240131_120000-host", None),
            ("UNKNOWN", None),
            ("", None),
            ("-gabcdef0", None),
            ("--upload-pack=reboot", None),
        ] {
            assert_eq!(ref_of_version(version), reference, "{version:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_safe_to_give_to_git(version in "\\PC{0,40}") {
            let found = ref_of_version(&version).unwrap_or("v");
            prop_assert!(found.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'));
        }

        #[test]
        fn every_described_commit_is_found(
            tag in "[a-z0-9.-]{1,12}", count in 0_u32..9999, hash in "[0-9a-f]{7,40}", suffix in "(-dirty|-prind|-20240131_120000-pi)?"
        ) {
            let version = format!("{tag}-{count}-g{hash}{suffix}");
            prop_assert_eq!(ref_of_version(&version), Some(hash.as_str()));
        }
    }
}
