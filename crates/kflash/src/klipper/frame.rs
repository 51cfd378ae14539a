//! Klipper's blocks: length · sequence · content · CRC-16 (big-endian) · `7e` (Klipper `docs/Protocol.md`, "Message
//! Blocks").

use super::crc::crc16;

/// The byte that ends a block.
pub const SYNC: u8 = 0x7E;
/// The shortest block: the empty one.
pub const MIN: usize = 5;
/// The longest block.
pub const MAX: usize = 64;
/// The longest content.
pub const MAX_CONTENT: usize = MAX - MIN;
/// What the decoder keeps of a stream whose reader does not take the blocks.
const KEPT: usize = 16 * MAX;

/// A block as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The low nibble of the sequence byte.
    pub sequence: u8,
    /// The messages; empty in an acknowledgement.
    pub content: Vec<u8>,
}

/// Makes a block of at most [`MAX_CONTENT`] bytes; `None` where there are more.
pub fn encode(sequence: u8, content: &[u8]) -> Option<Vec<u8>> {
    if content.len() > MAX_CONTENT {
        return None;
    }
    let mut block = vec![(content.len() + MIN) as u8, 0x10 | sequence & 0x0F];
    block.extend(content);
    block.extend(crc16(&block).to_be_bytes());
    block.push(SYNC);
    Some(block)
}

/// Finds blocks in a stream of bytes, whatever lies between them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    /// No byte follows those that are held.
    ended: bool,
}

impl Decoder {
    /// Takes bytes as they arrive. Take the blocks out after each call: of a backlog only the newest bytes are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.bytes.len() + new.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(new);
        self.ended = false;
    }

    /// Nothing has come for longer than a block has gaps: what looks like the beginning of one is noise, and blocks
    /// may lie behind it.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next whole block.
    pub fn pop(&mut self) -> Option<Block> {
        // A byte that starts no block is dropped alone, not all up to the next 7e: noise before a block then does not
        // cost the block.
        let mut start = 0;
        let found = loop {
            match parse(&self.bytes[start..]) {
                Parsed::Block(block, length) => {
                    start += length;
                    break Some(block);
                }
                Parsed::Partial if !self.ended || start == self.bytes.len() => break None,
                Parsed::Partial | Parsed::Noise => start += 1,
            }
        };
        self.bytes.drain(..start);
        found
    }
}

enum Parsed {
    Block(Block, usize),
    Partial,
    Noise,
}

