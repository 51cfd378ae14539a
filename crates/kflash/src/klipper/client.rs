//! A conversation with running Klipper firmware.

use std::time::Duration;

use super::dictionary::{Dictionary, DictionaryError};
use super::{frame, vlq};
use crate::clock::Clock;
use crate::link::{ByteLink, LinkError};

/// `identify offset=%u count=%c` and `identify_response offset=%u data=%.*s`: the two ids that hold before a
/// dictionary is known.
const IDENTIFY: i64 = 1;
const IDENTIFY_RESPONSE: i64 = 0;
/// Bytes of the dictionary asked for at once, as Klipper's own host does: the answer then fits one block.
const CHUNK: u8 = 40;
/// More than any firmware's compressed dictionary: their JSON is below 64 KiB.
const DICTIONARY_MAX: usize = 64 << 10;
/// How long a whole dictionary may take: ten times what 200 answers need at 115200 baud through a slow adapter.
const DICTIONARY_LIMIT: Duration = Duration::from_secs(40);
/// How long one answer may take once the firmware has been heard.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How long a block stays unanswered before it is sent again; doubled each time up to the second.
const RESEND_FIRST: Duration = Duration::from_millis(25);
const RESEND_LAST: Duration = Duration::from_secs(1);
/// How long the line must be quiet before a command that has no answer.
const QUIET: Duration = Duration::from_millis(20);
/// How long a refusal of the `reset` command may take to arrive.
const RESET_REFUSED: Duration = Duration::from_millis(100);
/// Changes of sequence number during one request that still pass for honest: one on attaching, one if the firmware
/// restarts meanwhile, and as many again for a line that garbles.
const ADOPTIONS_MAX: u32 = 16;
/// Bytes during one request, answered or not, above which the peer is no Klipper.
const NOISE_MAX: usize = 64 << 10;

/// Why running firmware could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum KlipperError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Not one byte came.
    #[error("no answer to Klipper's identify within {} ms", .after.as_millis())]
    Silent {
        /// How long it was waited for.
        after: Duration,
    },
    /// Bytes came, but no block: another program, or another speed.
    #[error("what answers is not Klipper at this speed (it begins with {bytes})")]
    NotKlipper {
        /// The first of them, in hex.
        bytes: String,
    },
    /// Klipper answers, but not to this.
    #[error("{doing}: no answer within {} ms", .after.as_millis())]
    Stuck {
        /// What was asked: `cannot read the dictionary at offset 40`.
        doing: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The answers do not fit the protocol.
    #[error("{doing}: {what}")]
    Malformed {
        /// What was asked.
        doing: String,
        /// What was wrong.
        what: String,
    },
    /// The dictionary was read but cannot be understood.
    #[error("the dictionary of the running firmware: {0}")]
    Dictionary(#[from] DictionaryError),
    /// The firmware was built without a command, response or constant.
    #[error("the running firmware has no {format:?}")]
    Missing {
        /// The format of the command or response, or the constant's name, as in the dictionary.
        format: &'static str,
    },
}

/// Running firmware whose dictionary has been read.
pub struct Client<'a> {
    session: Session<'a>,
    dictionary: Dictionary,
}

impl<'a> Client<'a> {
    /// Reads the dictionary of the firmware behind `link`, whatever sequence number it has arrived at. `limit` is for
    /// its first answer; a whole dictionary takes up to 40 s on top. Other blocks that the firmware sends are ignored.
    pub fn connect(link: Box<dyn ByteLink + 'a>, clock: &'a dyn Clock, limit: Duration) -> Result<Self, KlipperError> {
        // A fresh MCU expects 0 and refuses this 1, as it does with Klipper's own host.
        let mut session = Session { link, clock, decoder: frame::Decoder::default(), sequence: 1, heard: false };
        let dictionary = Dictionary::from_zlib(&session.dictionary(limit)?)?;
        Ok(Self { session, dictionary })
    }

    /// The dictionary.
    pub fn dictionary(&self) -> &Dictionary {
        &self.dictionary
    }

    /// Reads memory at `addr`: 8, 16 or 32 bits for `order` 0, 1 or 2. Works in the shutdown state, too. An address
    /// that the chip does not map makes it fault and stop answering.
    pub fn debug_read(&mut self, order: u8, addr: u32) -> Result<u32, KlipperError> {
        let doing = format!("cannot read memory at {addr:#010x}");
        let response = id(&self.dictionary.responses, "debug_result val=%u")?;
        let mut content = Vec::new();
        vlq::put(id(&self.dictionary.commands, "debug_read order=%c addr=%u")?, &mut content);
        vlq::put(i64::from(order), &mut content);
        vlq::put(i64::from(addr), &mut content);
        self.session.request(&content, &doing, ANSWER_LIMIT, |message| {
            let (value, _) = vlq::take(message.strip_prefix_id(response)?)?;
            // %u may be sent as a negative number: its low 32 bits are the value.
            Some(value as u32)
        })
    }

