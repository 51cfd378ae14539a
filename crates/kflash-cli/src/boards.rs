//! `kflash boards`: the boards that kflash knows.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Lists the boards that kflash knows
#[derive(clap::Args, Debug)]
pub struct Args {}

pub fn run(_args: &Args, _shared: &Shared) -> Result<ExitCode, Failure> {
    Err(Failure::new(ExitCode::Internal, "boards is not written yet"))
}