/// What the front of `bytes` is.
fn parse(bytes: &[u8]) -> Parsed {
    let Some(&length) = bytes.first() else { return Parsed::Partial };
    let length = usize::from(length);
    if !(MIN..=MAX).contains(&length) || bytes.get(1).is_some_and(|sequence| sequence & 0xF0 != 0x10) {
        return Parsed::Noise;
    }
    let Some(block) = bytes.get(..length) else { return Parsed::Partial };
    let (checked, tail) = block.split_at(length - 3);
    let crc = crc16(checked).to_be_bytes();
    if tail != [crc[0], crc[1], SYNC] {
        return Parsed::Noise;
    }
    Parsed::Block(Block { sequence: checked[1] & 0x0F, content: checked[2..].to_vec() }, length)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn blocks(stream: &[u8], chunk: usize) -> Vec<Block> {
        let mut decoder = Decoder::default();
        let mut blocks = Vec::new();
        for chunk in stream.chunks(chunk) {
            decoder.push(chunk);
            blocks.extend(std::iter::from_fn(|| decoder.pop()));
            assert!(decoder.bytes.len() < MAX, "nothing older than one unfinished block is kept");
        }
        blocks
    }

    #[test]
    fn golden() {
        let vectors: [(u8, &[u8], &[u8]); 8] = [
            (0, &[1, 0, 40], &[0x08, 0x10, 0x01, 0x00, 0x28, 0x5e, 0x9f, 0x7e]),
            (1, &[1, 0, 40], &[0x08, 0x11, 0x01, 0x00, 0x28, 0x42, 0x24, 0x7e]),
            (2, &[1, 40, 40], &[0x08, 0x12, 0x01, 0x28, 0x28, 0x8a, 0x1a, 0x7e]),
            (4, &[1, 0x80, 0x78, 40], &[0x09, 0x14, 0x01, 0x80, 0x78, 0x28, 0x37, 0x4a, 0x7e]),
            (5, &[1, 0xbe, 0x40, 40], &[0x09, 0x15, 0x01, 0xbe, 0x40, 0x28, 0xd2, 0xd9, 0x7e]),
            (1, &[0, 0, 3, b'a', b'b', b'c'], &[0x0b, 0x11, 0, 0, 3, 0x61, 0x62, 0x63, 0x8c, 0xd8, 0x7e]),
            (1, &[], &[0x05, 0x11, 0x8f, 0x08, 0x7e]),
            (0, &[], &[0x05, 0x10, 0x9e, 0x81, 0x7e]),
        ];
        for (sequence, content, block) in vectors {
            assert_eq!(encode(sequence, content).as_deref(), Some(block));
            assert_eq!(blocks(block, 1), [Block { sequence, content: content.to_vec() }]);
        }
    }

    #[test]
    fn the_starting_message_is_a_block() {
        assert_eq!(blocks(&[0x06, 0x10, 0x61, 0x08, 0xf4, 0x7e], 6), [Block { sequence: 0, content: vec![0x61] }]);
    }

    #[test]
    fn a_beginning_that_is_not_continued_gives_the_block_behind_it_free() {
        let mut decoder = Decoder::default();
        decoder.push(&[0x40, 0x1f, 0x30, 0x10, 0x05, 0x11, 0x8f, 0x08, 0x7e, 0x05]);
        assert_eq!(decoder.pop(), None);
        decoder.end();
        assert_eq!(decoder.pop(), Some(Block { sequence: 1, content: Vec::new() }));
        assert_eq!(decoder.pop(), None);
        assert!(decoder.is_empty());
        decoder.push(&[0x05, 0x11]);
        assert_eq!(decoder.pop(), None);
        decoder.push(&[0x8f, 0x08, 0x7e]);
        assert_eq!(decoder.pop(), Some(Block { sequence: 1, content: Vec::new() }));
    }

    #[test]
    fn a_content_too_long_is_refused() {
        assert_eq!(encode(0, &[0; MAX_CONTENT]).map(|block| block.len()), Some(MAX));
        assert_eq!(encode(0, &[0; MAX_CONTENT + 1]), None);
    }

    #[test]
    fn a_backlog_keeps_the_newest_bytes() {
        let mut decoder = Decoder::default();
        for _ in 0..100 {
            decoder.push(&[0x40; 4096]);
            assert!(decoder.bytes.len() <= KEPT);
        }
        let block = [0x05, 0x11, 0x8f, 0x08, 0x7e];
        decoder.push(&block);
        assert_eq!(decoder.pop().map(|block| block.sequence), Some(1));
    }

    proptest! {
        #[test]
        fn round_trip(
            sent in prop::collection::vec((0_u8..16, prop::collection::vec(any::<u8>(), 0..=MAX_CONTENT)), 0..8),
            chunk in 1_usize..200,
        ) {
            let stream: Vec<u8> = sent.iter().flat_map(|(s, c)| encode(*s, c).unwrap()).collect();
            let sent: Vec<_> = sent.into_iter().map(|(sequence, content)| Block { sequence, content }).collect();
            prop_assert_eq!(blocks(&stream, chunk), sent);
        }

        #[test]
        fn a_block_comes_out_behind_any_noise(noise: Vec<u8>, chunk in 1_usize..80) {
            let block = encode(9, b"\x01\x00\x28").unwrap();
            // An unfinished block in the noise may swallow what follows it, for at most its own length.
            let mut stream = noise;
            stream.extend([SYNC; MAX]);
            stream.extend(&block);
            prop_assert_eq!(blocks(&stream, chunk).last().cloned(), Some(Block { sequence: 9, content: vec![1, 0, 40] }));
        }

        #[test]
        fn one_flipped_bit_is_never_a_block(bit in 0_usize..64) {
            let mut block = encode(1, b"\x01\x00\x28").unwrap();
            block[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(blocks(&block, 3), []);
        }
    }
}
