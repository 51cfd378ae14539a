//! What came of a build, as text or as the last line of JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kflash::addr::FlashAddr;
use kflash::digest::Sha256;
use kflash::event::Check;
use kflash::exit::ExitCode;
use kflash::obtain::build::kconfig::Config;
use kflash::obtain::build::{Firmware, Order, Outcome, Resolved, Source};
use kflash::obtain::provenance::{Origin, Provenance};
use serde::Serialize;

use crate::failure::{Failure, FailureJson};
use crate::render;
use crate::render::line;
use crate::sheet::{Sheet, shown};

/// The last line of JSON.
#[derive(Serialize)]
struct Ended<'a> {
    result: &'static str,
    exit_code: u8,
    exit: ExitCode,
    boards: Vec<BoardEnded<'a>>,
}

/// What came of it for a board.
#[derive(Serialize)]
struct BoardEnded<'a> {
    /// `PRINTER/BOARD`, where it comes from the configuration.
    name: Option<&'a str>,
    board: &'a str,
    route: &'a str,
    #[serde(flatten)]
    how: How<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum How<'a> {
    Well(Box<Delivered<'a>>),
    Badly(FailureJson<'a>),
}

#[derive(Serialize)]
struct Delivered<'a> {
    result: &'static str,
    app: &'a str,
    version: &'a str,
    mcu: Option<&'a str>,
    start: Option<FlashAddr>,
    size: u64,
    sha256: Sha256,
    path: PathBuf,
    key: String,
    source: &'a Source,
    proof: &'a [Check],
    provenance: &'a Provenance,
}

/// Prints what came of each order; `names` are those of configured boards, `written` the files that were asked for.
/// Returns the exit code of the worst.
pub fn print(
    names: &[Option<&str>],
    orders: &[Order],
    outcomes: &[Outcome],
    written: &[Option<PathBuf>],
    json: bool,
) -> ExitCode {
    let ended = outcomes.iter().map(|outcome| outcome.as_ref().map_err(|error| Failure::from(error.as_ref())));
    let ended: Vec<Result<&Firmware, Failure>> = ended.collect();
    let codes = ended.iter().map(|ended| ended.as_ref().err().map_or(ExitCode::Ok, |failure| failure.exit));
    let exit = ExitCode::worst(codes);
    let all = names.iter().zip(orders).zip(ended.iter().zip(written));
    for ((name, order), (ended, written)) in all.clone() {
        let name = name.unwrap_or(&order.profile.id.0);
        match ended {
            Ok(firmware) if !json => render::result(&sheet(name, order, firmware, written.as_ref())),
            Ok(_) => {}
            Err(failure) => render::failure_of(name, failure),
        }
    }
    if json {
        let boards = all.map(|((&name, order), (ended, written))| BoardEnded {
            name,
            board: &order.profile.id.0,
            route: &order.route.id,
            how: match ended {
                Ok(firmware) => How::Well(Box::new(delivered(firmware, written.as_ref()))),
                Err(failure) => How::Badly(failure.json()),
            },
        });
        let result = if exit == ExitCode::Ok { "built" } else { "failed" };
        render::result_json(&Ended { result, exit_code: exit.code(), exit, boards: boards.collect() });
    }
    exit
}

fn delivered<'a>(firmware: &'a Firmware, written: Option<&PathBuf>) -> Delivered<'a> {
    let provenance = &firmware.entry.provenance;
    Delivered {
        result: "built",
        app: &provenance.app,
        version: &provenance.version,
        mcu: provenance.mcu.as_deref(),
        start: provenance.start,
        size: provenance.image.size,
        sha256: provenance.image.sha256,
        path: path(firmware, written),
        key: firmware.entry.key.to_string(),
        source: &firmware.source,
        proof: &firmware.proof,
        provenance,
    }
}

/// The file that was asked for, else the one in the cache.
fn path(firmware: &Firmware, written: Option<&PathBuf>) -> PathBuf {
    written.cloned().unwrap_or_else(|| firmware.entry.path.join(&firmware.entry.provenance.image.name))
}

fn sheet(name: &str, order: &Order, firmware: &Firmware, written: Option<&PathBuf>) -> String {
    let provenance = &firmware.entry.provenance;
    let mut sheet = Sheet::new(&format!("{name} ({})", order.route.id));
    if name != order.profile.id.0 {
        sheet.line("board", &order.profile.id.0);
    }
    sheet.line("version", &format!("{} {}", shown(&provenance.app), shown(&provenance.version)));
    if let Origin::Built(built) = &provenance.origin {
        let dirty = if built.dirty { ", with changes that no commit has" } else { "" };
        let commit = built.commit.as_ref().map(|commit| format!(" at {commit:.12}")).unwrap_or_default();
        sheet.line("tree", &format!("{}{commit}{dirty}", shown(&built.tree)));
    }
    let size = line::bytes(provenance.image.size);
    match provenance.start {
        Some(start) => sheet.line("size", &format!("{size} from {start}")),
        None => sheet.line("size", &size),
    }
    sheet.line("sha256", &provenance.image.sha256.to_string());
    sheet.line("file", &path(firmware, written).display().to_string());
    sheet.line("proof", &format!("{} checks agree", firmware.proof.len()));
    match &firmware.source {
        Source::Cache => sheet.line("from", "the cache: it was built before"),
        Source::Built { ms, log } => {
            sheet.line("built in", &format!("{:.1} s", *ms as f64 / 1000.0));
            sheet.line("log", &log.display().to_string());
        }
    }
    sheet.into_text()
}

/// The configurations of `--show-config` as JSON.
pub fn configurations(orders: &[Order], resolved: &[Resolved]) -> impl Serialize {
    #[derive(Serialize)]
    struct Configuration {
        board: String,
        route: String,
        symbols: BTreeMap<String, String>,
    }
    #[derive(Serialize)]
    struct Configurations {
        result: &'static str,
        boards: Vec<Configuration>,
    }
    let symbols = |resolved: &Resolved| {
        let config = Config::parse(&resolved.config).unwrap_or_default();
        config.iter().map(|(symbol, value)| (symbol.to_owned(), value.to_owned())).collect()
    };
    let configuration = |(order, resolved): (&Order, &Resolved)| Configuration {
        board: order.profile.id.to_string(),
        route: order.route.id.clone(),
        symbols: symbols(resolved),
    };
    Configurations { result: "configured", boards: orders.iter().zip(resolved).map(configuration).collect() }
}

/// `--set SYMBOL=VALUE`, as a shell takes it.
pub fn set(symbol: &str, value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+-,/:@%".contains(c);
    if value.chars().all(plain) {
        format!("--set {symbol}={value}")
    } else {
        format!("--set {symbol}='{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_can_be_pasted() {
        assert_eq!(set("SERIAL_BAUD", "115200"), "--set SERIAL_BAUD=115200");
        assert_eq!(set("INITIAL_PINS", "!PA1, $HOME it's"), r"--set INITIAL_PINS='!PA1, $HOME it'\''s'");
    }
}
