//! Files from servers and from this machine: bounded, tried again, resumed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{StatusCode, header};

use super::FetchError;
use super::location::{Location, Url};
use super::net::{Answer, Failed, Net, Resume};
use crate::clock::Clock;
use crate::digest::Sha256;
use crate::event::{Event, Events, Phase};
use crate::flash::Interrupt;
use crate::obtain::cache::CacheError;

/// The longest that a server's `Retry-After` is obeyed.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// Between two looks at whether to stop.
const SLICE: Duration = Duration::from_millis(200);

/// Downloads, and what they report to.
pub(super) struct Download<'a> {
    pub net: &'a Net,
    pub clock: &'a dyn Clock,
    pub interrupt: &'a Interrupt,
}

/// The file that is wanted: its bytes are known before they come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub size: u64,
    pub sha256: Sha256,
}

/// A file that has come in part, in a directory that nobody else works in.
struct Part<'a> {
    dir: &'a Path,
}

impl Download<'_> {
    /// A file of at most `limit` bytes; `None` if there is none.
    pub fn small(&self, from: &Location, limit: usize, events: Events<'_>) -> Result<Option<Vec<u8>>, FetchError> {
        let url = match from {
            Location::File(path) => {
                let unreadable = |source| FetchError::Unreadable { path: path.clone(), source };
                return match read(path, limit as u64) {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Ok(bytes) if bytes.len() > limit => {
                        let problem = format!("it has more than {limit} bytes");
                        Err(unreadable(std::io::Error::new(ErrorKind::FileTooLarge, problem)))
                    }
                    result => result.map(Some).map_err(unreadable),
                };
            }
            Location::Web(url) => url,
        };
        self.persist(url, events, &mut |_| {
            let mut answer = self.net.get(url, None)?;
            match answer.status {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND | StatusCode::GONE => return Ok(None),
                _ => return Err(status(url, &answer)),
            }
            let too_large = || {
                let problem = format!("it has more than {limit} bytes");
                Failed::Lasting(FetchError::Protocol { url: url.clone(), problem })
            };
            if answer.length.is_some_and(|length| length > limit as u64) {
                return Err(too_large());
            }
            let mut bytes = Vec::new();
            let mut chunk = vec![0; 16 << 10];
            loop {
                self.go_on()?;
                let n = answer.read(url, &mut chunk)?;
                if n == 0 {
                    return Ok(Some(bytes));
                }
                bytes.extend_from_slice(&chunk[..n]);
                if bytes.len() > limit {
                    return Err(too_large());
                }
            }
        })
    }

    /// The file that is `known`. What has come of it stays in `dir`, and is not asked for again.
    pub fn known(&self, from: &Location, known: Known, dir: &Path, events: Events<'_>) -> Result<Vec<u8>, FetchError> {
        let url = match from {
            Location::File(path) => {
                let bytes =
                    read(path, known.size).map_err(|source| FetchError::Unreadable { path: path.clone(), source })?;
                return known.check(from, bytes);
            }
            Location::Web(url) => url,
        };
        let part = Part { dir };
        self.persist(url, events, &mut |events| self.attempt(url, known, &part, events))
    }

    /// One request for what is missing of a file.
    fn attempt(&self, url: &Url, known: Known, part: &Part<'_>, events: Events<'_>) -> Result<Vec<u8>, Failed> {
        let differs = |problem: String| {
            part.forget();
            Failed::Lasting(FetchError::Differs { image: url.to_string(), problem })
        };
        let (have, validator) = part.have(url).unwrap_or_default();
        let mut resumed = have > 0;
        if have < known.size {
            let resume = resumed.then_some(Resume { from: have, validator: &validator });
            let mut answer = self.net.get(url, resume)?;
            let mut at = match answer.status {
                StatusCode::OK => {
                    resumed = false;
                    if let Some(length) = answer.length.filter(|&length| length != known.size) {
                        return Err(differs(format!("the server has {length} bytes, the index says {}", known.size)));
                    }
                    part.begin(url, answer.validator())?;
                    0
                }
                StatusCode::PARTIAL_CONTENT if resumed && answer.continues(have, known.size) => have,
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if resumed => {
                    part.forget();
                    return Err(Failed::passing("the server does not go on where it was cut off"));
                }
                _ => return Err(status(url, &answer)),
            };
            let mut file = part.open()?;
            let mut chunk = vec![0; 16 << 10];
            let mut progressed = false;
            loop {
                self.go_on()?;
                let n = answer.read(url, &mut chunk).map_err(|error| error.after(progressed))?;
                if n == 0 {
                    break;
                }
                at += n as u64;
                if at > known.size {
                    return Err(differs(format!("it has more than the {} bytes that the index says", known.size)));
                }
                file.write_all(&chunk[..n]).map_err(|error| part.failed(error))?;
                progressed = true;
                events(Event::Progress { phase: Phase::Fetch, done: at, total: known.size });
            }
            if at < known.size {
                let ended = Failed::passing(format_args!("it ended after {at} of {} bytes", known.size));
                return Err(ended.after(progressed));
            }
        }
        let bytes = read(&part.file(), known.size).map_err(|error| part.failed(error))?;
        let checked = known.check(&Location::Web(url.clone()), bytes);
        part.forget();
        match checked {
            Err(_) if resumed => Err(Failed::passing("its parts do not fit together")),
            result => result.map_err(Failed::Lasting),
        }
    }

    /// Attempts, until one brings what is wanted or none can; `attempt` is told where to report to.
    fn persist<T>(
        &self,
        url: &Url,
        events: Events<'_>,
        attempt: &mut dyn FnMut(Events<'_>) -> Result<T, Failed>,
    ) -> Result<T, FetchError> {
        let patience = self.net.patience;
        let begun = self.clock.now();
        let mut in_vain = 0;
        loop {
            self.stop()?;
            let (problem, after) = match attempt(events) {
                Ok(result) => return Ok(result),
                Err(Failed::Lasting(error)) => return Err(error),
                Err(Failed::Passing { problem, after, progressed }) => {
                    in_vain = if progressed { 1 } else { in_vain + 1 };
                    (problem, after)
                }
            };
            let unreachable = |problem| Err(FetchError::Unreachable { url: url.clone(), problem });
            if let Some(after) = after.filter(|&after| after > LONGEST_WAIT) {
                let seconds = after.as_secs();
                return unreachable(format!("{problem}, and asks to be left alone for {seconds} s"));
            }
            if in_vain >= patience.attempts {
                return unreachable(problem);
            }
            let wait = after.unwrap_or_default().max(patience.back_off * (1 << (in_vain - 1).min(16)));
            if self.clock.now() + wait > begun + patience.total {
                return unreachable(problem);
            }
            let seconds = wait.as_secs_f64();
            events(Event::Warning { text: format!("{url}: {problem}; trying again in {seconds:.1} s") });
            let until = self.clock.now() + wait;
            while self.clock.now() < until {
                self.stop()?;
                self.clock.sleep(SLICE.min(until.saturating_sub(self.clock.now())));
            }
        }
    }

    fn stop(&self) -> Result<(), FetchError> {
        if self.interrupt.requested() { Err(FetchError::Interrupted) } else { Ok(()) }
    }

    fn go_on(&self) -> Result<(), Failed> {
        self.stop().map_err(Failed::Lasting)
    }
}

