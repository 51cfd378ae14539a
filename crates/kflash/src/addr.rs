//! Addresses and sizes in a chip's flash.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An absolute address in the memory map of a chip, such as `0x08008000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(transparent)]
pub struct FlashAddr(pub u32);

/// A number of bytes of flash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FlashSize(pub u32);

/// A half-open range of addresses; never wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlashRange {
    /// First address.
    pub start: FlashAddr,
    /// Length in bytes.
    pub size: FlashSize,
}

impl FlashAddr {
    /// The address `bytes` further on; `None` beyond the 32-bit space.
    pub fn checked_add(self, bytes: u32) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }
}

impl FlashRange {
    /// `size` bytes from `start`; `None` if they would pass the end of the 32-bit space.
    pub fn new(start: FlashAddr, size: FlashSize) -> Option<Self> {
        start.0.checked_add(size.0)?;
        Some(Self { start, size })
    }

    /// The bytes from `start` up to, not including, `end`; `None` if `end` is before `start`.
    pub fn between(start: FlashAddr, end: FlashAddr) -> Option<Self> {
        Some(Self { start, size: FlashSize(end.0.checked_sub(start.0)?) })
    }

    /// One past the last address; the last address of all for a range, made by hand, that passes it.
    pub fn end(self) -> FlashAddr {
        FlashAddr(self.start.0.saturating_add(self.size.0))
    }

    /// Whether there is no byte in it.
    pub fn is_empty(self) -> bool {
        self.size.0 == 0
    }

    /// Whether `addr` lies in it.
    pub fn contains(self, addr: FlashAddr) -> bool {
        addr >= self.start && addr < self.end()
    }

    /// Whether all of `other` lies in it.
    pub fn covers(self, other: Self) -> bool {
        other.start >= self.start && other.end() <= self.end()
    }

    /// Whether the two share a byte.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

impl fmt::Display for FlashAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl Serialize for FlashAddr {
    /// As a hexadecimal string: JSON readers should not have to convert.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for FlashSize {
    /// `32 KiB`, or plain bytes where it is no multiple.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n > 0 && n % 1024 == 0 => write!(f, "{} KiB", n / 1024),
            n => write!(f, "{n} bytes"),
        }
    }
}

impl fmt::Display for FlashRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end())
    }
}
