//! One command and its answer: what is sent again, when, and what is not.

use std::time::Duration;

use super::frame::{self, Command, Decoder, Event};
use crate::clock::Clock;
use crate::klipper;
use crate::link::{ByteLink, LinkError};

/// How often a command is sent and how long each answer may take. The figures are those of Katapult's own host
/// program.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub tries: u32,
    pub each: Duration,
}

impl Patience {
    /// For commands that wait for nothing.
    pub(super) const SHORT: Self = Self { tries: 5, each: Duration::from_secs(2) };
    /// For blocks, whose page may have to be erased first: three rounds of three.
    pub(super) const BLOCK: Self = Self { tries: 9, each: Duration::from_secs(5) };

    /// The longest that all tries take in silence.
    pub(super) fn whole(self) -> Duration {
        (self.each + DRAIN + PAUSE) * self.tries
    }
}

/// After silence: what still comes is thrown away for so long...
const DRAIN: Duration = Duration::from_millis(250);
/// ... and so long is waited before the next try.
const PAUSE: Duration = Duration::from_millis(500);
/// A run that was cut off may have left the front of a frame in the device, which swallows what comes until the frame is
/// full. Holds no `01`, where it looks for the next one.
pub(super) const FILLER: [u8; 128] = [0; 128];
/// No answer takes a break of this length; after broken bytes the rest has arrived by then.
const GAP: Duration = Duration::from_millis(250);
/// How long Katapult is still waited for after Klipper was heard: the last words of the firmware that was just left.
const AFTER_KLIPPER: Duration = Duration::from_millis(500);
/// Bytes during one try above which the peer is no Katapult. The longest answer has 1028.
const NOISE_MAX: usize = 64 << 10;

/// How an exchange ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Acknowledged: what follows the echo of the command.
    Done(Vec<u8>),
    /// Refused. `repeated`: the device may have carried out an earlier try whose acknowledgement was lost.
    Refused { repeated: bool },
    /// Nothing that counts.
    Silence,
    /// Klipper answers instead.
    Klipper,
}

/// Why an exchange failed.
#[derive(Debug)]
pub(super) enum Fault {
    Link(LinkError),
    Malformed(String),
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

/// What came of one try.
enum Heard {
    Done(Vec<u8>),
    Refused {
        repeated: bool,
    },
    /// The command or its answer was garbled.
    Garbled,
    Klipper,
    Silence,
}

pub(super) struct Wire<'a> {
    pub link: Box<dyn ByteLink + 'a>,
    pub clock: &'a dyn Clock,
    decoder: Decoder,
    /// Looks for Klipper's blocks where they can be expected: at the start and at the end.
    klipper: Option<klipper::frame::Decoder>,
    /// The first bytes that were heard while looking for Klipper.
    pub heard: Vec<u8>,
}

impl<'a> Wire<'a> {
    pub(super) fn new(link: Box<dyn ByteLink + 'a>, clock: &'a dyn Clock) -> Self {
        Self { link, clock, decoder: Decoder::default(), klipper: None, heard: Vec::new() }
    }

    /// Whether blocks of Klipper count from now on.
    pub(super) fn expect_klipper(&mut self, yes: bool) {
        self.klipper = yes.then(klipper::frame::Decoder::default);
    }

    /// Sends a command whose answer must begin with the command's word and `echo`.
    ///
    /// A NACK or a broken answer means that one of the two was garbled: it is sent again as soon as the line is quiet.
    /// After silence, the host waits as Katapult's own does. An ERROR is the device's last word: a block that the flash
    /// refused is refused again, and is not sent again. Sending a block again that was written is harmless: Katapult
    /// takes an identical block for a retransmission.
    pub(super) fn exchange(
        &mut self,
        command: Command,
        payload: &[u8],
        echo: &[u8],
        patience: Patience,
    ) -> Result<Answer, Fault> {
        let frame = frame::encode(command, payload)
            .ok_or_else(|| Fault::Malformed(format!("{} bytes do not fit a frame", payload.len())))?;
        let mut seen_klipper = 0;
        for attempt in 0..patience.tries {
            self.link.write(&frame)?;
            match self.listen(command, echo, patience.each)? {
                Heard::Done(rest) => return Ok(Answer::Done(rest)),
                Heard::Refused { repeated } => return Ok(Answer::Refused { repeated: repeated || attempt > 0 }),
                Heard::Garbled => {}
                Heard::Klipper => {
                    seen_klipper += 1;
                    if seen_klipper == 2 {
                        return Ok(Answer::Klipper);
                    }
                }
                Heard::Silence => {
                    self.settle()?;
                    if command == Command::Connect {
                        self.link.write(&FILLER)?;
                    }
                }
            }
            self.decoder.clear();
        }
        Ok(Answer::Silence)
    }

