//! A flash in a pod: what `quiesce` beside it has decided, and what is left for it and for the kubelet.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kflash::cluster::{Confirmed, Gate, Outcome, Summary, file};
use kflash::exit::ExitCode;

use crate::failure::Failure;
use crate::phases::Phases;
use crate::render;
use crate::sheet::shown;

/// In a pod.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "In a pod")]
pub struct Pod {
    /// The directory that is shared with quiesce: flashes only if that has stopped Klipper, and leaves the result there
    #[arg(long = "shared", value_name = "DIR")]
    handover: Option<PathBuf>,
    /// Write the result to FILE, in less than 4 KiB of JSON: the container's termination message
    #[arg(long, value_name = "FILE")]
    termination_message: Option<PathBuf>,
    #[command(flatten)]
    pub phases: Phases,
}

/// What is to be known of a flash that did not take place.
const NOT_STOPPED: &str = "Klipper was not stopped: it reports what was last confirmed";

/// How the run on each board ended, by its name; without one, where there is but one.
#[derive(Debug, Default)]
pub struct Ends(Mutex<BTreeMap<Option<String>, Summary>>);

impl Ends {
    /// Notes how the run on a board ended.
    pub fn note(&self, board: Option<&str>, summary: Summary) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(board.map(str::to_owned), summary);
    }

    /// All in one.
    fn summary(self, ended: &Result<ExitCode, Failure>) -> Summary {
        let mut boards = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (ended, boards.len()) {
            (Err(failure), 0) => Summary::from(failure),
            // A printer with one board is as one board.
            (_, 1) => boards.pop_first().map_or_else(nothing, |(_, summary)| summary),
            (_, 0) => nothing(),
            _ => {
                Summary::of_boards(boards.into_iter().map(|(name, board)| (name.unwrap_or_default(), board)).collect())
            }
        }
    }
}

/// Nothing was to be done; by Klipper's name of the micro-controller, where there are several.
fn already_current(boards: BTreeMap<String, Confirmed>) -> Summary {
    let one = |runs: Confirmed| Summary {
        before: Some(runs.version.clone()),
        now: Some(runs.version),
        sha256: Some(runs.sha256),
        ..Summary::new(Outcome::AlreadyCurrent, ExitCode::Ok, None)
    };
    let mut boards: BTreeMap<_, _> = boards.into_iter().map(|(name, runs)| (name, one(runs))).collect();
    let summary = match boards.len() {
        0 | 1 => boards.pop_first().map_or_else(nothing, |(_, only)| only),
        _ => Summary::of_boards(boards),
    };
    Summary { notes: vec![NOT_STOPPED.to_owned()], ..summary }
}

fn nothing() -> Summary {
    Summary::new(Outcome::Failed, ExitCode::Internal, Some("no board was flashed".into()))
}

impl From<&Failure> for Summary {
    fn from(failure: &Failure) -> Self {
        let result = if failure.exit == ExitCode::Phase { Outcome::Phase } else { Outcome::Failed };
        Self::new(result, failure.exit, Some(failure.message.clone()))
    }
}

impl Pod {
    /// Flashes, unless `quiesce` has said not to: no device is opened then. Leaves what it came to where it was told to.
    pub fn run(&self, json: bool, flash: impl FnOnce(&Ends) -> Result<ExitCode, Failure>) -> Result<ExitCode, Failure> {
        // Of an earlier phase.
        if let Some(path) = self.handover.as_ref().filter(|_| self.phases.phased()).map(|it| it.join(file::RESULT)) {
            let _ = fs::remove_file(path);
        }
        let (ended, summary) = match self.gate() {
            Ok(Some(Gate::AlreadyCurrent { .. } | Gate::Refused { .. })) if self.phases.another_follows => {
                render::note("nothing is to be done: the container that follows says why");
                return Ok(ExitCode::Ok);
            }
            Ok(None | Some(Gate::Open)) => {
                let ends = Ends::default();
                let ended = flash(&ends);
                let summary = ends.summary(&ended);
                (ended, summary)
            }
            Ok(Some(Gate::AlreadyCurrent { boards })) => {
                let summary = already_current(boards);
                if json {
                    render::result_json(&summary);
                } else {
                    let runs = |name: &str, one: &Summary| {
                        format!("{name} runs {} already", shown(one.now.as_deref().unwrap_or_default()))
                    };
                    let several: Vec<_> = summary.boards.iter().map(|(name, one)| runs(name, one)).collect();
                    let all = if several.is_empty() { runs("the board", &summary) } else { several.join(", ") };
                    render::result(&format!("Nothing to do: {all}. {NOT_STOPPED}"));
                }
                (Ok(ExitCode::Ok), summary)
            }
            Ok(Some(Gate::Refused { exit, reason })) => {
                // Nothing was flashed: that is no success, whatever was written.
                let exit = if exit == ExitCode::Ok { ExitCode::Internal } else { exit };
                let summary = Summary::new(Outcome::Refused, exit, Some(reason.clone()));
                (Err(Failure::new(exit, reason)), summary)
            }
            Err(failure) => {
                let summary = Summary { result: Outcome::Refused, ..Summary::from(&failure) };
                (Err(failure), summary)
            }
        };
        self.leave(&summary);
        self.phases.end(ended, json)
    }

    /// What `quiesce` has said, where it was to be asked.
    fn gate(&self) -> Result<Option<Gate>, Failure> {
        let Some(folder) = &self.handover else { return Ok(None) };
        let path = folder.join(file::GATE);
        match Gate::read(&path) {
            Ok(Some(Gate::AlreadyCurrent { boards })) if boards.is_empty() => {
                let message = format!("{}: nothing is to be done, it says, on no board", path.display());
                Err(Failure::new(ExitCode::Internal, message))
            }
            Ok(Some(gate)) => Ok(Some(gate)),
            Ok(None) => {
                let message = format!("quiesce has said nothing in {}: it has to be started first", path.display());
                Err(Failure::usage(message))
            }
            Err(error) => Err(Failure::new(ExitCode::Internal, error.to_string())),
        }
    }

    fn leave(&self, summary: &Summary) {
        let unsaid = |path: &Path, error: &dyn std::fmt::Display| {
            render::note(&format!("kflash: the result is not in {}: {error}", path.display()));
        };
        if let Some(path) = self.handover.as_ref().map(|folder| folder.join(file::RESULT))
            && let Err(error) = summary.write(&path)
        {
            unsaid(&path, &error);
        }
        if let Some(path) = &self.termination_message {
            // Mounted by the kubelet: it cannot be replaced, only written.
            let json = serde_json::to_vec(&summary.clone().fitted()).unwrap_or_default();
            if let Err(error) = fs::write(path, json) {
                unsaid(path, &error);
            }
        }
    }
}
