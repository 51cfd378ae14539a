//! Firmware images: what is to be written, where, and what it says of itself.

use serde::Serialize;

use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::klipper::dictionary::Dictionary;

/// A firmware image, parsed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Image {
    /// The container it came in, told by its content.
    pub format: Format,
    /// SHA-256 of the file, as lower-case hex.
    pub sha256: String,
    /// Non-empty, sorted, non-overlapping. A raw image has one; it lies at 0 until [`Image::start`] is known.
    pub segments: Vec<Segment>,
    /// Where the first byte belongs, and how that is known; `None` where the file cannot tell.
    pub start: Option<Start>,
    /// Initial stack pointer and reset vector, where the image begins with a Cortex-M vector table.
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
        /// Other addresses that would be legal, too; the smallest was always right.
        others: Vec<FlashAddr>,
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

/// An image at its final address, as one run of bytes. Gaps between segments are `ff`.
#[derive(Clone, PartialEq, Eq)]
pub struct PlacedImage {
    start: FlashAddr,
    data: Vec<u8>,
}

impl PlacedImage {
    /// `data` at `start`; `None` if it is empty or would pass the end of the address space.
    pub fn new(start: FlashAddr, data: Vec<u8>) -> Option<Self> {
        let size = u32::try_from(data.len()).ok().filter(|&size| size > 0)?;
        FlashRange::new(start, FlashSize(size))?;
        Some(Self { start, data })
    }

    /// Where it lies.
    pub fn range(&self) -> FlashRange {
        FlashRange { start: self.start, size: FlashSize(self.data.len() as u32) }
    }

    /// Its bytes within `range`, with `ff` where the image has none.
    pub fn bytes(&self, range: FlashRange) -> Vec<u8> {
        (0..range.size.0)
            .map(|i| {
                let offset = (range.start.0 + i).checked_sub(self.start.0);
                offset.and_then(|offset| self.data.get(offset as usize)).copied().unwrap_or(0xff)
            })
            .collect()
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({} bytes at {})", self.data.len(), self.addr)
    }
}

impl std::fmt::Debug for PlacedImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PlacedImage({})", self.range())
    }
}

fn serialize_len<S: serde::Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(data.len() as u64)
}
