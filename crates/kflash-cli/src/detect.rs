//! `kflash detect`: what is plugged in.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Lists every board on this host, without touching one
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: &Args, _shared: &Shared) -> Result<ExitCode, Failure> {
    Err(Failure::new(ExitCode::Internal, "detect is not written yet"))
}
