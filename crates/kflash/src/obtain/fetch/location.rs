//! Where an index or an image lies: an HTTPS URL, plain HTTP on this machine, or a file.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ureq::http::Uri;

/// Longer URLs are not taken.
const LONGEST: usize = 2048;

/// Where an index or an image lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// On a server.
    Web(Url),
    /// On this machine.
    File(PathBuf),
}

/// An `https:` URL, or an `http:` URL of this machine. Holds no user, no password and no fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Url {
    https: bool,
    /// Host and port, as written.
    authority: String,
    /// Begins with a slash; holds no query.
    path: String,
    /// With its question mark, or empty.
    query: String,
}

/// Why a text names no place that anything is fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {problem}")]
pub struct LocationError {
    /// The text, its first 200 characters.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl LocationError {
    fn new(text: &str, problem: &'static str) -> Self {
        Self { text: text.chars().take(200).collect(), problem }
    }
}

impl Location {
    /// The place that a person names: `https://..`, `http://..` of this machine, `file:///..`, or a path.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let wrong = |problem| Err(LocationError::new(text, problem));
        if text.is_empty() || text.contains(char::is_control) {
            return wrong("neither a URL nor a path");
        }
        match text.split_once("://") {
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => {
                match path.strip_prefix("localhost").unwrap_or(path) {
                    path if path.starts_with('/') => match unescaped(path) {
                        Some(path) => Ok(Self::File(path.into())),
                        None => wrong("its path is no text"),
                    },
                    _ => wrong("a file URL needs an absolute path: file:///srv/firmware/index.json"),
                }
            }
            Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
                Url::parse(text).map(Self::Web)
            }
            _ => Ok(Self::File(text.into())),
        }
    }

    /// The place beside this one whose name is longer by `suffix`: `index.json.minisig`.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        match self {
            Self::Web(url) => Self::Web(Url { path: format!("{}{suffix}", url.path), ..url.clone() }),
            Self::File(path) => {
                let mut path = path.clone().into_os_string();
                path.push(suffix);
                Self::File(path.into())
            }
        }
    }

    /// The place that the index at this place means by `reference`: a URL, or a path below the index's own folder. It
    /// cannot lead from a server to a file, out of that folder, or from HTTPS to plain HTTP.
    pub fn of_reference(&self, reference: &str) -> Result<Self, LocationError> {
        if reference.contains("://") {
            let url = Url::parse(reference)?;
            return match self {
                Self::Web(from) if from.https && !url.https => {
                    Err(LocationError::new(reference, "leads from HTTPS to plain HTTP"))
                }
                _ => Ok(Self::Web(url)),
            };
        }
        below(reference)?;
        Ok(match self {
            Self::Web(url) => {
                let folder = url.path.rfind('/').map_or("", |slash| &url.path[..slash]);
                Self::Web(Url { path: format!("{folder}/{reference}"), query: String::new(), ..url.clone() })
            }
            Self::File(path) => Self::File(path.parent().unwrap_or(Path::new("")).join(reference)),
        })
    }
}

/// Whether a reference is a URL, or a path that stays below the folder that it begins in.
pub(super) fn is_reference(reference: &str) -> Result<(), LocationError> {
    if reference.contains("://") { Url::parse(reference).map(drop) } else { below(reference) }
}

fn below(reference: &str) -> Result<(), LocationError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._+=,@-".contains(&byte);
    let segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(plain);
    if reference.len() <= LONGEST && reference.split('/').all(segment) {
        return Ok(());
    }
    Err(LocationError::new(reference, "neither a URL nor a plain path below the index's folder"))
}

/// The path of a file URL, with `%20` and its like resolved.
fn unescaped(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|path| !path.contains(char::is_control))
}

