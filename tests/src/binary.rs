//! The static programs that guests and containers run, as `make test-binaries` built them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// The static release build of the program `name`.
///
/// Panics if it was not built, or if one of its sources changed since: a test of a stale program proves nothing.
pub fn static_binary(name: &str) -> PathBuf {
    static_binary_for(TARGET, name)
}

/// The static release build of the program `name` for a Rust target. Panics as [`static_binary`] does.
pub fn static_binary_for(target: &str, name: &str) -> PathBuf {
    fresh(target_dir().join(target).join("release").join(name), "make test-binaries")
}

/// The program `name` of the package `of`, as `cargo test` of the workspace builds it, too. Panics as [`static_binary`]
/// does.
pub fn debug_binary(name: &str, of: &str) -> PathBuf {
    fresh(target_dir().join("debug").join(name), &format!("cargo build --package {of}"))
}

/// The program `name` of `tests/examples/`, which `cargo test` without further words builds, too. Panics as
/// [`static_binary`] does.
pub fn example(name: &str) -> PathBuf {
    fresh(target_dir().join("debug").join("examples").join(name), "cargo build --package tests --examples")
}

/// The program `name` as the tests themselves are built, with debug probes: it takes libraries of this host
/// ([`libraries`]). Panics as [`static_binary`] does.
pub fn dynamic_binary(name: &str) -> PathBuf {
    let command = "cargo build --package kflash-cli --package kflash-sim --features kflash-cli/swd,kflash-sim/swd";
    fresh(target_dir().join("debug").join(name), command)
}

/// The shared libraries of a program.
pub fn libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().expect("ldd can be run");
    let text = String::from_utf8(output.stdout).expect("ldd prints text");
    // libusb-1.0.so.0 => /lib/x86_64-linux-gnu/libusb-1.0.so.0 (0x..)
    text.lines().filter_map(|line| line.split_once(" => ")?.1.split_whitespace().next().map(PathBuf::from)).collect()
}

fn fresh(binary: PathBuf, command: &str) -> PathBuf {
    let built = modified(&binary).unwrap_or_else(|| panic!("{} is missing: run `{command}`", binary.display()));
    // `cargo test` builds a program with its tests, and then leaves no list of its sources: there is none to be older than.
    if !binary.with_extension("d").exists() {
        return binary;
    }
    if let Some(newer) = sources(&binary.with_extension("d"))
        .iter()
        .find(|source| modified(source).is_none_or(|changed| changed > built))
    {
        panic!("{} is newer than {}: run `{command}`", newer.display(), binary.display());
    }
    binary
}

/// Cargo's target directory, as `tools/debian-packages` finds it, too.
pub fn target_dir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The prerequisites in a `.d` file of Cargo: one line, `program: source source ..`, blanks in names escaped.
fn sources(dep_info: &Path) -> Vec<PathBuf> {
    let text =
        fs::read_to_string(dep_info).unwrap_or_else(|error| panic!("cannot read {}: {error}", dep_info.display()));
    let (_, list) = text.split_once(": ").unwrap_or_else(|| panic!("{} lists no sources", dep_info.display()));
    list.trim_end().replace("\\ ", "\0").split(' ').map(|name| PathBuf::from(name.replace('\0', " "))).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}
