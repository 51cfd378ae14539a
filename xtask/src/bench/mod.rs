//! `cargo xtask bench`: what kflash costs, side by side with what it is measured against. Nothing here is a test: a busy
//! machine makes the figures worse and breaks nothing.

mod build;
mod detect;
mod dfu_util;
mod ended;
mod figure;
mod programs;
mod pty;
mod size;
mod status;
mod tally;
mod wire;

use std::io::{self, Write};

use clap::ValueEnum;

use self::figure::{Figure, Report};

/// What is measured, and how often.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Measure only these
    #[arg(value_enum)]
    only: Vec<Subject>,
    /// Runs of what takes real time; the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..100))]
    runs: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// A benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Bytes, round trips and virtual time of Katapult and DfuSe, in process
    Wire,
    /// Katapult over a pty at 250000 baud, in real time
    Pty,
    /// DFU in the VM, kflash and dfu-util in turns
    DfuUtil,
    /// `kflash detect` with fifty boards
    Detect,
    /// `kflash build` of eight boards beside make; the tree is that of KFLASH_TEST_KLIPPER, else a small one
    Build,
    /// `kflash status` with twenty boards
    Status,
    /// The static programs: how large they are, and how fast they start
    Size,
}

/// Runs the benchmarks and prints their figures.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for subject in Subject::value_variants() {
        if !args.only.is_empty() && !args.only.contains(subject) {
            continue;
        }
        let runs = args.runs as usize;
        reports.push(match subject {
            Subject::Wire => wire::measure()?,
            Subject::Pty => pty::measure(runs)?,
            Subject::DfuUtil => dfu_util::measure(runs)?,
            Subject::Detect => detect::measure(runs)?,
            Subject::Build => build::measure(runs)?,
            Subject::Status => status::measure(runs)?,
            Subject::Size => size::measure(runs)?,
        });
    }
    let text = if args.json { serde_json::to_string_pretty(&reports)? + "\n" } else { figure::table(&reports) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// The one in the middle; of an even number, the slower one of the two.
fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied()
}
