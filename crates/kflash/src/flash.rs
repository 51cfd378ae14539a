//! The seven stages in a row.

use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::board::Profile;
use crate::chip::Chip;
use crate::discover::{Device, Place};
use crate::event::{Check, Phase};
use crate::exit::ExitCode;
use crate::host::Host;
use crate::identify::Selector;
use crate::image::Image;

/// What a flash works with.
pub struct Flasher<'a> {
    /// The machine with the boards.
    pub host: &'a dyn Host,
    /// Set by the first signal; looked at until the first erase, deferred after it.
    pub interrupt: &'a Interrupt,
    /// Whether a person is there who can press buttons.
    pub hands: bool,
}

/// What is to be flashed where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The board.
    pub profile: Profile,
    /// Its chip.
    pub chip: Chip,
    /// The firmware.
    pub image: Image,
    /// What the person said of the device; empty lets the rules of *Proved* decide.
    pub selectors: Vec<Selector>,
    /// Write even if the running dictionary is the image's already.
    pub force: bool,
}

/// A request to stop, set from a signal handler.
#[derive(Debug, Default)]
pub struct Interrupt(AtomicBool);

impl Interrupt {
    /// Asks the run to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether it was asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// How a flash or a verification ended well.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub struct Report {
    /// What came of it.
    pub outcome: Outcome,
    /// True when no hardware was touched.
    pub simulated: bool,
    /// The device as it is now.
    pub device: Device,
    /// What ran before.
    pub before: Option<Firmware>,
    /// What runs now.
    pub now: Option<Firmware>,
    /// Things a person should do or know now: `remove the BOOT0 jumper`, the new by-id path.
    pub notes: Vec<String>,
    /// Every check that was made.
    pub checks: Vec<Check>,
    /// How long each phase took, in milliseconds.
    pub durations_ms: Vec<(Phase, u64)>,
}

/// The good ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Written, read back, started and confirmed.
    Flashed,
    /// The running dictionary is the image's: nothing was written.
    AlreadyCurrent,
    /// `verify`: the running dictionary is the image's.
    DictionaryMatches,
    /// `verify --read-back`: every byte is the image's.
    BytesMatch,
}

/// Firmware, in a few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Firmware {
    /// `Klipper` or `Kalico`.
    pub app: String,
    /// Its version.
    pub version: String,
    /// Its MCU.
    pub mcu: Option<String>,
    /// SHA-256 of its dictionary.
    pub dictionary_sha256: String,
}

/// In what state a failed run leaves the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoardState {
    /// Nothing was sent to it that changes anything.
    Untouched,
    /// Nothing was erased; the application runs again.
    RunsAsBefore,
    /// Nothing was erased; it sits in its bootloader.
    InBootloader,
    /// The application is incomplete; the bootloader is what answers, by this way back if power is lost.
    Incomplete(crate::plan::WayBack),
    /// The application is whole and verified, but was not seen running.
    Written,
    /// Not known.
    Unknown,
}

/// How a run failed: the message, and the three answers that every error gives.
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
    /// Several devices would do.
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
    /// A check disagreed.
    CheckFailed,
    /// The chip is read-protected.
    Protected,
    /// A person has to act and nobody is there.
    HandsNeeded {
        /// What to do.
        instruction: String,
    },
    /// The bootloader did not appear.
    DidNotEnter,
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
    /// Anything else.
    Other,
}
