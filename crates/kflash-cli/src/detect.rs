//! `kflash detect`: what is plugged in.

pub mod query;
mod text;

use std::path::Path;

use kflash::board::Profile;
use kflash::boards;
use kflash::chip::Chip;
use kflash::discover::{Device, DiscoverError, Mode, Place};
use kflash::exit::ExitCode;
use kflash::host::{Holders, Host};
use kflash::identify::{Candidate, Selector, candidates};
use kflash::system::SystemHost;
use serde::Serialize;

use self::query::{Answer, Query};
use crate::args::Shared;
use crate::failure::Failure;
use crate::probe::{self, FoundProbe};
use crate::render;

/// Lists every board and debug probe on this host, without touching one
///
/// Reads sysfs and /proc alone: port path, names, what the board runs, which boards it may be and why, and who holds it
/// open. Other USB devices are counted, not listed.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash detect
  kflash detect --query
  kflash detect --device /dev/ttyAMA0 --query=all")]
pub struct Args {
    /// Ask each board what it runs: Klipper's identify, Katapult's CONNECT; and each debug probe which chip is behind it
    ///
    /// What is behind a UART, and behind a USB-UART bridge of which no board's profile says that opening it is harmless, is
    /// only asked with --query=all: opening the port may reset it, and it may be no board at all. A port that somebody
    /// holds open is never opened.
    #[arg(long, value_name = "WHICH", num_args = 0..=1, require_equals = true, default_missing_value = "harmless")]
    query: Option<Query>,
    /// Look at this place, too: a tty without USB, tcp://HOST:PORT, usbip://HOST:PORT/BUSID. May be given several times
    #[arg(long, short, value_name = "DEVICE")]
    device: Vec<Selector>,
}

/// What was found.
#[derive(Serialize)]
struct Detection {
    boards: Vec<Found>,
    /// Debug probes.
    probes: Vec<FoundProbe>,
    /// USB devices that are no boards, as far as USB tells.
    others: usize,
    /// The directories that were read, or found missing.
    looked_at: Vec<std::path::PathBuf>,
}

/// A device that may be a board.
#[derive(Serialize)]
struct Found {
    #[serde(flatten)]
    device: Device,
    candidates: Vec<Candidate>,
    holders: Holders,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Answer>,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let known = boards::builtin().map_err(|error| Failure::new(ExitCode::Internal, error.to_string()))?;
    let (host, _) = SystemHost::new(&shared.host_root).with_selectors(args.device.clone());
    let mut detection = detect(&host, &known, args.query)?;
    // Probes are looked for on this machine itself, whatever is mounted where.
    if shared.host_root == Path::new("/") {
        detection.probes = probe::list(&known, args.query.is_some(), host.clock());
    }
    if shared.json {
        render::result_json(&detection);
    } else {
        render::result(&text::of(&detection));
    }
    Ok(ExitCode::Ok)
}

fn detect(host: &SystemHost, known: &[(Profile, Chip)], query: Option<Query>) -> Result<Detection, Failure> {
    let scan = host.scan().map_err(|error| Failure::new(exit(&error), error.to_string()))?;
    let all = scan.devices.len();
    let devices: Vec<_> = scan.devices.into_iter().filter(may_be_a_board).collect();
    let others = all - devices.len();
    let holders = host.holders_of(&devices);
    let found = devices.into_iter().zip(holders).map(|(device, holders)| {
        let candidates = candidates(&device, known);
        let harmless = device.mode == Mode::UartBridge && harmless(&candidates, known);
        let answer = query.map(|query| query::ask(host, &device, &holders, query, harmless));
        Found { device, candidates, holders, answer }
    });
    Ok(Detection { boards: found.collect(), probes: Vec::new(), others, looked_at: scan.looked_at })
}

/// Whether every board that it may be lets its port be opened without a reset; not if it may be none that is known.
fn harmless(candidates: &[Candidate], known: &[(Profile, Chip)]) -> bool {
    let profile = |candidate: &Candidate| known.iter().find(|(profile, _)| profile.id == candidate.board);
    let stays = |candidate| profile(candidate).is_some_and(|(profile, _)| !profile.opening_resets);
    !candidates.is_empty() && candidates.iter().all(stays)
}

/// Whatever has a tty may be one, and so may what the person named.
pub fn may_be_a_board(device: &Device) -> bool {
    device.mode != Mode::Unknown || device.tty.is_some() || !matches!(device.place, Place::Usb(_))
}

pub fn exit(error: &DiscoverError) -> ExitCode {
    match error {
        DiscoverError::Unreadable { .. } => ExitCode::Denied,
        DiscoverError::Unreachable { .. } => ExitCode::NotFound,
    }
}

#[cfg(test)]
mod tests;
