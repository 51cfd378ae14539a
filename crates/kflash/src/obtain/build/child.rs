//! A child process that is bounded in time and output, and never left behind: it leads a process group of its own, which
//! is killed as a whole.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::exit::ExitCode;
use crate::flash::Interrupt;

/// How often an interruption and the limits are looked at while nothing is printed.
const LOOK: Duration = Duration::from_millis(50);
/// For how long a process may clean up after SIGTERM, and its descendants may print after its end.
const GRACE: Duration = Duration::from_secs(2);

/// What a child may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From its start to its end.
    pub time: Duration,
    /// Without a word.
    pub silence: Duration,
    /// Bytes printed.
    pub output: usize,
}

/// Where a child printed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// To standard output; with [`Streams::Merged`], also what it printed to standard error.
    Out,
    /// To standard error.
    Err,
}

/// Whether standard output and standard error are told apart. Merged, they keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streams {
    /// As they come.
    Merged,
    /// Told apart.
    Apart,
}

/// What a child printed, whole.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: Vec<u8>,
}

/// Why a child did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// There is no such program on the PATH.
    #[error("{program}: no such program on the PATH")]
    Missing {
        /// Its name.
        program: String,
    },
    /// It cannot be started.
    #[error("cannot run {program}: {source}")]
    Unstartable {
        /// Its name.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error("{program} did not end within {} s", limit.as_secs())]
    TimedOut {
        /// Its name.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It printed nothing for too long, and was killed.
    #[error("{program} printed nothing for {} s", limit.as_secs())]
    Silent {
        /// Its name.
        program: String,
        /// The limit.
        limit: Duration,
    },
    /// It printed too much, and was killed.
    #[error("{program} printed more than {} KiB", limit / 1024)]
    TooMuch {
        /// Its name.
        program: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The run was stopped, and it with it.
    #[error("stopped while {program} ran")]
    Interrupted {
        /// Its name.
        program: String,
    },
}

impl ChildError {
    /// The exit code.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Interrupted { .. } => ExitCode::Cancelled,
            _ => ExitCode::Build,
        }
    }
}

impl Limits {
    /// For a program that answers at once.
    pub const QUICK: Self = Self { time: Duration::from_secs(30), silence: Duration::from_secs(30), output: 16 << 20 };
}

/// Runs `command` to its end, with nothing to read. `printed` gets what it prints as it comes.
pub fn run(
    mut command: Command,
    streams: Streams,
    limits: Limits,
    interrupt: &Interrupt,
    mut printed: impl FnMut(Stream, &[u8]),
) -> Result<ExitStatus, ChildError> {
    let program = PathBuf::from(command.get_program()).display().to_string();
    let (mut group, prints) = start(&mut command, streams).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ChildError::Missing { program: program.clone() },
        _ => ChildError::Unstartable { program: program.clone(), source },
    })?;
    drop(command);

    let started = Instant::now();
    let (mut last, mut bytes) = (started, 0);
    let (mut open, mut ended) = (true, None);
    loop {
        let print = if open { prints.recv_timeout(LOOK) } else { Err(RecvTimeoutError::Timeout) };
        let now = Instant::now();
        match print {
            Ok((stream, data)) => {
                last = now;
                bytes += data.len();
                printed(stream, &data);
            }
            Err(reason) => {
                open &= reason == RecvTimeoutError::Timeout;
                if group.has_ended() && now - *ended.get_or_insert(now) >= if open { GRACE } else { Duration::ZERO } {
                    break;
                }
                if !open {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        }
        if interrupt.requested() {
            return Err(ChildError::Interrupted { program });
        }
        if bytes > limits.output {
            return Err(ChildError::TooMuch { program, limit: limits.output });
        }
        if now - started > limits.time {
            return Err(ChildError::TimedOut { program, limit: limits.time });
        }
        if now - last > limits.silence {
            return Err(ChildError::Silent { program, limit: limits.silence });
        }
    }
    group.wait().map_err(|source| ChildError::Unstartable { program, source })
}

/// Runs `command` to its end, with nothing to read, and keeps what it prints.
pub fn capture(command: Command, limits: Limits, interrupt: &Interrupt) -> Result<Captured, ChildError> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run(command, Streams::Apart, limits, interrupt, |stream, data| match stream {
        Stream::Out => out.extend_from_slice(data),
        Stream::Err => err.extend_from_slice(data),
    })?;
    Ok(Captured { status, out, err })
}

