//! Progress: one enum, three renderers (bar, plain lines, JSON lines) in the command.

use serde::{Deserialize, Serialize};

use crate::plan::WayBack;

/// What happens while a flash runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A phase begins.
    Phase {
        /// Which.
        phase: Phase,
        /// A line for a person: what is done to what.
        what: String,
        /// Bytes that it will go through, where it is about bytes.
        total: Option<u64>,
    },
    /// Bytes of the running phase that are done.
    Progress {
        /// The running phase.
        phase: Phase,
        /// Done so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// Something a person should know, that stops nothing.
    Warning {
        /// The warning.
        text: String,
    },
    /// A check was made.
    Check(Check),
    /// A person has to do something to the board; the run waits for the device to change.
    HandsNeeded {
        /// What to do.
        instruction: String,
        /// For how long it will be waited, in seconds.
        wait_s: u64,
    },
    /// An operation of the plan begins.
    Operation {
        /// Its index in the plan's list.
        index: usize,
        /// The way back if link and power are lost from now on.
        way_back: WayBack,
    },
}

/// The phases of a flash, as shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Fetching firmware.
    Fetch,
    /// Finding the device and asking what it runs.
    Look,
    /// Entering the bootloader.
    Enter,
    /// Erasing, or making the old application invalid.
    Erase,
    /// Writing.
    Write,
    /// Reading back.
    ReadBack,
    /// Starting the application.
    Start,
    /// Asking the started application what it is.
    Confirm,
}

/// One check with its evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was compared: `image fits the application region`.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
    /// The two sides and where they come from.
    pub evidence: String,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Both sides agree.
    Agrees,
    /// They disagree: the flash is refused.
    Disagrees,
    /// Only the bootloader can tell; made again once it is entered.
    Pending,
    /// Nothing on the board or in the image can tell.
    NotProvable,
}

/// Takes events as they happen.
pub type Events<'a> = &'a mut dyn FnMut(Event);
