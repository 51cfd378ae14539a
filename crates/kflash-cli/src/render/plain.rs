//! Progress where there is no terminal: a line at each phase and at each 10 %.

use std::io::Write;

use kflash::event::Event;

use super::line::{self, Lines};
use super::print;

/// Plain lines.
#[derive(Debug)]
pub struct Plain<W> {
    to: W,
    lines: Lines,
    tenths: u64,
}

impl<W: Write> Plain<W> {
    /// Lines to `to`.
    pub fn new(to: W) -> Self {
        Self { to, lines: Lines::default(), tenths: 0 }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match *event {
            Event::Phase { .. } => self.tenths = 0,
            Event::Progress { phase, done, total } if total > 0 => {
                let tenths = done.min(total) * 10 / total;
                if tenths > self.tenths {
                    self.tenths = tenths;
                    let (word, percent) = (line::phase_word(phase), tenths * 10);
                    let (done, total) = (line::bytes(done), line::bytes(total));
                    print(&mut self.to, &format!("{word:<9} {percent:>3} %  {done} of {total}"));
                }
            }
            _ => {}
        }
        if let Some(line) = self.lines.line(event) {
            print(&mut self.to, &line);
        }
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
        let mut plain = Plain::new(&mut text);
        for event in events_of_a_flash() {
            plain.event(&event);
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(
            text,
            "\
look      looking for the board
  ok           MCU of the running firmware is the profile's
  not provable crystal: the dictionary does not name it
warning   heaters may switch on
your turn hold BOOT0 and press RESET
          (waiting for up to 60 s)
write     40 KiB to 0x08008000
write      10 %  4 KiB of 40 KiB
write      20 %  8 KiB of 40 KiB
write      30 %  12 KiB of 40 KiB
write      40 %  16 KiB of 40 KiB
write      50 %  20 KiB of 40 KiB
write      60 %  24 KiB of 40 KiB
write      70 %  28 KiB of 40 KiB
write      80 %  32 KiB of 40 KiB
write      90 %  36 KiB of 40 KiB
write     100 %  40 KiB of 40 KiB
confirm   asking what it runs
"
        );
    }

    #[test]
    fn a_phase_of_no_bytes_and_one_that_overshoots_do_no_harm() {
        use kflash::event::Phase;
        let mut text = Vec::new();
        let mut plain = Plain::new(&mut text);
        plain.event(&Event::Progress { phase: Phase::Write, done: 0, total: 0 });
        plain.event(&Event::Progress { phase: Phase::Write, done: 9, total: 3 });
        assert_eq!(String::from_utf8(text).unwrap(), "write     100 %  9 bytes of 3 bytes\n");
    }
}
