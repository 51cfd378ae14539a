//! `kflash verify`: whether a board runs a firmware.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;
use crate::report;
use crate::session::{Firmware, Target};

/// Checks that a board runs a firmware; with --read-back, that its flash holds it
///
/// Compares the data dictionary that the running firmware reports with the one in the file: equal dictionaries mean
/// the same build. With --read-back kflash enters the bootloader, compares every byte and starts the application
/// again. Nothing is written. Exit 12 says that the board runs, or holds, something else.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash verify --board btt-octopus-v1.1-f446 --firmware klipper.bin
  kflash verify -b btt-octopus-v1.1-f446 -f klipper.bin --read-back")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    firmware: Firmware,
    /// Enter the bootloader and compare every byte of the flash
    #[arg(long)]
    read_back: bool,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let session = args.target.on_host(&args.firmware.firmware, false, None, shared)?;
    let report = session.run(|flasher, request, events| flasher.verify(request, args.read_back, events))?;
    Ok(report::print(&report, &session.request, shared.json))
}