type Print = (Stream, Vec<u8>);

fn start(command: &mut Command, streams: Streams) -> io::Result<(Group, Receiver<Print>)> {
    let (out, to_out) = io::pipe()?;
    let mut pipes = vec![(Stream::Out, out)];
    let to_err = match streams {
        Streams::Merged => to_out.try_clone()?,
        Streams::Apart => {
            let (err, to_err) = io::pipe()?;
            pipes.push((Stream::Err, err));
            to_err
        }
    };
    let child = command.stdin(Stdio::null()).stdout(to_out).stderr(to_err).process_group(0).spawn()?;
    // The command holds its own copies of the pipes' ends, and they would never close.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (sender, receiver) = mpsc::sync_channel(16);
    for (stream, pipe) in pipes {
        let sender = sender.clone();
        thread::spawn(move || forward(pipe, stream, &sender));
    }
    Ok((Group { child, reaped: false }, receiver))
}

fn forward(mut pipe: io::PipeReader, stream: Stream, to: &SyncSender<Print>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        if to.send((stream, buffer[..n].to_vec())).is_err() {
            break;
        }
    }
}

/// The process group of a child. Dropped, it is asked to end, and killed if it does not.
#[derive(Debug)]
struct Group {
    child: Child,
    reaped: bool,
}

impl Group {
    /// Whether its leader ended. It is not reaped yet, so that the group's number cannot be another's.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(Pid::from_child(&self.child)), options), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // Fails where none of them is left.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    /// How its leader ended; what it left running is killed.
    fn wait(&mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.reaped = true;
        self.child.wait()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.signal(Signal::TERM);
        let asked = Instant::now();
        while !self.has_ended() && asked.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.wait();
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::path::Path;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn failure(script: &str, limits: Limits) -> String {
        capture(sh(script), limits, &Interrupt::default()).unwrap_err().to_string()
    }

    /// Waits until a process is gone; a zombie is.
    fn gone(pid: &str) {
        let stat = Path::new("/proc").join(pid).join("stat");
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_it_prints_is_kept_apart_and_its_status_told() {
        let captured = capture(sh("echo out; echo err >&2; exit 3"), Limits::QUICK, &Interrupt::default()).unwrap();
        assert_eq!((captured.out.as_slice(), captured.err.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(captured.status.code(), Some(3));
        let mut both = Vec::new();
        let print = |stream, data: &[u8]| both.extend(data.iter().map(|byte| (stream, *byte)));
        run(sh("echo a; echo b >&2"), Streams::Merged, Limits::QUICK, &Interrupt::default(), print).unwrap();
        assert_eq!(both, b"a\nb\n".map(|byte| (Stream::Out, byte)));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = capture(Command::new("no-such-gcc"), Limits::QUICK, &Interrupt::default()).unwrap_err();
        assert_eq!(error.to_string(), "no-such-gcc: no such program on the PATH");
    }

    #[test]
    fn limits_end_it() {
        let short = Duration::from_millis(100);
        let limits = Limits { time: short, ..Limits::QUICK };
        assert_eq!(failure("while :; do echo x; sleep 0.01; done", limits), "sh did not end within 0 s");
        let limits = Limits { silence: short, ..Limits::QUICK };
        assert_eq!(failure("exec sleep 1000", limits), "sh printed nothing for 0 s");
        let limits = Limits { output: 4096, ..Limits::QUICK };
        assert_eq!(failure("yes", limits), "sh printed more than 4 KiB");
    }

    #[test]
    fn an_interruption_ends_all_of_its_group_even_what_ignores_sigterm() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pids");
        let script = format!("trap '' TERM; sleep 1000 & echo $! $$ >{}; echo ready; wait", file.display());
        let interrupt = Interrupt::default();
        let ended = run(sh(&script), Streams::Merged, Limits::QUICK, &interrupt, |_, _| interrupt.request());
        assert!(matches!(ended, Err(ChildError::Interrupted { .. })), "{ended:?}");
        for pid in fs::read_to_string(&file).unwrap().split_whitespace() {
            gone(pid);
        }
    }

    #[test]
    fn what_it_leaves_running_is_ended_and_not_waited_for() {
        let captured = capture(sh("sleep 1000 & echo $!"), Limits::QUICK, &Interrupt::default()).unwrap();
        assert!(captured.status.success());
        gone(String::from_utf8(captured.out).unwrap().trim());
    }
}
