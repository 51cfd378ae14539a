//! `kflash doctor`: what this host lacks.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Says what this host lacks for flashing, and mends it
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: &Args, _shared: &Shared) -> Result<ExitCode, Failure> {
    Err(Failure::new(ExitCode::Internal, "doctor is not written yet"))
}
