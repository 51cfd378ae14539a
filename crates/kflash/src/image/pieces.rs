//! Collects the addressed bytes of a container into sorted segments.

use super::{MAX_FILE, Segment};
use crate::addr::{FlashAddr, FlashRange, FlashSize};

/// More separate runs of bytes than any firmware file has.
const MAX_PIECES: usize = 65_536;

/// Runs of bytes in the order of the file.
#[derive(Default)]
pub(super) struct Pieces {
    pieces: Vec<Segment>,
    total: usize,
}

/// Why the bytes of a container cannot be laid out in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The same address is given twice.
    #[error("two pieces overlap at {0}")]
    Overlap(FlashAddr),
    /// A piece passes the end of the 32-bit space.
    #[error("{size} bytes at {addr} pass the end of the address space")]
    PastEnd {
        /// Where the piece starts.
        addr: FlashAddr,
        /// Its length.
        size: usize,
    },
    /// More data than a file may hold.
    #[error("it holds more than {} MiB", MAX_FILE >> 20)]
    TooMuch,
    /// More separate pieces than any firmware has.
    #[error("it is scattered over more than {MAX_PIECES} pieces")]
    TooScattered,
    /// No bytes at all.
    #[error("it holds no data")]
    Nothing,
}

impl Pieces {
    /// Adds `data` at `addr`.
    pub(super) fn push(&mut self, addr: u32, data: &[u8]) -> Result<(), LayoutError> {
        let addr = FlashAddr(addr);
        let size = u32::try_from(data.len()).ok();
        if size.and_then(|size| FlashRange::new(addr, FlashSize(size))).is_none() {
            return Err(LayoutError::PastEnd { addr, size: data.len() });
        }
        self.total += data.len();
        if self.total > MAX_FILE {
            return Err(LayoutError::TooMuch);
        }
        let full = self.pieces.len() == MAX_PIECES;
        match self.pieces.last_mut() {
            _ if data.is_empty() => {}
            Some(last) if last.range().end() == addr => last.data.extend_from_slice(data),
            _ if full => return Err(LayoutError::TooScattered),
            _ => self.pieces.push(Segment { addr, data: data.to_vec() }),
        }
        Ok(())
    }

    /// The segments: sorted, adjacent ones merged.
    pub(super) fn finish(mut self) -> Result<Vec<Segment>, LayoutError> {
        self.pieces.sort_by_key(|piece| piece.addr);
        let mut segments: Vec<Segment> = Vec::new();
        for piece in self.pieces {
            match segments.last_mut() {
                Some(last) if piece.addr < last.range().end() => return Err(LayoutError::Overlap(piece.addr)),
                Some(last) if piece.addr == last.range().end() => last.data.extend_from_slice(&piece.data),
                _ => segments.push(piece),
            }
        }
        if segments.is_empty() { Err(LayoutError::Nothing) } else { Ok(segments) }
    }
}
