//! Katapult, running: its frames, and what it does to the flash (Katapult's `protocol.md`).

use std::time::Duration;

use kflash::link::Setup;

use crate::board::{Control, UsbDescriptors};
use crate::crc::mcrf4xx;
use crate::outbox::Outbox;
use crate::silicon::{KATAPULT_START, Next, Silicon};
use crate::usb::{self, Acm};

const CONNECT: u8 = 0x11;
const SEND_BLOCK: u8 = 0x12;
const EOF: u8 = 0x13;
const REQUEST_BLOCK: u8 = 0x14;
const COMPLETE: u8 = 0x15;

const ACK: u8 = 0xa0;
const NACK: u8 = 0xf1;
const ERROR: u8 = 0xf2;

/// The longest frame that it takes.
const LONGEST_FRAME: usize = 128;
/// An RP2040 programs whole pages of this size.
const RP2040_PAGE: usize = 256;
/// From COMPLETE to the reset.
const RESETS_AFTER: Duration = Duration::from_millis(100);
/// From a frame's arrival to the answer.
const ANSWERS_AFTER: Duration = Duration::from_micros(50);

/// How a Katapult was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KatapultBuild {
    /// Its version; builds that speak protocol 1.0 tell none.
    pub version: Option<String>,
    /// Bytes in a block, a multiple of 4.
    pub block_size: u32,
    /// Erases a sector that is not blank when its first block comes. Builds for the H7 before Katapult #187 refuse.
    pub erases: bool,
    /// Waits for a second press after every reset.
    pub double_reset: bool,
}

impl Default for KatapultBuild {
    fn default() -> Self {
        Self { version: Some("v0.0.1-109-g902f335".into()), block_size: 64, erases: true, double_reset: true }
    }
}

/// Katapult, running.
pub(crate) struct Katapult {
    build: KatapultBuild,
    app_start: u32,
    baud: Option<u32>,
    acm: Acm,
    buffer: Vec<u8>,
    /// The packet that waits in the second half of the USB double buffer.
    held_packet: Option<Vec<u8>>,
    /// Whether packets pass at once.
    primed: bool,
    /// Busy with the flash.
    busy_until: Duration,
    /// Pages begun since the start.
    pages: u32,
    /// The RP2040's page that is not written yet.
    page: Option<(u32, [u8; RP2040_PAGE])>,
    out: Outbox,
    /// It waits for its reset, or reads flash with wrong ECC: it looks at nothing any more.
    dead: bool,
}

impl Katapult {
    /// `baud`: on a UART instead of its own USB.
    pub(crate) fn new(silicon: &Silicon, build: KatapultBuild, app_start: u32, baud: Option<u32>) -> Self {
        Self {
            build,
            app_start,
            baud,
            acm: Acm::default(),
            buffer: Vec::new(),
            held_packet: None,
            primed: baud.is_some() || !is_double_buffered(silicon),
            busy_until: Duration::ZERO,
            pages: 0,
            page: None,
            out: Outbox::default(),
            dead: false,
        }
    }

    pub(crate) fn descriptors(&self, silicon: &Silicon) -> Option<UsbDescriptors> {
        let strings = ["katapult", mcu(silicon), &silicon.serial()];
        self.baud.is_none().then(|| usb::cdc_acm(0x1d50, 0x6177, strings))
    }

    pub(crate) fn baud(&self) -> Option<u32> {
        self.baud
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.out
    }

    pub(crate) fn next_output(&self) -> Option<Duration> {
        self.out.ready()
    }

    pub(crate) fn control(&mut self, setup: Setup, data: &[u8]) -> Control {
        self.acm.control(setup, data)
    }

    /// The host sets the device up anew.
    pub(crate) fn bus_reset(&mut self, silicon: &Silicon) {
        self.acm = Acm::default();
        self.held_packet = None;
        self.primed = self.baud.is_some() || !is_double_buffered(silicon);
    }

    /// A packet on its USB. On parts with the USBFS peripheral the first one lies in the second buffer until another
    /// comes.
    pub(crate) fn packet(&mut self, now: Duration, silicon: &mut Silicon, bytes: &[u8]) {
        if !self.primed {
            match self.held_packet.take() {
                None => {
                    self.held_packet = Some(bytes.to_vec());
                    return;
                }
                Some(first) => {
                    self.primed = true;
                    self.receive(now, silicon, &first);
                }
            }
        }
        self.receive(now, silicon, bytes);
    }

