//! An event as a line of text, for plain output and for what stays on the screen above a bar.

use std::collections::HashSet;

use kflash::event::{Check, Event, Phase, Verdict};

/// Turns events into lines; remembers which checks were shown, as most are made twice.
#[derive(Debug, Default)]
pub struct Lines {
    shown: HashSet<(String, &'static str)>,
}

impl Lines {
    /// The line of an event; `None` for those that are no news to a person.
    pub fn line(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::Phase { what, .. } => Some(what.clone()),
            Event::Warning { text } => Some(format!("warning: {text}")),
            Event::Check(check) => self.check(check),
            Event::HandsNeeded { instruction, wait_s } => {
                Some(format!("your turn: {instruction} (waiting for up to {wait_s} s)"))
            }
            Event::Progress { .. } | Event::Operation { .. } => None,
        }
    }

    fn check(&mut self, check: &Check) -> Option<String> {
        let word = verdict_word(check.verdict);
        // What is pending is made again once the bootloader is entered; it is news then.
        if check.verdict == Verdict::Pending || !self.shown.insert((check.name.clone(), word)) {
            return None;
        }
        Some(match check.verdict {
            Verdict::Agrees => format!("  {word:<12} {}", check.name),
            _ => format!("  {word:<12} {}: {}", check.name, check.evidence),
        })
    }
}

/// A phase in a word.
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Fetch => "fetch",
        Phase::Look => "look",
        Phase::Enter => "enter",
        Phase::Erase => "erase",
        Phase::Write => "write",
        Phase::ReadBack => "read back",
        Phase::Start => "start",
        Phase::Confirm => "confirm",
    }
}

/// A verdict in a word.
pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Agrees => "ok",
        Verdict::Disagrees => "disagrees",
        Verdict::Pending => "pending",
        Verdict::NotProvable => "not provable",
    }
}

/// A number of bytes for people: `41.4 KiB`, `96 KiB`, `512 bytes`, `218.3 MiB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} bytes"),
        0x100_0000.. => format!("{:.1} MiB", n as f64 / f64::from(1 << 20)),
        _ if n.is_multiple_of(1024) => format!("{} KiB", n / 1024),
        _ => format!("{:.1} KiB", n as f64 / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_shown_once_per_verdict_and_never_while_pending() {
        let check = |verdict| Event::Check(Check { name: "mcu".into(), verdict, evidence: "a is b".into() });
        let mut lines = Lines::default();
        assert_eq!(lines.line(&check(Verdict::Pending)), None);
        assert_eq!(lines.line(&check(Verdict::Agrees)).as_deref(), Some("  ok           mcu"));
        assert_eq!(lines.line(&check(Verdict::Agrees)), None);
        assert_eq!(lines.line(&check(Verdict::Disagrees)).as_deref(), Some("  disagrees    mcu: a is b"));
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(32768), "32 KiB");
        assert_eq!(bytes(42394), "41.4 KiB");
        assert_eq!(bytes(16 << 20), "16.0 MiB");
        assert_eq!(bytes(228_904_141), "218.3 MiB");
    }
}
