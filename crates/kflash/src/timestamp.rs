//! Moments on the calendar, for what is written down. Waiting goes by a [`crate::clock::Clock`].

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds since 1970 in UTC; as text RFC 3339, `2026-11-21T02:48:40Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// A text that is no moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time such as 2026-11-21T02:48:40Z")]
pub struct ParseTimestampError(String);

/// The last second of the year 9999, beyond which RFC 3339 does not go.
const LAST: u64 = 253_402_300_799;
const DAY: u64 = 24 * 60 * 60;

impl Timestamp {
    /// This moment, as the system's clock has it.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// This many seconds after 1970 began; at most the last of the year 9999.
    pub fn of_seconds(seconds: u64) -> Self {
        Self(seconds.min(LAST))
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Rounded down to a second; a clock before 1970 counts as 1970.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST))
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, from the lengths of its cycles: years begin in March, so that
/// the leap day is the last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    // 719468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// The day of the Gregorian calendar that is `days` after 1970-01-01: year, month, day.
fn date(days: u64) -> (u64, u64, u64) {
    // At least every year has 365 days and at most one in four has one more.
    let mut year = 1970 + days * 4 / 1461;
    while self::days(year + 1, 1, 1) <= days {
        year += 1;
    }
    while self::days(year, 1, 1) > days {
        year -= 1;
    }
    let month = (1..=12).rev().find(|&month| self::days(year, month, 1) <= days).unwrap_or(1);
    (year, month, days - self::days(year, month, 1) + 1)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0 / DAY);
        let of_day = self.0 % DAY;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    /// Takes the form that is written, and no other: nobody but kflash writes these.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?;
            digits.parse::<u64>().ok()
        };
        let parse = || {
            let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
            let of_day = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
            let plausible = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day) && of_day < DAY;
            plausible.then(|| Self(days(year, month, day) * DAY + of_day))
        };
        // Written out again it tells a 31 February, 60 seconds and wrong signs in between.
        let same = |time: &Self| time.to_string() == text;
        parse().filter(same).ok_or_else(|| ParseTimestampError(text.chars().take(40).collect()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn moments_that_others_computed() {
        // GNU date -u -d @N.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_229_320, "2026-11-21T02:48:40Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (LAST, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp(seconds).to_string(), text);
            assert_eq!(text.parse(), Ok(Timestamp(seconds)));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0..=LAST) {
            prop_assert_eq!(Timestamp(seconds).to_string().parse(), Ok(Timestamp(seconds)));
        }

        #[test]
        fn the_next_second_is_later_as_text(seconds in 0..LAST) {
            prop_assert!(Timestamp(seconds).to_string() < Timestamp(seconds + 1).to_string());
        }

        #[test]
        fn any_text_is_refused_or_written_the_same(text in "[0-9T:Z-]{0,24}") {
            if let Ok(time) = text.parse::<Timestamp>() {
                prop_assert_eq!(time.to_string(), text);
            }
        }
    }

    #[test]
    fn other_texts_are_no_moment() {
        let texts =
            ["", "2026-02-30T00:00:00Z", "2026-11-21T24:00:00Z", "2026-11-21T02:60:00Z", "1969-12-31T23:59:59Z"];
        for text in
            texts.into_iter().chain(["2026-11-21 02:48:40Z", "2026-11-21T02:48:40", "2026-11-21T02:48:40+00:00"])
        {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(1)), Timestamp(0));
        assert_eq!(serde_json::to_string(&Timestamp(0)).unwrap(), "\"1970-01-01T00:00:00Z\"");
    }
}
