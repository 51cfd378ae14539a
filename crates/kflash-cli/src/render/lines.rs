//! Progress of several boards on a terminal: a line for each, with a bar while bytes are moved.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kflash::event::{Check, Event, Verdict};

use super::line::Lines as Words;
use super::printable;
use super::screen::{Screen, Standing};

const BYTES: &str = "{prefix} {msg:42!} {wide_bar} {percent:>3} %  {eta:>3} left";
/// On a terminal of less than [`NARROW`] columns, where it would wrap.
const BYTES_NARROW: &str = "{prefix} {wide_msg} {percent:>3} %";
const NO_BYTES: &str = "{prefix} {wide_msg} {spinner}";
const ENDED: &str = "{prefix} {wide_msg}";
const NARROW: usize = 100;

/// The lines of several boards.
#[derive(Clone)]
pub struct Lines {
    all: Arc<MultiProgress>,
    /// Columns of the longest name.
    name: usize,
    narrow: bool,
}

/// A board's line.
pub struct BoardLine {
    all: Arc<MultiProgress>,
    name: String,
    bar: ProgressBar,
    narrow: bool,
    words: Words,
}

impl Lines {
    /// Lines drawn to `target`, on a terminal of that many columns, for boards of these names. `screen` is told that they
    /// stand there.
    pub fn new<'a>(
        target: ProgressDrawTarget,
        columns: usize,
        names: impl Iterator<Item = &'a str>,
        screen: &Screen,
    ) -> Self {
        let all = MultiProgress::with_draw_target(target);
        screen.set(Standing::Lines(all.clone()));
        let name = names.map(|name| name.chars().count()).max().unwrap_or(0);
        Self { all: Arc::new(all), name, narrow: columns < NARROW }
    }

    /// The line of a board.
    pub fn board(&self, name: &str) -> BoardLine {
        let bar = self.all.add(ProgressBar::new_spinner()).with_style(style(NO_BYTES));
        bar.set_prefix(format!("{name:<width$}", width = self.name));
        bar.enable_steady_tick(Duration::from_millis(100));
        let all = Arc::clone(&self.all);
        BoardLine { all, name: name.to_owned(), bar, narrow: self.narrow, words: Words::default() }
    }
}

impl BoardLine {
    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Phase { what, total, .. } => self.phase(what, *total),
            Event::Progress { done, total, .. } => self.progress(*done, *total),
            // Of many boards, what agrees is no news.
            Event::Check(Check { verdict: Verdict::Agrees | Verdict::Pending, .. }) => {}
            _ => {
                if let Some(line) = self.words.line(event) {
                    self.say(&line);
                }
            }
        }
    }

    /// Says something that stays, above all lines.
    pub fn say(&self, line: &str) {
        // A terminal that is gone shows nothing either way.
        let _ = self.all.println(printable(&format!("{}: {}", self.name, line.trim_start())));
    }

    /// The board's last words.
    pub fn end(&self, words: &str) {
        self.bar.set_style(style(ENDED));
        self.bar.finish_with_message(printable(words));
    }

    fn phase(&self, what: &str, total: Option<u64>) {
        match total {
            Some(total) => {
                self.bar.set_style(style(if self.narrow { BYTES_NARROW } else { BYTES }));
                self.bar.set_length(total);
            }
            None => self.bar.set_style(style(NO_BYTES)),
        }
        self.bar.set_position(0);
        self.bar.reset_eta();
        self.bar.set_message(printable(what));
    }

    fn progress(&self, done: u64, total: u64) {
        if self.bar.length() != Some(total) {
            self.bar.set_length(total);
            self.bar.set_style(style(if self.narrow { BYTES_NARROW } else { BYTES }));
        }
        self.bar.set_position(done);
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants, and the tests draw each: the fallback is never seen.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::thread;
    use std::time::Instant;

    use indicatif::InMemoryTerm;

    use super::super::events_of_a_flash;
    use super::*;

    fn lines(term: &InMemoryTerm, columns: usize, screen: &Screen) -> Lines {
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        Lines::new(target, columns, ["voron/mcu", "voron/toolhead"].into_iter(), screen)
    }

    /// Drawn by the lines' own ticks.
    fn shown(term: &InMemoryTerm, what: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        while !what(&term.contents()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        term.contents()
    }

    #[test]
    fn each_board_has_its_line_and_what_matters_stands_above() {
        let term = InMemoryTerm::new(30, 120);
        let screen = Screen::default();
        let lines = lines(&term, 120, &screen);
        let (mut mcu, mut toolhead) = (lines.board("voron/mcu"), lines.board("voron/toolhead"));
        let events = events_of_a_flash();
        let middle = events.iter().position(|event| matches!(event, Event::Progress { done: 20480, .. })).unwrap();
        events[..=middle].iter().for_each(|event| mcu.event(event));
        toolhead.event(&events[0]);
        let seen = shown(&term, |seen| seen.contains(" 50 %") && seen.contains("toolhead looking"));
        let rows: Vec<_> = seen.lines().map(str::trim_end).collect();
        let [not_provable, warning, hands, mcu_row, toolhead_row] = rows[..] else { panic!("{seen}") };
        assert_eq!(not_provable, "voron/mcu: not provable crystal: the dictionary does not name it");
        assert_eq!(warning, "voron/mcu: warning: heaters may switch on");
        assert!(hands.starts_with("voron/mcu: your turn: hold BOOT0"), "{seen}");
        assert!(mcu_row.starts_with("voron/mcu      writing 0x08008000..0x08012000 "), "{seen}");
        assert!(mcu_row.contains("━━━") && mcu_row.ends_with(" left"), "{seen}");
        assert!(toolhead_row.starts_with("voron/toolhead looking for the board"), "{seen}");

        screen.note("stopping once it is whole");
        mcu.end("flashed");
        toolhead.end("failed: no such device");
        let seen = term.contents();
        let rows: Vec<_> = seen.lines().map(str::trim_end).collect();
        let end = ["stopping once it is whole", "voron/mcu      flashed", "voron/toolhead failed: no such device"];
        assert_eq!(rows[3..], end, "{seen}");
        screen.clear();
        assert!(!term.contents().contains("toolhead"), "{}", term.contents());
    }

    #[test]
    fn a_narrow_terminal_never_wraps() {
        let term = InMemoryTerm::new(30, 60);
        let lines = lines(&term, 60, &Screen::default());
        let mut mcu = lines.board("voron/mcu");
        let bytes = |event: &&Event| matches!(event, Event::Progress { .. } | Event::Phase { total: Some(_), .. });
        for event in events_of_a_flash().iter().filter(bytes) {
            mcu.event(event);
        }
        let seen = shown(&term, |seen| seen.contains("100 %"));
        assert_eq!(seen.lines().count(), 1, "{seen}");
        mcu.end("failed: flash differs from the image at 0x08008000: image 0x00, flash 0xff");
        assert_eq!(term.contents().lines().count(), 1, "{}", term.contents());
    }
}
