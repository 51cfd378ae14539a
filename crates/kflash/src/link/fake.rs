//! A byte link for tests, whose far end is a closure and whose time is virtual.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use super::{ByteLink, LinkError};
use crate::clock::Clock;

/// A clock that only waiting moves.
#[derive(Default)]
pub(crate) struct FakeClock(Mutex<Duration>);

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}

/// What a far end does upon a write: bytes that arrive so much later, in order. An error ends the link there.
pub(crate) type Answers = Vec<(Duration, Result<Vec<u8>, LinkError>)>;

/// A link that hands each write to `device`.
pub(crate) struct FakeLink<'a, F> {
    clock: &'a FakeClock,
    device: F,
    arriving: VecDeque<(Duration, Result<Vec<u8>, LinkError>)>,
    log: &'a Mutex<Vec<(Duration, String)>>,
}

impl<'a, F: FnMut(&[u8]) -> Answers + Send> FakeLink<'a, F> {
    /// `log` gets what the driver did, with times: writes in hex.
    pub(crate) fn new(clock: &'a FakeClock, log: &'a Mutex<Vec<(Duration, String)>>, device: F) -> Self {
        Self { clock, device, arriving: VecDeque::new(), log }
    }

    fn note(&self, what: String) {
        self.log.lock().unwrap().push((self.clock.now(), what));
    }
}

impl<F: FnMut(&[u8]) -> Answers + Send> ByteLink for FakeLink<'_, F> {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        let now = self.clock.now();
        match self.arriving.front_mut() {
            Some((due, _)) if *due > now + timeout => {}
            None => {}
            Some((due, what)) => {
                self.clock.sleep(due.saturating_sub(now));
                match what {
                    Err(_) => return self.arriving.pop_front().map_or(Ok(0), |(_, error)| error.map(|_| 0)),
                    Ok(bytes) => {
                        let count = bytes.len().min(buf.len());
                        buf[..count].copy_from_slice(&bytes[..count]);
                        bytes.drain(..count);
                        if bytes.is_empty() {
                            self.arriving.pop_front();
                        }
                        return Ok(count);
                    }
                }
            }
        }
        self.clock.sleep(timeout);
        Ok(0)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        self.note(hex(data));
        let now = self.clock.now();
        let answers = (self.device)(data);
        self.arriving.extend(answers.into_iter().map(|(later, what)| (now + later, what)));
        Ok(())
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.note(format!("{baud} baud"));
        Ok(())
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.note(format!("DTR {on}"));
        Ok(())
    }
}

/// `08 11 01`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The bytes of `08 11 01`.
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// One answer, a millisecond later.
pub(crate) fn soon(bytes: Vec<u8>) -> Answers {
    vec![(Duration::from_millis(1), Ok(bytes))]
}

/// What was logged, without times.
pub(crate) fn logged(log: &Mutex<Vec<(Duration, String)>>) -> Vec<String> {
    log.lock().unwrap().iter().map(|(_, what)| what.clone()).collect()
}
