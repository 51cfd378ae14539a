//! The `kflash-sim` command: simulated boards for anyone who has none at hand.

mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Simulated Klipper micro-controllers and their bootloaders.
#[derive(Parser)]
#[command(name = "kflash-sim", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Serve(serve::Serve),
}

fn main() -> ExitCode {
    let Verb::Serve(serve) = Cli::parse().verb;
    match serve.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr there is nobody to tell.
            let _ = writeln!(io::stderr(), "kflash-sim: {error}");
            ExitCode::FAILURE
        }
    }
}
