//! Proxies, as the caller's environment names them.

use std::fmt;
use std::net::IpAddr;

use super::location::{Url, is_loopback};

/// The proxy for HTTPS, and who is reached without it. Plain HTTP goes to this machine alone, never through a proxy.
#[derive(Clone, Default)]
pub struct Proxies {
    https: Option<ureq::Proxy>,
    bypass: Vec<Bypass>,
}

/// Whom `NO_PROXY` names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Bypass {
    Everyone,
    /// A domain and all below it.
    Domain(String),
    /// Addresses that share their first bits.
    Addresses(IpAddr, u32),
}

/// A proxy that cannot be used. Holds no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {problem}")]
pub struct ProxyError {
    /// The variable that names it.
    pub variable: &'static str,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl Proxies {
    /// From the values of `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. The first of the two proxies that is not empty is
    /// taken.
    pub fn new(https: Option<&str>, all: Option<&str>, no_proxy: Option<&str>) -> Result<Self, ProxyError> {
        let stated = [("HTTPS_PROXY", https), ("ALL_PROXY", all)];
        let mut stated = stated.into_iter().filter_map(|(name, value)| Some((name, value?.trim())));
        let https = match stated.find(|(_, value)| !value.is_empty()) {
            Some((variable, value)) => {
                if value.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("socks")) {
                    return Err(ProxyError {
                        variable,
                        problem: "a SOCKS proxy, and kflash speaks to HTTP proxies alone",
                    });
                }
                let wrong =
                    |_| ProxyError { variable, problem: "no URL of a proxy, such as http://proxy.example:3128" };
                Some(ureq::Proxy::new(value).map_err(wrong)?)
            }
            None => None,
        };
        let bypass = no_proxy.unwrap_or_default().split([',', ' ']).filter_map(Bypass::parse).collect();
        Ok(Self { https, bypass })
    }

    /// The proxy for a URL.
    pub(super) fn of(&self, url: &Url) -> Option<&ureq::Proxy> {
        let direct = !url.https() || is_loopback(url.host()) || self.bypass.iter().any(|it| it.includes(url.host()));
        self.https.as_ref().filter(|_| !direct)
    }
}

impl Bypass {
    /// `*`, `example.org`, `.example.org`, `*.example.org`, `192.0.2.7`, `10.0.0.0/8`; a port is passed over.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "*" {
            return Some(Self::Everyone);
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        if let Ok(address) = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Some(Self::Addresses(address, bits.unwrap_or(128)));
        }
        let name = text.split(':').next().unwrap_or_default().trim_start_matches('*').trim_matches('.');
        (!name.is_empty()).then(|| Self::Domain(name.to_ascii_lowercase()))
    }

    fn includes(&self, host: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Domain(name) => {
                let host = host.to_ascii_lowercase();
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Self::Addresses(network, bits) => match (host.parse::<IpAddr>(), network) {
                (Ok(IpAddr::V4(host)), IpAddr::V4(network)) => {
                    (u32::from(host) ^ u32::from(*network)).leading_zeros() >= (*bits).min(32)
                }
                (Ok(IpAddr::V6(host)), IpAddr::V6(network)) => {
                    (u128::from(host) ^ u128::from(*network)).leading_zeros() >= (*bits).min(128)
                }
                _ => false,
            },
        }
    }
}

impl fmt::Debug for Proxies {
    /// Without the password that a proxy's URL may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let https = self.https.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        f.debug_struct("Proxies").field("https", &https).field("bypass", &self.bypass).finish()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.of(&Url::parse(url).unwrap()).map(|proxy| format!("{}:{}", proxy.host(), proxy.port()))
    }

    #[test]
    fn https_goes_through_its_proxy_and_plain_http_through_none() {
        let proxies = Proxies::new(Some(""), Some("http://me:secret@proxy.example:3128"), None).unwrap();
        assert_eq!(through(&proxies, "https://firmware.example/").unwrap(), "proxy.example:3128");
        assert_eq!(through(&proxies, "http://127.0.0.1/"), None);
        assert_eq!(through(&proxies, "https://localhost:8443/"), None);
        assert!(!format!("{proxies:?}").contains("secret"), "{proxies:?}");
        let proxies = Proxies::new(Some("proxy.example:8080"), Some("http://other.example"), None).unwrap();
        assert_eq!(through(&proxies, "https://firmware.example/").unwrap(), "proxy.example:8080");
    }

    #[test]
    fn no_proxy_names_domains_and_networks() {
        let bypass = "internal.example,.lan *.corp:443, 10.0.0.0/8,192.0.2.7,[2001:db8::1], fe80::/10,";
        let proxies = Proxies::new(Some("http://proxy.example"), None, Some(bypass)).unwrap();
        for direct in [
            "internal.example",
            "a.internal.example",
            "A.LAN",
            "x.corp",
            "10.200.3.4",
            "192.0.2.7",
            "[2001:db8::1]",
            "[fe81::2]",
        ] {
            assert_eq!(through(&proxies, &format!("https://{direct}/")), None, "{direct}");
        }
        for far in ["notinternal.example", "11.0.0.1", "192.0.2.8", "[2001:db8::2]", "example"] {
            assert!(through(&proxies, &format!("https://{far}/")).is_some(), "{far}");
        }
        let none = Proxies::new(Some("http://proxy.example"), None, Some("*")).unwrap();
        assert_eq!(through(&none, "https://firmware.example/"), None);
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_named_by_its_variable() {
        let error = |https, all| Proxies::new(https, all, None).unwrap_err().to_string();
        assert_eq!(
            error(None, Some("socks5h://127.0.0.1:9050")),
            "ALL_PROXY: a SOCKS proxy, and kflash speaks to HTTP proxies alone"
        );
        assert_eq!(error(Some("http://"), None), "HTTPS_PROXY: no URL of a proxy, such as http://proxy.example:3128");
    }
}
