//! The `kflash` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(kflash_cli::run(std::env::args_os()))
}
