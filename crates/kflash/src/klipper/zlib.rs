//! Inflates zlib streams from files and boards that nobody vouches for: output, input and attempts are bounded.

use flate2::{Decompress, FlushDecompress, Status};

/// The largest JSON that a dictionary may inflate to. Real ones are 10 to 16 KB.
pub(crate) const MAX_INFLATED: usize = 256 * 1024;
/// The longest stream that is read.
const MAX_DEFLATED: usize = 128 * 1024;
/// What is inflated of a stream before its caller is asked whether to go on.
const PROBE: usize = 64;

/// An inflater that is used many times and counts what it did.
pub(crate) struct Inflater {
    state: Decompress,
    buffer: Vec<u8>,
    spent: usize,
}

/// A whole stream, inflated.
pub(crate) struct Inflated {
    /// What it inflates to.
    pub data: Vec<u8>,
    /// The stream's own length.
    pub consumed: usize,
}

/// Why bytes do not inflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InflateError {
    /// No zlib stream, or a damaged one.
    Corrupt,
    /// The stream goes on past the last byte.
    Truncated,
    /// More than [`MAX_INFLATED`] bytes, or a stream longer than any dictionary's.
    TooLarge,
    /// The first bytes are not what the caller looks for.
    Unwanted,
}

impl Inflater {
    /// An inflater that has done nothing yet.
    pub(crate) fn new() -> Self {
        Self { state: Decompress::new(true), buffer: vec![0; 4096], spent: 0 }
    }

    /// Bytes read and written over all streams so far.
    pub(crate) fn spent(&self) -> usize {
        self.spent
    }

    /// Inflates the stream at the start of `bytes`, giving up early where its first bytes are not `wanted`.
    pub(crate) fn inflate(&mut self, bytes: &[u8], wanted: fn(&[u8]) -> bool) -> Result<Inflated, InflateError> {
        self.state.reset(true);
        let result = self.run(bytes, wanted);
        self.spent += (self.state.total_in() + self.state.total_out()) as usize;
        result
    }

    fn run(&mut self, bytes: &[u8], wanted: fn(&[u8]) -> bool) -> Result<Inflated, InflateError> {
        let input = &bytes[..bytes.len().min(MAX_DEFLATED)];
        let mut data = Vec::new();
        loop {
            let consumed = self.state.total_in() as usize;
            let room = if data.is_empty() { PROBE } else { self.buffer.len() };
            let status = self
                .state
                .decompress(&input[consumed..], &mut self.buffer[..room], FlushDecompress::None)
                .map_err(|_| InflateError::Corrupt)?;
            let produced = self.state.total_out() as usize - data.len();
            if data.is_empty() && produced > 0 && !wanted(&self.buffer[..produced]) {
                return Err(InflateError::Unwanted);
            }
            data.extend_from_slice(&self.buffer[..produced]);
            let consumed_now = self.state.total_in() as usize;
            match status {
                _ if data.len() > MAX_INFLATED => return Err(InflateError::TooLarge),
                Status::StreamEnd => return Ok(Inflated { data, consumed: consumed_now }),
                _ if produced == 0 && consumed_now == consumed => {
                    let cut = bytes.len() > input.len();
                    return Err(if cut { InflateError::TooLarge } else { InflateError::Truncated });
                }
                Status::Ok | Status::BufError => {}
            }
        }
    }
}
