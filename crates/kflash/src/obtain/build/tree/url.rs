//! URLs of git repositories: which are taken, and how they are shown.

use std::path::{Path, PathBuf};

use super::TreeError;

/// The protocols that are taken, as in `GIT_ALLOW_PROTOCOL`: git has others (`ext::`) that run commands.
pub(super) const PROTOCOLS: &str = "file:git:http:https:ssh";

/// Longest URL that is taken.
const LONGEST: usize = 2048;

/// `url` as git gets it: a directory becomes absolute.
pub(super) fn checked(url: &str) -> Result<String, TreeError> {
    let bad = |problem| TreeError::BadUrl { url: without_credentials(url), problem };
    if url.is_empty() || url.len() > LONGEST || url.chars().any(|c| c.is_control() || c == ' ') {
        return Err(bad("it is empty, too long, or has spaces or control characters"));
    }
    if url.starts_with('-') {
        return Err(bad("it begins with a dash"));
    }
    let protocol = url.split_once("://").map(|(protocol, _)| protocol);
    if protocol.is_some_and(|protocol| PROTOCOLS.split(':').any(|allowed| allowed == protocol)) {
        return Ok(url.to_owned());
    }
    if protocol.is_some() || url.contains("::") {
        return Err(bad("its protocol is none of file, git, http, https, ssh"));
    }
    // `host:path` is SSH unless a slash comes before the colon.
    match url.split_once(':') {
        Some((host, _)) if !host.contains('/') => Ok(url.to_owned()),
        _ => match std::path::absolute(url) {
            Ok(path) => Ok(path.to_string_lossy().into_owned()),
            Err(_) => Err(bad("it names no directory")),
        },
    }
}

/// The directory that `url`, as [`checked`] returns it, names.
pub(super) fn directory(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://").unwrap_or(url);
    path.starts_with('/').then(|| Path::new(path).to_owned())
}

/// `url` without user name and password, query and fragment, which may hold tokens; an SSH user stays, which is an
/// account and no secret. For messages, provenance and the names of mirrors.
pub(super) fn without_credentials(url: &str) -> String {
    let printable = url.chars().filter(|c| !c.is_control()).take(LONGEST);
    let url: String = printable.collect();
    let Some((protocol, rest)) = url.split_once("://") else { return url };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let user =
        authority.strip_suffix(host).and_then(|user| user.strip_suffix('@')).and_then(|user| user.split(':').next());
    match user {
        Some(user) if protocol == "ssh" && !user.is_empty() => format!("{protocol}://{user}@{host}{path}"),
        _ => format!("{protocol}://{host}{path}"),
    }
}

/// `text`, in which `url` may occur, without its credentials.
pub(super) fn hide_credentials(text: &str, url: &str) -> String {
    let shown = without_credentials(url);
    let hidden = text.replace(url, &shown);
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split('/').next());
    match authority.and_then(|authority| authority.rsplit_once('@')).map(|(user, _)| user) {
        Some(user) if !user.is_empty() && !shown.contains(user) => hidden.replace(user, "***"),
        _ => hidden,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn some_urls_are_taken() {
        for url in [
            "https://github.com/Klipper3d/klipper",
            "git@github.com:Klipper3d/klipper.git",
            "ssh://git@host:22/klipper",
            "file:///srv/klipper.git",
            "/srv/klipper.git",
        ] {
            assert_eq!(checked(url).unwrap(), url);
        }
        assert!(Path::new(&checked("klipper").unwrap()).is_absolute());
        for url in
            ["", "-c core.sshCommand=reboot", "--upload-pack=reboot", "ext::sh -c reboot", "ext::reboot", "fd::7"]
        {
            assert!(matches!(checked(url), Err(TreeError::BadUrl { .. })), "{url}");
        }
        let refused = checked("ftp://me:secret@host/klipper").unwrap_err().to_string();
        assert!(refused.starts_with("\"ftp://host/klipper\" is no URL of a git repository"), "{refused}");
    }

    #[test]
    fn credentials_are_not_shown() {
        for (url, shown) in [
            ("https://me:secret@host:8443/a/b.git?token=c#d", "https://host:8443/a/b.git"),
            ("https://ghp_token@github.com/a/b", "https://github.com/a/b"),
            ("https://a@b@host", "https://host"),
            ("ssh://git:secret@host/a", "ssh://git@host/a"),
            ("git@github.com:a/b", "git@github.com:a/b"),
            ("/srv/a@b", "/srv/a@b"),
            ("https://host/a@b", "https://host/a@b"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
        let message = "fatal: unable to access 'https://me:secret@host/a/': user me:secret denied";
        let hidden = "fatal: unable to access 'https://host/a/': user *** denied";
        assert_eq!(hide_credentials(message, "https://me:secret@host/a"), hidden);
    }

    proptest! {
        #[test]
        fn no_password_survives(user in "[a-z]{1,6}", password in "[A-Z0-9:@%!]{4,12}", path in "[a-z/]{0,10}") {
            let url = format!("https://{user}:{password}@host/{path}");
            prop_assert_eq!(without_credentials(&url), format!("https://host/{path}"));
        }

        #[test]
        fn no_text_panics(url in "\\PC{0,40}") {
            let _ = checked(&url);
            let _ = hide_credentials(&url, &without_credentials(&url));
        }
    }
}