    /// How long the firmware has been running, by its own clock (Klipper `src/basecmd.c`, `get_uptime`). Works in the
    /// shutdown state, too. Chips count from 0 at each start; the process on Linux does not.
    pub fn uptime(&mut self) -> Result<Duration, KlipperError> {
        let response = id(&self.dictionary.responses, "uptime high=%u clock=%u")?;
        let freq = self.dictionary.clock_freq().filter(|freq| *freq > 0);
        let freq = freq.ok_or(KlipperError::Missing { format: "CLOCK_FREQ" })?;
        let mut content = Vec::new();
        vlq::put(id(&self.dictionary.commands, "get_uptime")?, &mut content);
        let ticks = self.session.request(&content, "cannot read the uptime", ANSWER_LIMIT, |message| {
            let (high, rest) = vlq::take(message.strip_prefix_id(response)?)?;
            let (clock, _) = vlq::take(rest)?;
            // %u may be sent as a negative number: its low 32 bits are the value.
            Some(u64::from(high as u32) << 32 | u64::from(clock as u32))
        })?;
        let nanos = u128::from(ticks % freq) * 1_000_000_000 / u128::from(freq);
        Ok(Duration::new(ticks / freq, nanos as u32))
    }

    /// Resets the chip. The firmware does so within the command, without an acknowledgement, so that the device leaves
    /// or falls silent: only a refusal is noticed, and answered by sending again.
    pub fn reset(&mut self) -> Result<(), KlipperError> {
        let mut content = Vec::new();
        vlq::put(id(&self.dictionary.commands, "reset")?, &mut content);
        match self.session.command(&content, "cannot reset") {
            Err(KlipperError::Link(LinkError::Gone)) => Ok(()),
            result => result,
        }
    }

    /// Gives the link back.
    pub fn into_link(self) -> Box<dyn ByteLink + 'a> {
        self.session.link
    }
}

fn id(ids: &std::collections::BTreeMap<String, i64>, format: &'static str) -> Result<i64, KlipperError> {
    ids.get(format).copied().ok_or(KlipperError::Missing { format })
}

/// A message, as it lies in the content of a block.
trait Message {
    /// What follows the id, where the id is `id`.
    fn strip_prefix_id(&self, id: i64) -> Option<&[u8]>;
}

impl Message for [u8] {
    fn strip_prefix_id(&self, id: i64) -> Option<&[u8]> {
        vlq::take(self).and_then(|(found, rest)| (found == id).then_some(rest))
    }
}

/// Blocks and their sequence numbers.
struct Session<'a> {
    link: Box<dyn ByteLink + 'a>,
    clock: &'a dyn Clock,
    decoder: frame::Decoder,
    /// What the firmware expects next, as far as it has told.
    sequence: u8,
    /// Whether a block has ever come.
    heard: bool,
}

