//! The good end of a run, as text or as the last line of JSON.

use std::collections::HashSet;
use std::fmt::Write;

use kflash::cluster::{self, Summary};
use kflash::event::{Phase, Verdict};
use kflash::exit::ExitCode;
use kflash::flash::{Firmware, Outcome, Report, Request};
use kflash::identify;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::plan::text::entry;
use crate::render;
use crate::session;
use crate::sheet::shown;
use crate::summary;

/// The last line of JSON.
#[derive(Serialize)]
struct ReportJson<'a> {
    #[serde(flatten)]
    report: &'a Report,
    exit_code: u8,
    exit: ExitCode,
}

impl session::Outcome for Report {
    const PAGE: bool = false;

    fn page(&self, request: &Request) -> String {
        text(self, request)
    }

    fn line(&self) -> String {
        let version = |firmware: &Option<Firmware>| firmware.as_ref().map(|firmware| shown(&firmware.version));
        let now = version(&self.now).unwrap_or_else(|| "?".into());
        let line = match self.outcome {
            Outcome::Flashed => {
                let before = version(&self.before).map(|before| format!(" in place of {before}")).unwrap_or_default();
                format!("flashed and confirmed in {}: {now}{before}", took(self))
            }
            Outcome::Installed => match &self.now {
                Some(_) => format!("installed and confirmed in {}: {now}", took(self)),
                None => format!("installed and confirmed in {}", took(self)),
            },
            Outcome::AlreadyCurrent => format!("nothing to do: it runs {now} already"),
            Outcome::DictionaryMatches => format!("runs {now}: the dictionaries are equal"),
            Outcome::BytesMatch if self.now.is_none() => "holds this firmware: every byte is equal".into(),
            Outcome::BytesMatch => format!("holds and runs {now}: every byte is equal"),
        };
        let simulated = if self.simulated { "SIMULATED: " } else { "" };
        let said: Vec<_> = std::iter::once(line).chain(self.notes.iter().cloned()).collect();
        format!("{simulated}{}", said.join("; "))
    }

    fn json(&self) -> Box<RawValue> {
        let exit = ExitCode::Ok;
        summary::raw(&ReportJson { exit_code: exit.code(), exit, report: self })
    }
}

/// The same in short, for a pod's termination message.
pub fn summary(report: &Report, request: &Request) -> Summary {
    let result = match report.outcome {
        Outcome::Flashed | Outcome::Installed => cluster::Outcome::Flashed,
        Outcome::AlreadyCurrent | Outcome::DictionaryMatches | Outcome::BytesMatch => cluster::Outcome::AlreadyCurrent,
    };
    let version = |firmware: &Option<Firmware>| firmware.as_ref().map(|firmware| firmware.version.clone());
    let phase = |phase: &Phase| render::line::phase_word(*phase).replace(' ', "-");
    Summary {
        before: version(&report.before),
        now: version(&report.now),
        // Nothing is known of a real board then.
        sha256: (!report.simulated).then(|| request.image.sha256.clone()),
        durations_ms: report.durations_ms.iter().map(|(of, ms)| (phase(of), *ms)).collect(),
        notes: report.notes.clone(),
        ..Summary::new(result, ExitCode::Ok, None)
    }
}

fn text(report: &Report, request: &Request) -> String {
    let what = match report.outcome {
        Outcome::Flashed => format!("Flashed and confirmed in {}", took(report)),
        Outcome::Installed => format!("Installed and confirmed in {}", took(report)),
        Outcome::AlreadyCurrent => "Nothing to do: it runs this very firmware already".into(),
        Outcome::DictionaryMatches => "It runs this firmware: the dictionaries are equal".into(),
        Outcome::BytesMatch if report.now.is_none() => "It holds this firmware: every byte is equal".into(),
        Outcome::BytesMatch => "It holds and runs this firmware: every byte is equal".into(),
    };
    let simulated = if report.simulated { "SIMULATED: " } else { "" };
    let mut text = format!("{simulated}{what}\n");
    entry(&mut text, "board", &format!("{} ({})", request.profile.name, request.profile.id));
    entry(&mut text, "device", &identify::describe(&report.device));
    if report.outcome == Outcome::Flashed {
        entry(
            &mut text,
            "before",
            &report.before.as_ref().map_or_else(|| "no running firmware was seen".into(), firmware),
        );
    }
    if let Some(now) = &report.now {
        entry(&mut text, "now", &firmware(now));
    }
    if let Some(by_id) = report.device.tty.as_ref().and_then(|tty| tty.by_id.as_ref()) {
        entry(&mut text, "serial", &by_id.display().to_string());
    }
    if matches!(report.outcome, Outcome::Flashed | Outcome::Installed) {
        let phases =
            [Phase::Look, Phase::Enter, Phase::Erase, Phase::Write, Phase::ReadBack, Phase::Start, Phase::Confirm];
        let times = phases.iter().filter_map(|phase| {
            let ms = report.durations_ms.get(phase)?;
            Some(format!("{} {:.1} s", render::line::phase_word(*phase), *ms as f64 / 1000.0))
        });
        entry(&mut text, "times", &times.collect::<Vec<_>>().join(", "));
    }
    if !report.checks.is_empty() {
        let names =
            |verdict| report.checks.iter().filter(move |check| check.verdict == verdict).map(|check| &check.name);
        entry(&mut text, "checks", &format!("{} agree", names(Verdict::Agrees).collect::<HashSet<_>>().len()));
        for check in report.checks.iter().filter(|check| check.verdict == Verdict::NotProvable) {
            entry(&mut text, "", &format!("not provable: {}: {}", check.name, check.evidence));
        }
    }
    for note in &report.notes {
        entry(&mut text, "note", note);
    }
    text
}

/// `12.3 s`
fn took(report: &Report) -> String {
    let took: u64 = report.durations_ms.values().sum();
    format!("{:.1} s", took as f64 / 1000.0)
}

fn firmware(firmware: &Firmware) -> String {
    let mut text = format!("{} {}", shown(&firmware.app), shown(&firmware.version));
    if let Some(mcu) = &firmware.mcu {
        let _ = write!(text, " for {}", shown(mcu));
    }
    let sha256 = &firmware.dictionary_sha256;
    let _ = write!(text, ", dictionary {}", sha256.get(..16).unwrap_or(sha256));
    text
}
