//! A board served by `kflash-sim`, with somebody at its buttons.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::binary::static_binary;

/// How long an event may take to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running `kflash-sim serve`; it ends with the value.
pub struct Served {
    child: Child,
    controls: Option<ChildStdin>,
    events: Receiver<String>,
}

impl Served {
    /// Serves a board with these options of `kflash-sim serve`.
    pub fn new(board: &str, options: &[&str]) -> Self {
        let mut child = Command::new(static_binary("kflash-sim"))
            .args(["serve", "--board", board])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("kflash-sim can be run");
        let output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let (tell, events) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).all(|line| tell.send(line).is_ok()));
        Self { controls: child.stdin.take(), child, events }
    }

    /// The next event that begins like this; those before it are passed over. Panics, with them, if none comes.
    pub fn wait_for(&self, start: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.events.recv_timeout(PATIENCE) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no {start:?} ({error}) after {seen:#?}"),
            }
        }
    }

    /// The events that came and were not waited for.
    pub fn events(&self) -> Vec<String> {
        self.events.try_iter().collect()
    }

    /// Does something to the board: a line of its controls.
    pub fn control(&self, line: &str) {
        let mut controls = self.controls.as_ref().expect("the controls are there until the end");
        writeln!(controls, "{line}").expect("kflash-sim reads its controls");
    }

    /// Sends a signal, by its name, to the process.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill can be run").success());
    }

    /// Lets go of the controls and waits for the end.
    pub fn end(mut self) -> ExitStatus {
        self.controls = None;
        self.child.wait().expect("kflash-sim can be waited for")
    }

    /// Waits for the end.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("kflash-sim can be waited for")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // A test that fails leaves no process behind; one that has ended cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
