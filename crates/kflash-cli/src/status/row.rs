//! One board: what it runs, what it would be given, and the verdict.

use kflash::board::BoardId;
use kflash::discover::{Device, Mode};
use kflash::exit::ExitCode;
use kflash::flash::{Firmware, FlashError, Heard, Unheard};
use kflash::identify::Selector;
use kflash::klipper::dictionary::Dictionary;
use kflash::klipper::wire::{self, Compatibility, Needed, Verdict};
use serde::Serialize;

use super::heard::Asked;
use super::klippy::Klippy;
use super::offer::{NoOffer, Offer, Offered};
use super::target::{Stranger, Subject, Target};
use crate::detect::query::Answer;
use crate::sheet::word;

/// One board of the result.
#[derive(Debug, Serialize)]
pub struct Row {
    /// `PRINTER/BOARD`, where it is configured.
    pub name: Option<String>,
    /// The boards that it may be; one where that is known.
    pub boards: Vec<BoardId>,
    /// What names the device.
    pub selectors: Vec<Selector>,
    /// The device, where there is one.
    pub device: Option<Device>,
    /// What runs.
    pub runs: Option<Runs>,
    /// What it would be given.
    pub offered: Option<Firmware>,
    /// The verdict.
    pub verdict: Verdict,
    /// Who misses what is different: every host, or one whose printer.cfg uses it.
    pub needed: Option<Needed>,
    /// Why the verdict is no better, or what it rests on.
    pub reasons: Vec<String>,
    /// The command that mends it.
    pub remedy: Option<String>,
    /// How asking this board ended.
    pub exit: ExitCode,
}

/// What runs, as far as it is known.
#[derive(Debug, Serialize)]
pub struct Runs {
    /// `Klipper` or `Kalico`.
    pub app: Option<String>,
    /// Its version.
    pub version: String,
    /// Its MCU.
    pub mcu: Option<String>,
    /// SHA-256 of its dictionary.
    pub dictionary_sha256: Option<String>,
}

impl Row {
    /// What came of one.
    pub fn of(subject: &Subject<'_>, asked: Asked, offered: &Offered) -> Self {
        match (subject, asked) {
            (Subject::Board(target), Asked::Board { heard, klippy }) => Self::of_board(target, *heard, klippy, offered),
            (Subject::Stranger(stranger), Asked::Stranger(answer)) => Self::of_stranger(stranger, answer),
            // Each is asked as what it is.
            (_, Asked::Board { .. } | Asked::Stranger(_)) => Self::new(Vec::new()),
        }
    }

    fn new(boards: Vec<BoardId>) -> Self {
        Self {
            name: None,
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

    fn of_board(
        target: &Target<'_>,
        heard: Result<Heard, FlashError>,
        klippy: Option<Klippy>,
        offered: &Offered,
    ) -> Self {
        let mut row = Self::new(target.boards.clone());
        row.name = target.name();
        row.selectors.clone_from(&target.selectors);
        let heard = match heard {
            Ok(heard) => heard,
            Err(FlashError { exit, message, details, .. }) => {
                row.exit = exit;
                row.reasons = std::iter::once(message).chain(details).collect();
                return row;
            }
        };
        row.device.clone_from(&heard.device);
        row.offered = offered.as_ref().ok().map(|offer| Firmware::of(&offer.dictionary));
        match (&heard.running, klippy) {
            (Some(running), _) => {
                row.runs = Some(Runs::of(&running.dictionary));
                row.compare(&running.dictionary, offered);
            }
            (None, Some(Ok(runs))) => row.compare_versions(runs, offered),
            (None, klippy) => {
                let (reason, exit) = not_heard(&heard);
                row.reasons.push(reason);
                if let Some(Err(why)) = klippy {
                    row.reasons.push(why);
                }
                row.exit = exit;
            }
        }
        row.remedy = offered.as_ref().ok().and_then(|offer| row.remedy(target, offer));
        row
    }

    fn compare(&mut self, running: &Dictionary, offered: &Offered) {
        let offer = match offered {
            Ok(offer) => offer,
            Err(NoOffer { why, exit }) => {
                self.reasons.push(format!("nothing to compare it with: {why}"));
                self.exit = *exit;
                return;
            }
        };
        let Compatibility { verdict, reasons } = wire::compare(running, &offer.dictionary);
        self.verdict = verdict;
        self.needed = (verdict == Verdict::MustFlash).then(|| reasons.first().map(|reason| reason.needed)).flatten();
        self.reasons = reasons.iter().map(|reason| reason.difference.to_string()).collect();
    }

    /// Klippy has the port, and read this version: an equal one, which names commit and, of a changed tree, time and
    /// machine, is the same build as good as certainly; of another one nothing follows.
    fn compare_versions(&mut self, runs: Runs, offered: &Offered) {
        match offered {
            Ok(offer) if offer.dictionary.version == runs.version && runs.mcu.as_deref() == offer.dictionary.mcu() => {
                self.verdict = Verdict::Current;
                self.reasons.push("by its version alone, as Klipper read it: Klipper has the port".into());
            }
            Ok(_) => self.reasons.push(
                "Klipper has the port: only the version is known, and other versions may be compatible or not".into(),
            ),
            Err(NoOffer { why, exit }) => {
                self.reasons.push(format!("nothing to compare it with: {why}"));
                self.exit = *exit;
            }
        }
        self.runs = Some(runs);
    }

    fn of_stranger(stranger: &Stranger, answer: Answer) -> Self {
        let mut row = Self { device: Some(stranger.device.clone()), ..Self::new(stranger.boards.clone()) };
        let reason = match answer {
            Answer::Klipper { app, version, mcu, dictionary_sha256, .. } => {
                let dictionary_sha256 = Some(dictionary_sha256);
                row.runs = Some(Runs { app: Some(app), version, mcu, dictionary_sha256 });
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

    fn remedy(&self, target: &Target<'_>, offer: &Offer) -> Option<String> {
        let ([board], Verdict::Compatible | Verdict::MustFlash) = (&self.boards[..], self.verdict) else { return None };
        let mut words = vec!["kflash flash".to_owned()];
        if let Some((printer, board)) = target.configured {
            words.push(format!("--printer {} --board {}", printer.name, board.name));
        } else {
            words.push(format!("--board {}", word(&board.0)));
            words.extend(target.selectors.iter().map(|selector| format!("--device {}", word(&written(selector)))));
        }
        words.extend(offer.options.iter().map(|option| word(option)));
        Some(words.join(" "))
    }
}

impl Runs {
    fn of(dictionary: &Dictionary) -> Self {
        let Firmware { app, version, mcu, dictionary_sha256 } = Firmware::of(dictionary);
        Self { app: Some(app), version, mcu, dictionary_sha256: Some(dictionary_sha256) }
    }
}

/// A selector as it is written on a command line: `Display` escapes what a device made up.
fn written(selector: &Selector) -> String {
    match selector {
        Selector::Serial(serial) => serial.clone(),
        Selector::Tty(path) => path.to_string_lossy().into_owned(),
        other => other.to_string(),
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
