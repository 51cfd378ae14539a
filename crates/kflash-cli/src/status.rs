//! `kflash status`: what every board runs, against what it would be given.

mod row;
mod survey;
mod target;
mod text;

use std::path::PathBuf;

use kflash::exit::ExitCode;
use kflash::flash::Interrupt;
use kflash::identify::Selector;
use serde::Serialize;

use self::row::{Asker, Row};
use self::survey::Survey;
use self::target::Subject;
use crate::args::Shared;
use crate::detect::query::Query;
use crate::failure::Failure;
use crate::firmware;
use crate::render;
use crate::target::find_board;

/// Says of each board whether it has to be flashed
///
/// Asks what runs on every board of this host, and compares its data dictionary with that of the firmware it would be
/// given: commands and responses by their format, constants, values. Equal versions are not asked for, so that most
/// updates of Klipper need no flashing.
///
/// Verdicts: current; update available, compatible; must be flashed, with what Klipper's host would miss; unknown, with
/// the reason. Where the host misses something only if printer.cfg uses it, that is said.
///
/// The exit code is 0 where every board was asked or said why not; else that of the first board that failed: 4 it is not
/// there, 5 somebody holds it, 6 it may not be opened.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash status --firmware klipper.bin
  kflash status --board btt-octopus-v1.1-f446 --device 1-1.4 --firmware klipper.bin --json")]
pub struct Args {
    /// Only this board: an id or alias from `kflash boards`, or the path of a profile file
    #[arg(long, short)]
    board: Option<String>,
    /// Which device that board is, as for `kflash flash`. May be given twice
    #[arg(long, short, value_name = "DEVICE", requires = "board")]
    device: Vec<Selector>,
    /// The firmware that they would be given: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE")]
    firmware: Option<PathBuf>,
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
    let file =
        args.firmware.as_ref().map(|file| Ok::<_, Failure>((file.clone(), firmware::read(file)?.image))).transpose()?;
    if let Some((file, image)) = &file
        && image.dictionary.is_none()
    {
        return Err(Failure::usage(format!("{}: no Klipper firmware: it holds no data dictionary", file.display())));
    }
    let survey = match &args.board {
        Some(board) => {
            let (profile, chip) = find_board(board)?;
            Survey::of(&shared.host_root, vec![Subject::named(profile, chip, args.device.clone())])?
        }
        None => Survey::of_all(&shared.host_root)?,
    };
    if survey.is_empty() {
        let details = survey.looked_at().map(|path| format!("looked at {}", path.display())).collect();
        return Err(Failure { details, ..Failure::new(ExitCode::NotFound, "no boards found") });
    }
    let interrupt = Interrupt::default();
    let asker = Asker { interrupt: &interrupt, query: args.query, file: file.as_ref() };
    let rows = survey.ask(|host, subject| asker.row(host, subject));
    let exit = rows.iter().map(|row| row.exit).find(|&exit| exit != ExitCode::Ok).unwrap_or(ExitCode::Ok);
    if shared.json {
        render::result_json(&Status { result: "status", boards: &rows, exit_code: exit.code(), exit });
    } else {
        render::result(&text::of(&rows));
    }
    Ok(exit)
}

#[cfg(test)]
mod tests;