    /// Bytes from the host.
    pub(crate) fn receive(&mut self, now: Duration, silicon: &mut Silicon, bytes: &[u8]) {
        if self.dead {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        while !self.dead {
            match self.next_frame() {
                Frame::Incomplete => return,
                Frame::Bad => self.reply(now, NACK, &[]),
                Frame::Good { command, payload } => self.execute(now, silicon, command, &payload),
            }
        }
    }

    fn next_frame(&mut self) -> Frame {
        let noise =
            self.buffer.iter().zip(self.buffer.iter().skip(1).chain(&[0x88])).position(|pair| pair == (&1, &0x88));
        self.buffer.drain(..noise.unwrap_or(self.buffer.len()));
        let &[_, _, command, words, ..] = &self.buffer[..] else { return Frame::Incomplete };
        let length = usize::from(words) * 4 + 8;
        if length > LONGEST_FRAME {
            self.buffer.drain(..2);
            return Frame::Bad;
        }
        if self.buffer.len() < length {
            return Frame::Incomplete;
        }
        let body = &self.buffer[2..length - 4];
        let end = [mcrf4xx(body).to_le_bytes(), [0x99, 0x03]].concat();
        if self.buffer[length - 4..length] != end {
            self.buffer.drain(..2);
            return Frame::Bad;
        }
        let payload = body[2..].to_vec();
        self.buffer.drain(..length);
        Frame::Good { command, payload }
    }

    fn execute(&mut self, now: Duration, silicon: &mut Silicon, command: u8, payload: &[u8]) {
        let begin = now.max(self.busy_until);
        let address = payload.first_chunk().map(|word| u32::from_le_bytes(*word));
        let block = self.build.block_size as usize;
        match (command, address, payload.len()) {
            (CONNECT, None, 0) => self.connect(begin, silicon),
            (SEND_BLOCK, Some(address), length) if length == block + 4 && address >= self.app_start => {
                match self.write(begin, silicon, address, &payload[4..]) {
                    Some(end) => {
                        self.busy_until = end;
                        self.acknowledge(
                            if silicon.is("rp2") { begin } else { end },
                            SEND_BLOCK,
                            &address.to_le_bytes(),
                        );
                    }
                    None if self.dead => {}
                    None => self.reply(begin, ERROR, &[]),
                }
            }
            (EOF, None, 0) => {
                let end = self.flush_page(begin, silicon);
                self.busy_until = end;
                let pages = self.pages.to_le_bytes();
                self.acknowledge(end, EOF, &pages);
            }
            (REQUEST_BLOCK, Some(address), 4) if address >= self.app_start && silicon.flash.contains(address) => {
                match silicon.flash.read(address, block) {
                    Some(bytes) => {
                        let answer = [&address.to_le_bytes(), bytes].concat();
                        self.acknowledge(begin, REQUEST_BLOCK, &answer);
                    }
                    None => self.dead = true,
                }
            }
            (COMPLETE, None, 0) => {
                if let Some(stack) = silicon.flash.word(silicon.boot_base()) {
                    silicon.ram.insert(stack, KATAPULT_START);
                }
                self.acknowledge(begin, COMPLETE, &[]);
                self.dead = true;
                silicon.next = Some((begin + RESETS_AFTER, Next::Reset));
            }
            _ => self.reply(begin, ERROR, &[]),
        }
    }

    fn connect(&mut self, now: Duration, silicon: &Silicon) {
        let protocol: u32 = if self.build.version.is_some() { 0x0001_0100 } else { 0x0001_0000 };
        let mut payload: Vec<u8> =
            [protocol, self.app_start, self.build.block_size].into_iter().flat_map(u32::to_le_bytes).collect();
        let pad = |payload: &mut Vec<u8>| payload.resize(payload.len().next_multiple_of(4), 0);
        payload.extend_from_slice(mcu(silicon).as_bytes());
        pad(&mut payload);
        if let Some(version) = &self.build.version {
            payload.extend([0; 4]);
            payload.extend_from_slice(version.as_bytes());
            pad(&mut payload);
        }
        self.acknowledge(now, CONNECT, &payload);
    }

    /// Writes a block; returns when it is done, `None` for an error.
    fn write(&mut self, now: Duration, silicon: &mut Silicon, address: u32, bytes: &[u8]) -> Option<Duration> {
        if !address.is_multiple_of(self.build.block_size) {
            return None;
        }
        let sector = silicon.flash.sector(address).filter(|sector| sector.end().0 - address >= bytes.len() as u32)?;
        if silicon.is("rp2") {
            return self.write_rp2040(now, silicon, address, bytes);
        }
        let Some(current) = silicon.flash.read(address, bytes.len()) else {
            self.dead = true;
            return None;
        };
        let blank = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0xff);
        let mut begin = now;
        if address == sector.start.0 {
            let rest = silicon.flash.read(address + bytes.len() as u32, sector.size.0 as usize - bytes.len());
            let rest_is_blank = rest.is_some_and(blank);
            if !(blank(current) && rest_is_blank) {
                // Sent again, because the answer was lost.
                if current == bytes && rest_is_blank {
                    return Some(now);
                }
                if !self.build.erases {
                    return None;
                }
                begin = silicon.flash.erase(now, address).unwrap_or(now);
            }
            self.pages += 1;
        } else if !blank(current) {
            return (current == bytes).then_some(now);
        }
        // The controller's refusal shows in the comparison that follows.
        let end = silicon.flash.program(begin, address, bytes).unwrap_or(begin);
        let Some(written) = silicon.flash.read(address, bytes.len()) else {
            self.dead = true;
            return None;
        };
        (written == bytes).then_some(end)
    }

