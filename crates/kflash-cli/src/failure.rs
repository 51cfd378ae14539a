//! How a verb fails: every failure says its exit code, in what state the board is left, and what may help.

use std::any::Any;

use kflash::board::Hands;
use kflash::discover::Place;
use kflash::exit::{Again, ExitCode};
use kflash::flash::{BoardState, FailureKind, FlashError};
use kflash::obtain::cache::CacheError;
#[cfg(feature = "fetch")]
use kflash::obtain::fetch::FetchError;
use serde::Serialize;

use crate::hint;

/// A failed verb.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: ExitCode,
    /// What happened, as a lowercase fragment.
    pub message: String,
    /// More lines: checks that disagree, devices to choose from.
    pub details: Vec<String>,
    /// What may help.
    pub hint: Option<String>,
    /// Whether no hardware was touched.
    pub simulated: bool,
    /// The board that was in play.
    pub board: Option<Box<BoardLeft>>,
}

/// The board that a failure leaves behind.
#[derive(Clone, Debug, Serialize)]
pub struct BoardLeft {
    /// In what state.
    #[serde(rename = "board")]
    pub state: BoardState,
    /// Where it is, once one was chosen.
    pub place: Option<Place>,
    /// What kind of failure it was.
    #[serde(flatten)]
    pub kind: FailureKind,
}

/// A failure as the last line of JSON.
#[derive(Serialize)]
pub struct FailureJson<'a> {
    result: &'static str,
    exit_code: u8,
    exit: ExitCode,
    message: &'a str,
    details: &'a [String],
    hint: Option<&'a str>,
    simulated: bool,
    #[serde(flatten)]
    board: Option<&'a BoardLeft>,
    again: Again,
}

impl Failure {
    /// A failure with nothing but a code and a message.
    pub fn new(exit: ExitCode, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), details: Vec::new(), hint: None, simulated: false, board: None }
    }

    /// Wrong arguments, configuration or profile.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitCode::Usage, message)
    }

    /// A panic: a bug of kflash.
    pub fn internal_of_panic(panic: &(dyn Any + Send)) -> Self {
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        let board = BoardLeft { state: BoardState::Unknown, place: None, kind: FailureKind::Other };
        Self { board: Some(Box::new(board)), ..Self::new(ExitCode::Internal, format!("this is a bug: {said}")) }
    }

    /// Whether trying again can help. To compare once more, what was found to differ, does not.
    pub fn again(&self) -> Again {
        match &self.board {
            Some(board) if matches!(board.kind, FailureKind::Mismatch) => Again::No,
            _ => self.exit.again(),
        }
    }

    /// The failure as JSON.
    pub fn json(&self) -> FailureJson<'_> {
        FailureJson {
            result: if self.exit == ExitCode::Phase { "phase" } else { "failed" },
            exit_code: self.exit.code(),
            exit: self.exit,
            message: &self.message,
            details: &self.details,
            hint: self.hint.as_deref(),
            simulated: self.simulated,
            board: self.board.as_deref(),
            again: self.again(),
        }
    }
}

impl Failure {
    /// A failed stage of a flash, of a board with these `hands`.
    pub fn of_flash(error: FlashError, hands: &Hands) -> Self {
        Self {
            hint: hint::hint(&error.kind, error.board, hands),
            exit: error.exit,
            message: error.message,
            details: error.details,
            simulated: false,
            board: Some(Box::new(BoardLeft { state: error.board, place: error.place, kind: error.kind })),
        }
    }
}

#[cfg(feature = "fetch")]
impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self { hint: hint::fetch(&error), ..Self::new(error.exit(), error.to_string()) }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Self { hint: hint::cache(&error), ..Self::new(error.exit(), error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparing_once_more_does_not_help() {
        let failure = |kind| {
            Failure::of_flash(
                FlashError::new(ExitCode::Verify, kind, BoardState::Untouched, "differs"),
                &Hands::default(),
            )
        };
        assert_eq!(failure(FailureKind::Mismatch).again(), Again::No);
        assert_eq!(failure(FailureKind::ReadBackDiffers).again(), Again::Once);
    }
}
