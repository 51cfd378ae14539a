//! `kflash verify`: whether a board runs a firmware.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware::Firmware;
use crate::gate::Gate;
use crate::probe::ProbeArgs;
use crate::session::Session;
use crate::target::Target;

/// Checks that a board runs a firmware; with --read-back, that its flash holds it
///
/// Compares the data dictionary that the running firmware reports with the one of the firmware that `kflash flash` would
/// write: equal dictionaries mean the same build. With --read-back kflash enters the bootloader, compares every byte and starts the application
/// again. Nothing is written. Exit 12 says that the board runs, or holds, something else.
///
/// With --via swd, every byte is read through a debug probe, while the chip runs on; --read-back then lets a chip be reset
/// that does not answer while it runs.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash verify --board btt-octopus-v1.1-f446
  kflash verify -b btt-octopus-v1.1-f446 --firmware klipper.bin
  kflash verify -b btt-octopus-v1.1-f446 -f klipper.bin --read-back
  kflash verify -b btt-octopus-v1.1-f446 -f klipper.bin --via swd
  kflash verify --printer voron")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    firmware: Firmware,
    #[command(flatten, next_help_heading = "Through a debug probe")]
    probe: ProbeArgs,
    #[command(flatten, next_help_heading = None::<&str>)]
    gate: Gate,
    /// Enter the bootloader and compare every byte of the flash; with --via swd, reset a chip that does not answer
    #[arg(long)]
    read_back: bool,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let session = Session {
        runs: args.firmware.sources(args.gate.of(args.target.boards(shared)?))?,
        made: &args.firmware.made,
        simulated: None,
        probe: args.probe.asked(),
        force: false,
        gated: args.read_back,
        phased: false,
        trace: None,
        shared,
    };
    session.run(
        &|flasher, ready, events| match args.probe.asked() {
            Some(probe) => probe.verify(flasher, &ready.request, args.read_back, events),
            None => flasher.verify(&ready.request, args.read_back, events),
        },
        &|_, _| {},
    )
}