    fn write_rp2040(&mut self, now: Duration, silicon: &mut Silicon, address: u32, bytes: &[u8]) -> Option<Duration> {
        let page_start = address & !(RP2040_PAGE as u32 - 1);
        let at = (address - page_start) as usize;
        if at + bytes.len() > RP2040_PAGE {
            return None;
        }
        let mut end = now;
        if self.page.as_ref().is_some_and(|(start, _)| *start != page_start) {
            end = self.flush_page(now, silicon);
        }
        let (_, page) = self.page.get_or_insert((page_start, [0xff; RP2040_PAGE]));
        page[at..at + bytes.len()].copy_from_slice(bytes);
        Some(end)
    }

    /// Writes the page that is held in RAM, erasing its sector where it is the sector's first. Nothing is compared.
    fn flush_page(&mut self, now: Duration, silicon: &mut Silicon) -> Duration {
        let Some((address, bytes)) = self.page.take() else { return now };
        self.pages += 1;
        let begins_sector = silicon.flash.sector(address).is_some_and(|sector| sector.start.0 == address);
        let begin = if begins_sector { silicon.flash.erase(now, address).unwrap_or(now) } else { now };
        silicon.flash.program(begin, address, &bytes).unwrap_or(begin)
    }

    fn acknowledge(&mut self, at: Duration, command: u8, payload: &[u8]) {
        let payload = [&[command, 0, 0, 0], payload].concat();
        self.reply(at, ACK, &payload);
    }

    fn reply(&mut self, at: Duration, code: u8, payload: &[u8]) {
        self.out.send(at + ANSWERS_AFTER, frame(code, payload));
    }
}

enum Frame {
    Incomplete,
    Bad,
    Good { command: u8, payload: Vec<u8> },
}

fn frame(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x01, 0x88, code, (payload.len() / 4) as u8];
    frame.extend_from_slice(payload);
    let crc = mcrf4xx(&frame[2..]);
    frame.extend(crc.to_le_bytes());
    frame.extend([0x99, 0x03]);
    frame
}

/// Parts with the USBFS peripheral, whose endpoints Katapult double-buffers (Katapult `src/stm32/usbfs.c`).
fn is_double_buffered(silicon: &Silicon) -> bool {
    ["stm32f0", "stm32f1", "stm32g0", "stm32g4", "stm32l4"].iter().any(|family| silicon.is(family))
}

fn mcu(silicon: &Silicon) -> &str {
    silicon.chip.mcu.first().map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_the_protocol() {
        assert_eq!(frame(NACK, &[]), [0x01, 0x88, 0xf1, 0, 0x68, 0x95, 0x99, 0x03]);
        assert_eq!(frame(ERROR, &[]), [0x01, 0x88, 0xf2, 0, 0x00, 0xbf, 0x99, 0x03]);
        assert_eq!(frame(CONNECT, &[]), [0x01, 0x88, 0x11, 0, 0xf1, 0x7c, 0x99, 0x03]);
        let request = frame(REQUEST_BLOCK, &0x0800_2000_u32.to_le_bytes());
        assert_eq!(request, [0x01, 0x88, 0x14, 1, 0, 0x20, 0, 8, 0x5b, 0xde, 0x99, 0x03]);
        let block = [&0x0800_2000_u32.to_le_bytes()[..], &[0xff; 64]].concat();
        assert!(frame(SEND_BLOCK, &block).ends_with(&[0x07, 0xea, 0x99, 0x03]));
    }
}
