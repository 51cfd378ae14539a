//! `kflash flash`: the seven stages in a row.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Flashes a board and proves that it runs the firmware
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
    Err(Failure::new(ExitCode::Internal, "flash is not written yet"))
}
