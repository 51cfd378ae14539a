//! `--ref host` of a kflash that does not speak with Moonraker.

use kflash::config::{Config, Printer};

use crate::failure::Failure;

/// Nobody can be asked.
pub fn host_version(_: &Config, _: Option<&Printer>) -> Result<String, Failure> {
    Err(Failure::usage("--ref host: this kflash was built without Moonraker"))
}
