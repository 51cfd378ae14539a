//! Why no firmware was fetched.

use std::path::PathBuf;

use super::index::{IndexError, NotListed};
use super::location::{LocationError, Url};
use super::signature::SignatureError;
use crate::exit::ExitCode;
use crate::image::ImageError;
use crate::obtain::cache::CacheError;
use crate::timestamp::Timestamp;

/// Why no firmware was fetched. Nothing of it is in the cache.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A server was asked several times and did not give the file.
    #[error("cannot fetch {url}: {problem}")]
    Unreachable {
        /// What was asked for.
        url: Url,
        /// What went wrong the last time.
        problem: String,
    },
    /// A server refuses the file.
    #[error("cannot fetch {url}: the server answers {status}")]
    Status {
        /// What was asked for.
        url: Url,
        /// The status: `404 Not Found`.
        status: String,
    },
    /// A redirect that is not followed.
    #[error("cannot fetch {url}: redirected to {problem}")]
    Redirect {
        /// What was asked for.
        url: Url,
        /// Where to, and why not.
        problem: String,
    },
    /// TLS: the server's certificate is not believed, or it speaks no TLS.
    #[error("cannot fetch {url}: {problem}")]
    Tls {
        /// What was asked for.
        url: Url,
        /// What is wrong.
        problem: String,
    },
    /// The proxy does not connect.
    #[error("cannot fetch {url} through the proxy: {problem}")]
    Proxy {
        /// What was asked for.
        url: Url,
        /// What it says.
        problem: String,
    },
    /// The server says what HTTP does not allow, or what was not asked for.
    #[error("cannot fetch {url}: {problem}")]
    Protocol {
        /// What was asked for.
        url: Url,
        /// What is wrong.
        problem: String,
    },
    /// A file on this machine that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The index is no index.
    #[error("{index}: {error}")]
    Index {
        /// Where it is.
        index: String,
        /// What is wrong with it.
        error: IndexError,
    },
    /// Nobody vouches for the index.
    #[error("{index} is not signed: there is no {index}.minisig")]
    Unsigned {
        /// Where it is.
        index: String,
    },
    /// Somebody else vouches for the index, or for another one.
    #[error("{index} is not to be trusted: {error}")]
    Signature {
        /// Where it is.
        index: String,
        /// What is wrong.
        error: SignatureError,
    },
    /// An old index in place of a newer one.
    #[error("{index} is older than what was fetched before: serial {serial} of {created}, seen was {seen}")]
    Replayed {
        /// Where it is.
        index: String,
        /// Its number.
        serial: u64,
        /// When it was made.
        created: Timestamp,
        /// The highest number that was seen.
        seen: u64,
    },
    /// The note of what was seen before is damaged.
    #[error("{}: {problem}", path.display())]
    Seen {
        /// The note.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The index has no such image.
    #[error("{index} has {error}")]
    NotListed {
        /// Where it is.
        index: String,
        /// What it has instead.
        error: NotListed,
    },
    /// The index names an image at a place that nothing is fetched from.
    #[error("{index}: {error}")]
    Reference {
        /// Where it is.
        index: String,
        /// The place.
        error: LocationError,
    },
    /// The file is not the one that the index means.
    #[error("{image} is not the file that the index means: {problem}")]
    Differs {
        /// Where it is.
        image: String,
        /// Size or digest.
        problem: String,
    },
    /// The file is the one that the index means, and no firmware.
    #[error("{image} is no firmware: {error}")]
    NotAnImage {
        /// Where it is.
        image: String,
        /// Why.
        error: ImageError,
    },
    /// The image, the index and the board do not agree.
    #[error("{image} does not fit: {}", .disagreements.join("; "))]
    Disagrees {
        /// Where it is.
        image: String,
        /// What disagrees with what.
        disagreements: Vec<String>,
    },
    /// It was asked to stop.
    #[error("stopped while fetching")]
    Interrupted,
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

impl FetchError {
    /// The exit code: what is not to be trusted or does not fit is refused; all else did not come.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Unsigned { .. }
            | Self::Signature { .. }
            | Self::Replayed { .. }
            | Self::Seen { .. }
            | Self::Differs { .. }
            | Self::NotAnImage { .. }
            | Self::Disagrees { .. } => ExitCode::Refused,
            Self::Interrupted => ExitCode::Cancelled,
            Self::Cache(error) => error.exit(),
            Self::Unreachable { .. }
            | Self::Status { .. }
            | Self::Redirect { .. }
            | Self::Tls { .. }
            | Self::Proxy { .. }
            | Self::Protocol { .. }
            | Self::Unreadable { .. }
            | Self::Index { .. }
            | Self::NotListed { .. }
            | Self::Reference { .. } => ExitCode::Fetch,
        }
    }
}
