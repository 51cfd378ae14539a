//! How a run fails: the message, and the three answers that every error gives.

use serde::Serialize;

use crate::discover::{DiscoverError, Place};
use crate::event::Check;
use crate::exit::ExitCode;
use crate::host::LockError;
use crate::identify::SelectError;
use crate::link::LinkError;
use crate::plan::{Refusal, WayBack};

/// In what state a failed run leaves the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoardState {
    /// Nothing was sent to it that changes anything.
    Untouched,
    /// Nothing was erased; the application runs again.
    RunsAsBefore,
    /// Nothing was erased; it sits in its bootloader.
    InBootloader,
    /// The application is incomplete: the bootloader answers, after a loss of power by this way back.
    Incomplete(WayBack),
    /// The application is whole and verified, but was not seen running as it should.
    Written,
    /// Not known.
    Unknown,
}

/// A failed run.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct FlashError {
    /// The exit code.
    pub exit: ExitCode,
    /// What happened, as a lowercase fragment that names device, address or file.
    pub message: String,
    /// In what state the board is left.
    pub board: BoardState,
    /// What kind of failure it is, for hints.
    pub kind: FailureKind,
    /// The place of the device, once one was chosen.
    pub place: Option<Place>,
    /// The checks that disagreed, or the devices to choose from, a line each.
    pub details: Vec<String>,
}

/// Kinds of failure that have a hint of their own in the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FailureKind {
    /// No device matched.
    NoDevice,
    /// Several devices would do, or one that only a person can name.
    Ambiguous,
    /// A node cannot be opened for lack of permission.
    PermissionDenied {
        /// The node.
        node: String,
    },
    /// A node is held by another process.
    Held {
        /// The node or place.
        node: String,
    },
    /// The printer prints.
    Printing,
    /// Whether the printer prints could not be asked.
    NotAsked,
    /// A check disagreed.
    CheckFailed,
    /// The chip is read-protected.
    Protected,
    /// A person has to act and nobody is there, or nobody did.
    HandsNeeded {
        /// What to do.
        instruction: String,
    },
    /// The bootloader did not appear.
    DidNotEnter,
    /// The bootloader that was found left while it was connected to.
    LeftMeanwhile,
    /// The link broke.
    LinkLost,
    /// The bootloader refused or failed an operation.
    WriteFailed,
    /// Read-back differs.
    ReadBackDiffers,
    /// Read-back is not possible, so that nothing is proven.
    ReadBackRefused,
    /// The application did not come back.
    DidNotReturn,
    /// Another application came back than the one written.
    RunsSomethingElse,
    /// `verify`: the board runs, or holds, something else.
    Mismatch,
    /// The port was taken by another process on return.
    Taken,
    /// A signal asked to stop.
    Interrupted,
    /// The device is another node now than this container has: the next one goes on.
    Phase,
    /// No node in this container is the device.
    NoNode,
    /// No debug probe is plugged in, or none that fits.
    NoProbe,
    /// Several debug probes would do.
    SeveralProbes,
    /// The debug probe may not be opened.
    ProbeDenied {
        /// The probe.
        probe: String,
    },
    /// The debug probe is held by another program.
    ProbeHeld,
    /// No chip answers at the debug probe.
    NoChip,
    /// The chip at the debug probe is held in reset.
    HeldInReset,
    /// Another chip than the board's answers at the debug probe.
    WrongChip,
    /// The chip at the debug probe is read-protected; erasing all of it would lift that.
    Locked,
    /// kflash does not know how to flash this chip through a debug probe.
    NoDefinition,
    /// Anything else.
    Other,
}

impl FlashError {
    /// A failure without a place and details.
    pub fn new(exit: ExitCode, kind: FailureKind, board: BoardState, message: impl Into<String>) -> Self {
        Self { exit, kind, board, message: message.into(), place: None, details: Vec::new() }
    }

    /// The same, about the device at `place`.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        self.place = Some(place.clone());
        self
    }

    /// A link that failed while `doing` something, before anything was erased. `otherwise` is the exit code where
    /// neither permission nor another process is the cause.
    pub fn link(doing: &str, error: &LinkError, board: BoardState, otherwise: ExitCode) -> Self {
        let (exit, kind) = match error {
            LinkError::Denied { node } => (ExitCode::Denied, FailureKind::PermissionDenied { node: node.clone() }),
            LinkError::Busy { node } => (ExitCode::Busy, FailureKind::Held { node: node.clone() }),
            _ => (otherwise, FailureKind::LinkLost),
        };
        Self::new(exit, kind, board, format!("{doing}: {error}"))
    }

    /// A plan that was refused.
    pub fn refused(refusal: &Refusal, board: BoardState) -> Self {
        let details =
            refusal.disagreements().map(|Check { name, evidence, .. }| format!("{name}: {evidence}")).collect();
        let (kind, message) = if refusal.protected {
            (FailureKind::Protected, "chip is read-protected")
        } else {
            (FailureKind::CheckFailed, "image, board and device disagree")
        };
        Self { details, ..Self::new(ExitCode::Refused, kind, board, message) }
    }
}

impl From<DiscoverError> for FlashError {
    fn from(error: DiscoverError) -> Self {
        let exit = match error {
            DiscoverError::Unreadable { .. } => ExitCode::Denied,
            DiscoverError::Unreachable { .. } => ExitCode::NotFound,
        };
        Self::new(exit, FailureKind::Other, BoardState::Untouched, error.to_string())
    }
}

impl From<LockError> for FlashError {
    fn from(error: LockError) -> Self {
        let (exit, kind) = match &error {
            LockError::Held { place, .. } => (ExitCode::Busy, FailureKind::Held { node: place.clone() }),
            LockError::Io { place, .. } => (ExitCode::Denied, FailureKind::PermissionDenied { node: place.clone() }),
        };
        Self::new(exit, kind, BoardState::Untouched, error.to_string())
    }
}

impl From<SelectError> for FlashError {
    fn from(error: SelectError) -> Self {
        let exit = error.exit();
        let kind = if exit == ExitCode::NotFound { FailureKind::NoDevice } else { FailureKind::Ambiguous };
        Self { details: error.devices().to_vec(), ..Self::new(exit, kind, BoardState::Untouched, error.to_string()) }
    }
}
