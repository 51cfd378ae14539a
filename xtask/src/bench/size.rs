//! The static programs: how large they are, and how fast they start.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::programs::{build, kflash};
use super::{Figure, Report, median};

const MB: f64 = 1_000_000.0;
/// Runs for each one asked for: each takes a few milliseconds.
const RUNS: usize = 40;
/// What the container images are built with; as in `tools/images`.
const IMAGE: [&str; 3] = ["--no-default-features", "--features", "fetch,moonraker"];

pub fn measure(runs: usize) -> anyhow::Result<Report> {
    let mut figures = Vec::new();
    let mut add = |name: &str, program: &Path, most: f64| -> anyhow::Result<()> {
        figures.push(Figure::new(name, fs::metadata(program)?.len() as f64 / MB, "MB").at_most(most));
        let starts = (0..runs * RUNS).map(|_| start(program)).collect::<anyhow::Result<_>>()?;
        let start = median::<Duration>(starts).unwrap_or_default();
        figures.push(Figure::new(format!("{name}, start"), start.as_secs_f64() * 1000.0, "ms"));
        Ok(())
    };
    add("kubectl-kflash, in the image kflash-kube", &build("kflash-kube", "kubectl-kflash", &[])?, 12.0)?;
    add("kflash, in the images kflash and kflash-builder", &build("kflash-cli", "kflash", &IMAGE)?, 6.0)?;
    // The usual build last: it is the one that stays.
    add("kflash, as `cargo build` makes it", &kflash()?, 6.0)?;
    let method = format!(
        "The files that `cargo build --release --target x86_64-unknown-linux-musl` makes, stripped, for the images with what tools/images \
adds; a MB is 1000000 bytes. An image holds its program and nothing else, but for kflash-builder. Start: wall time of `--version`, \
from before the process is started until it has ended, median of {}.",
        runs * RUNS
    );
    Ok(Report { title: "The programs", method, figures })
}

fn start(program: &Path) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let status = Command::new(program).arg("--version").stdout(Stdio::null()).status()?;
    let time = begun.elapsed();
    ensure!(status.success(), "{} --version: {status}", program.display());
    Ok(time)
}
