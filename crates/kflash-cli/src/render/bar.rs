//! Progress on a terminal: one bar for the running phase, one line for each that is done.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kflash::event::Event;

use super::line::{self, Lines};
use super::{note, printable};

const BYTES: &str = "{prefix:<9} {wide_bar} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}  {eta:>3} left";
const NO_BYTES: &str = "{prefix:<9} {wide_msg} {spinner}";
const DONE: &str = "{prefix:<9} {wide_msg} {elapsed:>4}";

/// A bar.
pub struct Bar {
    target: Box<dyn Fn() -> ProgressDrawTarget>,
    running: Option<ProgressBar>,
    lines: Lines,
}

impl Bar {
    /// A bar drawn to what `target` makes, once for each phase.
    pub fn new(target: impl Fn() -> ProgressDrawTarget + 'static) -> Self {
        Self { target: Box::new(target), running: None, lines: Lines::default() }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Phase { phase, what, total } => {
                self.finish();
                let template = if total.is_some() { BYTES } else { NO_BYTES };
                let bar = ProgressBar::with_draw_target(*total, (self.target)()).with_style(style(template));
                bar.set_prefix(line::phase_word(*phase));
                bar.set_message(printable(what));
                bar.enable_steady_tick(Duration::from_millis(100));
                self.running = Some(bar);
            }
            Event::Progress { done, total, .. } => {
                if let Some(bar) = &self.running {
                    if bar.length() != Some(*total) {
                        bar.set_length(*total);
                        bar.set_style(style(BYTES));
                    }
                    bar.set_position(*done);
                }
            }
            _ => {
                if let Some(line) = self.lines.line(event) {
                    match &self.running {
                        Some(bar) => bar.println(printable(&line)),
                        None => note(&line),
                    }
                }
            }
        }
    }

    /// Ends the running phase well: its line stays.
    pub fn finish(&mut self) {
        if let Some(bar) = self.running.take() {
            bar.set_style(style(DONE));
            bar.finish();
        }
    }

    /// Ends the running phase badly: the bar stays as it is, and the error says the rest.
    pub fn abandon(&mut self) {
        if let Some(bar) = self.running.take() {
            bar.abandon();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants, and the tests draw each: the fallback is never seen.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use indicatif::InMemoryTerm;

    use super::super::events_of_a_flash;
    use super::*;

    #[test]
    fn phases_stay_as_lines_and_the_running_one_is_a_bar() {
        let term = InMemoryTerm::new(30, 100);
        let target = {
            let term = term.clone();
            move || ProgressDrawTarget::term_like(Box::new(term.clone()))
        };
        let mut bar = Bar::new(target);
        let events = events_of_a_flash();
        let middle = events.iter().position(|event| matches!(event, Event::Progress { done: 20480, .. })).unwrap();
        for event in &events[..=middle] {
            bar.event(event);
        }
        bar.abandon();
        let seen = term.contents();
        assert!(seen.contains("look      looking for the board"), "{seen}");
        assert!(seen.contains("not provable crystal"), "{seen}");
        assert!(seen.contains("your turn hold BOOT0"), "{seen}");
        let last = seen.lines().last().unwrap();
        assert!(last.starts_with("write     ━━━") && last.contains("20.00 KiB of 40.00 KiB"), "{seen}");
        assert!(last.contains("/s") && last.ends_with("left"), "{seen}");
    }

    #[test]
    fn at_the_end_every_phase_is_a_line() {
        let term = InMemoryTerm::new(30, 80);
        let target = {
            let term = term.clone();
            move || ProgressDrawTarget::term_like(Box::new(term.clone()))
        };
        let mut bar = Bar::new(target);
        for event in events_of_a_flash() {
            bar.event(&event);
        }
        bar.finish();
        let seen = term.contents();
        for phase in
            ["look      looking for the board", "write     40 KiB to 0x08008000", "confirm   asking what it runs"]
        {
            assert!(seen.contains(phase), "{seen}");
        }
        assert!(!seen.contains('━'), "{seen}");
    }
}
