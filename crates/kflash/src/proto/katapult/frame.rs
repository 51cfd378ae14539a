//! Katapult's frames: `01 88` · command · number of words · words · CRC-16 (little-endian, over command to words) ·
//! `99 03` (Katapult `protocol.md`; its CRC for BUSY is a misprint).

use crate::klipper::crc::crc16;

/// What a frame begins with.
const HEADER: [u8; 2] = [0x01, 0x88];
/// What a frame ends with.
const TRAILER: [u8; 2] = [0x99, 0x03];
/// Bytes of a frame without its words.
const EMPTY: usize = 8;
/// The longest frame that the device takes.
pub const DEVICE_MAX: usize = 128;
/// What the decoder keeps of a stream whose reader does not take the frames: four of the longest that the count of
/// words allows.
const KEPT: usize = 4 * (EMPTY + 4 * 255);

/// The answer to a frame that arrived broken.
pub const NACK: u8 = 0xF1;
/// The answer to a command that failed or is not known.
pub const ERROR: u8 = 0xF2;
/// The answer of a device that needs more time; Katapult's own host program knows it, its firmware never sends it.
pub const BUSY: u8 = 0xF3;
/// The answer to a command that was carried out; its first word is that command.
pub const ACK: u8 = 0xA0;

/// A command to the bootloader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Who are you?
    Connect = 0x11,
    /// Write one block.
    SendBlock = 0x12,
    /// No more blocks follow.
    Eof = 0x13,
    /// Read one block.
    RequestBlock = 0x14,
    /// Start the application.
    Complete = 0x15,
    /// No command at all: what fills the first packet where that one gets stuck.
    Prime = 0x90,
}

/// A frame as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The command or answer.
    pub code: u8,
    /// The words, as bytes.
    pub payload: Vec<u8>,
}

/// What the decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole frame.
    Frame(Frame),
    /// The beginning of a frame, but what follows does not fit it.
    Broken,
}

/// Makes a frame; `None` where `payload` is no whole number of words or too long for the device.
pub fn encode(command: Command, payload: &[u8]) -> Option<Vec<u8>> {
    if !payload.len().is_multiple_of(4) || payload.len() + EMPTY > DEVICE_MAX {
        return None;
    }
    let mut frame = HEADER.to_vec();
    frame.extend([command as u8, (payload.len() / 4) as u8]);
    frame.extend(payload);
    frame.extend(crc16(&frame[HEADER.len()..]).to_le_bytes());
    frame.extend(TRAILER);
    Some(frame)
}

/// Finds frames in a stream of bytes, whatever lies between them.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes bytes as they arrive. Take the frames out after each call: of a backlog only the newest bytes are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        let new = &bytes[bytes.len().saturating_sub(KEPT)..];
        let excess = (self.bytes.len() + new.len()).saturating_sub(KEPT);
        self.bytes.drain(..excess.min(self.bytes.len()));
        self.bytes.extend(new);
    }

    /// The next frame, whole or broken. Bytes that do not even begin one are skipped without a word.
    pub fn pop(&mut self) -> Option<Event> {
        let mut start = 0;
        let found = loop {
            match parse(&self.bytes[start..]) {
                Parsed::Frame(frame, length) => {
                    start += length;
                    break Some(Event::Frame(frame));
                }
                Parsed::Partial => break None,
                Parsed::Noise => start += 1,
                // The next frame may begin inside the broken one.
                Parsed::Broken => {
                    start += HEADER.len();
                    break Some(Event::Broken);
                }
            }
        };
        self.bytes.drain(..start);
        found
    }

    /// Whether nothing is held: not even the beginning of a frame.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what has arrived.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

enum Parsed {
    Frame(Frame, usize),
    Partial,
    Noise,
    Broken,
}

