//! Chores of the workspace.

mod bench;
mod docs;
mod k8s_jobs;

use std::path::{Path, PathBuf};

use clap::Parser;

/// Chores of the kflash workspace
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Writes the generated sections of README.md and docs/cli.md, schemas/, k8s-jobs/, and man pages and completions into target/
    Docs {
        /// Write nothing; fail if a section is stale
        #[arg(long)]
        check: bool,
    },
    /// Measures kflash: the wire, DFU beside dfu-util, detect, the size of the program
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Docs { check: true } => docs::check(&root()),
        Chore::Docs { check: false } => docs::write(&root()),
        Chore::Bench(args) => bench::run(&args),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
