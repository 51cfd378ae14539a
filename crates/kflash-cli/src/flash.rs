//! `kflash flash`: the seven stages in a row.

use std::path::PathBuf;

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;
use crate::report;
use crate::session::{Session, Target};

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
  kflash flash -b creality-v4.2.7 -f klipper.bin -d /dev/ttyUSB0")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// The firmware file: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE")]
    firmware: PathBuf,
    /// Write even if the board runs this very firmware already
    #[arg(long)]
    force: bool,
    /// Record every byte on the link, with times, in FILE
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let session = args.session(shared)?;
    let report = session.run(|flasher, request, events| flasher.flash(request, events))?;
    Ok(report::print(&report, &session.request, shared.json))
}

impl Args {
    fn session(&self, shared: &Shared) -> Result<Session, Failure> {
        let trace = self.trace.as_deref();
        self.target.session(&self.firmware, self.force, trace, shared)
    }
}
