//! Everything that is printed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the only place")]

use kflash_kube::step::Step;
use serde::Serialize;
use serde_json::json;

use super::Failure;

/// Prints a result, without a line end of its own.
pub fn result(text: &str) {
    print!("{}", printable(text));
}

/// Prints a result as a line of JSON.
pub fn result_json(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(line) => println!("{line}"),
        Err(error) => note(&format!("cannot write the result as JSON: {error}")),
    }
}

/// Prints a line about what happens.
pub fn note(text: &str) {
    eprintln!("{}", printable(text));
}

/// Prints a step: a line of text, or of JSON.
pub fn step(step: &Step, json: bool) {
    if json { result_json(step) } else { note(&step.to_string()) }
}

/// Prints why a verb failed.
pub fn failure(failure: &Failure, json: bool) {
    note(&format!("error: {}", failure.message));
    if json {
        let Failure { exit, message } = failure;
        result_json(&json!({"result": "failed", "exit": exit, "exit_code": exit.code(), "message": message}));
    }
}

/// What others wrote (a server, a file's name) must not drive the terminal.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    shown
}
