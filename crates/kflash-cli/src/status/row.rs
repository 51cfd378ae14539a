//! One board: what it runs, what it would be given, and the verdict.

use std::path::PathBuf;

use kflash::board::BoardId;
use kflash::discover::{Device, Mode};
use kflash::exit::ExitCode;
use kflash::flash::{Firmware, FlashError, Flasher, Heard, Interrupt, Unheard, Wanted};
use kflash::host::Host;
use kflash::identify::Selector;
use kflash::image::Image;
use kflash::klipper::dictionary::Dictionary;
use kflash::klipper::wire::{self, Compatibility, Needed, Verdict};
use serde::Serialize;

use super::target::{Stranger, Subject, Target};
use crate::detect::query::{self, Answer, Query};
use crate::sheet::word;

/// One board of the result.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The boards that it may be; one where that is known.
    pub boards: Vec<BoardId>,
    /// What names the device.
    pub selectors: Vec<Selector>,
    /// The device, where there is one.
    pub device: Option<Device>,
    /// What runs.
    pub runs: Option<Firmware>,
    /// What it would be given.
    pub offered: Option<Firmware>,
    /// The verdict.
    pub verdict: Verdict,
    /// Who misses what is different: every host, or one whose printer.cfg uses it.
    pub needed: Option<Needed>,
    /// Why the verdict is no better.
    pub reasons: Vec<String>,
    /// The command that mends it.
    pub remedy: Option<String>,
    /// How asking this board ended.
    pub exit: ExitCode,
}

/// Asks boards.
pub struct Asker<'a> {
    /// Never set: asking is short.
    pub interrupt: &'a Interrupt,
    /// Which are asked.
    pub query: Query,
    /// The firmware that they would be given, with its file.
    pub file: Option<&'a (PathBuf, Image)>,
}

impl Asker<'_> {
    /// Asks one.
    pub fn row(&self, host: &dyn Host, subject: &Subject) -> Row {
        match subject {
            Subject::Board(target) => self.board(host, target),
            Subject::Stranger(stranger) => {
                let answer = query::ask(host, &stranger.device, &stranger.holders, self.query, false);
                stranger_row(stranger, answer)
            }
        }
    }

    fn board(&self, host: &dyn Host, target: &Target) -> Row {
        let wanted = Wanted {
            profile: &target.profile,
            chip: &target.chip,
            selectors: &target.selectors,
            may_reset: self.query == Query::All,
        };
        let flasher = Flasher { host, interrupt: self.interrupt, hands: false };
        let mut row = Row { selectors: target.selectors.clone(), ..Row::new(target.boards.clone()) };
        let heard = match flasher.hear(&wanted, &mut |_| ()) {
            Ok(heard) => heard,
            Err(FlashError { exit, message, details, .. }) => {
                row.exit = exit;
                row.reasons = std::iter::once(message).chain(details).collect();
                return row;
            }
        };
        let offered = self.file.and_then(|(_, image)| image.dictionary.as_ref());
        row.offered = offered.map(Firmware::of);
        row.device.clone_from(&heard.device);
        row.runs = heard.running.as_ref().map(|running| Firmware::of(&running.dictionary));
        row.judge(&heard, offered);
        row.remedy = self.remedy(&row, target);
        row
    }

    fn remedy(&self, row: &Row, target: &Target) -> Option<String> {
        let ([board], Verdict::Compatible | Verdict::MustFlash, Some((file, _))) =
            (&row.boards[..], row.verdict, self.file)
        else {
            return None;
        };
        let mut words = vec!["kflash flash --board".to_owned(), word(&board.0)];
        for selector in &target.selectors {
            words.extend(["--device".to_owned(), word(&as_argument(selector))]);
        }
        words.extend(["--firmware".to_owned(), word(&file.to_string_lossy())]);
        Some(words.join(" "))
    }
}

/// A selector as it is written on a command line: `Display` escapes what a device made up.
fn as_argument(selector: &Selector) -> String {
    match selector {
        Selector::Serial(serial) => serial.clone(),
        Selector::Tty(path) => path.to_string_lossy().into_owned(),
        other => other.to_string(),
    }
}

impl Row {
    fn new(boards: Vec<BoardId>) -> Self {
        Self {
            boards,
            selectors: Vec::new(),
            device: None,
            runs: None,
            offered: None,
            verdict: Verdict::Unknown,
            needed: None,
            reasons: Vec::new(),
            remedy: None,
            exit: ExitCode::Ok,
        }
    }

    fn judge(&mut self, heard: &Heard, offered: Option<&Dictionary>) {
        let Some(running) = &heard.running else {
            let (reason, exit) = not_heard(heard);
            self.reasons.push(reason);
            self.exit = exit;
            return;
        };
        let Some(offered) = offered else {
            self.reasons.push("nothing to compare it with: --firmware names a file".into());
            return;
        };
        let Compatibility { verdict, reasons } = wire::compare(&running.dictionary, offered);
        self.verdict = verdict;
        self.needed = (verdict == Verdict::MustFlash).then(|| reasons.first().map(|reason| reason.needed)).flatten();
        self.reasons = reasons.iter().map(|reason| reason.difference.to_string()).collect();
    }
}

/// Why nothing is known of what runs.
fn not_heard(heard: &Heard) -> (String, ExitCode) {
    let mode = heard.device.as_ref().map(|device| device.mode);
    match (&heard.unheard, mode) {
        (Some(unheard @ Unheard::NoDevice { .. }), _) => (unheard.to_string(), ExitCode::NotFound),
        (Some(unheard @ Unheard::Held { .. }), _) => (unheard.to_string(), ExitCode::Busy),
        (Some(Unheard::WouldReset), _) => ("opening its port may reset it; --query all does".into(), ExitCode::Ok),
        (_, Some(Mode::Katapult)) => ("it is in Katapult: no firmware runs".into(), ExitCode::Ok),
        (_, Some(Mode::Dfu | Mode::Rp2Boot)) => ("it is in its ROM bootloader: no firmware runs".into(), ExitCode::Ok),
        (Some(unheard), _) => (unheard.to_string(), ExitCode::Ok),
        (None, _) => ("it told nothing".into(), ExitCode::Ok),
    }
}

fn stranger_row(stranger: &Stranger, answer: Answer) -> Row {
    let mut row = Row { device: Some(stranger.device.clone()), ..Row::new(stranger.boards.clone()) };
    let reason = match answer {
        Answer::Klipper { app, version, mcu, dictionary_sha256, .. } => {
            row.runs = Some(Firmware { app, version, mcu, dictionary_sha256 });
            match &stranger.boards[..] {
                [] => "it is no board that kflash knows: --board takes a profile of your own",
                _ => "it may be boards with different chips: --board names it",
            }
            .into()
        }
        Answer::Katapult { .. } => "it is in Katapult: no firmware runs".into(),
        Answer::Unknown { error } => error,
        Answer::NotAsked { why } => format!("not asked: {why}"),
    };
    row.reasons.push(reason);
    row
}
