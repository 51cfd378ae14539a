//! Firmware images of the form that real builds have, made from nothing: vector table, reset handler, literal pool,
//! data dictionary, Katapult's strings. What they hold in place of code is pseudo-random, the same for the same fields.
//!
//! Layout as seen in builds of Klipper v0.13.0-730: the reset handler lies past the middle, the zlib stream behind it,
//! one literal points to the stream, and another by chance to `dictionary + 0x1100`, which is legal but wrong.

mod dictionary;

use kflash::klipper::dictionary::BuiltFor;

/// Offset of the first instruction behind a Klipper vector table without late interrupts.
const SHORT_TABLE: usize = 0x58;
/// Offset behind a vector table that reaches to the USB interrupts of an STM32.
const LONG_TABLE: usize = 0x150;
/// From here on an image has room for a dictionary of real length.
const ROOM_FOR_FULL_DICTIONARY: usize = 12 * 1024;
/// Where Katapult's entry code and Klipper look for each other.
const KATAPULT_SIGNATURE: &[u8; 8] = b"CanBoot!";
/// `cpsid i`: the first instruction of every reset handler.
const CPSID_I: [u8; 2] = [0x72, 0xb6];
/// How a handler goes on, so that a core that really executes it does not run into what is no code: `b .`.
const HANDLER: [u8; 4] = [CPSID_I[0], CPSID_I[1], 0xfe, 0xe7];

/// What an image is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Klipper on a Cortex-M that executes from flash.
    Klipper,
    /// Klipper on an RP2040 behind a 16 KiB bootloader: a stub in flash copies all of it to RAM, so that no literal
    /// points into flash.
    KlipperFromRam,
    /// Katapult: no dictionary, its MCU and version as strings.
    Katapult,
}

/// The recipe of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestImage {
    /// What it is.
    pub kind: Kind,
    /// `Klipper` or `Kalico`.
    pub app: String,
    /// As the dictionary or Katapult names it: `stm32f446xx`.
    pub mcu: String,
    /// `v0.13.0-730-g84104bbbd`.
    pub version: String,
    /// Address of the first byte.
    pub start: u32,
    /// Bytes in all; at least [`TestImage::MIN_SIZE`].
    pub size: usize,
    /// Initial stack pointer.
    pub stack_pointer: u32,
    /// `CLOCK_FREQ` in Hz.
    pub clock_freq: u32,
    /// The cable that the constants tell of.
    pub built_for: BuiltFor,
    /// Formats of commands that it lacks, as a build from before they existed: `get_uptime`.
    pub lacks: Vec<String>,
    /// Where Katapult starts applications, which its code holds as a word.
    pub starts: Option<u32>,
    /// Makes another image of the same description.
    pub seed: u64,
}

/// A made image: its bytes and the parts that tests compare with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// Offset of the dictionary's zlib stream, where there is one.
    pub dictionary_at: Option<usize>,
    /// Offset of the literal that points to it, where there is one.
    pub literal_at: Option<usize>,
}

impl TestImage {
    /// The smallest size: a vector table, a dictionary of a dozen entries and some code.
    pub const MIN_SIZE: usize = 1536;

    /// Klipper of today for `mcu`, to be written to `start`, on its own USB. RAM and clock follow from the MCU.
    pub fn klipper(mcu: &str, start: u32) -> Self {
        let (stack_pointer, clock_freq) = match mcu.get(..7) {
            Some("stm32f1") => (0x2000_5000, 72_000_000),
            Some("stm32g0") => (0x2002_4000, 64_000_000),
            Some("stm32h7") => (0x2002_0000, 520_000_000),
            _ if mcu == "rp2040" => (0x2004_2000, 12_000_000),
            _ => (0x2002_0000, 180_000_000),
        };
        Self {
            kind: if mcu == "rp2040" { Kind::KlipperFromRam } else { Kind::Klipper },
            app: "Klipper".into(),
            mcu: mcu.into(),
            version: "v0.13.0-730-g84104bbbd".into(),
            start,
            size: 44_516,
            stack_pointer,
            clock_freq,
            built_for: BuiltFor::Usb,
            lacks: Vec::new(),
            starts: None,
            seed: 0,
        }
    }

