//! `--ref host`: the commit that the printer's own Klipper runs, as its Moonraker says.

use kflash::config::{Config, Printer};
use kflash::moonraker::{Client, MoonrakerError};
use kflash::obtain::build::tree::ref_of_version;

use crate::failure::Failure;
use crate::sheet::shown;

/// What git calls the version that the host of `printer` runs; without one, of the only printer with a Moonraker.
pub fn host_version(config: &Config, printer: Option<&Printer>) -> Result<String, Failure> {
    let mut known = printer.into_iter().chain(config.printers.iter()).filter_map(|printer| printer.moonraker.as_ref());
    let moonraker = match (known.next(), printer.and_then(|printer| printer.moonraker.as_ref())) {
        (_, Some(moonraker)) => moonraker,
        (Some(only), None) if known.next().is_none() => only,
        (found, None) => {
            let several = if found.is_some() { "several printers with a Moonraker are" } else { "no Moonraker is" };
            let message = format!("--ref host: {several} configured, so that nobody tells what the host runs");
            let hint = "the configuration file names each printer's Moonraker and its boards".to_owned();
            return Err(Failure { hint: Some(hint), ..Failure::usage(message) });
        }
    };
    let version = Client::new(moonraker).and_then(|client| client.host_version())?;
    match ref_of_version(&version) {
        Some(reference) => Ok(reference.to_owned()),
        None => Err(Failure::usage(format!("the host runs {:?}, which names no commit", shown(&version)))),
    }
}

impl From<MoonrakerError> for Failure {
    fn from(error: MoonrakerError) -> Self {
        Self::new(error.exit(), error.to_string())
    }
}
