//! `kflash inspect`: what is in a firmware file.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Says what is in a firmware file
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The firmware file
    pub file: std::path::PathBuf,
}

pub fn run(_args: &Args, _shared: &Shared) -> Result<ExitCode, Failure> {
    Err(Failure::new(ExitCode::Internal, "inspect is not written yet"))
}