/// What the front of `bytes` is.
fn parse(bytes: &[u8]) -> Parsed {
    let header = &HEADER[..bytes.len().min(HEADER.len())];
    if !bytes.starts_with(header) {
        return Parsed::Noise;
    }
    let Some(&words) = bytes.get(3) else { return Parsed::Partial };
    let Some(frame) = bytes.get(..EMPTY + 4 * usize::from(words)) else { return Parsed::Partial };
    let (checked, tail) = frame[HEADER.len()..].split_at(frame.len() - HEADER.len() - 4);
    let crc = crc16(checked).to_le_bytes();
    if tail != [crc[0], crc[1], TRAILER[0], TRAILER[1]] {
        return Parsed::Broken;
    }
    Parsed::Frame(Frame { code: checked[0], payload: checked[2..].to_vec() }, frame.len())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn events(stream: &[u8], chunk: usize) -> Vec<Event> {
        let mut decoder = Decoder::default();
        let mut events = Vec::new();
        for chunk in stream.chunks(chunk) {
            decoder.push(chunk);
            events.extend(std::iter::from_fn(|| decoder.pop()));
            assert!(decoder.bytes.len() < EMPTY + 4 * 255, "nothing older than one unfinished frame is kept");
        }
        events
    }

    #[test]
    fn golden_commands() {
        let block: Vec<u8> = [0x00, 0x20, 0x00, 0x08].into_iter().chain([0xff; 64]).collect();
        let mut send_block = vec![0x01, 0x88, 0x12, 0x11];
        send_block.extend(&block);
        send_block.extend([0x07, 0xea, 0x99, 0x03]);
        let vectors: [(Command, &[u8], &[u8]); 6] = [
            (Command::Connect, &[], &[0x01, 0x88, 0x11, 0x00, 0xf1, 0x7c, 0x99, 0x03]),
            (Command::Eof, &[], &[0x01, 0x88, 0x13, 0x00, 0x41, 0x4f, 0x99, 0x03]),
            (Command::Complete, &[], &[0x01, 0x88, 0x15, 0x00, 0x91, 0x1b, 0x99, 0x03]),
            (Command::Prime, &[], &[0x01, 0x88, 0x90, 0x00, 0xe5, 0xe9, 0x99, 0x03]),
            (
                Command::RequestBlock,
                &[0x00, 0x20, 0x00, 0x08],
                &[0x01, 0x88, 0x14, 0x01, 0x00, 0x20, 0x00, 0x08, 0x5b, 0xde, 0x99, 0x03],
            ),
            (Command::SendBlock, &block, &send_block),
        ];
        for (command, payload, frame) in vectors {
            assert_eq!(encode(command, payload).as_deref(), Some(frame), "{command:?}");
            let expected = Frame { code: command as u8, payload: payload.to_vec() };
            assert_eq!(events(frame, 1), [Event::Frame(expected)]);
        }
    }

    #[test]
    fn golden_answers_and_a_command_for_can_alone() {
        for (code, frame) in [
            (NACK, [0x01, 0x88, 0xf1, 0x00, 0x68, 0x95, 0x99, 0x03]),
            (ERROR, [0x01, 0x88, 0xf2, 0x00, 0x00, 0xbf, 0x99, 0x03]),
            (BUSY, [0x01, 0x88, 0xf3, 0x00, 0xd8, 0xa6, 0x99, 0x03]),
            (0x16, [0x01, 0x88, 0x16, 0x00, 0xf9, 0x31, 0x99, 0x03]),
        ] {
            assert_eq!(events(&frame, 3), [Event::Frame(Frame { code, payload: Vec::new() })]);
        }
        // The CRC that protocol.md prints for BUSY is the one of ERROR.
        assert_eq!(events(&[0x01, 0x88, 0xf3, 0x00, 0x00, 0xbf, 0x99, 0x03], 8), [Event::Broken]);
    }

    #[test]
    fn payloads_that_no_device_takes_are_refused() {
        assert_eq!(encode(Command::SendBlock, &[0; 120]).map(|frame| frame.len()), Some(DEVICE_MAX));
        assert_eq!(encode(Command::SendBlock, &[0; 124]), None);
        assert_eq!(encode(Command::SendBlock, &[0; 6]), None);
    }

    #[test]
    fn a_backlog_keeps_the_newest_bytes() {
        let mut decoder = Decoder::default();
        for _ in 0..100 {
            decoder.push(&[0x01; 4096]);
            assert!(decoder.bytes.len() <= KEPT);
        }
        decoder.push(&[0x01, 0x88, 0xf1, 0x00, 0x68, 0x95, 0x99, 0x03]);
        assert_eq!(decoder.pop(), Some(Event::Frame(Frame { code: NACK, payload: Vec::new() })));
    }

    proptest! {
        #[test]
        fn round_trip(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=30), 0..6),
            chunk in 1_usize..200,
        ) {
            let payloads: Vec<_> = payloads.into_iter().map(|p| p.repeat(4)).collect();
            let stream: Vec<u8> = payloads.iter().flat_map(|p| encode(Command::SendBlock, p).unwrap()).collect();
            let sent: Vec<_> =
                payloads.into_iter().map(|payload| Event::Frame(Frame { code: 0x12, payload })).collect();
            prop_assert_eq!(events(&stream, chunk), sent);
        }

        #[test]
        fn a_frame_comes_out_behind_any_noise(noise: Vec<u8>, chunk in 1_usize..80) {
            let mut stream = noise;
            stream.extend([0; EMPTY + 4 * 255]);
            stream.extend(encode(Command::Eof, &[]).unwrap());
            let expected = Event::Frame(Frame { code: 0x13, payload: Vec::new() });
            prop_assert_eq!(events(&stream, chunk).last().cloned(), Some(expected));
        }

        #[test]
        fn one_flipped_bit_is_never_a_frame(bit in 0_usize..96) {
            let mut frame = encode(Command::RequestBlock, &[0, 0x20, 0, 8]).unwrap();
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!events(&frame, 5).iter().any(|event| matches!(event, Event::Frame(_))));
        }
    }
}
