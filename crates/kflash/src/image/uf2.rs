//! UF2 (<https://github.com/microsoft/uf2>): 512-byte blocks, each with its own address.

use std::fmt;

use serde::Serialize;

use super::Segment;
use super::pieces::{LayoutError, Pieces};

const BLOCK: usize = 512;
const FIRST_MAGIC: u32 = 0x0a32_4655;
const SECOND_MAGIC: u32 = 0x9e5d_5157;
const END_MAGIC: u32 = 0x0ab1_6f30;
const NOT_MAIN_FLASH: u32 = 0x0000_0001;
const FILE_CONTAINER: u32 = 0x0000_1000;
const FAMILY_PRESENT: u32 = 0x0000_2000;
const HEADER: usize = 32;
const MAX_PAYLOAD: usize = 476;

/// A UF2 family id: which chips a file is meant for. A hint alone: Klipper's file for the RP2350 carries the RP2040's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uf2Family(pub u32);

impl Uf2Family {
    /// The chip family's name, for the ids that Klipper's own builds use.
    pub fn name(self) -> Option<&'static str> {
        match self.0 {
            0xe48b_ff56 => Some("RP2040"),
            0xe48b_ff59 => Some("RP2350"),
            0x6864_6f6f => Some("SAMD21"),
            0x5511_4460 => Some("SAMD51"),
            _ => None,
        }
    }
}

impl fmt::Display for Uf2Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl Serialize for Uf2Family {
    /// As a hexadecimal string.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Why a file is no whole UF2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uf2Error {
    /// Its length is no multiple of 512.
    #[error("{0} bytes are no whole number of 512-byte blocks: the file is cut short")]
    Length(usize),
    /// A magic number is wrong.
    #[error("block {0} has wrong magic numbers")]
    Magic(usize),
    /// A block states more data than fits.
    #[error("block {block} states {size} data bytes, at most 476 fit")]
    Payload {
        /// Position in the file.
        block: usize,
        /// As stated.
        size: u32,
    },
    /// A block's number is not below the number of blocks.
    #[error("block {block} calls itself {number} of {count}")]
    Number {
        /// Position in the file.
        block: usize,
        /// Its own number.
        number: u32,
        /// The number of blocks that it states.
        count: u32,
    },
    /// Blocks disagree on how many there are.
    #[error("block {block} states {found} blocks in all, the first {expected}")]
    Count {
        /// Position in the file.
        block: usize,
        /// As it says.
        found: u32,
        /// As the first says.
        expected: u32,
    },
    /// A block number is there twice.
    #[error("block number {0} is there twice")]
    Twice(u32),
    /// Blocks are missing.
    #[error("{missing} of {count} blocks are missing, the first is number {first}")]
    Missing {
        /// How many.
        missing: u32,
        /// Of how many.
        count: u32,
        /// The lowest number that is missing.
        first: u32,
    },
    /// Blocks are for chips of different families.
    #[error("block {block} is for another chip family than the first")]
    Families {
        /// Position in the file.
        block: usize,
    },
    /// The blocks hold files, not flash.
    #[error("block {0} is part of a file container, not of a flash image")]
    Container(usize),
    /// The blocks cannot be laid out in memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Whether `bytes` start as a UF2 does.
pub(super) fn is_uf2(bytes: &[u8]) -> bool {
    bytes.starts_with(&FIRST_MAGIC.to_le_bytes())
}

/// The segments of a UF2 and its family id. Blocks that are not for the main flash are left out.
pub(super) fn decode(bytes: &[u8]) -> Result<(Vec<Segment>, Option<Uf2Family>), Uf2Error> {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    if !rest.is_empty() {
        return Err(Uf2Error::Length(bytes.len()));
    }
    let mut pieces = Pieces::default();
    let mut seen = vec![false; blocks.len()];
    let mut first: Option<(u32, Option<Uf2Family>)> = None;
    for (block, content) in blocks.iter().enumerate() {
        let word = |index: usize| {
            let at = index * 4;
            u32::from_le_bytes([content[at], content[at + 1], content[at + 2], content[at + 3]])
        };
        if (word(0), word(1), word(BLOCK / 4 - 1)) != (FIRST_MAGIC, SECOND_MAGIC, END_MAGIC) {
            return Err(Uf2Error::Magic(block));
        }
        let (flags, address, size, number, count) = (word(2), word(3), word(4), word(5), word(6));
        let family = (flags & FAMILY_PRESENT != 0).then(|| Uf2Family(word(7)));
        if flags & FILE_CONTAINER != 0 {
            return Err(Uf2Error::Container(block));
        }
        let payload = match usize::try_from(size) {
            Ok(size @ 1..=MAX_PAYLOAD) => &content[HEADER..HEADER + size],
            _ => return Err(Uf2Error::Payload { block, size }),
        };
        let &mut (expected, expected_family) = first.get_or_insert((count, family));
        if count != expected {
            return Err(Uf2Error::Count { block, found: count, expected });
        }
        if family != expected_family {
            return Err(Uf2Error::Families { block });
        }
        if number >= count {
            return Err(Uf2Error::Number { block, number, count });
        }
        match seen.get_mut(number as usize) {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(Uf2Error::Twice(number)),
            // Beyond what the file can hold: others must be missing, which is said below.
            None => {}
        }
        if flags & NOT_MAIN_FLASH == 0 {
            pieces.push(address, payload)?;
        }
    }
    let (count, family) = first.unwrap_or((0, None));
    if count as usize != blocks.len() {
        let missing = count.saturating_sub(blocks.len() as u32);
        let first = seen.iter().position(|seen| !seen).unwrap_or(blocks.len()) as u32;
        return Err(Uf2Error::Missing { missing, count, first });
    }
    Ok((pieces.finish()?, family))
}
