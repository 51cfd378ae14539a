//! Progress of builds: a bar for each, plain lines, or lines of JSON.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use kflash::board::BoardId;
use kflash::obtain::build::BuildEvent;

use super::screen::{Screen, Standing};
use super::{print, printable};

/// A board's line on the terminal.
const LINE: &str = "{wide_msg} {bar:30} {pos:>3} of {len} objects";
/// The same before make says how much there is to do.
const WAITS: &str = "{wide_msg} {spinner}";
/// Boards named in a line; the others are counted.
const NAMED: usize = 2;

/// Shows the events of builds.
pub enum BuildProgress {
    /// On a terminal.
    Bars(Bars),
    /// Elsewhere, to stderr.
    Plain(Plain<io::Stderr>),
    /// With `--json`, to stdout.
    Json,
}

impl BuildProgress {
    /// The renderer that fits. `screen` is told what stands there.
    pub fn new(json: bool, screen: &Screen) -> Self {
        match json {
            true => Self::Json,
            false if io::stderr().is_terminal() => Self::Bars(Bars::new(ProgressDrawTarget::stderr(), screen)),
            false => Self::Plain(Plain::new(io::stderr())),
        }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &BuildEvent) {
        match self {
            Self::Bars(bars) => bars.event(event),
            Self::Plain(plain) => plain.event(event),
            Self::Json => super::result_json(event),
        }
    }

    /// Takes the bars away.
    pub fn end(&mut self) {
        if let Self::Bars(bars) = self {
            bars.screen.clear();
        }
    }
}

/// A bar for each build that runs.
pub struct Bars {
    all: MultiProgress,
    running: BTreeMap<BoardId, ProgressBar>,
    screen: Screen,
}

impl Bars {
    fn new(target: ProgressDrawTarget, screen: &Screen) -> Self {
        let all = MultiProgress::with_draw_target(target);
        screen.set(Standing::Lines(all.clone()));
        Self { all, running: BTreeMap::new(), screen: screen.clone() }
    }

    fn event(&mut self, event: &BuildEvent) {
        match event {
            BuildEvent::Configuring { boards } => self.line(boards, "configuring"),
            BuildEvent::Waiting { boards, pid } => self.line(boards, &waiting(*pid)),
            BuildEvent::Building { boards, .. } => self.line(boards, "building"),
            BuildEvent::Progress { boards, done, total } => {
                if let Some(bar) = boards.first().and_then(|board| self.running.get(board)) {
                    bar.set_style(style(if *total == 0 { WAITS } else { LINE }));
                    bar.set_length(*total as u64);
                    bar.set_position(*done as u64);
                }
            }
            BuildEvent::Warning { text } => {
                let _ = self.all.println(printable(&format!("warning: {text}")));
            }
            BuildEvent::Ended { board, .. } => {
                if let Some(bar) = self.running.remove(board) {
                    bar.finish_and_clear();
                }
            }
        }
    }

    fn line(&mut self, boards: &[BoardId], what: &str) {
        let Some(first) = boards.first() else { return };
        let bar = self.running.entry(first.clone()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new_spinner().with_style(style(WAITS)));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        bar.set_message(printable(&format!("{}: {what}", names(boards))));
    }
}

/// Lines at each step, and at each quarter of a build.
pub struct Plain<W> {
    to: W,
    quarters: BTreeMap<BoardId, usize>,
}

impl<W: Write> Plain<W> {
    fn new(to: W) -> Self {
        Self { to, quarters: BTreeMap::new() }
    }

    fn event(&mut self, event: &BuildEvent) {
        let line = match event {
            BuildEvent::Configuring { boards } => format!("{}: configuring", names(boards)),
            BuildEvent::Waiting { boards, pid } => format!("{}: {}", names(boards), waiting(*pid)),
            BuildEvent::Building { boards, log } => format!("{}: building; log {}", names(boards), log.display()),
            BuildEvent::Progress { boards, done, total } => {
                let Some(first) = boards.first().filter(|_| *total > 0) else { return };
                let quarter = done.min(total) * 4 / total;
                let before = self.quarters.entry(first.clone()).or_default();
                if quarter <= *before {
                    return;
                }
                *before = quarter;
                format!("{}: {done} of {total} objects", names(boards))
            }
            BuildEvent::Warning { text } => format!("warning: {text}"),
            BuildEvent::Ended { board, well: true } => format!("{board}: done"),
            BuildEvent::Ended { board, well: false } => format!("{board}: failed"),
        };
        let _ = print(&mut self.to, &line);
    }
}

fn waiting(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("another kflash builds the same (pid {pid}); waiting for it"),
        None => "another kflash builds the same; waiting for it".to_owned(),
    }
}

fn names(boards: &[BoardId]) -> String {
    let named: Vec<_> = boards.iter().take(NAMED).map(|board| board.0.as_str()).collect();
    match boards.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ ")
}
