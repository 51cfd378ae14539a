//! Katapult, the bootloader of most Klipper boards, over USB CDC or a UART.
//!
//! One block at a time: a device has room for one frame of 128 bytes and does not read while it erases, so that a
//! second frame sent ahead could be lost.

mod exchange;
pub mod frame;

use std::time::Duration;

use self::exchange::{Answer, Fault, Patience, Wire};
use self::frame::Command;
use super::{Bootloader, ProtoError, Protocol, TargetInfo};
use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::clock::Clock;
use crate::link::{ByteLink, LinkError};

/// The largest block whose SEND_BLOCK fits the 128 bytes that a device takes: 8 bytes are the frame, 4 the address.
const BLOCK_MAX: u32 = 116;
/// COMPLETE resets 100 ms after its acknowledgement.
const START: Patience = Patience { tries: 3, each: Duration::from_secs(1) };

/// Why there is no Katapult to be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The link failed.
    #[error("cannot connect to Katapult: {0}")]
    Link(#[from] LinkError),
    /// Not one byte came.
    #[error("no answer to Katapult's CONNECT within {} s", .after.as_secs())]
    Silent {
        /// How long it was waited for.
        after: Duration,
    },
    /// Klipper answers: the device is not in its bootloader.
    #[error("Klipper answers instead of Katapult")]
    Klipper,
    /// Something else answers, or at another speed.
    #[error("what answers is not Katapult at this speed (it begins with {bytes})")]
    Foreign {
        /// The first bytes, in hex.
        bytes: String,
    },
    /// Katapult's answer to CONNECT does not fit the protocol, or is one that kflash cannot work with.
    #[error("cannot connect to Katapult: {0}")]
    Malformed(String),
}

/// Whether the first packet to a Katapult of this USB product name gets stuck in the device, so that it must be a
/// throw-away one: STM32 with the USBFS peripheral, whose endpoints are double-buffered.
pub fn needs_priming(product: &str) -> bool {
    product.starts_with("stm32") && !["stm32f2", "stm32f4", "stm32h7"].iter().any(|otg| product.starts_with(otg))
}

/// A connected Katapult.
pub struct Katapult<'a> {
    wire: Wire<'a>,
    info: TargetInfo,
    app_start: u32,
    block: u32,
}

impl<'a> Katapult<'a> {
    /// Connects over `link`, which runs at Katapult's own speed. Sends the priming frame first if `prime` is set: see
    /// [`needs_priming`].
    ///
    /// CONNECT is sent five times, and waited for 2 s each time.
    pub fn connect(link: Box<dyn ByteLink + 'a>, clock: &'a dyn Clock, prime: bool) -> Result<Self, ConnectError> {
        let mut wire = Wire::new(link, clock);
        wire.expect_klipper(true);
        let connect = |wire: &mut Wire<'a>| {
            if prime {
                wire.prime()?;
            }
            match wire.exchange(Command::Connect, &[], &[], Patience::SHORT)? {
                Answer::Silence if wire.klipper_answers()? => Ok(Answer::Klipper),
                answer => Ok(answer),
            }
        };
        let answer = connect(&mut wire).map_err(|fault| match fault {
            Fault::Link(error) => ConnectError::Link(error),
            Fault::Malformed(what) => ConnectError::Malformed(what),
        })?;
        match answer {
            Answer::Done(words) => {
                let (app_start, block, info) = parse_connect(&words).map_err(ConnectError::Malformed)?;
                wire.expect_klipper(false);
                Ok(Self { wire, info, app_start, block })
            }
            Answer::Klipper => Err(ConnectError::Klipper),
            Answer::Refused { .. } | Answer::Silence if wire.heard.is_empty() => {
                Err(ConnectError::Silent { after: Patience::SHORT.whole() })
            }
            Answer::Refused { .. } | Answer::Silence => {
                let bytes = wire.heard.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
                Err(ConnectError::Foreign { bytes })
            }
        }
    }

    /// Gives the link back.
    pub fn into_link(self) -> Box<dyn ByteLink + 'a> {
        self.wire.link
    }

    fn send_block(&mut self, addr: u32, block: &[u8]) -> Result<(), ProtoError> {
        let doing = || format!("cannot write {}", FlashAddr(addr));
        let address = addr.to_le_bytes();
        let payload = [&address[..], block].concat();
        let answer = self.wire.exchange(Command::SendBlock, &payload, &address, Patience::BLOCK);
        match answer.map_err(|fault| failed(fault, doing()))? {
            Answer::Done(_) => Ok(()),
            // The first copy may have been written and the second refused: then the block is there.
            Answer::Refused { repeated: true } if self.request_block(addr)? == block => Ok(()),
            answer => Err(unanswered(&answer, doing(), Patience::BLOCK)),
        }
    }

    fn request_block(&mut self, addr: u32) -> Result<Vec<u8>, ProtoError> {
        let doing = || format!("cannot read {}", FlashAddr(addr));
        let address = addr.to_le_bytes();
        let answer = self.wire.exchange(Command::RequestBlock, &address, &address, Patience::SHORT);
        match answer.map_err(|fault| failed(fault, doing()))? {
            Answer::Done(data) if data.len() == self.block as usize => Ok(data),
            Answer::Done(data) => Err(ProtoError::Malformed {
                doing: doing(),
                what: format!("the block has {} bytes, not {}", data.len(), self.block),
            }),
            answer => Err(unanswered(&answer, doing(), Patience::SHORT)),
        }
    }

    /// How far `addr` lies behind the start of its block.
    fn in_block(&self, addr: u32) -> u32 {
        // A remainder by a block of at most 116 bytes.
        (i64::from(addr) - i64::from(self.app_start)).rem_euclid(i64::from(self.block)) as u32
    }
}

