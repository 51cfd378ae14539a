//! `kflash flash`: the seven stages in a row.

use std::path::PathBuf;

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;
use crate::memory;
use crate::report;
use crate::session::{FirmwareOrElse, Target};

/// Flashes a board and proves that it runs the firmware
///
/// Looks for the board, refuses what does not fit together, enters the bootloader (by itself where the running
/// firmware lets it, else it says what to press and waits), writes in an order that a cut at any moment leaves
/// reachable, reads back, starts the firmware and asks it what it is. Where a bootloader stays on the board, it is
/// reset once more, so that the way it will boot from now on is proven, too.
///
/// If the board runs this very firmware already, nothing is written and the exit code is 0.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash flash --board btt-octopus-v1.1-f446 --firmware klipper.bin
  kflash flash -b btt-skr-mini-e3-v3 -f klipper.bin -d 1-1.4
  kflash flash -b creality-v4.2.7 -f klipper.bin -d /dev/ttyUSB0
  kflash flash -b btt-octopus-v1.1-f446 --previous
  kflash flash -b btt-octopus-v1.1-f446 --simulate
  kflash flash -b btt-octopus-v1.1-f446 --simulate=none -f klipper.bin")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    firmware: FirmwareOrElse,
    /// Write even if the board runs this very firmware already
    #[arg(long)]
    force: bool,
    /// Record every byte on the link, with times, in FILE
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let session = args.target.session(&args.firmware, args.force, args.trace.as_deref(), shared)?;
    let mut report = session.run(|flasher, request, events| flasher.flash(request, events))?;
    if let Some(firmware) = &session.firmware
        && let Err(error) =
            shared.cache().and_then(|cache| memory::remember(&cache, &report, &session.request.profile.id, firmware))
    {
        report.notes.push(format!("not kept for --previous: {}", error.message));
    }
    Ok(report::print(&report, &session.request, shared.json))
}
