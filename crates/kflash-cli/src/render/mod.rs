//! Everything that is printed: results on stdout, all else on stderr.

use std::fmt::Write;
use std::io;

use kflash::exit::ExitCode;
use serde::Serialize;

use crate::failure::Failure;

/// Prints text to stdout, with a line end if it has none.
pub fn result(text: &str) {
    print(io::stdout().lock(), text);
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
    print(io::stderr().lock(), text);
}

/// Prints what is wrong with the command line, in clap's own words: usage and suggestions. Returns the exit code.
pub fn usage(error: &clap::Error, json: bool) -> ExitCode {
    let text = error.to_string();
    note(&text);
    let first = text.lines().next().unwrap_or_default();
    let failure = Failure::usage(first.strip_prefix("error: ").unwrap_or(first));
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

/// A reader that went away (`kflash detect | head -1`) is no failure of ours.
fn print(mut to: impl io::Write, text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(to, "{text}{end}").and_then(|()| to.flush());
}

fn failure_text(failure: &Failure) -> String {
    let mut text = format!("error: {}\n", failure.message);
    for line in &failure.details {
        let _ = writeln!(text, "{}{line}", if line.is_empty() { "" } else { "  " });
    }
    if let Some(hint) = &failure.hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}