impl Bootloader for Katapult<'_> {
    fn info(&self) -> &TargetInfo {
        &self.info
    }

    fn read(&mut self, range: FlashRange, progress: &mut dyn FnMut(u32)) -> Result<Vec<u8>, ProtoError> {
        let start = range.start.0;
        let end = u64::from(start) + u64::from(range.size.0);
        let mut skip = self.in_block(start) as usize;
        let mut data = Vec::new();
        let mut addr = u64::from(start.saturating_sub(self.in_block(start)));
        while addr < end {
            let block = self.request_block(addr as u32)?;
            addr += u64::from(self.block);
            let wanted = block.len() - addr.saturating_sub(end) as usize;
            let part = block.get(skip..wanted).unwrap_or_default();
            skip = 0;
            data.extend(part);
            progress(part.len() as u32);
        }
        Ok(data)
    }

    /// Nothing to do: Katapult erases a page when its first block is written.
    fn erase(&mut self, _sector: FlashRange) -> Result<(), ProtoError> {
        Ok(())
    }

    fn write(&mut self, addr: FlashAddr, data: &[u8], progress: &mut dyn FnMut(u32)) -> Result<(), ProtoError> {
        let unsupported = |why: String| ProtoError::Unsupported { doing: format!("cannot write {addr}"), why };
        if addr.0 < self.app_start {
            let start = FlashAddr(self.app_start);
            return Err(unsupported(format!("Katapult writes nothing below the application's start, {start}")));
        }
        if self.in_block(addr.0) != 0 {
            return Err(unsupported(format!("it is not the start of a block of {} bytes", self.block)));
        }
        if u64::from(addr.0) + data.len() as u64 > 1 << 32 {
            return Err(unsupported(format!("{} bytes from there pass the end of the address space", data.len())));
        }
        let mut next = addr.0;
        for part in data.chunks(self.block as usize) {
            let mut block = part.to_vec();
            block.resize(self.block as usize, 0xFF);
            self.send_block(next, &block)?;
            next = next.wrapping_add(self.block);
            progress(part.len() as u32);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), ProtoError> {
        let doing = || "cannot end the writing".to_owned();
        let answer = self.wire.exchange(Command::Eof, &[], &[], Patience::SHORT);
        match answer.map_err(|fault| failed(fault, doing()))? {
            Answer::Done(_) => Ok(()),
            answer => Err(unanswered(&answer, doing(), Patience::SHORT)),
        }
    }

    /// Sends COMPLETE. Silence is no error: the acknowledgement is lost where the device leaves quickly, and only the
    /// application itself can prove that it runs.
    fn start(&mut self, addr: FlashAddr) -> Result<(), ProtoError> {
        let doing = || format!("cannot start the application at {addr}");
        if addr.0 != self.app_start {
            let why = format!("Katapult starts it at {} only", FlashAddr(self.app_start));
            return Err(ProtoError::Unsupported { doing: doing(), why });
        }
        self.wire.expect_klipper(true);
        match self.wire.exchange(Command::Complete, &[], &[], START) {
            Ok(Answer::Done(_) | Answer::Silence | Answer::Klipper) | Err(Fault::Link(LinkError::Gone)) => Ok(()),
            Ok(answer) => Err(unanswered(&answer, doing(), START)),
            Err(fault) => Err(failed(fault, doing())),
        }
    }
}

fn failed(fault: Fault, doing: String) -> ProtoError {
    match fault {
        Fault::Link(source) => ProtoError::Link { doing, source },
        Fault::Malformed(what) => ProtoError::Malformed { doing, what },
    }
}

/// The error for an answer that is no acknowledgement.
fn unanswered(answer: &Answer, doing: String, patience: Patience) -> ProtoError {
    match answer {
        Answer::Refused { .. } => ProtoError::Status {
            doing,
            status: "refused by Katapult (ERROR)".into(),
            // Katapult does not say why, and a chip that reads its own flash is not protected from itself.
            protected: false,
        },
        _ => ProtoError::Stuck { doing, after: patience.whole() },
    }
}

/// Start of the application, block size and the rest, from the answer to CONNECT behind its first word: protocol,
/// application start and block size as words, then the MCU's name, padded, and behind a zero word the version, which
/// protocol 1.0 does not have.
fn parse_connect(words: &[u8]) -> Result<(u32, u32, TargetInfo), String> {
    let word = |index: usize| Some(u32::from_le_bytes(words.get(4 * index..)?.first_chunk().copied()?));
    let (Some(protocol), Some(app_start), Some(block), Some(names)) = (word(0), word(1), word(2), words.get(12..))
    else {
        return Err(format!("its answer has {} bytes only", words.len()));
    };
    if protocol >> 16 != 1 {
        let [_, major, minor, patch] = protocol.to_be_bytes();
        return Err(format!("it speaks protocol {major}.{minor}.{patch}, kflash only 1.x"));
    }
    if block == 0 || block % 4 != 0 || block > BLOCK_MAX {
        return Err(format!("it asks for blocks of {block} bytes, which no frame of {} holds", frame::DEVICE_MAX));
    }
    let mut names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(|name| {
        let text = name.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
        text.then(|| String::from_utf8_lossy(name).into_owned()).ok_or("its answer holds a name that is not text")
    });
    let mcu = names.next().transpose()?;
    let version = names.next().transpose()?;
    let info = TargetInfo {
        protocol: Protocol::Katapult,
        version,
        mcu,
        app_start: Some(FlashAddr(app_start)),
        block_size: FlashSize(block),
        sectors: Vec::new(),
    };
    Ok((app_start, block, info))
}

#[cfg(test)]
mod tests;
