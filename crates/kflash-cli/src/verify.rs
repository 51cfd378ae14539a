//! `kflash verify`: whether a board runs a firmware.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Checks that a board runs, or holds, a firmware
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The board: an id from `kflash boards`, or the path of a profile
    #[arg(long, short)]
    pub board: String,
    /// The firmware file: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE")]
    pub firmware: std::path::PathBuf,
}

pub fn run(_args: &Args, _shared: &Shared) -> Result<ExitCode, Failure> {
    Err(Failure::new(ExitCode::Internal, "verify is not written yet"))
}
