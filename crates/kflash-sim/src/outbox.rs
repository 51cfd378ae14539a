//! Bytes that a model has sent, and when each part of them is ready.

use std::collections::VecDeque;
use std::time::Duration;

/// More than this waits for no host: a transmit buffer is small, and what does not fit is lost.
const ROOM: usize = 4096;

/// What waits to be sent to the host.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    parts: VecDeque<(Duration, Vec<u8>)>,
    waiting: usize,
}

impl Outbox {
    pub(crate) fn send(&mut self, ready: Duration, bytes: Vec<u8>) {
        if self.waiting + bytes.len() <= ROOM {
            self.waiting += bytes.len();
            self.parts.push_back((ready, bytes));
        }
    }

    /// When the first part is ready.
    pub(crate) fn ready(&self) -> Option<Duration> {
        self.parts.front().map(|(ready, _)| *ready)
    }

    /// Up to `max` bytes that are ready by `now`; `None` if there are none.
    pub(crate) fn take(&mut self, now: Duration, max: usize) -> Option<Vec<u8>> {
        let mut taken = Vec::new();
        while let Some((ready, bytes)) = self.parts.front_mut() {
            if *ready > now || taken.len() >= max {
                break;
            }
            let count = bytes.len().min(max - taken.len());
            taken.extend(bytes.drain(..count));
            if bytes.is_empty() {
                self.parts.pop_front();
            }
        }
        self.waiting -= taken.len();
        (!taken.is_empty()).then_some(taken)
    }

    /// The first part with its time.
    pub(crate) fn pop(&mut self) -> Option<(Duration, Vec<u8>)> {
        let part = self.parts.pop_front()?;
        self.waiting -= part.1.len();
        Some(part)
    }
}
