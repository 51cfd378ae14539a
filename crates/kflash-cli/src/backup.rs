//! `kflash backup`: all that a chip's flash holds, in a file.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kflash::addr::FlashAddr;
use kflash::digest::Sha256;
use kflash::discover::Place;
use kflash::exit::ExitCode;
use kflash::flash::{Backup, Flasher, Through};
use kflash::proto::swd::{ProbeSelector, Probes};
use kflash::system::SystemHost;
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::gate::{self, Gate};
use crate::plan::text::entry;
use crate::probe::Via;
use crate::render::{self, Display, Screen};
use crate::signal::Watch;
use crate::target::{Board, Target};

/// Reads all of a chip's flash into a file, through a debug probe
///
/// Bootloader, application and all that lies between and behind, as raw bytes from the start of the flash. The chip is
/// halted by a reset for it, and reset again afterwards: firmware that ran starts anew. Nothing is written to it. A
/// read-protected chip is refused.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash backup --board btt-octopus-v1.1-f446 --via swd octopus.bin")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// The way to the chip: "swd" is a debug probe on its SWD pins
    #[arg(long, value_name = "WAY")]
    via: Via,
    /// Which debug probe, where several are plugged in; `kflash detect` lists them
    #[arg(long, value_name = "VID:PID:SERIAL")]
    probe: Option<ProbeSelector>,
    #[command(flatten, next_help_heading = None::<&str>)]
    gate: Gate,
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The last line of JSON.
#[derive(Serialize)]
struct BackupJson<'a> {
    result: &'static str,
    exit_code: u8,
    file: &'a Path,
    place: &'a Place,
    start: FlashAddr,
    size: u32,
    sha256: Sha256,
    /// Whether the chip runs a program again.
    runs: bool,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let Via::Swd = args.via;
    let mut boards = args.gate.of(args.target.boards(shared)?);
    let (Some(board), true) = (boards.pop(), boards.is_empty()) else {
        return Err(Failure::usage("one file for several boards: name one with --board"));
    };
    let mut file = create(&args.file)?;
    let kept = read(args, shared, &board).and_then(|backup| {
        let written = file.write_all(&backup.bytes).and_then(|()| file.sync_all());
        written.map_err(|error| cannot_write(&args.file, &error))?;
        Ok(backup)
    });
    // Half a backup is none; that it cannot be removed says less than why.
    let backup = kept.inspect_err(|_| drop(fs::remove_file(&args.file)))?;
    if shared.json {
        render::result_json(&BackupJson {
            result: "backed-up",
            exit_code: ExitCode::Ok.code(),
            file: &args.file,
            place: &backup.place,
            start: backup.range.start,
            size: backup.range.size.0,
            sha256: backup.sha256,
            runs: backup.runs,
        });
    } else {
        render::result(&text(&args.file, &board, &backup));
    }
    Ok(ExitCode::Ok)
}

/// Makes the file, which takes no other's place.
fn create(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::usage(format!("{} is there already", path.display())),
        _ => cannot_write(path, &error),
    })
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot write {}: {error}", path.display()))
}

fn read(args: &Args, shared: &Shared, board: &Board) -> Result<Backup, Failure> {
    let of_flash = |error| Failure::of_flash(error, &board.profile.hands);
    for (printer, moonraker) in &board.moonrakers {
        gate::ask(printer, moonraker).map_err(of_flash)?;
    }
    let screen = Screen::default();
    let watched = [(board.name.clone(), board.profile.hands.clone())];
    // A signal does not leave the chip halted: the second one ends the run.
    let watch = Watch::start(watched, screen.clone(), false, shared.json)
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
    let display = Display::new(shared.json, board.name.as_deref().into_iter(), screen);
    let progress = Mutex::new(display.board(board.name.as_deref()));
    let host = SystemHost::new(&shared.host_root);
    let flasher = Flasher { host: &host, interrupt: &watch.interrupt, hands: false };
    let probes = Probes::usb();
    let through = Through { probes: &probes, probe: args.probe.as_ref(), unlock: false };
    let ended = flasher.back_up(&board.chip, &through, &mut |event| {
        watch.event(0, &event);
        progress.lock().unwrap_or_else(PoisonError::into_inner).event(&event);
    });
    let words = match &ended {
        Ok(backup) => format!("read {}", backup.range),
        Err(error) => error.to_string(),
    };
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).end(ended.is_ok(), &words);
    ended.map_err(of_flash)
}

fn text(file: &Path, board: &Board, backup: &Backup) -> String {
    let mut text = format!("Read {} into {}\n", backup.range, file.display());
    entry(&mut text, "board", &format!("{} ({})", board.profile.name, board.profile.id));
    entry(&mut text, "through", &backup.place.to_string());
    entry(&mut text, "size", &format!("{} KiB", backup.range.size.0 / 1024));
    entry(&mut text, "sha256", &backup.sha256.to_string());
    if !backup.runs {
        entry(&mut text, "note", "the chip has no program that runs");
    }
    text
}
