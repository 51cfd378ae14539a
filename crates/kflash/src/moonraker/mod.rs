//! A printer's Moonraker: whether the printer prints, and which Klipper its host runs.
//!
//! Held to the answers of Moonraker 0.11.0. `/printer/...` exists only once Klipper was connected: before that it is
//! 404, after Klipper left it is 503; `/server/info` always answers, and says which.

mod answer;
mod mcu;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
#[cfg(feature = "fetch")]
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Error};

use self::answer::{Failed, Objects, PrinterInfo, Reply, ServerInfo, Status};
pub use self::mcu::Mcu;
use crate::config::{self, ApiKey};
use crate::exit::ExitCode;

/// Where it answers, with the port that it has by default.
const SERVER_INFO: &str = "/server/info";
const PRINTER_INFO: &str = "/printer/info";
const PRINT: &str = "/printer/objects/query?print_stats&virtual_sdcard&idle_timeout";

/// From the first byte asked to the last received. Klipper answers within a second; a busy Raspberry Pi takes its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// A host that is there takes a connection at once; one that is switched off never does.
const CONNECT: Duration = Duration::from_secs(5);
/// The answers have a few KiB.
const LARGEST_ANSWER: u64 = 1 << 20;
/// Bytes of a key's file.
const LARGEST_KEY: u64 = 4096;
/// Bytes of a file of authorities: what a system trusts has 200 KiB.
#[cfg(feature = "fetch")]
const LARGEST_CA: u64 = 4 << 20;
/// Characters kept of names and messages.
const LONGEST_TEXT: usize = 200;

/// A printer's Moonraker.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    url: String,
    key: Option<ApiKey>,
}

/// What a printer does.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "activity", rename_all = "kebab-case")]
pub enum Activity {
    /// It prints nothing. Klipper's state: `ready`, `error`, `shutdown`, `startup` or `disconnected`.
    Idle {
        /// Klipper's state.
        klipper: String,
    },
    /// It prints.
    Printing(Job),
    /// It paused within a print.
    Paused(Job),
    /// It executes commands that are no print from a file of its own: macros, or a print that another program feeds.
    Moving,
}

/// A print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    /// The file's name; empty where it is not known.
    pub file: String,
    /// How much of it is done, in percent.
    pub percent: Option<u8>,
}

