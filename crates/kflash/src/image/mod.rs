//! Firmware images: what is to be written, where, and what it says of itself.

mod elf;
mod hex;
mod katapult;
mod mistake;
mod pieces;
mod placed;
mod search;
mod start;
mod uf2;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use self::elf::ElfError;
pub use self::hex::{HexError, RecordProblem};
pub use self::mistake::Mistake;
pub use self::pieces::LayoutError;
pub use self::placed::{PlaceError, PlacedImage};
pub use self::search::SearchError;
pub use self::uf2::{Uf2Error, Uf2Family};
use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::klipper::dictionary::{self, Dictionary};

/// The largest file that is taken for firmware, in bytes: no chip that Klipper runs on has as much flash.
pub const MAX_FILE: usize = 16 << 20;

/// A firmware image, parsed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    /// The container it came in, told by its content.
    pub format: Format,
    /// SHA-256 of the file, as lower-case hex.
    pub sha256: String,
    /// The family id of a UF2.
    pub uf2_family: Option<Uf2Family>,
    /// Non-empty, sorted, non-overlapping. A raw image has one; it lies at 0 until [`Image::start`] is known.
    pub segments: Vec<Segment>,
    /// Where the first byte belongs, and how that is known; `None` where the file cannot tell.
    pub start: Option<Start>,
    /// Initial stack pointer and reset vector, where the image begins with a Cortex-M vector table (on an RP2040 behind
    /// the second-stage bootloader).
    pub vector_table: Option<VectorTable>,
    /// Klipper's data dictionary, where the image holds one.
    pub dictionary: Option<Dictionary>,
    /// Where the image is Katapult instead: its version and MCU strings.
    pub katapult: Option<KatapultStrings>,
}

/// The container format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Bytes without addresses.
    Bin,
    /// Intel HEX.
    IntelHex,
    /// UF2.
    Uf2,
    /// ELF.
    Elf,
}

/// Consecutive bytes of an image.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Address of the first byte.
    pub addr: FlashAddr,
    /// The bytes; their number alone is serialized.
    #[serde(serialize_with = "serialize_len", rename = "size")]
    pub data: Vec<u8>,
}

/// Where an image starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Start {
    /// The address.
    pub addr: FlashAddr,
    /// How it is known.
    pub evidence: StartEvidence,
}

/// How the start of an image is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartEvidence {
    /// The container carries addresses.
    Container,
    /// A literal in the code points to the dictionary.
    DictionaryPointer {
        /// Offset of the literal in the image.
        at: u32,
        /// Other addresses that would be legal, too, the smallest sixteen.
        others: Vec<FlashAddr>,
    },
    /// Klipper that runs from RAM: the reset handler follows the vector table.
    ResetHandler {
        /// Offset of the reset handler in the image.
        at: u32,
    },
    /// Katapult: its signature lies before the reset handler.
    KatapultSignature {
        /// Offset of the signature in the image.
        at: u32,
    },
    /// The person or the profile says so.
    Profile,
}

/// The first two words of a Cortex-M image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VectorTable {
    /// Initial stack pointer.
    pub stack_pointer: FlashAddr,
    /// Reset vector, Thumb bit included.
    pub reset: FlashAddr,
}

/// What a Katapult image says of itself in plain strings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KatapultStrings {
    /// Its version, where found.
    pub version: Option<String>,
    /// Its MCU, where found.
    pub mcu: Option<String>,
}

