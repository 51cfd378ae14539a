//! Progress for programs: every event a line of JSON, of progress the whole percents.

use std::io::Write;

use kflash::event::{Event, Phase};
use serde::Serialize;

/// JSON lines.
#[derive(Debug)]
pub struct JsonLines<W> {
    to: W,
    /// What each is about, where there are several boards.
    board: Option<String>,
    percent: Option<(Phase, u64)>,
}

/// An event of one of several boards.
#[derive(Serialize)]
struct Of<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    board: Option<&'a str>,
    #[serde(flatten)]
    event: &'a Event,
}

impl<W: Write> JsonLines<W> {
    /// Lines to `to`, about `board` where there are several.
    pub fn new(to: W, board: Option<&str>) -> Self {
        Self { to, board: board.map(str::to_owned), percent: None }
    }

    /// `text`, and what it is about.
    pub fn about(&self, text: &str) -> String {
        self.board.as_ref().map_or_else(|| text.to_owned(), |board| format!("{board}: {text}"))
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
        if let Ok(line) = serde_json::to_string(&Of { board: self.board.as_deref(), event }) {
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
        let mut json = JsonLines::new(&mut text, None);
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
        assert!(lines.iter().all(|line| line.get("board").is_none()));
    }

    #[test]
    fn of_several_boards_each_names_its_own() {
        let mut text = Vec::new();
        let mut json = JsonLines::new(&mut text, Some("voron/mcu"));
        for event in events_of_a_flash() {
            json.event(&event);
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().all(|line| line.starts_with(r#"{"board":"voron/mcu","event":""#)), "{text}");
    }
}