impl Session<'_> {
    fn dictionary(&mut self, limit: Duration) -> Result<Vec<u8>, KlipperError> {
        let mut dictionary = Vec::new();
        let mut limit = limit;
        let start = self.clock.now();
        loop {
            let offset = i64::from(dictionary.len() as u32);
            let doing = format!("cannot read the dictionary at offset {offset}");
            let malformed = |what: String| KlipperError::Malformed { doing: doing.clone(), what };
            let mut content = Vec::new();
            for value in [IDENTIFY, offset, i64::from(CHUNK)] {
                vlq::put(value, &mut content);
            }
            let data = self.request(&content, &doing, limit, |message| {
                let (found, rest) = vlq::take(message.strip_prefix_id(IDENTIFY_RESPONSE)?)?;
                let (data, _) = vlq::take_bytes(rest)?;
                (found == offset).then(|| data.to_vec())
            })?;
            if data.is_empty() {
                return Ok(dictionary);
            }
            if data.len() > usize::from(CHUNK) {
                return Err(malformed(format!("{} bytes came where {CHUNK} were asked for", data.len())));
            }
            dictionary.extend(data);
            if dictionary.len() > DICTIONARY_MAX {
                return Err(malformed(format!("it does not end within {DICTIONARY_MAX} bytes")));
            }
            if offset == 0 {
                limit = ANSWER_LIMIT;
            } else if self.clock.now().saturating_sub(start) > DICTIONARY_LIMIT + limit {
                return Err(malformed(format!("it does not end within {} s", DICTIONARY_LIMIT.as_secs())));
            }
        }
    }

    /// Sends one message and waits up to `limit` for the answer that `accept` knows.
    ///
    /// An empty block says which sequence number the firmware expects; it is an acknowledgement and a refusal alike.
    /// The number just sent may mean "garbled, again" or be the late acknowledgement of the message before, which
    /// comes after its answer; taking the latter for the former floods the firmware. So only time makes it be sent
    /// again, and only a number that fits neither makes it be sent at once, under that number.
    fn request<T>(
        &mut self,
        content: &[u8],
        doing: &str,
        limit: Duration,
        accept: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T, KlipperError> {
        let deadline = self.clock.now() + limit;
        let mut acknowledged = false;
        let mut adoptions = 0;
        let mut wait = RESEND_FIRST;
        let mut noise = Noise::default();
        self.send(content, doing)?;
        let mut resend = self.clock.now() + wait;
        let mut last_byte = self.clock.now();
        loop {
            while let Some(block) = self.decoder.pop() {
                self.heard = true;
                if !block.content.is_empty() {
                    if let Some(answer) = accept(&block.content) {
                        self.sequence = block.sequence;
                        return Ok(answer);
                    }
                } else if block.sequence == following(self.sequence) {
                    acknowledged = true;
                } else if block.sequence != self.sequence {
                    adoptions += 1;
                    if adoptions > ADOPTIONS_MAX {
                        let what = "the firmware expects another sequence number each time".into();
                        return Err(KlipperError::Malformed { doing: doing.into(), what });
                    }
                    self.sequence = block.sequence;
                    acknowledged = false;
                    self.send(content, doing)?;
                    resend = self.clock.now() + wait;
                }
            }
            let now = self.clock.now();
            if now >= deadline {
                return Err(match (self.heard, noise.first.is_empty()) {
                    (true, _) => KlipperError::Stuck { doing: doing.into(), after: limit },
                    (false, true) => KlipperError::Silent { after: limit },
                    (false, false) => KlipperError::NotKlipper { bytes: noise.hex() },
                });
            }
            if now >= resend {
                if now.saturating_sub(last_byte) >= RESEND_FIRST && !self.decoder.is_empty() {
                    self.decoder.end();
                    continue;
                }
                // Acknowledged but not answered: the answer was garbled, or the firmware happened to expect the
                // following number all along and this was its refusal. Either way it now takes the following number.
                if std::mem::take(&mut acknowledged) {
                    self.sequence = following(self.sequence);
                }
                self.send(content, doing)?;
                wait = (wait * 2).min(RESEND_LAST);
                resend = now + wait;
            }
            let bytes = self.receive(resend.min(deadline).saturating_sub(now))?;
            if !bytes.is_empty() {
                last_byte = self.clock.now();
            }
            noise.add(bytes);
            if noise.count > NOISE_MAX {
                return Err(if self.heard {
                    let what = format!("{NOISE_MAX} bytes came without an answer among them");
                    KlipperError::Malformed { doing: doing.into(), what }
                } else {
                    KlipperError::NotKlipper { bytes: noise.hex() }
                });
            }
        }
    }

    /// Sends a message that has no answer, and again for each refusal that comes.
    fn command(&mut self, content: &[u8], doing: &str) -> Result<(), KlipperError> {
        // Late acknowledgements must be in before, or they would look like refusals.
        self.refused(QUIET, false)?;
        for _ in 0..ADOPTIONS_MAX {
            self.send(content, doing)?;
            if !self.refused(RESET_REFUSED, true)? {
                return Ok(());
            }
        }
        Err(KlipperError::Malformed { doing: doing.into(), what: "the firmware refuses every block".into() })
    }

    /// Listens for `time`, or until an empty block tells that the last block was not taken if `stop` is set. Goes by
    /// the sequence numbers that it hears.
    fn refused(&mut self, time: Duration, stop: bool) -> Result<bool, KlipperError> {
        let deadline = self.clock.now() + time;
        let mut count = 0;
        loop {
            while let Some(block) = self.decoder.pop() {
                if block.content.is_empty() {
                    let taken = block.sequence == following(self.sequence);
                    self.sequence = block.sequence;
                    if stop {
                        return Ok(!taken);
                    }
                }
            }
            let left = deadline.saturating_sub(self.clock.now());
            if left.is_zero() || count > NOISE_MAX {
                return Ok(false);
            }
            count += self.receive(left)?.len();
        }
    }

    fn send(&mut self, content: &[u8], doing: &str) -> Result<(), KlipperError> {
        let block = frame::encode(self.sequence, content).ok_or_else(|| KlipperError::Malformed {
            doing: doing.into(),
            what: "the message does not fit a block".into(),
        })?;
        Ok(self.link.write(&block)?)
    }

    /// Reads once and hands what came to the decoder.
    fn receive(&mut self, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let mut bytes = [0; 256];
        let count = self.link.read(&mut bytes, timeout)?;
        self.decoder.push(&bytes[..count]);
        Ok(bytes[..count].to_vec())
    }
}

fn following(sequence: u8) -> u8 {
    (sequence + 1) & 0x0F
}

/// What came during one request.
#[derive(Default)]
struct Noise {
    first: Vec<u8>,
    count: usize,
}

impl Noise {
    fn add(&mut self, bytes: Vec<u8>) {
        self.count += bytes.len();
        self.first.extend(bytes.into_iter().take(16 - self.first.len()));
    }

    fn hex(&self) -> String {
        self.first.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests;
