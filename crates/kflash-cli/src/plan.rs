//! `kflash plan`: the dry run of a flash.

use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Says what a flash would do, and everything that speaks against it, without touching the board
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
    Err(Failure::new(ExitCode::Internal, "plan is not written yet"))
}
