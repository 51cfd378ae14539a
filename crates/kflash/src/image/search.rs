//! Finds Klipper's data dictionary in an image: the one zlib stream that inflates to its JSON.

use super::Segment;
use crate::klipper::dictionary::{Dictionary, DictionaryError};
use crate::klipper::zlib::Inflater;

/// Streams that are tried. By chance an image of 16 MiB holds about 1000 zlib headers.
const MAX_ATTEMPTS: usize = 20_000;
/// Bytes inflated and read over all attempts, so that a made-up file cannot take long.
const MAX_WORK: usize = 32 << 20;

/// Why the search gave no clear answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// Dictionaries that differ: two firmwares in one file.
    #[error("it holds two different data dictionaries, {0:?} and {1:?}")]
    Several(String, String),
    /// A stream is intact but what it holds is no proper dictionary.
    #[error(transparent)]
    Malformed(#[from] DictionaryError),
    /// Too much of the file looks like compressed data to look at all of it.
    #[error("too many of its bytes look like compressed data to find a data dictionary")]
    TooMuchWork,
}

/// A dictionary and where its stream starts.
#[derive(Debug)]
pub(super) struct Found {
    pub dictionary: Dictionary,
    /// Its JSON text.
    pub json: Vec<u8>,
    /// Offset in its segment.
    pub at: usize,
}

/// Looks at every zlib header in the segments.
pub(super) fn search(segments: &[Segment]) -> Result<Option<Found>, SearchError> {
    let mut inflater = Inflater::new();
    let mut attempts = 0;
    let mut found: Option<Found> = None;
    let mut malformed = None;
    for Segment { data, .. } in segments {
        let mut next = 0;
        for at in headers(data) {
            // A stream within a stream is no stream of its own.
            if at < next {
                continue;
            }
            attempts += 1;
            if attempts > MAX_ATTEMPTS || inflater.spent() > MAX_WORK {
                return Err(SearchError::TooMuchWork);
            }
            let Ok(inflated) = inflater.inflate(&data[at..], |start| start.starts_with(b"{")) else { continue };
            next = at + inflated.consumed;
            match (Dictionary::from_json(&inflated.data), &found) {
                (Err(error), _) => malformed = malformed.or(Some(error)),
                (Ok(dictionary), None) => found = Some(Found { dictionary, json: inflated.data, at }),
                (Ok(dictionary), Some(first)) if dictionary == first.dictionary => {}
                (Ok(dictionary), Some(first)) => {
                    return Err(SearchError::Several(first.dictionary.version.clone(), dictionary.version));
                }
            }
        }
    }
    match (found, malformed) {
        (None, Some(error)) => Err(error.into()),
        (found, _) => Ok(found),
    }
}

/// Offsets of zlib headers with a 32 KiB window and no preset dictionary (RFC 1950 §2.2): `78 01`, `78 5e`, `78 9c`,
/// `78 da`.
fn headers(data: &[u8]) -> impl Iterator<Item = usize> {
    data.windows(2).enumerate().filter(|(_, pair)| matches!(pair, [0x78, 0x01 | 0x5e | 0x9c | 0xda])).map(|(at, _)| at)
}
