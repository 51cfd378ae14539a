//! Progress of builds, as [`crate::event::Event`] is that of a flash.

use std::path::PathBuf;

use serde::Serialize;

use crate::board::BoardId;

/// What happens while firmware is built. Boards that need the same firmware are named together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum BuildEvent {
    /// The tree's own Kconfig resolves a configuration.
    Configuring {
        /// For these boards.
        boards: Vec<BoardId>,
    },
    /// Another run builds the same, and is waited for.
    Waiting {
        /// For these boards.
        boards: Vec<BoardId>,
        /// Its process, where known.
        pid: Option<u32>,
    },
    /// make begins.
    Building {
        /// For these boards.
        boards: Vec<BoardId>,
        /// Where its output is kept.
        log: PathBuf,
    },
    /// Objects are made.
    Progress {
        /// For these boards.
        boards: Vec<BoardId>,
        /// Done so far; never more than all.
        done: usize,
        /// In all; zero if make does not tell.
        total: usize,
    },
    /// Something a person should know, that stops nothing.
    Warning {
        /// The warning.
        text: String,
    },
    /// A board's firmware is there, or will not be.
    Ended {
        /// The board.
        board: BoardId,
        /// Whether it is there.
        well: bool,
    },
}
