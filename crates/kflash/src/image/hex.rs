//! Intel HEX ("Hexadecimal Object File Format Specification", Revision A, 1988).

use super::Segment;
use super::pieces::{LayoutError, Pieces};

/// Why a text is no Intel HEX.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// A line is not a record.
    #[error("line {line}: {problem}")]
    Record {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: RecordProblem,
    },
    /// The end-of-file record is missing: the file is cut short.
    #[error("the end-of-file record is missing after line {0}: the file is cut short")]
    NoEnd(usize),
    /// The records cannot be laid out in memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// It does not start with a colon.
    #[error("it does not start with a colon")]
    NoColon,
    /// Something is no pair of hexadecimal digits.
    #[error("not all of it is pairs of hexadecimal digits")]
    NotHex,
    /// Its length is not the one that it states.
    #[error("{found} data bytes where {stated} are stated")]
    Length {
        /// As the first byte says.
        stated: usize,
        /// As counted.
        found: usize,
    },
    /// The sum over it is not zero.
    #[error("checksum {found:#04x} where {expected:#04x} is right")]
    Checksum {
        /// The record's.
        found: u8,
        /// The right one.
        expected: u8,
    },
    /// A type beyond 05.
    #[error("record type {0:#04x} does not exist")]
    Type(u8),
    /// The data's length does not go with the type.
    #[error("a record of type {kind:#04x} cannot hold {length} data bytes")]
    TypeLength {
        /// The type.
        kind: u8,
        /// The length.
        length: usize,
    },
    /// It wraps around the end of its 64 KiB segment.
    #[error("its data wrap around the end of a 64 KiB segment")]
    Wraps,
    /// Something follows the end-of-file record.
    #[error("it follows the end-of-file record")]
    AfterEnd,
}

/// What the offset of a data record is added to.
#[derive(Clone, Copy)]
enum Base {
    /// Type 04: the upper half of a 32-bit address. Data may run on into the next 64 KiB.
    Linear(u32),
    /// Type 02: bits 4 to 19. Offsets wrap within 64 KiB.
    Segment(u32),
}

/// Whether `bytes` look like Intel HEX: a colon and a hexadecimal digit, after white space.
pub(super) fn is_hex(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start(), [b':', digit, ..] if digit.is_ascii_hexdigit())
}

/// The segments of an Intel HEX text. Records may come in any order.
pub(super) fn decode(text: &[u8]) -> Result<Vec<Segment>, HexError> {
    let mut pieces = Pieces::default();
    let mut base = Base::Linear(0);
    let mut ended = false;
    let mut record = Vec::with_capacity(300);
    let mut lines = 0;
    for (line, content) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = line + 1;
        let content = content.trim_ascii();
        if content.is_empty() {
            continue;
        }
        lines = line;
        let wrong = |problem| HexError::Record { line, problem };
        if ended {
            return Err(wrong(RecordProblem::AfterEnd));
        }
        let (offset, kind, data) = split(content, &mut record).map_err(wrong)?;
        match (kind, data) {
            (0, data) => {
                let address = match base {
                    Base::Segment(_) if usize::from(offset) + data.len() > 0x1_0000 => {
                        return Err(wrong(RecordProblem::Wraps));
                    }
                    Base::Segment(base) | Base::Linear(base) => base + u32::from(offset),
                };
                pieces.push(address, data)?;
            }
            (1, []) => ended = true,
            (2, &[high, low]) => base = Base::Segment(u32::from(u16::from_be_bytes([high, low])) << 4),
            (4, &[high, low]) => base = Base::Linear(u32::from(u16::from_be_bytes([high, low])) << 16),
            // Start addresses (CS:IP, EIP) mean nothing to a micro-controller.
            (3 | 5, [_, _, _, _]) => {}
            (1..=5, data) => return Err(wrong(RecordProblem::TypeLength { kind, length: data.len() })),
            _ => return Err(wrong(RecordProblem::Type(kind))),
        }
    }
    if !ended {
        return Err(HexError::NoEnd(lines));
    }
    Ok(pieces.finish()?)
}

/// Offset, type and data of one record, checked; `bytes` is overwritten.
fn split<'a>(content: &[u8], bytes: &'a mut Vec<u8>) -> Result<(u16, u8, &'a [u8]), RecordProblem> {
    let digits = content.strip_prefix(b":").ok_or(RecordProblem::NoColon)?;
    let (pairs, odd) = digits.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(RecordProblem::NotHex);
    }
    bytes.clear();
    for &[high, low] in pairs {
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|digit| digit as u8);
        match (digit(high), digit(low)) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(RecordProblem::NotHex),
        }
    }
    let &[stated, high, low, kind, ref data @ .., checksum] = bytes.as_slice() else {
        return Err(RecordProblem::Length { stated: bytes.first().copied().unwrap_or(0).into(), found: 0 });
    };
    if data.len() != usize::from(stated) {
        return Err(RecordProblem::Length { stated: stated.into(), found: data.len() });
    }
    let sum = bytes[..bytes.len() - 1].iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    if sum.wrapping_neg() != checksum {
        return Err(RecordProblem::Checksum { found: checksum, expected: sum.wrapping_neg() });
    }
    Ok((u16::from_be_bytes([high, low]), kind, data))
}
