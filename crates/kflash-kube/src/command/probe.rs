//! `kubectl kflash probe`: whether quiesce has come to a decision.

use std::path::PathBuf;

use kflash::cluster::{Gate, file};
use kflash::exit::ExitCode;

use super::Failure;

/// The startup probe of the quiesce container: succeeds once that has decided
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Directory that is shared with the container that flashes
    #[arg(long, value_name = "DIR")]
    shared: PathBuf,
}

pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    match Gate::read(&args.shared.join(file::GATE)) {
        Ok(Some(_)) => Ok(ExitCode::Ok),
        Ok(None) => Err(Failure::new(ExitCode::Busy, &"quiesce has not decided yet")),
        Err(error) => Err(Failure::new(ExitCode::Internal, &error)),
    }
}
