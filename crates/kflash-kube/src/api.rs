//! Requests to the API server: bounded in time, made again when that can help, and with errors that say what to do.

use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kflash::exit::ExitCode;
use kube::Client;
use tokio::time::{self, Instant};

use crate::step::Step;
use crate::stop::Stop;

/// A request that has not been answered by then is taken for lost.
const REQUEST: Duration = Duration::from_secs(10);
/// The first and the longest pause before a request is made again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// A namespace of a cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The namespace that everything lies in.
    pub namespace: String,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Debug for Cluster {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// A namespace, with `now` as the clock on the wall.
    pub fn new(
        client: Client,
        namespace: impl Into<String>,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self { client, namespace: namespace.into(), now: Arc::new(now) }
    }

    /// What the clock on the wall shows.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}

impl Cluster {
    /// The version of the server: of 1.33, the 33.
    pub async fn server_minor(&self, patience: &Patience<'_>) -> Result<u32, ApiError> {
        let what = "read the server's version";
        let version = patience.ask(what, || self.client.apiserver_version()).await?;
        // Some vendors have it `33+`.
        let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
        let message = || format!("it is {}.{}", version.major, version.minor);
        digits.parse().map_err(|_| ApiError::Wrong { what: what.to_owned(), message: message() })
    }
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The account may not do that.
    #[error("may not {what}: {message}")]
    Denied {
        /// What was asked for.
        what: String,
        /// The server's word.
        message: String,
    },
    /// There is no such object.
    #[error("cannot {what}: it does not exist")]
    Missing {
        /// What was asked for.
        what: String,
    },
    /// The object changed since it was read, or exists already.
    #[error("cannot {what}: it changed meanwhile")]
    Conflict {
        /// What was asked for.
        what: String,
    },
    /// The server finds fault with the request itself, or answers what nobody understands.
    #[error("cannot {what}: {message}")]
    Wrong {
        /// What was asked for.
        what: String,
        /// The server's word.
        message: String,
    },
    /// No answer that counts.
    #[error("cannot {what}: {problem}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// What happened instead.
        problem: String,
    },
    /// Asked to stop before there was an answer.
    #[error("stopped before it could {what}")]
    Stopped {
        /// What was asked for.
        what: String,
    },
}

impl ApiError {
    /// The code that a run ends with which this keeps from its work.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Denied { .. } => ExitCode::Denied,
            // The Lease and the workload are named in the manifests, which are applied before any flash.
            Self::Missing { .. } => ExitCode::Usage,
            Self::Conflict { .. } | Self::Unreachable { .. } => ExitCode::Busy,
            Self::Wrong { .. } => ExitCode::Internal,
            Self::Stopped { .. } => ExitCode::Cancelled,
        }
    }
}

/// How long requests are made again.
#[derive(Clone)]
pub struct Patience<'a> {
    /// Until then; `None` is for ever.
    pub until: Option<Instant>,
    /// Ends it, too. Looked at between requests only: one that was sent is always waited for.
    pub stop: Option<&'a Stop>,
    /// Told of each failure.
    pub steps: &'a (dyn Fn(Step) + Sync),
}

impl Patience<'_> {
    /// Pauses for `pause`, but not past the end. False where that was reached, or a stop asked for.
    pub async fn pause(&self, pause: Duration) -> bool {
        let now = Instant::now();
        let end = self.until.map_or(now + pause, |until| until.min(now + pause));
        let stopped = async {
            match self.stop {
                Some(stop) => stop.wait().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stopped => false,
            () = time::sleep_until(end) => self.until.is_none_or(|until| Instant::now() < until),
        }
    }

    /// Makes a request until it is answered.
    pub async fn ask<T, F>(&self, what: &str, mut request: impl FnMut() -> F) -> Result<T, ApiError>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut pause = PAUSES.0;
        loop {
            if self.stop.is_some_and(Stop::requested) {
                return Err(ApiError::Stopped { what: what.to_owned() });
            }
            let problem = match time::timeout(REQUEST, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => classify(what, &error)?,
                Err(_) => format!("no answer within {} s", REQUEST.as_secs()),
            };
            (self.steps)(Step::Retrying { what: what.to_owned(), problem: problem.clone() });
            if !self.pause(pause).await && !self.stop.is_some_and(Stop::requested) {
                return Err(ApiError::Unreachable { what: what.to_owned(), problem });
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// What the problem is, where making the request again may help.
fn classify(what: &str, error: &kube::Error) -> Result<String, ApiError> {
    let what = what.to_owned();
    let status = match error {
        kube::Error::Api(status) => status,
        // Nothing of these is mended by asking again.
        kube::Error::BuildRequest(_) | kube::Error::HttpError(_) | kube::Error::Auth(_) => {
            return Err(ApiError::Wrong { what, message: chain(error) });
        }
        _ => return Ok(chain(error)),
    };
    let message = status.message.clone();
    match status.code {
        401 | 403 => Err(ApiError::Denied { what, message }),
        404 => Err(ApiError::Missing { what }),
        409 => Err(ApiError::Conflict { what }),
        429 | 500..=599 => Ok(format!("the API server answers {}: {message}", status.code)),
        _ => Err(ApiError::Wrong { what, message }),
    }
}

/// An error with its causes, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
