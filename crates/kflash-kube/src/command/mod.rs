//! The command line: one verb, one file. stdout carries the result, stderr everything else.

mod connect;
mod detect;
mod print;
mod probe;
mod quiesce;
mod restore;
mod run;
mod settle;
mod status;
mod which;

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use kflash::exit::ExitCode;
use tokio::runtime::Builder;

use self::connect::Connect;

/// Flashes the boards of printers whose Klipper runs in a cluster
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-kflash",
    bin_name = "kubectl kflash",
    version,
    propagate_version = true,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    connect: Connect,
    /// Print steps and results as lines of JSON
    #[arg(long, global = true, display_order = 101)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(Box<run::Args>),
    Detect(detect::Args),
    #[command(hide = true)]
    Quiesce(Box<quiesce::Args>),
    #[command(hide = true)]
    Probe(probe::Args),
    Restore(restore::Args),
    #[command(hide = true)]
    Settle(settle::Args),
    Status(status::Args),
}

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
struct Failure {
    exit: ExitCode,
    message: String,
}

impl Failure {
    fn new(exit: ExitCode, message: &impl ToString) -> Self {
        Self { exit, message: message.to_string() }
    }
}

/// Runs the command line `arguments` (the program's name first) and returns the process's exit status, one of
/// [`ExitCode`].
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            print::result(&error.to_string());
            return ExitCode::Ok.code();
        }
        Err(error) => {
            print::note(&error.to_string());
            return ExitCode::Usage.code();
        }
    };
    let ended = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(verb(&cli));
            // A request to Moonraker that hangs in its thread must not keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::new(ExitCode::Internal, &format!("cannot start: {error}"))),
    };
    match ended {
        Ok(exit) => exit.code(),
        Err(failure) => {
            print::failure(&failure, cli.json);
            failure.exit.code()
        }
    }
}

async fn verb(cli: &Cli) -> Result<ExitCode, Failure> {
    match &cli.verb {
        Verb::Run(args) => run::run(args, cli).await,
        Verb::Detect(args) => detect::run(args, cli).await,
        Verb::Quiesce(args) => quiesce::run(args, cli).await,
        Verb::Probe(args) => probe::run(args),
        Verb::Restore(args) => restore::run(args, cli).await,
        Verb::Settle(args) => settle::run(args, cli).await,
        Verb::Status(args) => status::run(args, cli).await,
    }
}
