//! SIGTERM at different moments of a flash: what it does, and what the exit code and the last words say.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A flash that takes some seconds in its phases: over a UART.
struct Run {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Run {
    fn start() -> Self {
        Self::with(&["--board", "creality-v4.2.7"])
    }

    /// A run on several boards: two that take some seconds, and one that there is no firmware for.
    fn on_several() -> Self {
        Self::with(&["--config", "tests/data/printers.toml", "--all"])
    }

    fn with(boards: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kflash"))
            .args(["flash", "--simulate", "--json"])
            .args(boards)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(stderr.next().unwrap().unwrap().starts_with("SIMULATED"));
        Self { child, stdout, stderr }
    }

    /// Reads on until a line holds `text`.
    fn until(&mut self, text: &str) {
        let found = self.stdout.by_ref().map(Result::unwrap).any(|line| line.contains(text));
        assert!(found, "no line holds {text}");
    }

    /// Sends a SIGTERM and returns the answer.
    fn terminate(&mut self) -> String {
        let sent = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.stderr.next().unwrap().unwrap()
    }

    /// The exit code, the last line of stdout, the rest of stderr.
    fn end(mut self) -> (Option<i32>, Option<Value>, Vec<String>) {
        let last = self.stdout.map(Result::unwrap).last();
        let said = self.stderr.map(Result::unwrap).collect();
        let code = self.child.wait().unwrap().code();
        (code, last.map(|last| serde_json::from_str(&last).unwrap()), said)
    }
}

#[test]
fn before_the_first_erase_it_stops_the_run_and_the_board_runs_again() {
    let mut run = Run::start();
    run.until(r#""phase":"enter""#);
    assert_eq!(run.terminate(), "stopping: nothing was erased");
    let (code, last, _) = run.end();
    let last = last.unwrap();
    assert_eq!(code, Some(14), "{last}");
    assert_eq!(last["exit_code"], 14);
    assert_eq!(last["kind"], "interrupted");
    assert_eq!(last["board"], "runs-as-before");
}

#[test]
fn while_writing_it_waits_for_the_board_to_be_whole() {
    let mut run = Run::start();
    run.until(r#""phase":"write","done""#);
    assert!(run.terminate().starts_with("the board is being written: stopping once it is whole"));
    let (code, last, _) = run.end();
    assert_eq!(code, Some(0));
    assert_eq!(last.unwrap()["result"], "flashed");
}

#[test]
fn a_second_one_while_writing_ends_at_once_and_names_the_way_back() {
    let mut run = Run::start();
    run.until(r#""phase":"write","done""#);
    run.terminate();
    assert_eq!(run.terminate(), "SIMULATED: error: stopped while the board was being written");
    let (code, last, said) = run.end();
    let last = last.unwrap();
    assert_eq!((code, &last["exit_code"]), (Some(11), &11.into()));
    assert_eq!(last["board"]["incomplete"], "cable");
    let said = said.join("\n");
    assert!(said.starts_with("board: its application is incomplete"), "{said}");
    assert!(said.contains("way back: cable") && said.contains("hint: run the same again"), "{said}");
}

#[test]
fn a_second_one_while_confirming_says_that_the_board_is_written() {
    let mut run = Run::start();
    run.until(r#""phase":"confirm""#);
    run.terminate();
    assert_eq!(run.terminate(), "SIMULATED: error: stopped before the board was seen running");
    let (code, last, _) = run.end();
    let last = last.unwrap();
    assert_eq!((code, &last["exit_code"], &last["board"]), (Some(13), &13.into(), &"written".into()));
}

#[test]
fn of_several_boards_those_that_are_written_are_finished() {
    let mut run = Run::on_several();
    run.until(r#"{"board":"ender/left","event":"progress","phase":"write""#);
    let said = run.terminate();
    assert!(said.contains("ender/left") && said.contains("the board is being written: stopping once it is whole"));
    let (code, last, _) = run.end();
    let last = last.unwrap();
    let ended = |at: usize| (&last["boards"][at]["board"], &last["boards"][at]["ended"]["exit_code"]);
    assert_eq!(ended(0), (&"ender/left".into(), &0.into()), "{last}");
    assert_eq!(ended(2), (&"ender/none".into(), &2.into()), "{last}");
    assert_eq!((code, &last["exit_code"]), (Some(2), &2.into()), "{last}");
}

#[test]
fn of_several_boards_the_second_one_tells_how_each_is_left() {
    let mut run = Run::on_several();
    run.until(r#"{"board":"ender/left","event":"progress","phase":"write""#);
    run.terminate();
    run.terminate();
    let (code, last, _) = run.end();
    let last = last.unwrap();
    assert_eq!((code, &last["exit_code"], &last["result"]), (Some(11), &11.into(), &"summary".into()), "{last}");
    assert_eq!(last["boards"][0]["ended"]["board"]["incomplete"], "cable", "{last}");
    assert_eq!(last["boards"][2]["ended"]["exit_code"], 2, "{last}");
}