impl Url {
    /// The URL in a text.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        let wrong = |problem| LocationError::new(text, problem);
        if text.len() > LONGEST || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("no URL"));
        }
        let uri: Uri = text.parse().map_err(|_| wrong("no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("no URL"));
        };
        if authority.as_str().contains('@') {
            return Err(wrong("a URL with a user or a password in it is not taken"));
        }
        let port = authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, port)| port);
        if authority.host().is_empty() || (port.contains(':') && authority.port_u16().is_none_or(|port| port == 0)) {
            return Err(wrong("no URL"));
        }
        let https = match scheme {
            "https" => true,
            "http" if is_loopback(authority.host()) => false,
            "http" => return Err(wrong("plain HTTP is for this machine alone: use https://")),
            _ => return Err(wrong("neither https:// nor file://")),
        };
        Ok(Self {
            https,
            authority: authority.as_str().to_ascii_lowercase(),
            path: uri.path().to_owned(),
            query: uri.query().map(|query| format!("?{query}")).unwrap_or_default(),
        })
    }

    /// Where the server's answer `Location: target` leads (RFC 3986 §5.2). Never from HTTPS to plain HTTP.
    pub(super) fn redirected(&self, target: &str) -> Result<Self, LocationError> {
        let scheme = if self.https { "https" } else { "http" };
        let target = target.split('#').next().unwrap_or_default();
        let absolute = if target.contains("://") && !target.starts_with('/') && !target.starts_with('?') {
            target.to_owned()
        } else if target.starts_with("//") {
            format!("{scheme}:{target}")
        } else if target.starts_with('/') {
            format!("{scheme}://{}{target}", self.authority)
        } else if target.starts_with('?') {
            format!("{scheme}://{}{}{target}", self.authority, self.path)
        } else {
            let folder = self.path.rfind('/').map_or("", |slash| &self.path[..slash]);
            format!("{scheme}://{}{folder}/{target}", self.authority)
        };
        let url = Self::parse(&absolute)?;
        if self.https && !url.https {
            return Err(LocationError::new(target, "leads from HTTPS to plain HTTP"));
        }
        Ok(url)
    }

    /// The URL of `path`, a plain one, below this one as a folder.
    pub(super) fn below(&self, path: &str) -> Result<Self, LocationError> {
        below(path)?;
        let folder = self.path.trim_end_matches('/');
        Ok(Self { path: format!("{folder}/{path}"), query: String::new(), ..self.clone() })
    }

    /// Whether it is reached with TLS.
    pub(super) fn https(&self) -> bool {
        self.https
    }

    /// The host without its port; an IPv6 address without its brackets.
    pub(super) fn host(&self) -> &str {
        match self.authority.split_once(']') {
            Some((host, _)) => host.trim_start_matches('['),
            None => self.authority.split(':').next().unwrap_or_default(),
        }
    }
}