/// Why Moonraker did not say.
#[derive(Debug, thiserror::Error)]
pub enum MoonrakerError {
    /// The file with its key cannot be read.
    #[error("cannot read Moonraker's key in {}: {source}", file.display())]
    KeyFile {
        /// The file.
        file: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file with the authorities that are trusted cannot be read, or holds none.
    #[error("cannot read certificate authorities in {}: {problem}", file.display())]
    CaFile {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No request can be made of the address.
    #[error("{url} is no address of a Moonraker: {problem}")]
    Address {
        /// As configured.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody answers there, or not in time.
    #[error("Moonraker at {url} does not answer: {problem}")]
    Unreachable {
        /// As configured.
        url: String,
        /// How that showed.
        problem: String,
    },
    /// It wants a key, or another one.
    #[error("Moonraker at {url} {}", if *with_key { "does not accept the key" } else { "wants a key" })]
    Unauthorised {
        /// As configured.
        url: String,
        /// Whether it was given a key.
        with_key: bool,
    },
    /// The connection could not be secured.
    #[error("no secure connection to Moonraker at {url}: {problem}")]
    Tls {
        /// As configured.
        url: String,
        /// Why.
        problem: String,
    },
    /// It answers with an error.
    #[error("{url}{path} answers {status}: {message}")]
    Answered {
        /// As configured.
        url: String,
        /// What was asked for.
        path: &'static str,
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// What answers is no Moonraker.
    #[error("{url}{path} answers what no Moonraker does: {problem}")]
    Malformed {
        /// As configured.
        url: String,
        /// What was asked for.
        path: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Client {
    /// The Moonraker that a configuration names. Reads the file of its key; sends nothing.
    pub fn new(config: &config::Moonraker) -> Result<Self, MoonrakerError> {
        let builder = Agent::config_builder()
            // A printer is in the neighbourhood, not behind the proxy of the environment.
            .proxy(None)
            .http_status_as_error(false)
            // Nowhere else is the key sent.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A server may close an idle connection at the moment that the next request goes out on it.
            .max_idle_connections(0)
            .timeout_global(Some(PATIENCE))
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("kflash/", env!("CARGO_PKG_VERSION")));
        #[cfg(feature = "fetch")]
        let builder = builder.tls_config(TlsConfig::builder().root_certs(roots(config)?).build());
        let agent = builder.build().new_agent();
        let key = match (&config.api_key, &config.api_key_file) {
            (Some(key), _) => Some(key.clone()),
            (None, Some(file)) => {
                Some(read_key(file).map_err(|source| MoonrakerError::KeyFile { file: file.clone(), source })?)
            }
            (None, None) => None,
        };
        Ok(Self { agent, url: config.url.trim_end_matches('/').to_owned(), key })
    }

    /// What the printer does now.
    pub fn activity(&self) -> Result<Activity, MoonrakerError> {
        let server: ServerInfo = self.get(SERVER_INFO)?;
        if server.klippy_state != "ready" {
            return Ok(Activity::Idle { klipper: cut(server.klippy_state) });
        }
        match self.get::<Objects>(PRINT) {
            Ok(Objects { status }) => Ok(activity(status)),
            // Klipper left in between.
            Err(MoonrakerError::Answered { status: 404 | 503, .. }) => {
                let server: ServerInfo = self.get(SERVER_INFO)?;
                match server.klippy_state {
                    state if state == "ready" => Err(self.malformed(PRINT, "Klipper is ready, but not asked")),
                    state => Ok(Activity::Idle { klipper: cut(state) }),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The version of the Klipper that its host runs, as `git describe` and its packagers make it:
    /// `v0.13.0-85-gd785b396-dirty`. Klipper has to be connected; its micro-controllers need not be.
    pub fn host_version(&self) -> Result<String, MoonrakerError> {
        let info: PrinterInfo = self.get(PRINTER_INFO)?;
        match info.software_version {
            version if version.is_empty() || version.len() > LONGEST_TEXT || version.chars().any(char::is_control) => {
                Err(self.malformed(PRINTER_INFO, "software_version is no version"))
            }
            version => Ok(version),
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, MoonrakerError> {
        self.query(path, "")
    }

    /// The answer to a request for `path`, with `query` behind it.
    fn query<T: DeserializeOwned>(&self, path: &'static str, query: &str) -> Result<T, MoonrakerError> {
        let mut request = self.agent.get(format!("{}{path}{query}", self.url));
        if let Some(key) = &self.key {
            request = request.header("X-Api-Key", key.secret());
        }
        let mut response = request.call().map_err(|error| self.failed(path, error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(LARGEST_ANSWER).read_to_vec();
        if matches!(status.as_u16(), 401 | 403) {
            return Err(MoonrakerError::Unauthorised { url: self.url.clone(), with_key: self.key.is_some() });
        }
        if status.is_redirection() {
            let to = response.headers().get("location").and_then(|to| to.to_str().ok()).unwrap_or("elsewhere");
            return Err(self.malformed(path, format!("a redirect to {}", cut(to.to_owned()))));
        }
        let body = body.map_err(|error| self.failed(path, error))?;
        if !status.is_success() {
            let message = match serde_json::from_slice::<Failed>(&body) {
                Ok(failed) => cut(failed.error.message),
                Err(_) => "no message of Moonraker's".to_owned(),
            };
            return Err(MoonrakerError::Answered { url: self.url.clone(), path, status: status.as_u16(), message });
        }
        let reply: Reply<T> = serde_json::from_slice(&body).map_err(|error| self.malformed(path, error.to_string()))?;
        Ok(reply.result)
    }

    fn malformed(&self, path: &'static str, problem: impl Into<String>) -> MoonrakerError {
        MoonrakerError::Malformed { url: self.url.clone(), path, problem: problem.into() }
    }

    fn failed(&self, path: &'static str, error: Error) -> MoonrakerError {
        let url = self.url.clone();
        let problem = cut(match &error {
            Error::Timeout(_) => "it takes too long".to_owned(),
            Error::Io(error) => error.to_string(),
            error => error.to_string(),
        });
        match error {
            Error::BadUri(_) | Error::Http(_) => MoonrakerError::Address { url, problem },
            Error::Protocol(_) | Error::LargeResponseHeader(..) | Error::BodyExceedsLimit(_) => {
                MoonrakerError::Malformed { url, path, problem }
            }
            Error::Timeout(_) | Error::HostNotFound | Error::ConnectionFailed => {
                MoonrakerError::Unreachable { url, problem }
            }
            // rustls reports what it does not accept as invalid data.
            Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
                MoonrakerError::Unreachable { url, problem }
            }
            _ if url.starts_with("https:") => MoonrakerError::Tls { url, problem },
            _ => MoonrakerError::Malformed { url, path, problem },
        }
    }
}

impl Activity {
    /// Whether a board of the printer must be left alone now.
    pub fn is_busy(&self) -> bool {
        !matches!(self, Self::Idle { .. })
    }
}

impl MoonrakerError {
    /// The exit code: nobody who answers is asked again later, what is configured wrongly is not.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Address { .. } | Self::CaFile { .. } | Self::Malformed { .. } => ExitCode::Usage,
            Self::KeyFile { source, .. } if source.kind() != io::ErrorKind::PermissionDenied => ExitCode::Usage,
            Self::KeyFile { .. } | Self::Unauthorised { .. } => ExitCode::Denied,
            Self::Tls { .. } => ExitCode::Refused,
            Self::Unreachable { .. } | Self::Answered { .. } => ExitCode::Busy,
        }
    }
}

fn activity(status: Status) -> Activity {
    let print = status.print_stats.unwrap_or_default();
    let progress = status.virtual_sdcard.and_then(|card| card.progress);
    let percent = progress.map(|progress| (progress.clamp(0.0, 1.0) * 100.0) as u8);
    let job = Job { file: cut(print.filename), percent };
    match print.state.as_str() {
        "printing" => Activity::Printing(job),
        "paused" => Activity::Paused(job),
        // Without print_stats, or beside them: commands that are executed at this moment.
        _ if status.idle_timeout.is_some_and(|idle| idle.state == "Printing") => Activity::Moving,
        _ => Activity::Idle { klipper: "ready".to_owned() },
    }
}

/// Whose certificates are believed.
#[cfg(feature = "fetch")]
fn roots(config: &config::Moonraker) -> Result<RootCerts, MoonrakerError> {
    let Some(file) = &config.ca else { return Ok(RootCerts::WebPki) };
    let wrong =
        |problem: &dyn std::fmt::Display| MoonrakerError::CaFile { file: file.clone(), problem: problem.to_string() };
    let pem = read(file, LARGEST_CA).map_err(|error| wrong(&error))?;
    Ok(RootCerts::from(crate::obtain::fetch::certificates(pem.as_bytes()).map_err(|error| wrong(&error))?))
}

fn read_key(file: &Path) -> io::Result<ApiKey> {
    // What is in it is not shown.
    ApiKey::new(&read(file, LARGEST_KEY)?).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it holds no key"))
}

fn read(file: &Path, most: u64) -> io::Result<String> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut text = String::new();
    File::open(file)?.take(most).read_to_string(&mut text)?;
    Ok(text)
}

fn cut(text: String) -> String {
    match text.char_indices().nth(LONGEST_TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
