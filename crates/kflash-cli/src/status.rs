//! `kflash status`: what every board runs, against what it would be given.

mod heard;
#[cfg_attr(not(feature = "moonraker"), path = "status/klippy/unknown.rs")]
mod klippy;
mod offer;
mod row;
mod survey;
mod target;
mod text;

use std::path::PathBuf;

use kflash::exit::ExitCode;
use kflash::identify::Selector;
use serde::Serialize;

use self::heard::Asker;
use self::offer::{Offers, from_file};
use self::row::Row;
use self::survey::Survey;
use self::target::Subject;
use crate::args::Shared;
use crate::builds::Builds;
use crate::detect::query::Query;
use crate::failure::Failure;
use crate::render::{self, Screen};
use crate::signal;
use crate::target::find_board;
use crate::tree::{TreeArgs, environment};

/// Says of each board whether it has to be flashed
///
/// Asks what runs on each board, and compares its data dictionary with that of the firmware that it would be given:
/// commands and responses by their format, constants, values. Versions need not be equal, so that most updates of
/// Klipper need no flashing. What a board would be given is a file, or fetched, as the configuration says; else it is
/// built from the tree if it is not in the cache (--no-build leaves that), and fetched where there is no tree.
///
/// Boards are those of the configuration; without one, those that are found on this host.
///
/// Verdicts: current; update available, compatible; must be flashed, with what Klipper's host would miss; unknown, with
/// the reason. Where the host misses something only if printer.cfg uses it, that is said.
///
/// A board whose port Klipper has is not asked. Where its printer's Moonraker is configured, the version that Klipper
/// read is compared: it tells only whether it is the same.
///
/// The exit code is 0 where every board was asked or said why not; else the worst of: 3 which device it is is not clear,
/// or its firmware is not believed, 4 it is not there, 5 somebody holds it, 6 it may not be opened, 7 its firmware could
/// not be built, 8 it could not be fetched.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash status
  kflash status --printer voron --no-build
  kflash status --all --klipper ~/klipper
  kflash status --board btt-octopus-v1.1-f446 --device 1-1.4 --firmware klipper.bin --json")]
pub struct Args {
    /// Only this board: an id or alias from `kflash boards`, or the path of a profile file
    #[arg(long, short)]
    board: Option<String>,
    /// Which device that board is, as for `kflash flash`. May be given twice
    #[arg(long, short, value_name = "DEVICE", requires = "board")]
    device: Vec<Selector>,
    /// Only the boards of this printer of the configuration. May be given several times
    #[arg(long, short, value_name = "NAME", conflicts_with = "board")]
    printer: Vec<String>,
    /// Beside the boards of the configuration, every other board that is found on this host
    #[arg(long, conflicts_with_all = ["board", "printer"])]
    all: bool,
    /// The firmware that they would be given: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["klipper", "git", "reference"])]
    firmware: Option<PathBuf>,
    #[command(flatten)]
    tree: TreeArgs,
    /// Build nothing: compare with what the cache holds
    #[arg(long)]
    no_build: bool,
    /// Which boards are asked: with `all`, those too that opening their port may reset
    #[arg(long, value_name = "WHICH", default_value = "harmless")]
    query: Query,
}

/// The result as JSON.
#[derive(Serialize)]
struct Status<'a> {
    result: &'static str,
    boards: &'a [Row],
    exit_code: u8,
    exit: ExitCode,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let config = shared.configuration()?.config;
    let file = args.firmware.as_ref().map(|file| {
        let options = vec!["--firmware".to_owned(), file.to_string_lossy().into_owned()];
        from_file(file, options)
    });
    let file = file.transpose()?;
    let subjects = match &args.board {
        Some(board) => {
            let (profile, chip) = find_board(board)?;
            vec![Subject::named(profile, chip, args.device.clone())]
        }
        None => Subject::configured(&config, &args.printer)?,
    };
    let others = args.all || subjects.is_empty();
    let survey = Survey::of(&shared.host_root, subjects, others)?;
    if survey.subjects().is_empty() {
        let details = survey.looked_at().map(|path| format!("looked at {}", path.display())).collect();
        return Err(Failure { details, ..Failure::new(ExitCode::NotFound, "no boards found") });
    }
    let interrupt = signal::interrupt()
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
    let asker = Asker { interrupt: &interrupt, query: args.query };
    let asked = survey.ask(|host, subject| asker.ask(host, subject));
    let offers = if let Some(file) = file {
        vec![Ok(file); asked.len()]
    } else {
        let (cache, environment) = (shared.cache()?, environment());
        let builds = Builds {
            config: &config,
            tree: &args.tree,
            cache: &cache,
            environment: &environment,
            interrupt: &interrupt,
            no_build: args.no_build,
            json: shared.json,
            screen: &Screen::default(),
        };
        Offers { shared, builds }.of(survey.subjects(), &asked, &asker)
    };
    let rows = survey.subjects().iter().zip(asked).zip(&offers);
    let rows: Vec<_> = rows.map(|((subject, asked), offered)| Row::of(subject, asked, offered)).collect();
    let exit = ExitCode::worst(rows.iter().map(|row| row.exit));
    if shared.json {
        render::result_json(&Status { result: "status", boards: &rows, exit_code: exit.code(), exit });
    } else {
        render::result(&text::of(&rows));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests;