/// Whether a host is this machine by its name alone.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web(url) => url.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}{}", self.authority, self.path, self.query)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn web(text: &str) -> Location {
        Location::Web(Url::parse(text).unwrap())
    }

    fn problem(text: &str) -> &'static str {
        Location::parse(text).unwrap_err().problem
    }

    #[test]
    fn urls_and_paths_are_told_apart() {
        for text in ["https://firmware.example/a/index.json", "https://[::1]:8443/i?x=1", "http://127.0.0.9:80/i"] {
            assert_eq!(Location::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Location::parse("HTTPS://EXAMPLE.org").unwrap().to_string(), "https://example.org/");
        assert_eq!(
            Location::parse("file:///srv/my%20index.json").unwrap(),
            Location::File("/srv/my index.json".into())
        );
        assert_eq!(Location::parse("file://localhost/i").unwrap(), Location::File("/i".into()));
        assert_eq!(Location::parse("../i.json").unwrap(), Location::File("../i.json".into()));
        assert_eq!(Location::parse("a dir:// odd").unwrap(), Location::File("a dir:// odd".into()));
    }

    #[test]
    fn what_is_not_fetched_from_is_refused() {
        assert_eq!(problem("http://firmware.example/index.json"), "plain HTTP is for this machine alone: use https://");
        assert_eq!(problem("http://127.0.0.1.example/"), "plain HTTP is for this machine alone: use https://");
        assert_eq!(problem("ftp://firmware.example/"), "neither https:// nor file://");
        assert_eq!(problem("https://me:secret@example.org/"), "a URL with a user or a password in it is not taken");
        assert_eq!(
            problem("file://server/share"),
            "a file URL needs an absolute path: file:///srv/firmware/index.json"
        );
        assert_eq!(problem("file:///a%00b"), "its path is no text");
        for text in
            ["https://", "https:///path", "https://a b/", "https://host:0/", "https://host:99999/", "https://h:/"]
        {
            assert_eq!(problem(text), "no URL", "{text}");
        }
        for text in ["", "a\nb", "https://x/\u{1b}[2J"] {
            assert_eq!(problem(text), "neither a URL nor a path", "{text:?}");
        }
    }

    #[test]
    fn references_lie_below_the_index_or_on_a_server() {
        let index = web("https://example.org/stable/index.json?token=1");
        assert_eq!(index.with_suffix(".minisig"), web("https://example.org/stable/index.json.minisig?token=1"));
        assert_eq!(index.of_reference("images/a.bin").unwrap(), web("https://example.org/stable/images/a.bin"));
        assert_eq!(index.of_reference("https://cdn.example/a").unwrap(), web("https://cdn.example/a"));
        let file = Location::File("/srv/index.json".into());
        assert_eq!(file.with_suffix(".minisig"), Location::File("/srv/index.json.minisig".into()));
        assert_eq!(file.of_reference("images/a.bin").unwrap(), Location::File("/srv/images/a.bin".into()));
        let bare = Location::File("index.json".into());
        assert_eq!(bare.of_reference("a.bin").unwrap(), Location::File("a.bin".into()));
        for hostile in [
            "../a",
            "a/../../b",
            "/etc/passwd",
            "a//b",
            "./a",
            "a\\b",
            "a\0b",
            "a b",
            "é",
            "",
            "file:///a",
            "http://127.0.0.1/a",
        ] {
            assert!(index.of_reference(hostile).is_err(), "{hostile:?}");
        }
        assert!(file.of_reference("file:///etc/passwd").is_err());
        assert!(file.of_reference("..").is_err());
    }

    #[test]
    fn a_redirect_never_leaves_tls() {
        let from = Url::parse("https://example.org/a/b?c").unwrap();
        let to = |target: &str| from.redirected(target).map(|url| url.to_string());
        assert_eq!(to("/x").unwrap(), "https://example.org/x");
        assert_eq!(to("x?y#z").unwrap(), "https://example.org/a/x?y");
        assert_eq!(to("?y").unwrap(), "https://example.org/a/b?y");
        assert_eq!(to("//cdn.example/x").unwrap(), "https://cdn.example/x");
        assert_eq!(to("https://cdn.example").unwrap(), "https://cdn.example/");
        assert_eq!(to("http://127.0.0.1/x").unwrap_err().problem, "leads from HTTPS to plain HTTP");
        assert_eq!(
            to("http://example.org/x").unwrap_err().problem,
            "plain HTTP is for this machine alone: use https://"
        );
        assert_eq!(to("file:///etc/passwd").unwrap_err().problem, "no URL");
        let local = Url::parse("http://localhost:1/").unwrap();
        assert!(local.redirected("https://example.org/").is_ok());
    }

    proptest! {
        #[test]
        fn no_reference_leaves_the_folder(reference in "[a-z./\\\\%]{0,12}|\\PC{0,12}") {
            let index = Location::File("/srv/f/index.json".into());
            if let Ok(Location::File(path)) = index.of_reference(&reference) {
                prop_assert!(path.starts_with("/srv/f") && path != Path::new("/srv/f"));
                prop_assert!(path.components().all(|part| part != std::path::Component::ParentDir));
            }
        }

        #[test]
        fn a_url_is_its_text(text in "https?://(localhost|[a-z.]{1,9}|\\[::1\\])(:[0-9]{1,6})?(/[!-~]{0,9})?") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(Url::parse(&url.to_string()), Ok(url));
            }
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}", target in "\\PC{0,40}") {
            let _ = Location::parse(&text).map(|location| location.of_reference(&target).map(drop));
            if let Ok(url) = Url::parse("https://a/b").unwrap().redirected(&target) {
                prop_assert!(url.https);
            }
        }
    }
}
