//! Klipper's serial framing as the micro-controller sees it: blocks, sequence numbers, variable-length integers.
//!
//! Written from Klipper's `docs/Protocol.md` and what real firmware answers, apart from the driver's own.

use crate::crc::mcrf4xx;

const SYNC: u8 = 0x7e;
/// Length, sequence, two of checksum, sync.
const SMALLEST: usize = 5;
const LARGEST: usize = 64;

/// Appends `value` as the firmware encodes it: as a signed number of as few 7-bit groups as it needs.
pub(crate) fn put_int(out: &mut Vec<u8>, value: u32) {
    let signed = i64::from(value.cast_signed());
    let groups = (1..5).find(|k| {
        let span = 1_i64 << (7 * k - 2);
        signed >= -span && signed < 3 * span
    });
    for group in (0..groups.unwrap_or(5)).rev() {
        let more = if group > 0 { 0x80 } else { 0 };
        out.push((signed >> (7 * group)) as u8 & 0x7f | more);
    }
}

/// Takes an integer off the front of `content`; `None` where it ends too early or runs on.
pub(crate) fn take_int(content: &mut &[u8]) -> Option<u32> {
    let mut value = match content.first()? {
        first if first & 0x60 == 0x60 => u32::MAX,
        _ => 0,
    };
    for count in 1..=5 {
        let (&byte, rest) = content.split_first()?;
        *content = rest;
        value = value << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some(value);
        }
        if count == 5 {
            break;
        }
    }
    None
}

/// A whole block with `content` under the low nibble `sequence`.
pub(crate) fn block(sequence: u8, content: &[u8]) -> Vec<u8> {
    let mut block = Vec::with_capacity(content.len() + SMALLEST);
    block.push((content.len() + SMALLEST) as u8);
    block.push(0x10 | sequence & 0x0f);
    block.extend_from_slice(content);
    block.extend(mcrf4xx(&block).to_be_bytes());
    block.push(SYNC);
    block
}

/// What the receiver found at the front of its buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A block in sequence, by its content.
    Block(Vec<u8>),
    /// A block out of sequence or the first sign of noise: answered by an empty block with the sequence expected.
    Refused,
    /// Bytes dropped without an answer.
    Dropped,
}

/// The firmware's receiver.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    buffer: Vec<u8>,
    next: u8,
    /// Bytes are dropped until the next sync byte.
    lost: bool,
    /// A refusal was sent for noise; no other before a good block.
    complained: bool,
}

impl Receiver {
    /// The low nibble of the sequence that is expected, which is also what every answer carries.
    pub(crate) fn expected(&self) -> u8 {
        self.next
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Everything that has come and is not yet understood.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
    }

    /// Looks at the front of the buffer once; `None` until more bytes come.
    pub(crate) fn poll(&mut self) -> Option<Received> {
        if self.lost {
            return if self.buffer.is_empty() { None } else { Some(self.resynchronise()) };
        }
        if self.buffer.len() < SMALLEST {
            return None;
        }
        let length = usize::from(self.buffer[0]);
        let sequence = self.buffer[1];
        if !(SMALLEST..=LARGEST).contains(&length) || sequence & 0xf0 != 0x10 {
            return Some(self.noise());
        }
        if self.buffer.len() < length {
            return None;
        }
        let (body, trailer) = self.buffer[..length].split_at(length - 3);
        if trailer[2] != SYNC || trailer[..2] != mcrf4xx(body).to_be_bytes() {
            return Some(self.noise());
        }
        self.complained = false;
        let content = body[2..].to_vec();
        self.buffer.drain(..length);
        if sequence & 0x0f != self.next {
            return Some(Received::Refused);
        }
        self.next = (self.next + 1) & 0x0f;
        Some(Received::Block(content))
    }

    fn noise(&mut self) -> Received {
        if self.buffer[0] == SYNC {
            self.buffer.remove(0);
            return Received::Dropped;
        }
        self.lost = true;
        self.resynchronise()
    }

    fn resynchronise(&mut self) -> Received {
        match self.buffer.iter().position(|&byte| byte == SYNC) {
            Some(at) => {
                self.buffer.drain(..=at);
                self.lost = false;
            }
            None => self.buffer.clear(),
        }
        if self.complained {
            Received::Dropped
        } else {
            self.complained = true;
            Received::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ints(value: u32) -> Vec<u8> {
        let mut out = Vec::new();
        put_int(&mut out, value);
        out
    }

    #[test]
    fn integers_are_those_of_the_protocol() {
        for (value, bytes) in [
            (95, &[0x5f][..]),
            (96, &[0x80, 0x60]),
            (-32_i32, &[0x60]),
            (-33, &[0xff, 0x5f]),
            (12288, &[0x80, 0xe0, 0x00]),
        ] {
            assert_eq!(ints(value.cast_unsigned()), bytes);
            assert_eq!(take_int(&mut &bytes[..]), Some(value.cast_unsigned()));
        }
        // A host sends 0xffffffff in five bytes; the firmware, to which it is -1, in one.
        assert_eq!(take_int(&mut &[0x8f, 0xff, 0xff, 0xff, 0x7f][..]), Some(u32::MAX));
        assert_eq!(ints(u32::MAX), [0x7f]);
        assert_eq!(take_int(&mut &[0xff; 6][..]), None);
    }

    #[test]
    fn blocks_are_those_of_the_protocol() {
        assert_eq!(block(1, &[]), [0x05, 0x11, 0x8f, 0x08, 0x7e]);
        assert_eq!(block(0, &[]), [0x05, 0x10, 0x9e, 0x81, 0x7e]);
        let content = [&[0, 0, 3][..], b"abc"].concat();
        let expected = [&[0x0b, 0x11, 0, 0, 3][..], b"abc", &[0x8c, 0xd8, 0x7e]].concat();
        assert_eq!(block(1, &content), expected);
    }

    #[test]
    fn a_fresh_receiver_expects_sequence_zero() {
        let mut receiver = Receiver::default();
        receiver.push(&[0x08, 0x11, 0x01, 0x00, 0x28, 0x42, 0x24, 0x7e]);
        assert_eq!(receiver.poll(), Some(Received::Refused));
        assert_eq!(receiver.expected(), 0);
        receiver.push(&[0x08, 0x10, 0x01, 0x00, 0x28, 0x5e, 0x9f, 0x7e]);
        assert_eq!(receiver.poll(), Some(Received::Block(vec![1, 0, 0x28])));
        assert_eq!(receiver.expected(), 1);
    }

    #[test]
    fn noise_is_answered_once_and_ends_at_the_next_sync() {
        let mut receiver = Receiver::default();
        receiver.push(&[0x7e]);
        assert_eq!(receiver.poll(), None);
        receiver.push(b"hello world");
        assert_eq!(receiver.poll(), Some(Received::Dropped));
        assert_eq!(receiver.poll(), Some(Received::Refused));
        assert_eq!(receiver.poll(), None);
        receiver.push(b"more\x7e\x08\x10\x01\x00\x28\x5e\x9f\x7e");
        assert_eq!(receiver.poll(), Some(Received::Dropped));
        assert_eq!(receiver.poll(), Some(Received::Block(vec![1, 0, 0x28])));
    }
}
