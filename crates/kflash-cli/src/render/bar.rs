//! Progress on a terminal: one bar for the running phase, one line for each that is done.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kflash::event::Event;

use super::line::{self, Lines};
use super::screen::{Screen, Standing};
use super::{note, printable};

const BYTES: &str = "{msg} {wide_bar} {bytes:>10} of {total_bytes:<10} {bytes_per_sec:>12}  {eta:>3} left";
/// On a terminal of less than [`NARROW`] columns, where it would wrap.
const BYTES_NARROW: &str = "{wide_msg} {bytes:>9} {bytes_per_sec:>11} {eta:>3} left";
const NO_BYTES: &str = "{wide_msg} {spinner}";
/// Columns of what was done, before the time that it took.
const WHAT: usize = 64;
/// Columns of that time.
const TIME: usize = 9;
const NARROW: usize = 90;

/// A bar.
pub struct Bar {
    target: Box<dyn Fn() -> ProgressDrawTarget>,
    columns: usize,
    screen: Screen,
    running: Option<Running>,
    lines: Lines,
}

/// The running phase.
struct Running {
    bar: ProgressBar,
    /// Whether its line stands above the bar already, with lines about it below.
    headed: bool,
}

impl Bar {
    /// A bar drawn to what `target` makes, once for each phase, on a terminal of that many columns. `screen` is told
    /// which bar stands.
    pub fn new(target: impl Fn() -> ProgressDrawTarget + 'static, columns: usize, screen: Screen) -> Self {
        Self { target: Box::new(target), columns, screen, running: None, lines: Lines::default() }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Phase { what, total, .. } => {
                self.finish();
                let template = if total.is_some() { self.bytes() } else { NO_BYTES };
                let bar = ProgressBar::with_draw_target(*total, (self.target)()).with_style(style(template));
                bar.set_message(printable(what));
                bar.enable_steady_tick(Duration::from_millis(100));
                self.screen.set(Standing::Bar(bar.clone()));
                self.running = Some(Running { bar, headed: false });
            }
            Event::Progress { done, total, .. } => {
                if let Some(Running { bar, .. }) = &self.running {
                    if bar.length() != Some(*total) {
                        bar.set_length(*total);
                        bar.set_style(style(self.bytes()));
                    }
                    bar.set_position(*done);
                }
            }
            _ => {
                if let Some(line) = self.lines.line(event) {
                    match &mut self.running {
                        Some(Running { bar, headed }) => {
                            if !*headed {
                                bar.println(bar.message());
                                *headed = true;
                            }
                            bar.println(printable(&line));
                        }
                        None => note(&line),
                    }
                }
            }
        }
    }

    /// Ends the running phase well: a line stays.
    pub fn finish(&mut self) {
        let what = self.what();
        self.end(|bar| format!("{:<what$} {:>5.1} s", bar.message(), bar.elapsed().as_secs_f64()));
    }

    /// Ends the running phase badly: a line says how far it came.
    pub fn abandon(&mut self) {
        let what = self.what();
        self.end(|bar| match bar.length() {
            Some(total) => {
                let (done, total) = (line::bytes(bar.position()), line::bytes(total));
                format!("{:<what$} {done} of {total}", bar.message())
            }
            None => bar.message(),
        });
    }

    fn bytes(&self) -> &'static str {
        if self.columns < NARROW { BYTES_NARROW } else { BYTES }
    }

    fn what(&self) -> usize {
        WHAT.min(self.columns.saturating_sub(TIME))
    }

    fn end(&mut self, line: impl FnOnce(&ProgressBar) -> String) {
        if let Some(Running { bar, headed }) = self.running.take() {
            self.screen.set(Standing::Nothing);
            if !headed {
                bar.println(line(&bar));
            }
            bar.finish_and_clear();
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

    use std::thread;
    use std::time::Instant;

    use indicatif::InMemoryTerm;
    use kflash::event::Phase;

    use super::super::events_of_a_flash;
    use super::*;

    #[test]
    fn phases_stay_as_lines_and_the_running_one_is_a_bar() {
        let term = InMemoryTerm::new(30, 100);
        let target = {
            let term = term.clone();
            move || ProgressDrawTarget::term_like(Box::new(term.clone()))
        };
        let mut bar = Bar::new(target, 100, Screen::default());
        let events = events_of_a_flash();
        let middle = events.iter().position(|event| matches!(event, Event::Progress { done: 20480, .. })).unwrap();
        for event in &events[..=middle] {
            bar.event(event);
        }
        // Drawn by the bar's own ticks.
        let until = Instant::now() + Duration::from_secs(20);
        while !term.contents().contains("20.00 KiB of 40.00 KiB") && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let seen = term.contents();
        let lines: Vec<_> = seen.lines().collect();
        let [look, .., hands, bytes] = lines[..] else { panic!("{seen}") };
        assert_eq!(look, "looking for the board");
        assert!(hands.starts_with("your turn: hold BOOT0"), "{seen}");
        assert!(bytes.starts_with("writing 0x08008000..0x08012000 ━━━"), "{seen}");
        assert!(
            bytes.contains(" 20.00 KiB of 40.00 KiB ") && bytes.contains("/s") && bytes.ends_with("left"),
            "{seen}"
        );
        bar.abandon();
        let last = term.contents().lines().last().unwrap().to_owned();
        assert!(last.starts_with("writing 0x08008000..0x08012000 ") && last.ends_with(" 20 KiB of 40 KiB"), "{last}");
    }

    #[test]
    fn at_the_end_every_phase_is_a_line_with_its_time() {
        let term = InMemoryTerm::new(30, 80);
        let target = {
            let term = term.clone();
            move || ProgressDrawTarget::term_like(Box::new(term.clone()))
        };
        let mut bar = Bar::new(target, 80, Screen::default());
        for event in events_of_a_flash() {
            bar.event(&event);
        }
        bar.finish();
        let seen = term.contents();
        assert!(seen.starts_with("looking for the board\n  ok "), "{seen}");
        for phase in ["writing 0x08008000..0x08012000", "asking what it runs"] {
            assert!(seen.lines().any(|line| line.starts_with(phase) && line.ends_with("0.0 s")), "{seen}");
        }
        assert!(!seen.contains('━'), "{seen}");
    }

    #[test]
    fn a_narrow_terminal_never_wraps() {
        let term = InMemoryTerm::new(40, 60);
        let target = {
            let term = term.clone();
            move || ProgressDrawTarget::term_like(Box::new(term.clone()))
        };
        let mut bar = Bar::new(target, 60, Screen::default());
        bar.event(&Event::Phase {
            phase: Phase::Write,
            what: "reading back 0x08008000..0x08012000".into(),
            total: Some(40960),
        });
        bar.event(&Event::Progress { phase: Phase::Write, done: 20480, total: 40960 });
        let until = Instant::now() + Duration::from_secs(20);
        while !term.contents().contains("20.00 KiB") && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(term.contents().lines().count(), 1, "{}", term.contents());
        bar.finish();
        let seen = term.contents();
        assert_eq!(seen.lines().count(), 1, "{seen}");
        assert!(seen.starts_with("reading back 0x08008000..0x08012000 ") && seen.ends_with(" s"), "{seen}");
    }

    #[test]
    fn what_another_thread_says_stands_above_the_bar() {
        let term = InMemoryTerm::new(30, 100);
        let target = {
            let term = term.clone();
            move || ProgressDrawTarget::term_like(Box::new(term.clone()))
        };
        let screen = Screen::default();
        let mut bar = Bar::new(target, 100, screen.clone());
        bar.event(&Event::Phase { phase: Phase::Write, what: "writing".into(), total: Some(40960) });
        screen.note("stopping once it is whole");
        assert!(term.contents().starts_with("stopping once it is whole\n"), "{}", term.contents());
        screen.clear();
        assert_eq!(term.contents(), "stopping once it is whole");
    }
}
