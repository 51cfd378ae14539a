//! Progress for programs: every event a line of JSON, of progress the whole percents.

use std::io::Write;

use kflash::event::{Event, Phase};

/// JSON lines.
#[derive(Debug)]
pub struct JsonLines<W> {
    to: W,
    percent: Option<(Phase, u64)>,
}

impl<W: Write> JsonLines<W> {
    /// Lines to `to`.
    pub fn new(to: W) -> Self {
        Self { to, percent: None }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        // A block is 64 bytes on a UART: a line for each would bury what matters in a log.
        if let Event::Progress { phase, done, total } = *event {
            let percent = Some((phase, done * 100 / total.max(1)));
            if percent == self.percent {
                return;
            }
            self.percent = percent;
        }
        if let Ok(line) = serde_json::to_string(event) {
            let _ = writeln!(self.to, "{line}").and_then(|()| self.to.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::events_of_a_flash;
    use super::*;

    #[test]
    fn every_event_is_a_line_that_names_itself() {
        let events = events_of_a_flash();
        let mut text = Vec::new();
        let mut json = JsonLines::new(&mut text);
        for event in &events {
            json.event(event);
        }
        for done in 40_900..=40_960 {
            json.event(&Event::Progress { phase: Phase::Confirm, done, total: 40_960 });
        }
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), events.len() + 2, "99 % and 100 %");
        assert_eq!(lines[0]["event"], "phase");
        assert_eq!(lines[0]["phase"], "look");
        assert_eq!(lines[1]["event"], "check");
        assert_eq!(lines[1]["verdict"], "agrees");
        assert!(lines.iter().any(|line| line["event"] == "progress" && line["done"] == 4096 && line["total"] == 40960));
    }
}
