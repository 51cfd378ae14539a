//! What a run came to, small enough for a termination message.

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::handover::{self, HandoverError};
use crate::exit::ExitCode;

/// A summary has fewer bytes than this: the kubelet cuts a termination message there.
pub const MAX_SUMMARY: usize = 4096;

/// What a run came to: the termination message of the container with the device, what it leaves for `quiesce`, and what
/// that notes on the Lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How it ended.
    pub result: Outcome,
    /// The exit code.
    pub exit: ExitCode,
    /// The exit code as a number.
    pub exit_code: u8,
    /// Why it failed, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The version that ran before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The version that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// SHA-256 of the image file, as lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How long each phase took, in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub durations_ms: BTreeMap<String, u64>,
    /// What a person should know, such as that somebody started Klipper meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Where several boards were flashed: each, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub boards: BTreeMap<String, Self>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Written and confirmed.
    Flashed,
    /// The board ran this firmware already.
    AlreadyCurrent,
    /// The container ended in the middle of a flash in phases: the next one goes on.
    Phase,
    /// The gate did not open: nothing was stopped, no device was opened.
    Refused,
    /// Anything else.
    Failed,
}

/// The firmware that was last seen running on a board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// SHA-256 of the image file, as lower-case hex.
    pub sha256: String,
    /// The version, as the firmware says it.
    pub version: String,
}

impl Summary {
    /// A summary of nothing but how it ended.
    pub fn new(result: Outcome, exit: ExitCode, message: Option<String>) -> Self {
        Self {
            result,
            exit,
            exit_code: exit.code(),
            message,
            before: None,
            now: None,
            sha256: None,
            durations_ms: BTreeMap::new(),
            notes: Vec::new(),
            boards: BTreeMap::new(),
        }
    }

    /// A summary of several boards: it ended as the worst of them did.
    pub fn of_boards(boards: BTreeMap<String, Self>) -> Self {
        let exit = ExitCode::worst(boards.values().map(|board| board.exit));
        let all = |result| boards.values().all(|board| board.result == result);
        let (result, message) = if let Some((name, worst)) = boards.iter().find(|(_, board)| board.exit == exit)
            && exit != ExitCode::Ok
        {
            let why = worst.message.as_deref().unwrap_or("no reason was given");
            if worst.result == Outcome::Phase {
                (Outcome::Phase, Some(format!("{name}: {why}")))
            } else {
                let well = [ExitCode::Ok, ExitCode::Phase];
                let failed = boards.values().filter(|board| !well.contains(&board.exit)).count();
                (Outcome::Failed, Some(format!("{failed} of {} boards failed: {name}: {why}", boards.len())))
            }
        } else if all(Outcome::AlreadyCurrent) {
            (Outcome::AlreadyCurrent, None)
        } else {
            (Outcome::Flashed, None)
        };
        Self { boards, ..Self::new(result, exit, message) }
    }

    /// What it confirms of the board.
    pub fn confirmed(&self) -> Option<Confirmed> {
        let well = matches!(self.result, Outcome::Flashed | Outcome::AlreadyCurrent) && self.exit == ExitCode::Ok;
        let (sha256, version) = (self.sha256.clone()?, self.now.clone()?);
        well.then_some(Confirmed { sha256, version })
    }

    /// The same in less than [`MAX_SUMMARY`] bytes of JSON: texts of any length are cut, and of many boards it is told
    /// less and less.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let whole = Self { boards: BTreeMap::new(), ..self.clone() }.cut(1200);
        let mut boards: Vec<_> =
            mem::take(&mut self.boards).into_iter().map(|(name, board)| (cut(&name, 64), board.cut(200))).collect();
        let fits = |boards: &[(String, Self)]| {
            let fitted = Self { boards: boards.iter().cloned().collect(), ..whole.clone() };
            serde_json::to_string(&fitted).is_ok_and(|json| json.len() < MAX_SUMMARY).then_some(fitted)
        };
        for leave_out in LESS {
            if let Some(fitted) = fits(&boards) {
                return fitted;
            }
            for (_, board) in &mut boards {
                leave_out(board);
            }
        }
        loop {
            if let Some(fitted) = fits(&boards) {
                return fitted;
            }
            if boards.pop().is_none() {
                return whole;
            }
        }
    }

    /// One board's, with a message of at most `message` bytes.
    fn cut(mut self, message: usize) -> Self {
        self.boards.clear();
        self.notes.truncate(4);
        self.durations_ms = self.durations_ms.into_iter().take(16).map(|(phase, ms)| (cut(&phase, 24), ms)).collect();
        self.message = self.message.map(|text| cut(&text, message));
        self.notes = self.notes.iter().map(|note| cut(note, 200)).collect();
        for text in [&mut self.before, &mut self.now, &mut self.sha256] {
            *text = text.as_ref().map(|text| cut(text, 160));
        }
        self
    }

    /// Writes it to `path`, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), HandoverError> {
        handover::write(path, &self.clone().fitted())
    }

    /// Reads it from `path`; `None` where there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>, HandoverError> {
        handover::read(path)
    }
}

/// What is left out of boards, step by step, where it does not fit.
const LESS: [fn(&mut Summary); 4] = [
    |board| board.notes.clear(),
    |board| board.durations_ms.clear(),
    |board| board.before = None,
    |board| board.message = board.message.take().map(|text| cut(&text, 60)),
];

