//! The static release programs, built as they are shipped.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use tests::binary::static_binary;

/// The target whose programs are static.
const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the program of a package, with these words about its features; where it lies.
pub fn build(package: &str, program: &str, features: &[&str]) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--package", package]);
    let status = command.args(features).status().context("cannot run cargo")?;
    ensure!(status.success(), "cargo build of {package}: {status}");
    Ok(static_binary(program))
}

/// `kflash` as `cargo build -p kflash-cli` makes it.
pub fn kflash() -> anyhow::Result<PathBuf> {
    build("kflash-cli", "kflash", &[])
}

/// `kflash-sim`.
pub fn simulator() -> anyhow::Result<PathBuf> {
    build("kflash-sim", "kflash-sim", &[])
}