impl Known {
    /// The bytes, if they are the ones.
    fn check(self, from: &Location, bytes: Vec<u8>) -> Result<Vec<u8>, FetchError> {
        let differs = |problem| Err(FetchError::Differs { image: from.to_string(), problem });
        if bytes.len() as u64 > self.size {
            return differs(format!("it has more than the {} bytes that the index says", self.size));
        }
        if bytes.len() as u64 != self.size {
            return differs(format!("it has {} bytes, the index says {}", bytes.len(), self.size));
        }
        let sha256 = Sha256::of(&bytes);
        if sha256 != self.sha256 {
            return differs(format!("its SHA-256 is {sha256}, the index says {}", self.sha256));
        }
        Ok(bytes)
    }
}

impl Answer {
    /// What tells this state of the file from another: its strong `ETag`, else the time of its last change.
    fn validator(&self) -> Option<&str> {
        let tag = self.header(header::ETAG).filter(|tag| tag.starts_with('"'));
        tag.or_else(|| self.header(header::LAST_MODIFIED))
            .filter(|it| it.bytes().all(|byte| matches!(byte, b' '..=b'~')))
    }

    /// Whether it goes on at `from` and to the end of a file of `size` bytes: `bytes 100-199/200`.
    fn continues(&self, from: u64, size: u64) -> bool {
        let range = self.header(header::CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
        let Some((span, total)) = range.and_then(|range| range.split_once('/')) else { return false };
        let Some((first, last)) = span.split_once('-') else { return false };
        let number = |text: &str| text.trim().parse::<u64>().ok();
        number(first) == Some(from)
            && number(last).is_some_and(|last| last < size)
            && (total.trim() == "*" || number(total) == Some(size))
    }
}

impl Failed {
    fn after(self, progress: bool) -> Self {
        match self {
            Self::Passing { problem, after, .. } => Self::Passing { problem, after, progressed: progress },
            lasting @ Self::Lasting(_) => lasting,
        }
    }
}

/// An answer that is not the file.
fn status(url: &Url, answer: &Answer) -> Failed {
    let status = answer.status;
    if status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) {
        // A date in its place is passed over: this clock may be wrong.
        let after = answer.header(header::RETRY_AFTER).and_then(|after| after.trim().parse().ok());
        return Failed::Passing {
            problem: format!("the server answers {status}"),
            after: after.map(Duration::from_secs),
            progressed: false,
        };
    }
    Failed::Lasting(FetchError::Status { url: url.clone(), status: status.to_string() })
}

