//! Everything that is printed: results on stdout, all else on stderr.

mod bar;
mod builds;
mod json;
pub mod line;
mod lines;
mod plain;
mod screen;

use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};

use console::Term;
use indicatif::ProgressDrawTarget;
use kflash::event::Event;
use kflash::exit::ExitCode;
use serde::Serialize;

use self::bar::Bar;
pub use self::builds::BuildProgress;
use self::json::JsonLines;
use self::lines::{BoardLine, Lines};
use self::plain::Plain;
pub use self::screen::Screen;
use crate::failure::Failure;
use crate::hint;
use crate::sheet::is_plain;

/// Where the progress of one or several boards is shown.
pub struct Display {
    json: bool,
    screen: Screen,
    lines: Option<Lines>,
}

/// Shows the events of a run: a bar on a terminal, or one of several lines; plain lines elsewhere; lines of JSON with
/// `--json`.
pub enum Progress {
    /// One board on a terminal.
    Bar(Bar),
    /// One of several boards on a terminal.
    Line(BoardLine),
    /// Elsewhere, to stderr.
    Plain(Plain<io::Stderr>),
    /// With `--json`, to stdout.
    Json(JsonLines<io::Stdout>, Screen),
}

impl Display {
    /// On `screen`, for boards with these names; none, where there is but one.
    pub fn new<'a>(json: bool, names: impl Iterator<Item = &'a str>, screen: Screen) -> Self {
        let mut names = names.peekable();
        let lines = (!json && io::stderr().is_terminal() && names.peek().is_some()).then(|| {
            let (_, columns) = Term::stderr().size();
            Lines::new(ProgressDrawTarget::stderr(), columns.into(), names, &screen)
        });
        Self { json, screen, lines }
    }

    /// Shows the events of a board; of this name, where there are several.
    pub fn board(&self, name: Option<&str>) -> Progress {
        match (name, &self.lines) {
            _ if self.json => Progress::Json(JsonLines::new(io::stdout(), name), self.screen.clone()),
            (Some(name), Some(lines)) => Progress::Line(lines.board(name)),
            (None, _) if io::stderr().is_terminal() => {
                let (_, columns) = Term::stderr().size();
                Progress::Bar(Bar::new(ProgressDrawTarget::stderr, columns.into(), self.screen.clone()))
            }
            _ => Progress::Plain(Plain::new(io::stderr(), name)),
        }
    }
}

impl Progress {
    /// Shows an event.
    pub fn event(&mut self, event: &Event) {
        match self {
            Self::Bar(bar) => bar.event(event),
            Self::Line(line) => line.event(event),
            Self::Plain(plain) => plain.event(event),
            Self::Json(json, screen) => {
                json.event(event);
                // Whoever has to act reads a terminal, not JSON.
                if let Event::HandsNeeded { instruction, .. } = event {
                    screen.note(&json.about(instruction));
                }
            }
        }
    }

    /// Ends the last phase, well or badly; `words` say how, where there are several boards.
    pub fn end(&mut self, well: bool, words: &str) {
        match self {
            Self::Bar(bar) if well => bar.finish(),
            Self::Bar(bar) => bar.abandon(),
            Self::Line(line) => line.end(words),
            Self::Plain(plain) => plain.end(words),
            Self::Json(..) => {}
        }
    }
}

/// Prints text to stdout, with a line end if it has none. A reader that went away (`kflash detect | head -1`) is no failure
/// of ours.
pub fn result(text: &str) {
    if let Err(error) = print(io::stdout().lock(), text)
        && error.kind() != ErrorKind::BrokenPipe
    {
        note(&format!("kflash: cannot write the result: {error}"));
    }
}

/// Prints `value` to stdout as one line of JSON.
pub fn result_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => result(&line),
        Err(error) => note(&format!("kflash: cannot write the result as JSON: {error}")),
    }
}

/// Prints text to stderr, with a line end if it has none.
pub fn note(text: &str) {
    let _ = print(io::stderr().lock(), text);
}

/// Prints what is wrong with the command line, in clap's own words: usage and suggestions. Returns the exit code.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let text = error.to_string();
    note(&text);
    // What is missing stands in lines of its own; usage and tips follow an empty one.
    let said: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let said = said.join(" ");
    let failure = Failure::usage(said.strip_prefix("error: ").unwrap_or(&said));
    if json {
        result_json(&failure.json());
    }
    failure.exit
}

/// Prints a failure: text to stderr and, with `json`, the last line to stdout. Returns its exit code.
pub fn failure(failure: &Failure, json: bool) -> ExitCode {
    note(&failure_text(failure));
    if json {
        result_json(&failure.json());
    }
    failure.exit
}

/// Prints the failure of one board among several to stderr.
pub fn failure_of(board: &str, failure: &Failure) {
    note(&format!("{board}: {}", failure_text(failure)));
}

fn print(mut to: impl Write, text: &str) -> io::Result<()> {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    write!(to, "{}{end}", printable(text)).and_then(|()| to.flush())
}

/// `text` with all but plain characters escaped: the strings of a device or a file must not drive the terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) || c == '\n' { printable.push(c) } else { printable.extend(c.escape_debug()) }
    }
    printable
}

/// Every failure answers three questions: the exit code, the state of the board, whether trying again can help.
fn failure_text(failure: &Failure) -> String {
    let simulated = if failure.simulated { "SIMULATED: " } else { "" };
    let word = if failure.exit == ExitCode::Phase { "phase" } else { "error" };
    let mut text = format!("{simulated}{word}: {}\n", failure.message);
    for line in &failure.details {
        let _ = writeln!(text, "  {line}");
    }
    if let Some(board) = &failure.board {
        let place = board.place.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        let _ = writeln!(text, "board{place}: {}", hint::state(board.state));
        let _ = writeln!(text, "exit code {}; trying again {}", failure.exit.code(), hint::again(failure.again()));
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

#[cfg(test)]
fn events_of_a_flash() -> Vec<Event> {
    use kflash::event::{Check, Phase, Verdict};
    use kflash::plan::WayBack;
    let phase = |phase, what: &str, total| Event::Phase { phase, what: what.into(), total };
    let check = |name: &str, verdict, evidence: &str| {
        Event::Check(Check { name: name.into(), verdict, evidence: evidence.into() })
    };
    let mut events = vec![
        phase(Phase::Look, "looking for the board", None),
        check("MCU of the running firmware is the profile's", Verdict::Agrees, "stm32f446xx"),
        check("crystal", Verdict::NotProvable, "the dictionary does not name it"),
        check("start of the application", Verdict::Pending, "Katapult says"),
        Event::Warning { text: "heaters may switch on".into() },
        Event::HandsNeeded { instruction: "hold BOOT0 and press RESET".into(), wait_s: 60 },
        phase(Phase::Write, "writing 0x08008000..0x08012000", Some(40960)),
        Event::Operation { index: 1, way_back: WayBack::Cable },
    ];
    events.extend((0..=40960).step_by(1024).map(|done| Event::Progress { phase: Phase::Write, done, total: 40960 }));
    events.push(phase(Phase::Confirm, "asking what it runs", None));
    events
}