    /// The same, as Kalico builds it.
    pub fn kalico(mcu: &str, start: u32) -> Self {
        Self {
            app: "Kalico".into(),
            version: "v2026.07.00-30-gf2532ee34".into(),
            size: 40_776,
            ..Self::klipper(mcu, start)
        }
    }

    /// Katapult for `mcu`, at the start of the flash.
    pub fn katapult(mcu: &str, start: u32) -> Self {
        let klipper = Self::klipper(mcu, start);
        Self {
            kind: Kind::Katapult,
            app: "katapult".into(),
            version: "v0.0.1-109-g902f335".into(),
            size: 5148,
            stack_pointer: klipper.stack_pointer - 8,
            ..klipper
        }
    }

    /// The same, where Katapult starts applications at `starts`.
    #[must_use]
    pub fn starting(self, starts: u32) -> Self {
        Self { starts: Some(starts), ..self }
    }

    /// The same with another version, and so other bytes everywhere.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        Self { version: version.into(), ..self }
    }

    /// The same with another size.
    #[must_use]
    pub fn size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// The same for another cable.
    #[must_use]
    pub fn built_for(self, built_for: BuiltFor) -> Self {
        Self { built_for, ..self }
    }

    /// The image's bytes.
    ///
    /// # Panics
    /// If `size` is below [`TestImage::MIN_SIZE`] or the image would pass the end of the address space.
    pub fn build(&self) -> Vec<u8> {
        self.layout().bytes
    }

    /// The image's bytes and where its parts lie.
    ///
    /// # Panics
    /// As [`TestImage::build`].
    pub fn layout(&self) -> Built {
        assert!(self.size >= Self::MIN_SIZE, "an image of {} bytes has no room for its parts", self.size);
        let bytes = self.code();
        match self.kind {
            Kind::Katapult => self.finish_katapult(bytes),
            Kind::Klipper | Kind::KlipperFromRam => self.finish_klipper(bytes),
        }
    }

    /// The dictionary's JSON, as `klipper.dict` and as `identify` inflates to.
    pub fn dictionary_json(&self) -> Vec<u8> {
        dictionary::json(self, self.size >= ROOM_FOR_FULL_DICTIONARY)
    }

    /// The dictionary as the running firmware sends it: zlib, level 9.
    pub fn dictionary_zlib(&self) -> Vec<u8> {
        dictionary::deflate(&self.dictionary_json())
    }

    fn finish_klipper(&self, mut bytes: Vec<u8>) -> Built {
        let from_ram = self.kind == Kind::KlipperFromRam;
        let stream = self.dictionary_zlib();
        // Odd, so that nobody comes to rely on an aligned stream.
        let dictionary_at = ((self.size - stream.len()) * 9 / 10) | 1;
        let (table_end, reset_at) = match (from_ram, self.size) {
            (true, _) => (SHORT_TABLE, SHORT_TABLE),
            (false, ..4096) => (SHORT_TABLE, SHORT_TABLE + 0x40),
            (false, _) => (LONG_TABLE, (dictionary_at * 3 / 4) & !3),
        };
        let reset = self.start + reset_at as u32 + 1;
        let default_handler = if from_ram { 0x2000_7a61 } else { reset + 0x14 };
        self.write_vector_table(&mut bytes[..table_end], reset, default_handler);
        bytes[reset_at..reset_at + 4].copy_from_slice(&HANDLER);
        bytes[dictionary_at..dictionary_at + stream.len()].copy_from_slice(&stream);

        let literal_at = (!from_ram).then_some(if reset_at > 0x3000 { 0x2498 } else { table_end });
        if let Some(at) = literal_at {
            put(&mut bytes, at, self.start + dictionary_at as u32);
            if reset_at > 0x3000 {
                put(&mut bytes, at - 0x400, self.start + dictionary_at as u32 + 0x1100);
            }
        }
        Built { bytes, dictionary_at: Some(dictionary_at), literal_at }
    }

    fn finish_katapult(&self, mut bytes: Vec<u8>) -> Built {
        let reset_at = SHORT_TABLE + KATAPULT_SIGNATURE.len();
        let reset = self.start + reset_at as u32 + 1;
        self.write_vector_table(&mut bytes[..SHORT_TABLE], reset, reset + 0x40);
        bytes[SHORT_TABLE..reset_at].copy_from_slice(KATAPULT_SIGNATURE);
        bytes[reset_at..reset_at + 4].copy_from_slice(&HANDLER);
        if let Some(starts) = self.starts {
            put(&mut bytes, 0x400, starts);
        }
        let mut strings = vec![0];
        for text in [&self.mcu, &self.version] {
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
        }
        let at = self.size - 0x100;
        bytes[at..at + strings.len()].copy_from_slice(&strings);
        Built { bytes, dictionary_at: None, literal_at: None }
    }

    fn write_vector_table(&self, table: &mut [u8], reset: u32, default_handler: u32) {
        for at in (8..table.len()).step_by(4) {
            put(table, at, default_handler);
        }
        put(table, 0, self.stack_pointer);
        put(table, 4, reset);
    }

    /// Words that are neither addresses of flash or RAM nor all zeros or ones.
    fn code(&self) -> Vec<u8> {
        let mut state = [self.app.as_bytes(), self.mcu.as_bytes(), self.version.as_bytes(), &self.start.to_le_bytes()]
            .concat()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325 ^ self.seed, |hash: u64, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
            | 1;
        let mut bytes = Vec::with_capacity(self.size + 4);
        while bytes.len() < self.size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&((state >> 16) as u32 | 0x4000_0001).to_le_bytes());
        }
        bytes.truncate(self.size);
        bytes
    }
}

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io::Read as _;

    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn the_parts_lie_where_the_layout_says() {
        for size in [TestImage::MIN_SIZE, 2048, 4096, 8192, ROOM_FOR_FULL_DICTIONARY, 16_384, 44_516, 131_072] {
            let image = TestImage::klipper("stm32f446xx", 0x0800_8000).size(size);
            let built = image.layout();
            assert_eq!(built.bytes.len(), size);
            let dictionary_at = built.dictionary_at.unwrap();
            let mut json = Vec::new();
            flate2::read::ZlibDecoder::new(&built.bytes[dictionary_at..]).read_to_end(&mut json).unwrap();
            assert_eq!(json, image.dictionary_json());
            assert_eq!(word(&built.bytes, built.literal_at.unwrap()), 0x0800_8000 + dictionary_at as u32);
            let reset = word(&built.bytes, 4);
            assert_eq!(reset & 1, 1);
            let reset_at = (reset - 1 - 0x0800_8000) as usize;
            assert_eq!(built.bytes[reset_at..reset_at + 2], CPSID_I);
        }
    }

    #[test]
    fn a_full_image_is_like_a_real_one() {
        let image = TestImage::klipper("stm32f446xx", 0x0800_8000);
        let built = image.layout();
        assert!(word(&built.bytes, 4) > 0x0800_8000 + 20_000);
        assert!((9_000..13_000).contains(&image.dictionary_json().len()), "{}", image.dictionary_json().len());
        assert_eq!(image.dictionary_zlib()[..2], [0x78, 0xda]);
    }

    #[test]
    fn an_image_from_ram_holds_no_literal() {
        let image = TestImage::klipper("rp2040", 0x1000_4000);
        let built = image.layout();
        assert_eq!(built.literal_at, None);
        assert_eq!(word(&built.bytes, 4), 0x1000_4059);
        let dictionary = 0x1000_4000 + built.dictionary_at.unwrap() as u32;
        assert!(built.bytes.windows(4).all(|bytes| word(bytes, 0) != dictionary));
    }

    #[test]
    fn other_versions_differ_in_most_bytes() {
        let old = TestImage::klipper("stm32g0b1xx", 0x0800_2000).version("v0.12.0-1-gdeadbeef");
        let new = TestImage::klipper("stm32g0b1xx", 0x0800_2000);
        assert_eq!(new.build(), new.build());
        let (old, new) = (old.build(), new.build());
        let same = old.iter().zip(&new).filter(|(old, new)| old == new).count();
        assert!(same < old.len() / 10, "{same} bytes are the same");
    }

    #[test]
    fn katapult_is_strings_and_a_signature() {
        let bytes = TestImage::katapult("stm32g0b1xx", 0x0800_0000).build();
        let reset_at = (word(&bytes, 4) - 0x0800_0000) as usize;
        assert_eq!(&bytes[reset_at - 9..reset_at - 1], b"CanBoot!");
        assert!(bytes.windows(32).any(|bytes| bytes == b"stm32g0b1xx\0v0.0.1-109-g902f335\0"));
    }
}
