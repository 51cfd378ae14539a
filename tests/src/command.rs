//! Runs of the shipped `kflash`.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::binary::static_binary;

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status.
    pub code: i32,
    /// The last line of its standard output, with `--json`.
    pub result: Value,
    /// Its standard error.
    pub messages: String,
}

/// A run of `kflash --json` with nobody at the terminal, and with a cache of its own unless `--cache-dir` names one.
pub fn kflash(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
    let cache = tempfile::tempdir().expect("a directory can be made");
    let output = Command::new(static_binary("kflash"))
        .arg("--json")
        .args(arguments)
        .env("XDG_CACHE_HOME", cache.path())
        .stdin(Stdio::null())
        .output()
        .expect("kflash can be run");
    let text = String::from_utf8(output.stdout).expect("kflash prints text");
    Ran {
        code: output.status.code().expect("kflash is not killed"),
        result: text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default(),
        messages: String::from_utf8(output.stderr).expect("kflash prints text"),
    }
}