impl Part<'_> {
    fn file(&self) -> PathBuf {
        self.dir.join("part")
    }

    /// Tells which state of which file the part is of: its URL and validator, a line each.
    fn origin(&self) -> PathBuf {
        self.dir.join("origin")
    }

    /// How much there is of the file at `url`, and its validator.
    fn have(&self, url: &Url) -> Option<(u64, String)> {
        let origin = fs::read_to_string(self.origin()).ok()?;
        let (of, validator) = origin.split_once('\n')?;
        let found = fs::symlink_metadata(self.file()).ok().filter(fs::Metadata::is_file)?;
        (of == url.to_string()).then(|| (found.len(), validator.to_owned()))
    }

    /// Begins anew. Without a validator it cannot be gone on with.
    fn begin(&self, url: &Url, validator: Option<&str>) -> Result<(), Failed> {
        self.forget();
        let begin = || {
            fs::create_dir_all(self.dir)?;
            File::create_new(self.file())?;
            match validator {
                Some(validator) => fs::write(self.origin(), format!("{url}\n{validator}")),
                None => Ok(()),
            }
        };
        begin().map_err(|error| self.failed(error))
    }

    fn open(&self) -> Result<File, Failed> {
        OpenOptions::new().append(true).open(self.file()).map_err(|error| self.failed(error))
    }

    fn forget(&self) {
        let _ = fs::remove_file(self.origin());
        let _ = fs::remove_file(self.file());
    }

    fn failed(&self, source: std::io::Error) -> Failed {
        Failed::Lasting(CacheError::Io { doing: "write", path: self.file(), source }.into())
    }
}

/// A file on this machine; of a longer one, one byte more than `limit`.
fn read(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    // Opening a FIFO would wait for a writer.
    let found = fs::metadata(path)?;
    if !found.is_file() {
        let what = if found.is_dir() { "a directory, not the index in it" } else { "not a file" };
        return Err(std::io::Error::new(ErrorKind::InvalidInput, what));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
