//! The `kflash` command: one file per verb, renderers, hints. stdout carries the result, stderr everything else.

mod args;
#[cfg(feature = "swd")]
mod backup;
mod boards;
mod build;
mod builds;
mod cache;
mod configuration;
mod detect;
mod doctor;
mod failure;
#[cfg(feature = "fetch")]
mod fetch;
mod firmware;
mod flash;
mod gate;
mod hands;
mod hint;
#[cfg_attr(not(feature = "moonraker"), path = "host_version/unknown.rs")]
mod host_version;
mod inspect;
mod install;
#[cfg(feature = "job")]
mod job;
mod memory;
mod obtain;
mod phases;
mod picture;
mod plan;
mod pod;
#[cfg_attr(not(feature = "swd"), path = "probe/none.rs")]
mod probe;
#[cfg(feature = "fetch")]
mod publish;
mod render;
mod report;
mod session;
mod sheet;
mod signal;
#[cfg(feature = "sim")]
mod simulate;
mod status;
mod summary;
mod target;
mod trace;
mod tree;
mod verify;
mod which;

use std::ffi::OsString;
use std::panic;

use clap::{CommandFactory, Parser, Subcommand};
use kflash::exit::ExitCode;

use crate::args::Shared;
use crate::failure::Failure;

/// Takes the micro-controller of a 3D printer from whatever state it is in to running exactly the Klipper firmware
/// that its host needs, and proves it.
#[derive(Debug, Parser)]
#[command(name = "kflash", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Detect(detect::Args),
    Inspect(inspect::Args),
    Build(build::Args),
    Plan(plan::Args),
    Flash(flash::Args),
    Verify(verify::Args),
    InstallBootloader(install::Args),
    #[cfg(feature = "swd")]
    Backup(backup::Args),
    #[cfg(feature = "fetch")]
    Fetch(fetch::Args),
    #[cfg(feature = "fetch")]
    Publish(publish::Args),
    Boards(boards::Args),
    Status(status::Args),
    Cache(cache::Args),
    #[cfg(feature = "job")]
    Job(job::Args),
    Doctor(doctor::Args),
}

/// Runs the command line `arguments` (the program's name first) and returns the process's exit status, one of
/// [`ExitCode`].
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => {
            render::result(&error.to_string());
            return ExitCode::Ok.code();
        }
        Err(error) => {
            let json = arguments.iter().any(|argument| argument == "--json");
            return render::usage(&error, json).code();
        }
    };
    // A bug must not look like anything else: one line, no backtrace whatever RUST_BACKTRACE says, exit 1.
    panic::set_hook(Box::new(|_| {}));
    let ended = panic::catch_unwind(|| match &cli.verb {
        Verb::Detect(args) => detect::run(args, &cli.shared),
        Verb::Inspect(args) => inspect::run(args, &cli.shared),
        Verb::Build(args) => build::run(args, &cli.shared),
        Verb::Plan(args) => plan::run(args, &cli.shared),
        Verb::Flash(args) => flash::run(args, &cli.shared),
        Verb::Verify(args) => verify::run(args, &cli.shared),
        Verb::InstallBootloader(args) => install::run(args, &cli.shared),
        #[cfg(feature = "swd")]
        Verb::Backup(args) => backup::run(args, &cli.shared),
        #[cfg(feature = "fetch")]
        Verb::Fetch(args) => fetch::run(args, &cli.shared),
        #[cfg(feature = "fetch")]
        Verb::Publish(args) => publish::run(args, &cli.shared),
        Verb::Boards(args) => boards::run(args, &cli.shared),
        Verb::Status(args) => status::run(args, &cli.shared),
        Verb::Cache(args) => cache::run(args, &cli.shared),
        #[cfg(feature = "job")]
        Verb::Job(args) => job::run(args, &cli.shared),
        Verb::Doctor(args) => doctor::run(args, &cli.shared),
    });
    match ended {
        Ok(Ok(exit)) => exit.code(),
        Ok(Err(failure)) => render::failure(&failure, cli.shared.json).code(),
        Err(panic) => render::failure(&Failure::internal_of_panic(panic.as_ref()), cli.shared.json).code(),
    }
}

/// The command line as data, for man pages, completions and the README.
pub fn command() -> clap::Command {
    Cli::command()
}