/// The first characters of `text` whose JSON has at most `bytes` bytes.
fn cut(text: &str, bytes: usize) -> String {
    let mut left = bytes;
    let mut kept = String::new();
    for c in text.chars() {
        let size = match c {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            _ => c.len_utf8(),
        };
        if size > left {
            break;
        }
        left -= size;
        kept.push(c);
    }
    kept
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn whole() -> Summary {
        Summary {
            before: Some("v0.12.0-1-g1".into()),
            now: Some("v0.13.0-1-g2".into()),
            sha256: Some("ab".repeat(32)),
            durations_ms: [("write".to_owned(), 1400)].into(),
            ..Summary::new(Outcome::Flashed, ExitCode::Ok, None)
        }
    }

    #[test]
    fn it_is_a_contract() {
        let json = serde_json::to_value(whole()).unwrap();
        let sha256 = "ab".repeat(32);
        let expected = serde_json::json!({
            "result": "flashed", "exit": "ok", "exit_code": 0, "before": "v0.12.0-1-g1", "now": "v0.13.0-1-g2",
            "sha256": sha256, "durations_ms": {"write": 1400},
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Summary>(json).unwrap(), whole());
    }

    #[test]
    fn only_a_good_end_confirms() {
        assert_eq!(whole().confirmed().unwrap().version, "v0.13.0-1-g2");
        for result in [Outcome::Failed, Outcome::Refused, Outcome::Phase] {
            assert_eq!(Summary { result, ..whole() }.confirmed(), None);
        }
        assert_eq!(Summary { exit: ExitCode::Lost, ..whole() }.confirmed(), None);
        assert_eq!(Summary { sha256: None, ..whole() }.confirmed(), None);
    }

    #[test]
    fn several_boards_end_as_the_worst_of_them_did() {
        let failed = |exit, message: &str| Summary::new(Outcome::Failed, exit, Some(message.into()));
        let of = |boards: &[(&str, Summary)]| {
            Summary::of_boards(boards.iter().map(|(name, board)| ((*name).to_owned(), board.clone())).collect())
        };
        let current = Summary { result: Outcome::AlreadyCurrent, ..whole() };
        assert_eq!(of(&[("a", whole()), ("b", current.clone())]).result, Outcome::Flashed);
        assert_eq!(of(&[("a", current.clone()), ("b", current)]).result, Outcome::AlreadyCurrent);
        let worst = of(&[
            ("a", failed(ExitCode::NotFound, "no such device")),
            ("b", whole()),
            ("c", failed(ExitCode::Write, "it stalls")),
        ]);
        assert_eq!((worst.result, worst.exit, worst.exit_code), (Outcome::Failed, ExitCode::Write, 11));
        assert_eq!(worst.message.as_deref(), Some("2 of 3 boards failed: c: it stalls"));
        assert_eq!(worst.confirmed(), None);
        let phase = Summary::new(Outcome::Phase, ExitCode::Phase, Some("the next container goes on".into()));
        let on = of(&[("a", failed(ExitCode::NotFound, "no such device")), ("b", whole()), ("c", phase.clone())]);
        assert_eq!((on.result, on.exit), (Outcome::Phase, ExitCode::Phase));
        assert_eq!(on.message.as_deref(), Some("c: the next container goes on"));
        let stalled = of(&[("a", phase), ("b", failed(ExitCode::Write, "it stalls"))]);
        assert_eq!(stalled.message.as_deref(), Some("1 of 2 boards failed: b: it stalls"));
        assert_eq!(worst.boards["b"].confirmed().unwrap().version, "v0.13.0-1-g2");
    }

    #[test]
    fn of_many_boards_it_tells_what_matters_most() {
        let board = Summary {
            message: Some("m".repeat(300)),
            durations_ms: (0..9).map(|phase| (format!("phase-{phase}"), 12345)).collect(),
            notes: vec!["n".repeat(150)],
            ..whole()
        };
        let of =
            |count: usize| Summary::of_boards((0..count).map(|at| (format!("voron/{at}"), board.clone())).collect());
        for (count, boards) in [(2, 2), (5, 5), (12, 12)] {
            let fitted = of(count).fitted();
            assert_eq!(fitted.boards.len(), boards, "{count}");
            assert!(fitted.boards.values().all(|board| board.confirmed().is_some()), "{count}");
        }
        assert!(!of(2).fitted().boards["voron/1"].durations_ms.is_empty());
    }

    proptest! {
        #[test]
        fn it_always_fits(boards in 0_usize..40, texts in prop::collection::vec(".{0,3000}", 10), control in "[\\x00-\\x1f\"\u{1f600}]{0,3000}") {
            let text = |at: usize| format!("{control}{}", texts[at]);
            let summary = Summary {
                message: Some(text(0)),
                before: Some(text(1)),
                now: Some(text(2)),
                sha256: Some(text(3)),
                durations_ms: (0..30).map(|at| (format!("{at}{}", text(4)), u64::MAX)).collect(),
                notes: texts.clone(),
                ..Summary::new(Outcome::AlreadyCurrent, ExitCode::NotFound, None)
            };
            let boards = (0..boards).map(|at| (format!("{at}{}", text(5)), summary.clone())).collect();
            let summary = Summary { boards, ..summary };
            prop_assert!(serde_json::to_string(&summary.fitted()).unwrap().len() < MAX_SUMMARY);
        }
    }
}
