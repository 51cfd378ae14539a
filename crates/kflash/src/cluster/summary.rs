//! What a run came to, small enough for a termination message.

use std::collections::BTreeMap;
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
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Written and confirmed.
    Flashed,
    /// The board ran this firmware already.
    AlreadyCurrent,
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
        }
    }

    /// What it confirms of the board.
    pub fn confirmed(&self) -> Option<Confirmed> {
        let well = matches!(self.result, Outcome::Flashed | Outcome::AlreadyCurrent) && self.exit == ExitCode::Ok;
        let (sha256, version) = (self.sha256.clone()?, self.now.clone()?);
        well.then_some(Confirmed { sha256, version })
    }

    /// The same in less than [`MAX_SUMMARY`] bytes of JSON: texts of any length are cut.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        self.notes.truncate(4);
        self.durations_ms = self.durations_ms.into_iter().take(16).map(|(phase, ms)| (cut(&phase, 24), ms)).collect();
        self.message = self.message.map(|message| cut(&message, 1200));
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
        for result in [Outcome::Failed, Outcome::Refused] {
            assert_eq!(Summary { result, ..whole() }.confirmed(), None);
        }
        assert_eq!(Summary { exit: ExitCode::Lost, ..whole() }.confirmed(), None);
        assert_eq!(Summary { sha256: None, ..whole() }.confirmed(), None);
    }

    proptest! {
        #[test]
        fn it_always_fits(texts in prop::collection::vec(".{0,3000}", 10), control in "[\\x00-\\x1f\"\u{1f600}]{0,3000}") {
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
            prop_assert!(serde_json::to_string(&summary.fitted()).unwrap().len() < MAX_SUMMARY);
        }
    }
}
