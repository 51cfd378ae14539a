//! `kubectl-kflash`: the sidecar of a flash Job, and a plugin of kubectl.

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(command::run(std::env::args_os()))
}
