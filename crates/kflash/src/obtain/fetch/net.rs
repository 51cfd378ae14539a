//! One HTTP request at a time, with the redirects that are followed.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, BodyReader};

use super::location::Url;
use super::{FetchError, Proxies};

/// Redirects that are followed in a row.
const MOST_REDIRECTS: u32 = 5;

/// How long is waited for a server, and how often it is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a connection, TLS and a proxy included.
    pub connect: Duration,
    /// For the head of an answer.
    pub answer: Duration,
    /// For the next bytes.
    pub stall: Duration,
    /// Requests in a row that bring nothing.
    pub attempts: u32,
    /// Before the first of the waits between them; each is twice the one before.
    pub back_off: Duration,
    /// For a file in all, waits included.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            attempts: 5,
            back_off: Duration::from_millis(500),
            total: Duration::from_secs(15 * 60),
        }
    }
}

/// The way to servers.
#[derive(Debug)]
pub struct Net {
    agent: Agent,
    proxies: Proxies,
    /// How patient it is.
    pub patience: Patience,
}

/// The text holds no certificates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no certificates in PEM form")]
pub struct CaError;

/// A server's answer, of which only the head was read.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: BodyReader<'static>,
    /// How long the body is, as the server says.
    pub length: Option<u64>,
}

/// Why a request brought nothing.
pub(super) enum Failed {
    /// It may go better the next time.
    Passing {
        problem: String,
        /// How long the server asks to be left alone.
        after: Option<Duration>,
        /// Whether bytes came that need not be asked for again.
        progressed: bool,
    },
    /// It will not.
    Lasting(FetchError),
}

/// From where on to go on with a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume<'a> {
    pub from: u64,
    /// The `ETag` or `Last-Modified` of what there is already.
    pub validator: &'a str,
}

impl Net {
    /// The way to servers through `proxies`. Servers are believed whose certificate leads to one of Mozilla's
    /// authorities; with `ca`, certificates in PEM form, to one of those instead.
    pub fn new(ca: Option<&[u8]>, proxies: Proxies, patience: Patience) -> Result<Self, CaError> {
        let roots = match ca {
            Some(pem) => RootCerts::from(certificates(pem)?),
            None => RootCerts::WebPki,
        };
        let config = Agent::config_builder()
            // Replaces what ureq has read from the environment by itself.
            .proxy(None)
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("kflash/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.answer))
            .timeout_per_read(Some(patience.stall))
            .timeout_per_write(Some(patience.stall))
            .timeout_per_call(Some(patience.total))
            .input_buffer_size(32 << 10)
            .output_buffer_size(8 << 10);
        Ok(Self { agent: config.build().into(), proxies, patience })
    }

    /// Asks for `url`, or for the rest of it, and follows redirects.
    pub(super) fn get(&self, url: &Url, resume: Option<Resume<'_>>) -> Result<Answer, Failed> {
        let mut at = url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.get_one(&at, resume)?;
            match answer.status {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    let refused = |problem| Failed::Lasting(FetchError::Redirect { url: url.clone(), problem });
                    let target = answer.header(header::LOCATION).filter(|target| !target.is_empty());
                    let target = target.ok_or_else(|| refused("nowhere".into()))?;
                    at = at.redirected(target).map_err(|error| refused(error.to_string()))?;
                }
                _ => return Ok(answer),
            }
        }
        let problem = format!("more than {MOST_REDIRECTS} redirects");
        Err(Failed::Lasting(FetchError::Redirect { url: url.clone(), problem }))
    }

    fn get_one(&self, url: &Url, resume: Option<Resume<'_>>) -> Result<Answer, Failed> {
        let request = self.agent.get(url.to_string()).config().proxy(self.proxies.of(url).cloned()).build();
        let request = match resume {
            Some(Resume { from, validator }) => {
                request.header(header::RANGE, format!("bytes={from}-")).header(header::IF_RANGE, validator)
            }
            None => request,
        };
        let (head, body) = request.call().map_err(|error| failed(url, error))?.into_parts();
        let answer = Answer {
            status: head.status,
            headers: head.headers,
            length: body.content_length(),
            body: body.into_with_config().limit(u64::MAX).reader(),
        };
        match answer.header(header::CONTENT_ENCODING) {
            None | Some("identity") => Ok(answer),
            Some(encoding) => {
                let problem = format!("the answer is encoded as {encoding:?}, which was not asked for");
                Err(Failed::Lasting(FetchError::Protocol { url: url.clone(), problem }))
            }
        }
    }
}

impl Answer {
    /// A header, where it is text.
    pub fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Reads on; how many bytes.
    pub fn read(&mut self, url: &Url, into: &mut [u8]) -> Result<usize, Failed> {
        loop {
            match self.body.read(into) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(|error| failed(url, error.into())),
            }
        }
    }
}

impl Failed {
    pub fn passing(problem: impl fmt::Display) -> Self {
        Self::Passing { problem: problem.to_string(), after: None, progressed: false }
    }
}

fn failed(url: &Url, error: ureq::Error) -> Failed {
    let url = url.clone();
    match error {
        // rustls hands its errors on as data that is invalid: certificates, and servers without TLS.
        ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => {
            Failed::Lasting(FetchError::Tls { url, problem: error.to_string() })
        }
        ureq::Error::Rustls(error) => Failed::Lasting(FetchError::Tls { url, problem: error.to_string() }),
        ureq::Error::Tls(problem) => Failed::Lasting(FetchError::Tls { url, problem: problem.to_owned() }),
        ureq::Error::ConnectProxyFailed(problem) => Failed::Lasting(FetchError::Proxy { url, problem }),
        ureq::Error::Io(error) => Failed::passing(error),
        ureq::Error::HostNotFound => Failed::passing("its host is not found"),
        ureq::Error::Timeout(what) => Failed::passing(format_args!("it took too long ({what})")),
        error @ (ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) | ureq::Error::BodyStalled) => {
            Failed::passing(error)
        }
        error => Failed::Lasting(FetchError::Protocol { url, problem: error.to_string() }),
    }
}

/// The certificates in a text in PEM form.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, CaError> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|_| CaError)? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err(CaError) } else { Ok(found) }
}
