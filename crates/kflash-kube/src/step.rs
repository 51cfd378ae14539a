//! What happens to Klipper, step by step: lines of the sidecar's log, and Events of the Job.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use kflash::cluster::{Outcome, Summary, Workload};
use kflash::exit::ExitCode;
use serde::{Deserialize, Serialize};

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// The gate is shut; it is asked again.
    Waiting {
        /// Why it is shut.
        reason: String,
    },
    /// A request failed in a way that may pass; it is made again.
    Retrying {
        /// What was asked for.
        what: String,
        /// What went wrong.
        problem: String,
    },
    /// A run that died before it gave Klipper back is continued.
    TakenOver {
        /// Whose.
        from: String,
        /// What is owed.
        workload: Workload,
        /// How many replicas of it.
        replicas: i32,
    },
    /// The replicas are recorded; Klipper is scaled to nothing.
    Stopping {
        /// Its workload.
        workload: Workload,
        /// How many replicas it had.
        replicas: i32,
    },
    /// No pod of Klipper is left: the flash may begin.
    Stopped {
        /// Its workload.
        workload: Workload,
    },
    /// Somebody else scaled Klipper up while it was held; it is scaled to nothing again.
    SetBack {
        /// Its workload.
        workload: Workload,
        /// To how many replicas.
        replicas: i32,
    },
    /// The Lease was taken away while it was held.
    LeaseLost {
        /// Who holds it now.
        by: String,
    },
    /// The flash will not take place; nothing is stopped.
    Refused {
        /// The code that the flash ends with.
        exit: ExitCode,
        /// Why.
        reason: String,
    },
    /// There is nothing to flash; nothing is stopped.
    AlreadyCurrent {
        /// The versions that run, by Klipper's name of the micro-controller.
        versions: BTreeMap<String, String>,
    },
    /// Klipper has its replicas again.
    Restored {
        /// Its workload.
        workload: Workload,
        /// How many.
        replicas: i32,
    },
    /// What was owed needs no payment: somebody else scaled it up, or it is gone.
    Settled {
        /// The workload.
        workload: Workload,
        /// How many replicas it has; `None` where it is gone.
        replicas: Option<i32>,
    },
    /// What came of the flash is not on the Lease.
    Unnoted {
        /// Why not.
        problem: String,
    },
    /// What came of the flash.
    Ended {
        /// In short.
        summary: Summary,
    },
}

impl Step {
    /// The reason of the Event that tells of it, where one does: what a person looks for in `kubectl describe job`.
    pub fn event(&self) -> Option<(EventKind, &'static str)> {
        Some(match self {
            Self::Waiting { .. } => (EventKind::Normal, "GateShut"),
            Self::TakenOver { .. } => (EventKind::Warning, "TakenOver"),
            Self::Stopping { .. } => (EventKind::Normal, "StoppingKlipper"),
            Self::Stopped { .. } => (EventKind::Normal, "KlipperStopped"),
            Self::SetBack { .. } => (EventKind::Warning, "ReplicasSetBack"),
            Self::LeaseLost { .. } => (EventKind::Warning, "LeaseLost"),
            Self::Refused { .. } => (EventKind::Warning, "FlashRefused"),
            Self::AlreadyCurrent { .. } => (EventKind::Normal, "AlreadyCurrent"),
            Self::Restored { .. } => (EventKind::Normal, "KlipperRestored"),
            Self::Settled { .. } => (EventKind::Normal, "NothingOwed"),
            Self::Ended { summary } => match summary.result {
                Outcome::Flashed => (EventKind::Normal, "Flashed"),
                Outcome::AlreadyCurrent => (EventKind::Normal, "AlreadyCurrent"),
                Outcome::Phase | Outcome::Refused | Outcome::Failed => (EventKind::Warning, "FlashFailed"),
            },
            Self::Retrying { .. } | Self::Unnoted { .. } => return None,
        })
    }
}

/// The two types of Events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// A person may want to look.
    Warning,
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { reason } => write!(f, "waiting: {reason}"),
            Self::Retrying { what, problem } => write!(f, "trying again to {what}: {problem}"),
            Self::TakenOver { from, workload, replicas } => {
                write!(f, "continuing for {from}, which left {workload} without its {replicas} replicas")
            }
            Self::Stopping { workload, replicas } => write!(f, "scaling {workload} from {replicas} replicas to 0"),
            Self::Stopped { workload } => write!(f, "no pod of {workload} is left"),
            Self::SetBack { workload, replicas } => {
                write!(
                    f,
                    "somebody scaled {workload} to {replicas} during the flash (a GitOps tool?): scaling it to 0 again"
                )
            }
            Self::LeaseLost { by } => write!(f, "the Lease was taken over during the flash: it is held by {by}"),
            Self::Refused { exit, reason } => write!(f, "refused (exit code {}): {reason}", exit.code()),
            Self::AlreadyCurrent { versions } => {
                let all: Vec<_> = versions.iter().map(|(mcu, version)| format!("{mcu} {version}")).collect();
                write!(f, "nothing to do: this very firmware runs already: {}", all.join(", "))
            }
            Self::Restored { workload, replicas } => write!(f, "scaled {workload} back to {replicas}"),
            Self::Settled { workload, replicas: Some(replicas) } => {
                write!(f, "{workload} has {replicas} replicas: nothing is owed")
            }
            Self::Settled { workload, replicas: None } => write!(f, "{workload} is gone: nothing is owed"),
            Self::Unnoted { problem } => write!(f, "the result is not on the Lease: {problem}"),
            Self::Ended { summary } => ended(f, summary),
        }
    }
}

fn ended(f: &mut Formatter<'_>, summary: &Summary) -> fmt::Result {
    let now = summary.now.as_deref().unwrap_or("firmware of an unknown version");
    match summary.result {
        Outcome::Flashed => write!(f, "flashed: the board runs {now}")?,
        Outcome::AlreadyCurrent => write!(f, "not flashed: the board runs {now} already")?,
        Outcome::Phase | Outcome::Refused | Outcome::Failed => {
            let message = summary.message.as_deref().unwrap_or("no reason was given");
            write!(f, "not flashed (exit code {}): {message}", summary.exit_code)?;
        }
    }
    summary.notes.iter().try_for_each(|note| write!(f, "; {note}"))
}
