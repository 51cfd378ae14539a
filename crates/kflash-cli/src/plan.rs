//! `kflash plan`: the dry run of a flash.

pub mod text;

use kflash::exit::ExitCode;
use kflash::flash::Request;
use kflash::plan::Plan;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware::FirmwareOrElse;
use crate::probe::ErasingProbeArgs;
use crate::session::{Outcome, Session};
use crate::summary;
use crate::target::Target;

/// Says what a flash would do, and everything that speaks against it
///
/// Looks at the board, asks running firmware what it is, and prints every operation, a picture of the flash, every
/// check with its evidence, and for each step the way back if cable and power are lost during it. Never enters a
/// bootloader and never writes: what only the bootloader can tell is listed as pending. Firmware that is not there yet
/// is built or fetched into the cache, as `kflash flash` does. With --via swd, the flash is read through a debug probe while
/// the chip runs on.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash plan --board btt-octopus-v1.1-f446
  kflash plan -b btt-octopus-v1.1-f446 --firmware klipper.bin
  kflash plan -b fysetc-spider -f klipper.bin -d 1-1.4 --json
  kflash plan -b creality-v4.2.7 --simulate")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    firmware: FirmwareOrElse,
    #[command(flatten, next_help_heading = "Through a debug probe")]
    probe: ErasingProbeArgs,
}

/// A plan, and whether it is for a virtual board.
struct Planned {
    plan: Plan,
    simulated: bool,
}

/// The last line of JSON.
#[derive(Serialize)]
struct PlanJson<'a> {
    result: &'static str,
    simulated: bool,
    exit_code: u8,
    exit: ExitCode,
    #[serde(flatten)]
    plan: &'a Plan,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let simulated = args.firmware.simulated();
    let session = Session {
        runs: args.firmware.sources(args.target.boards(shared)?)?,
        made: &args.firmware.firmware.made,
        simulated,
        probe: args.probe.asked(),
        force: false,
        gated: false,
        phased: false,
        trace: None,
        shared,
    };
    let stage = |plan| Planned { plan, simulated: simulated.is_some() };
    session.run(
        &|flasher, ready, events| {
            let plan = match args.probe.asked() {
                Some(probe) => probe.plan(flasher, &ready.request, events),
                None => flasher.plan(&ready.request, events),
            };
            plan.map(stage)
        },
        &|_, _| {},
    )
}

impl Outcome for Planned {
    const PAGE: bool = true;

    fn page(&self, request: &Request) -> String {
        let simulated = if self.simulated { "SIMULATED: " } else { "" };
        format!("{simulated}{}", text::page(&self.plan, request))
    }

    fn line(&self) -> String {
        let what = if self.plan.already_current { "nothing to do" } else { "can be flashed" };
        let simulated = if self.simulated { "SIMULATED: " } else { "" };
        format!("{simulated}{what}, by the route {}", self.plan.route.id)
    }

    fn json(&self) -> Box<RawValue> {
        let (exit, simulated) = (ExitCode::Ok, self.simulated);
        let json = PlanJson { result: "plan", simulated, exit_code: exit.code(), exit, plan: &self.plan };
        summary::raw(&json)
    }
}
