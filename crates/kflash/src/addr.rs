//! Addresses and sizes in a chip's flash.

use std::fmt;

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// An absolute address in the memory map of a chip, such as `0x08008000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl<'de> Deserialize<'de> for FlashAddr {
    /// From the string that it serializes to, or from a number: TOML has hexadecimal ones.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Address;

        impl Visitor<'_> for Address {
            type Value = FlashAddr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as 0x08008000")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<FlashAddr, E> {
                u32::try_from(number).map(FlashAddr).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<FlashAddr, E> {
                u32::try_from(number).map(FlashAddr).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<FlashAddr, E> {
                let digits = text.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
                let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                number.map(FlashAddr).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Address)
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        let json = serde_json::to_string(&FlashAddr(0x0800_8000)).unwrap();
        assert_eq!(json, "\"0x08008000\"");
        for text in [json.as_str(), "134250496", "\"0x8008000\""] {
            assert_eq!(serde_json::from_str::<FlashAddr>(text).unwrap(), FlashAddr(0x0800_8000), "{text}");
        }
        for text in
            ["-1", "4294967296", "\"\"", "\"0x\"", "\"0x+1\"", "\"134250496\"", "\"0x100000000\"", "1.5", "null"]
        {
            assert!(serde_json::from_str::<FlashAddr>(text).is_err(), "{text}");
        }
    }
}
