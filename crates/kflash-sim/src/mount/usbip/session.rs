//! One attached host: its URBs, from submission to answer.

use std::io::{self, Write};
use std::time::Duration;

use kflash::link::Setup;

use super::wire::{self, Request, Urb};
use crate::board::Control;
use crate::mount::peripheral::Peripheral;

/// A host that a device is attached to, over `stream`.
pub struct Session<S> {
    stream: S,
    devid: u32,
    /// In the order in which they came: the default pipe carries one request after the other.
    pending: Vec<Pending>,
}

/// A URB that waits for its answer.
struct Pending {
    urb: Urb,
    state: State,
}

enum State {
    /// The device was not asked yet, or answers NAK.
    Waiting,
    /// The device has taken the request and holds its answer back until then.
    Held(Duration, Vec<u8>),
    /// The device left the bus with it.
    Lost,
}

/// More URBs than any driver keeps in flight.
const MAX_PENDING: usize = 256;

impl<S: Write> Session<S> {
    /// A session on the device that the host calls `devid`.
    pub fn new(stream: S, devid: u32) -> Self {
        Self { stream, devid, pending: Vec::new() }
    }

    /// The stream to the host.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Takes a request. An error ends the session.
    pub fn take(&mut self, live: &mut impl Peripheral, request: Request) -> io::Result<()> {
        match request {
            Request::Submit(urb) if urb.devid != self.devid => Err(foreign(urb.devid)),
            Request::Unlink { devid, .. } if devid != self.devid => Err(foreign(devid)),
            Request::Submit(_) if self.pending.len() >= MAX_PENDING => {
                Err(io::Error::other("the host has too many URBs in flight"))
            }
            Request::Submit(urb) => {
                self.pending.push(Pending { urb, state: State::Waiting });
                self.follow(live).map(|_| ())
            }
            Request::Unlink { seqnum, victim, .. } => {
                let before = self.pending.len();
                self.pending.retain(|pending| pending.urb.seqnum != victim);
                // An answer that is on its way already is left standing, and the unlinking says so.
                let status = if self.pending.len() < before { wire::UNLINKED } else { 0 };
                self.stream.write_all(&wire::ret_unlink(seqnum, status))
            }
        }
    }

    /// Answers every URB that can be answered. Returns when the next one can, where that is known.
    pub fn follow(&mut self, live: &mut impl Peripheral) -> io::Result<Option<Duration>> {
        let mut due: Option<Duration> = None;
        let mut blocked = Vec::new();
        let mut answers = Vec::new();
        self.pending.retain_mut(|pending| {
            let pipe = (pending.urb.endpoint, pending.urb.direction_in && pending.urb.endpoint != 0);
            if blocked.contains(&pipe) {
                return true;
            }
            match pending.advance(live) {
                Ok(answer) => {
                    answers.extend(answer);
                    false
                }
                Err(at) => {
                    blocked.push(pipe);
                    due = [due, at].into_iter().flatten().min();
                    true
                }
            }
        });
        if !answers.is_empty() {
            self.stream.write_all(&answers)?;
        }
        Ok(due)
    }
}

impl Pending {
    /// Gives the answer, or says when to ask again, where that is known.
    fn advance(&mut self, live: &mut impl Peripheral) -> Result<Vec<u8>, Option<Duration>> {
        match &mut self.state {
            State::Lost => Err(None),
            State::Held(until, answer) if *until <= live.now() => Ok(std::mem::take(answer)),
            State::Held(until, _) => Err(Some(*until)),
            State::Waiting => self.ask(live),
        }
    }

    fn ask(&mut self, live: &mut impl Peripheral) -> Result<Vec<u8>, Option<Duration>> {
        let urb = &self.urb;
        let stall = || wire::ret_submit(urb.seqnum, wire::STALLED, 0, &[]);
        let sent = || wire::ret_submit(urb.seqnum, 0, urb.data.len() as u32, &[]);
        let now = live.now();
        if urb.endpoint == 0 {
            let [request_type, request, value_low, value_high, index_low, index_high, length_low, length_high] =
                urb.setup;
            let setup = Setup {
                request_type,
                request,
                value: u16::from_le_bytes([value_low, value_high]),
                index: u16::from_le_bytes([index_low, index_high]),
            };
            if (request_type, request) == SET_ADDRESS {
                return Ok(sent());
            }
            let length = u16::from_le_bytes([length_low, length_high]);
            let (held, answer) = match live.control(setup, &urb.data, length) {
                Control::Stall => return Ok(stall()),
                Control::Vanished => {
                    self.state = State::Lost;
                    return Err(None);
                }
                Control::Done { data, held } if request_type & 0x80 != 0 => (held, received(urb, &data)),
                Control::Done { held, .. } => (held, sent()),
            };
            if held.is_zero() {
                return Ok(answer);
            }
            self.state = State::Held(now + held, answer);
            return Err(Some(now + held));
        }
        if urb.direction_in {
            let data = live.bulk_in(urb.endpoint | 0x80, urb.length as usize).ok_or(None)?;
            return Ok(received(urb, &data));
        }
        Ok(if live.bulk_out(urb.endpoint, &urb.data) { sent() } else { stall() })
    }
}

/// The address of a device is the business of the bus, which USB/IP is.
const SET_ADDRESS: (u8, u8) = (0x00, 5);

fn received(urb: &Urb, data: &[u8]) -> Vec<u8> {
    match data.get(..urb.length as usize) {
        Some(fitting) if fitting.len() < data.len() => {
            wire::ret_submit(urb.seqnum, wire::OVERFLOW, fitting.len() as u32, fitting)
        }
        _ => wire::ret_submit(urb.seqnum, 0, data.len() as u32, data),
    }
}

fn foreign(devid: u32) -> io::Error {
    io::Error::other(format!("a request for device {devid:#x}, which is not the one attached"))
}
