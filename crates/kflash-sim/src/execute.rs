//! What a chip makes of the bytes that it is started at: a whole Klipper that runs, or nothing.
//!
//! The models do not execute instructions. An image runs if it could: sane vector table, linked for the address it is
//! started at, for this chip, with all of it there.

use std::collections::BTreeMap;
use std::sync::Arc;

use flate2::{Decompress, FlushDecompress, Status};
use kflash::addr::FlashAddr;
use kflash::chip::Chip;
use serde::Deserialize;

use crate::flash::Nor;

/// The most that a dictionary may inflate to.
const LARGEST_DICTIONARY: usize = 1 << 20;

/// A Klipper firmware, as its dictionary describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Firmware {
    pub(crate) version: String,
    pub(crate) mcu: String,
    pub(crate) cable: FirmwareCable,
    /// Ticks of its clock in a second.
    pub(crate) clock_freq: u64,
    /// The zlib stream as it lies in the image.
    pub(crate) stream: Vec<u8>,
    /// Offset of the stream in the image.
    pub(crate) stream_at: usize,
    /// Ids of commands and responses by their format.
    pub(crate) commands: BTreeMap<String, i64>,
    pub(crate) responses: BTreeMap<String, i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirmwareCable {
    Usb,
    Uart(u32),
    Can,
}

#[derive(Deserialize)]
struct Json {
    version: String,
    config: BTreeMap<String, serde_json::Value>,
    commands: BTreeMap<String, i64>,
    responses: BTreeMap<String, i64>,
}

/// An image that the chip could execute whole.
pub(crate) struct Known {
    address: u32,
    bytes: Vec<u8>,
    firmware: Option<Arc<Firmware>>,
}

/// The images that are known, and the chip that they are judged for.
pub(crate) struct Judge {
    known: Vec<Known>,
    /// The last unknown image that was read.
    last: Option<(u32, Arc<Firmware>)>,
}

impl Judge {
    pub(crate) fn new(images: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Self {
        let known = images.into_iter().map(|(address, bytes)| {
            let firmware = Firmware::find(&bytes).map(Arc::new);
            Known { address, bytes, firmware }
        });
        Self { known: known.collect(), last: None }
    }

    /// What runs when the chip takes its vector table at `start`; `None` is a chip that locks up.
    pub(crate) fn run(&mut self, chip: &Chip, flash: &Nor, start: u32) -> Option<Arc<Firmware>> {
        let reset = vector_table(chip, flash, start)?;
        let rest = flash.rest(start)?;
        let whole = self.known.iter().find(|known| known.address == start && rest.starts_with(&known.bytes));
        let firmware = match whole {
            Some(known) => known.firmware.clone()?,
            None => self.unknown(chip, rest, start, reset)?,
        };
        chip.is(&firmware.mcu).then_some(firmware)
    }

    /// Takes what lies at `start` for a known image from now on, if it runs.
    pub(crate) fn learn(&mut self, chip: &Chip, flash: &Nor, start: u32, bytes: Vec<u8>) {
        if let Some(firmware) = self.run(chip, flash, start) {
            self.known.push(Known { address: start, bytes, firmware: Some(firmware) });
        }
    }

    fn unknown(&mut self, chip: &Chip, rest: &[u8], start: u32, reset: u32) -> Option<Arc<Firmware>> {
        let cached = self.last.take().filter(|(address, firmware)| {
            *address == start && rest.get(firmware.stream_at..).is_some_and(|rest| rest.starts_with(&firmware.stream))
        });
        let firmware = match cached {
            Some((_, firmware)) => firmware,
            None => Arc::new(Firmware::find(rest)?),
        };
        self.last = Some((start, Arc::clone(&firmware)));
        // The same dictionary with other bytes, or at another address than it was linked for.
        let damaged = |known: &Known| known.firmware.as_ref().is_some_and(|known| known.stream == firmware.stream);
        if self.known.iter().any(damaged) {
            return None;
        }
        let end = start + (firmware.stream_at + firmware.stream.len()) as u32;
        let linked = start + firmware.stream_at as u32;
        let points = |words: &[u8]| words.chunks_exact(4).any(|word| word == linked.to_le_bytes());
        (reset < end && (chip.runs_from_ram || points(rest.get(..firmware.stream_at)?))).then_some(firmware)
    }
}

/// The reset vector at `start`, if the first two words look like a vector table of an image in this flash.
pub(crate) fn vector_table(chip: &Chip, flash: &Nor, start: u32) -> Option<u32> {
    let stack = flash.word(start)?;
    let reset = flash.word(start + 4)?;
    let in_ram = chip.ram.iter().any(|ram| stack > ram.start.0 && stack <= ram.end().0);
    let in_flash = reset & 1 == 1 && reset > start && chip.flash().contains(FlashAddr(reset));
    (in_ram && in_flash).then_some(reset)
}

impl Firmware {
    /// The first whole dictionary in `bytes`.
    fn find(bytes: &[u8]) -> Option<Self> {
        let headers = bytes.windows(2).enumerate().filter(|(_, pair)| {
            pair[0] == 0x78 && (u16::from(pair[0]) << 8 | u16::from(pair[1])).is_multiple_of(31) && pair[1] & 0x20 == 0
        });
        headers.into_iter().find_map(|(at, _)| {
            let (json, length) = inflate(&bytes[at..])?;
            let json: Json = serde_json::from_slice(&json).ok()?;
            let number = |name: &str| json.config.get(name).and_then(serde_json::Value::as_u64);
            let cable = match number("SERIAL_BAUD") {
                Some(baud) => FirmwareCable::Uart(u32::try_from(baud).ok()?),
                None if number("CANBUS_FREQUENCY").is_some() => FirmwareCable::Can,
                None => FirmwareCable::Usb,
            };
            Some(Self {
                mcu: json.config.get("MCU")?.as_str()?.to_owned(),
                version: json.version,
                cable,
                clock_freq: number("CLOCK_FREQ")?,
                stream: bytes[at..at + length].to_vec(),
                stream_at: at,
                commands: json.commands,
                responses: json.responses,
            })
        })
    }
}

/// What the zlib stream at the front of `bytes` inflates to, and its length; `None` if it is broken, cut or too large.
fn inflate(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut inflater = Decompress::new(true);
    // Little at first: what begins by chance is seen to be no JSON.
    let mut out = Vec::with_capacity(64);
    loop {
        let before = (inflater.total_in(), out.len());
        let input = bytes.get(inflater.total_in() as usize..)?;
        match inflater.decompress_vec(input, &mut out, FlushDecompress::None).ok()? {
            Status::StreamEnd => return Some((out, inflater.total_in() as usize)),
            _ if out.len() >= LARGEST_DICTIONARY => return None,
            _ if out.first().is_some_and(|&first| first != b'{') => return None,
            // All of the room was used: there may be more.
            _ if out.len() == out.capacity() => out.reserve(16 * 1024),
            _ if (inflater.total_in(), out.len()) == before => return None,
            _ => {}
        }
    }
}