    /// Sends the frame that wakes a device on which the first packet gets stuck (`super::needs_priming`). Others answer
    /// ERROR, which is thrown away.
    pub(super) fn prime(&mut self) -> Result<(), Fault> {
        if let Some(frame) = frame::encode(Command::Prime, &[]) {
            self.link.write(&frame)?;
        }
        self.discard(DRAIN)
    }

    /// Whether Klipper answers its own `identify`.
    pub(super) fn klipper_answers(&mut self) -> Result<bool, Fault> {
        // What was sent so far has left Klipper waiting for a 7e.
        let identify = klipper::frame::encode(0, &[1, 0, 40]).unwrap_or_default();
        self.link.write(&[klipper::frame::SYNC])?;
        self.link.write(&identify)?;
        let deadline = self.clock.now() + AFTER_KLIPPER;
        let mut count = 0;
        loop {
            if self.klipper.as_mut().is_some_and(|decoder| decoder.pop().is_some()) {
                return Ok(true);
            }
            let left = deadline.saturating_sub(self.clock.now());
            if left.is_zero() || count > NOISE_MAX {
                return Ok(false);
            }
            count += self.receive(left)?;
        }
    }

    fn listen(&mut self, command: Command, echo: &[u8], each: Duration) -> Result<Heard, Fault> {
        let mut deadline = self.clock.now() + each;
        let (mut garbled, mut klipper) = (false, false);
        let mut count = 0;
        loop {
            while let Some(event) = self.decoder.pop() {
                let now = self.clock.now();
                match event {
                    Event::Frame(frame) if frame.code == frame::ACK => {
                        let Some(rest) = frame.payload.strip_prefix(&[command as u8, 0, 0, 0][..]) else { continue };
                        if rest.len() < echo.len() {
                            return Err(Fault::Malformed("the acknowledgement names no address".into()));
                        }
                        // Another address: the acknowledgement of a block that was sent twice.
                        if let Some(rest) = rest.strip_prefix(echo) {
                            return Ok(Heard::Done(rest.to_vec()));
                        }
                    }
                    // CONNECT is never refused: this is the answer to the priming frame, or to a run before this one.
                    Event::Frame(frame) if frame.code == frame::ERROR && command != Command::Connect => {
                        return Ok(Heard::Refused { repeated: garbled });
                    }
                    // The acknowledgement may still follow: the NACK may be for the rest of a frame sent before.
                    Event::Frame(frame::Frame { code: frame::NACK, .. }) | Event::Broken => {
                        garbled = true;
                        deadline = deadline.min(now + GAP);
                    }
                    // BUSY among them: the deadline stands.
                    Event::Frame(_) => {}
                }
            }
            if !klipper && self.klipper.as_mut().is_some_and(|decoder| decoder.pop().is_some()) {
                klipper = true;
                deadline = deadline.min(self.clock.now() + AFTER_KLIPPER);
            }
            let left = deadline.saturating_sub(self.clock.now());
            if left.is_zero() {
                return Ok(if klipper {
                    Heard::Klipper
                } else if garbled {
                    Heard::Garbled
                } else {
                    Heard::Silence
                });
            }
            if self.decoder.is_empty() {
                count += self.receive(left)?;
            } else {
                // A frame has begun: if it stops in the middle, its length was garbled or bytes were lost.
                let more = self.receive(left.min(GAP))?;
                if more == 0 {
                    self.decoder.clear();
                    garbled = true;
                    deadline = self.clock.now();
                }
                count += more;
            }
            if count > NOISE_MAX {
                return Err(Fault::Malformed(format!("{NOISE_MAX} bytes came without an answer among them")));
            }
        }
    }

    fn settle(&mut self) -> Result<(), Fault> {
        self.discard(DRAIN)?;
        self.clock.sleep(PAUSE);
        Ok(())
    }

    /// Throws away what arrives within `time`.
    fn discard(&mut self, time: Duration) -> Result<(), Fault> {
        let deadline = self.clock.now() + time;
        let mut count = 0;
        loop {
            let left = deadline.saturating_sub(self.clock.now());
            if left.is_zero() || count > NOISE_MAX {
                self.decoder.clear();
                return Ok(());
            }
            count += self.receive(left)?;
        }
    }

    /// Reads once and hands what came to the decoders.
    fn receive(&mut self, timeout: Duration) -> Result<usize, LinkError> {
        let mut bytes = [0; 1024];
        let count = self.link.read(&mut bytes, timeout)?;
        self.decoder.push(&bytes[..count]);
        if let Some(klipper) = &mut self.klipper {
            klipper.push(&bytes[..count]);
            self.heard.extend(&bytes[..count.min(16 - self.heard.len())]);
        }
        Ok(count)
    }
}
