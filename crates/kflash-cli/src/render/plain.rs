//! Progress where there is no terminal: a line at each phase and at each 10 %.

use std::io::Write;

use kflash::event::Event;

use super::line::{self, Lines};
use super::print;

/// Plain lines.
#[derive(Debug)]
pub struct Plain<W> {
    to: W,
    /// What every line begins with: the board, where there are several.
    prefix: String,
    lines: Lines,
    tenths: u64,
}

impl<W: Write> Plain<W> {
    /// Lines to `to`, about `board` where there are several.
    pub fn new(to: W, board: Option<&str>) -> Self {
        let prefix = board.map(|board| format!("{board}: ")).unwrap_or_default();
        Self { to, prefix, lines: Lines::default(), tenths: 0 }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match *event {
            Event::Phase { .. } => self.tenths = 0,
            // What is over in one step is told by its phase.
            Event::Progress { done, total, .. } if total > 1024 => {
                let tenths = done.min(total) * 10 / total;
                if tenths > self.tenths {
                    self.tenths = tenths;
                    let (percent, done, total) = (tenths * 10, line::bytes(done), line::bytes(total));
                    self.line(&format!("  {percent:>3} %  {done} of {total}"));
                }
            }
            _ => {}
        }
        if let Some(line) = self.lines.line(event) {
            self.line(&line);
        }
    }

    /// The last words of one of several boards.
    pub fn end(&mut self, words: &str) {
        if !self.prefix.is_empty() {
            self.line(words);
        }
    }

    fn line(&mut self, line: &str) {
        let _ = print(&mut self.to, &format!("{}{line}", self.prefix));
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::super::events_of_a_flash;
    use super::*;

    #[test]
    fn a_line_at_each_phase_and_each_tenth() {
        let mut text = Vec::new();
        let mut plain = Plain::new(&mut text, None);
        for event in events_of_a_flash() {
            plain.event(&event);
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "\
looking for the board
  ok           MCU of the running firmware is the profile's
  not provable crystal: the dictionary does not name it
warning: heaters may switch on
your turn: hold BOOT0 and press RESET (waiting for up to 60 s)
writing 0x08008000..0x08012000
   10 %  4 KiB of 40 KiB
   20 %  8 KiB of 40 KiB
   30 %  12 KiB of 40 KiB
   40 %  16 KiB of 40 KiB
   50 %  20 KiB of 40 KiB
   60 %  24 KiB of 40 KiB
   70 %  28 KiB of 40 KiB
   80 %  32 KiB of 40 KiB
   90 %  36 KiB of 40 KiB
  100 %  40 KiB of 40 KiB
asking what it runs
"
        );
    }

    #[test]
    fn of_several_boards_each_line_names_its_own() {
        let mut text = Vec::new();
        let mut plain = Plain::new(&mut text, Some("voron/mcu"));
        for event in events_of_a_flash() {
            plain.event(&event);
        }
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().all(|line| line.starts_with("voron/mcu: ")), "{text}");
    }

    #[test]
    fn a_phase_of_no_bytes_and_one_that_overshoots_do_no_harm() {
        use kflash::event::Phase;
        let mut text = Vec::new();
        let mut plain = Plain::new(&mut text, None);
        plain.event(&Event::Progress { phase: Phase::Write, done: 0, total: 0 });
        plain.event(&Event::Progress { phase: Phase::Write, done: 9000, total: 3000 });
        assert_eq!(String::from_utf8(text).unwrap(), "  100 %  8.8 KiB of 2.9 KiB\n");
    }
}
