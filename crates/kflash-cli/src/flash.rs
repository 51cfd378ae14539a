//! `kflash flash`: the seven stages in a row.

use std::path::PathBuf;

use kflash::cluster::Summary;
use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware::FirmwareOrElse;
use crate::gate::Gate;
use crate::memory;
use crate::pod::Pod;
use crate::probe::ErasingProbeArgs;
use crate::report;
use crate::session::Session;
use crate::target::Target;

/// Flashes a board and proves that it runs the firmware
///
/// Without --firmware, the firmware is obtained first: built from a Klipper tree for the bootloader and cable that the
/// device shows, or fetched from an index, or taken from the cache if either was done before.
///
/// Looks for the board, refuses what does not fit together, enters the bootloader (by itself where the running
/// firmware lets it, else it says what to press and waits), writes in an order that a cut at any moment leaves
/// reachable, reads back, starts the firmware and asks it what it is. Where a bootloader stays on the board, it is
/// reset once more, so that the way it will boot from now on is proven, too.
///
/// If the board runs this very firmware already, nothing is written and the exit code is 0.
///
/// With --via swd, the chip is flashed through a debug probe; firmware is made for the first of the board's routes that
/// fits what the chip holds: behind the bootloader that is there, or for none. What runs is confirmed over the board's own
/// cable, whose device is known by the chip's unique id.
///
/// A printer whose Moonraker is configured is asked first: while it prints, and if it cannot be asked, nothing is done.
/// Several boards are flashed at once; a failure on one stops no other, and the exit code is that of the worst.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash flash --board btt-octopus-v1.1-f446
  kflash flash -b btt-octopus-v1.1-f446 --klipper ~/klipper --ref v0.13.0
  kflash flash -b btt-octopus-v1.1-f446 --from https://firmware.example/index.json --key farm.pub
  kflash flash -b btt-octopus-v1.1-f446 --firmware klipper.bin
  kflash flash -b btt-skr-mini-e3-v3 -f klipper.bin -d 1-1.4
  kflash flash -b creality-v4.2.7 -f klipper.bin -d /dev/ttyUSB0
  kflash flash -b btt-octopus-v1.1-f446 --previous
  kflash flash -b btt-octopus-v1.1-f446 --via swd
  kflash flash -b btt-octopus-v1.1-f446 -f klipper.bin --via swd
  kflash flash --printer voron
  kflash flash --all --simulate
  kflash flash -b btt-octopus-v1.1-f446 --simulate
  kflash flash -b btt-octopus-v1.1-f446 --simulate --klipper ~/klipper
  kflash flash -b btt-octopus-v1.1-f446 --simulate=none -f klipper.bin")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    firmware: FirmwareOrElse,
    #[command(flatten, next_help_heading = "Through a debug probe")]
    probe: ErasingProbeArgs,
    #[command(flatten, next_help_heading = None::<&str>)]
    gate: Gate,
    /// Write even if the board runs this very firmware already
    #[arg(long)]
    force: bool,
    /// Record every byte on the link, with times, in FILE
    #[arg(long, value_name = "FILE", conflicts_with_all = ["printer", "all"])]
    #[cfg_attr(feature = "swd", arg(conflicts_with = "via"))]
    trace: Option<PathBuf>,
    #[command(flatten)]
    pod: Pod,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    args.pod.run(shared.json, |ends| {
        let session = Session {
            runs: args.firmware.sources(args.gate.of(args.target.boards(shared)?))?,
            made: &args.firmware.firmware.made,
            simulated: args.firmware.simulated(),
            probe: args.probe.asked(),
            force: args.force,
            gated: true,
            phased: args.pod.phases.phased(),
            trace: args.trace.clone(),
            shared,
        };
        session.run(
            &|flasher, ready, events| {
                let mut report = match args.probe.asked() {
                    Some(probe) => probe.flash(flasher, &ready.request, events)?,
                    None => args.pod.phases.flash(flasher, ready, events)?,
                };
                let remember =
                    |firmware| memory::remember(&shared.cache()?, &report, &ready.request.profile.id, firmware);
                if let Some(Err(error)) = ready.firmware.as_ref().map(remember) {
                    report.notes.push(format!("not kept for --previous: {}", error.message));
                }
                Ok(report)
            },
            &|board, ended| {
                let summary = match ended {
                    Ok((report, request)) => report::summary(report, request),
                    Err(failure) => Summary::from(failure),
                };
                ends.note(board.name.as_deref(), summary);
            },
        )
    })
}