/// Why a file is no firmware image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes.
    #[error("it is empty")]
    Empty,
    /// More than [`MAX_FILE`] bytes.
    #[error("it is larger than {} MiB, which no firmware is", MAX_FILE >> 20)]
    TooLarge,
    /// Plainly something else.
    #[error(transparent)]
    Mistake(Mistake),
    /// Intel HEX, but damaged.
    #[error("not intact Intel HEX: {0}")]
    Hex(#[from] HexError),
    /// UF2, but damaged.
    #[error("not an intact UF2 file: {0}")]
    Uf2(#[from] Uf2Error),
    /// ELF, but not of firmware.
    #[error("not an ELF file of firmware: {0}")]
    Elf(#[from] ElfError),
    /// What it holds besides code is not as it should be.
    #[error(transparent)]
    Dictionary(#[from] SearchError),
}

impl Image {
    /// The image in the bytes of a file. The format is told by the content.
    ///
    /// Takes bounded time and memory whatever the bytes are.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.is_empty() {
            return Err(ImageError::Empty);
        }
        if bytes.len() > MAX_FILE {
            return Err(ImageError::TooLarge);
        }
        let (format, segments, uf2_family) = unpack(bytes)?;
        let found = search::search(&segments)?;
        let mut image = Self {
            format,
            sha256: dictionary::hex(&Sha256::digest(bytes)),
            uf2_family,
            start: None,
            vector_table: None,
            dictionary: None,
            katapult: None,
            segments,
        };
        let first = &image.segments[0].data;
        let table = VectorTable::find(first);
        let katapult = match (&found, table) {
            (None, Some(table)) => katapult::find(first, table),
            _ => None,
        };
        image.start = match (&found, table, &katapult) {
            _ if format != Format::Bin => {
                Some(Start { addr: image.segments[0].addr, evidence: StartEvidence::Container })
            }
            (Some(found), Some(table), _) => {
                start::by_dictionary_pointer(first, table, found.at).or_else(|| start::by_reset_handler(first, table))
            }
            (_, _, Some((_, start))) => Some(start.clone()),
            _ => None,
        };
        if let (Format::Bin, Some(start)) = (format, &image.start) {
            // A start so high that the image would pass the end of the address space is none.
            if FlashRange::new(start.addr, FlashSize(first.len() as u32)).is_some() {
                image.segments[0].addr = start.addr;
            } else {
                image.start = None;
            }
        }
        image.vector_table = table;
        image.katapult = katapult.map(|(strings, _)| strings);
        image.dictionary = found.map(|found| found.dictionary);
        Ok(image)
    }

    /// The JSON text of the dictionary, as a build leaves it in `klipper.dict`.
    pub fn dictionary_json(&self) -> Option<Vec<u8>> {
        // Not kept: only a cache wants it, and it is longer than all else that is known of the image.
        Some(search::search(&self.segments).ok()??.json)
    }

    /// From the first byte to the last, gaps included. A raw image lies at 0 until its start is known.
    pub fn range(&self) -> FlashRange {
        let start = self.segments.first().map_or(FlashAddr(0), |first| first.addr);
        let end = self.segments.last().map_or(start, |last| last.range().end());
        FlashRange { start, size: FlashSize(end.0 - start.0) }
    }

    /// Number of bytes, gaps not counted.
    pub fn size(&self) -> FlashSize {
        FlashSize(self.segments.iter().map(|segment| segment.range().size.0).sum())
    }
}

impl Segment {
    /// Where it lies.
    pub fn range(&self) -> FlashRange {
        FlashRange { start: self.addr, size: FlashSize(self.data.len() as u32) }
    }
}

fn unpack(bytes: &[u8]) -> Result<(Format, Vec<Segment>, Option<Uf2Family>), ImageError> {
    if elf::is_elf(bytes) {
        return Ok((Format::Elf, elf::decode(bytes)?, None));
    }
    if uf2::is_uf2(bytes) {
        let (segments, family) = uf2::decode(bytes)?;
        return Ok((Format::Uf2, segments, family));
    }
    if hex::is_hex(bytes) {
        return Ok((Format::IntelHex, hex::decode(bytes)?, None));
    }
    match mistake::recognise(bytes) {
        Some(mistake) => Err(ImageError::Mistake(mistake)),
        None => Ok((Format::Bin, vec![Segment { addr: FlashAddr(0), data: bytes.to_vec() }], None)),
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({} bytes at {})", self.data.len(), self.addr)
    }
}

fn serialize_len<S: serde::Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(data.len() as u64)
}

#[cfg(test)]
mod tests;
