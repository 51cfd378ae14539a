//! `kflash plan`: the dry run of a flash.

pub mod text;

use kflash::exit::ExitCode;
use kflash::plan::Plan;
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::render;
use crate::session::{FirmwareOrElse, Target};

/// Says what a flash would do, and everything that speaks against it
///
/// Looks at the board, asks running firmware what it is, and prints every operation, a picture of the flash, every
/// check with its evidence, and for each step the way back if cable and power are lost during it. Never enters a
/// bootloader and never writes: what only the bootloader can tell is listed as pending.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash plan --board btt-octopus-v1.1-f446 --firmware klipper.bin
  kflash plan -b fysetc-spider -f klipper.bin -d 1-1.4 --json
  kflash plan -b creality-v4.2.7 --simulate")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    firmware: FirmwareOrElse,
}

/// The last line of JSON.
#[derive(Serialize)]
struct Planned<'a> {
    result: &'static str,
    simulated: bool,
    exit_code: u8,
    exit: ExitCode,
    #[serde(flatten)]
    plan: &'a Plan,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let session = args.target.session(&args.firmware, false, None, shared)?;
    let plan = session.run(|flasher, request, events| flasher.plan(request, events))?;
    let (exit, simulated) = (ExitCode::Ok, session.host.simulated());
    if shared.json {
        render::result_json(&Planned { result: "plan", simulated, exit_code: exit.code(), exit, plan: &plan });
    } else {
        let simulated = if simulated { "SIMULATED: " } else { "" };
        render::result(&format!("{simulated}{}", text::page(&plan, &session.request)));
    }
    Ok(exit)
}
