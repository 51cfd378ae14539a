//! `kflash install-bootloader`: Katapult on a chip that has none.

use std::path::PathBuf;

use clap::ValueEnum;
use kflash::event::Events;
use kflash::exit::ExitCode;
use kflash::flash::{FlashError, Flasher, Report, Request};
use kflash::plan::Parts;

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware::{self, Made, Source};
use crate::gate::Gate;
#[cfg(feature = "swd")]
use crate::probe::Installer;
use crate::session::Session;
use crate::target::{Board, Target};

/// Installs Katapult on a board, alone or together with Klipper
///
/// Writes Katapult to the start of the flash, over whatever lies there, and with --firmware the application that it is to
/// start. The two are held against each other and against the board first: both for its chip, Katapult at the start, and
/// the application exactly where this Katapult starts one. Everything is erased before anything is written, Katapult's
/// first block is written last, and all is read back before it is started. Then the board is confirmed over its own USB.
///
/// Two ways lead to a chip without a bootloader: the DFU in the ROM of most STM32 (set BOOT0, reset, and name the device),
/// and a debug probe on its SWD pins.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash install-bootloader -b btt-octopus-v1.1-f446 --bootloader katapult.bin --firmware klipper.bin -d 1-1.4
  kflash install-bootloader -b btt-octopus-v1.1-f446 --bootloader katapult.bin --via swd")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Katapult: bin, Intel HEX or ELF
    #[arg(long, value_name = "FILE")]
    bootloader: PathBuf,
    /// The application that it is to start. Without it, what lies there stays
    #[arg(long, short, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// The way to the chip
    #[arg(long, value_name = "WAY", default_value = "dfu")]
    via: Via,
    #[cfg(feature = "swd")]
    #[command(flatten, next_help_heading = "Through a debug probe")]
    probe: Installer,
    #[command(flatten, next_help_heading = None::<&str>)]
    gate: Gate,
}

/// The way to the chip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Via {
    /// The DFU in the chip's ROM
    Dfu,
    /// A debug probe on the chip's SWD pins
    #[cfg(feature = "swd")]
    Swd,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let boards = args.gate.of(args.target.boards(shared)?);
    if boards.len() > 1 {
        let names: Vec<_> = boards.iter().filter_map(|board| board.name.as_deref()).collect();
        let hint = Some("name one with --board".to_owned());
        let message = format!("one bootloader for several boards: {}", names.join(", "));
        return Err(Failure { hint, ..Failure::usage(message) });
    }
    #[cfg(feature = "swd")]
    if args.probe.is_named() && args.via != Via::Swd {
        return Err(Failure::usage("--probe and --unlock take --via swd"));
    }
    let bootloader = firmware::read(&args.bootloader)?.image;
    let file = args.firmware.as_ref().unwrap_or(&args.bootloader);
    let runs: Vec<(Board, Source)> = boards.into_iter().map(|board| (board, Source::File(file.clone()))).collect();
    let session = Session {
        runs,
        made: &Made::default(),
        simulated: None,
        probe: None,
        force: true,
        gated: true,
        phased: false,
        trace: None,
        shared,
    };
    session.run(
        &|flasher, ready, events| {
            let application = args.firmware.is_some().then_some(&ready.request.image);
            let parts = Parts { bootloader: &bootloader, application };
            args.install(flasher, &ready.request, &parts, events)
        },
        &|_, _| {},
    )
}

impl Args {
    fn install(
        &self,
        flasher: &Flasher<'_>,
        request: &Request,
        parts: &Parts<'_>,
        events: Events<'_>,
    ) -> Result<Report, FlashError> {
        match self.via {
            Via::Dfu => flasher.install(request, parts, events),
            #[cfg(feature = "swd")]
            Via::Swd => self.probe.asked().install(flasher, request, parts, events),
        }
    }
}
