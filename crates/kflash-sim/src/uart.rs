//! A UART's two wires: ten bits for a byte, and garbage where the two ends disagree about the speed.

use std::collections::VecDeque;
use std::time::Duration;

/// What more than these waits unread is lost.
const MOST_BURSTS: usize = 4096;

/// Bytes on a wire: when the last of them has arrived, and the speed they were sent at.
#[derive(Debug)]
struct Burst {
    start: Duration,
    baud: u32,
    bytes: Vec<u8>,
    taken: usize,
}

/// One direction of a UART.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    bursts: VecDeque<Burst>,
    free: Duration,
}

impl Wire {
    /// Sends `bytes` as soon as the wire is free, not before `from`.
    pub(crate) fn send(&mut self, from: Duration, baud: u32, bytes: Vec<u8>) {
        if self.bursts.len() >= MOST_BURSTS {
            return;
        }
        let start = from.max(self.free);
        self.free = start + wire_time(baud, bytes.len());
        self.bursts.push_back(Burst { start, baud, bytes, taken: 0 });
    }

    /// When the next burst has arrived whole.
    pub(crate) fn next_whole(&self) -> Option<Duration> {
        self.bursts.front().map(|burst| burst.start + wire_time(burst.baud, burst.bytes.len()))
    }

    /// When the next byte arrives.
    pub(crate) fn next_byte(&self) -> Option<Duration> {
        self.bursts.front().map(|burst| burst.start + wire_time(burst.baud, burst.taken + 1))
    }

    /// The next burst if it has arrived whole by `now`, as a receiver at `baud` sees it.
    pub(crate) fn take_whole(&mut self, now: Duration, baud: u32) -> Option<(Duration, Vec<u8>)> {
        let arrived = self.next_whole().filter(|arrived| *arrived <= now)?;
        let burst = self.bursts.pop_front()?;
        Some((arrived, seen(&burst.bytes, burst.baud, baud)))
    }

    /// Every byte that has arrived by `now`, as a receiver at `baud` sees it.
    pub(crate) fn take_bytes(&mut self, now: Duration, baud: u32) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(burst) = self.bursts.front_mut() {
            let elapsed = now.saturating_sub(burst.start).as_nanos();
            let arrived = (elapsed * u128::from(burst.baud) / 10_000_000_000) as usize;
            let until = arrived.min(burst.bytes.len());
            if until > burst.taken {
                out.extend(seen(&burst.bytes[burst.taken..until], burst.baud, baud));
                burst.taken = until;
            }
            if burst.taken < burst.bytes.len() {
                break;
            }
            self.bursts.pop_front();
        }
        out
    }

    /// The sender stops: what has not left yet never will.
    pub(crate) fn cut(&mut self, now: Duration) {
        self.bursts.retain_mut(|burst| {
            let elapsed = now.saturating_sub(burst.start).as_nanos();
            burst.bytes.truncate((elapsed * u128::from(burst.baud) / 10_000_000_000) as usize);
            burst.bytes.len() > burst.taken
        });
        self.free = self.free.min(now);
    }
}

/// The time that `count` bytes take, rounded up so that a byte is never there before its last bit.
pub(crate) fn wire_time(baud: u32, count: usize) -> Duration {
    let nanos = (count as u64 * 10_000_000_000).div_ceil(u64::from(baud.max(1)));
    Duration::from_nanos(nanos)
}

/// A UART tolerates some 3 % of difference; beyond it samples the wrong bits.
fn seen(bytes: &[u8], sent: u32, received: u32) -> Vec<u8> {
    if u64::from(sent.abs_diff(received)) * 33 <= u64::from(sent) {
        return bytes.to_vec();
    }
    bytes.iter().map(|byte| byte.reverse_bits() ^ 0x5a | 0x80).collect()
}
