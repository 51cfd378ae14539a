//! How long a busy device is waited for: by its own word, but never without end.

use std::time::Duration;

use super::doing::Doing;
use crate::clock::Clock;
use crate::proto::ProtoError;

/// The longest wait for one operation. A mass erase takes up to 35 s.
const LIMIT: Duration = Duration::from_secs(40);
/// The longest wait between two polls: `bwPollTimeout` can name 4.6 hours.
const LONGEST_POLL: Duration = Duration::from_secs(5);
/// Answers in a row that name no time.
const MOST_ZERO_POLLS: u32 = 100;
/// Stalled polls that are forgiven.
const MOST_STALLS: u32 = 3;

/// The waiting for one operation.
pub struct Patience {
    since: Duration,
    polls: u32,
    zero_polls: u32,
    stalls: u32,
    last: Duration,
}

impl Patience {
    pub fn new(clock: &dyn Clock) -> Self {
        Self { since: clock.now(), polls: 0, zero_polls: 0, stalls: 0, last: Duration::ZERO }
    }

    /// Busy answers that were waited on.
    pub fn polls(&self) -> u32 {
        self.polls
    }

    /// How long it has been waited.
    pub fn waited(&self, clock: &dyn Clock) -> Duration {
        clock.now().saturating_sub(self.since)
    }

    /// Waits as long as a busy answer asks for.
    pub fn wait(&mut self, clock: &dyn Clock, doing: Doing, poll: Duration) -> Result<(), ProtoError> {
        self.polls += 1;
        if poll.is_zero() {
            // At once, then a little later each time: fast for a fast device, 5 s in all for a slow one.
            self.last = Duration::from_millis(self.zero_polls.into());
            self.zero_polls += 1;
        } else {
            self.zero_polls = 0;
            self.last = poll.min(LONGEST_POLL);
        }
        if self.zero_polls > MOST_ZERO_POLLS || self.waited(clock) >= LIMIT {
            return Err(doing.stuck(self.waited(clock)));
        }
        clock.sleep(self.last);
        Ok(())
    }

    /// Whether one more stalled poll is forgiven: only of a device that said before that it is busy.
    pub fn forgives_stall(&mut self) -> bool {
        self.stalls += 1;
        self.polls > 0 && self.stalls <= MOST_STALLS
    }

    /// Waits as long as the last busy answer asked for.
    pub fn wait_again(&mut self, clock: &dyn Clock, doing: Doing) -> Result<(), ProtoError> {
        if self.waited(clock) >= LIMIT {
            return Err(doing.stuck(self.waited(clock)));
        }
        clock.sleep(self.last);
        Ok(())
    }
}
