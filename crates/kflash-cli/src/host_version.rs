//! `--ref host`: the commit that the printer's own Klipper runs, as its Moonraker says.

use kflash::config::{Config, Printer};
use kflash::moonraker::{Client, MoonrakerError};
use kflash::obtain::build::tree::ref_of_version;

use crate::failure::Failure;
use crate::sheet::shown;

/// What git calls the version that the host of `printer` runs; without one, of the only printer with a Moonraker.
pub fn host_version(config: &Config, printer: Option<&Printer>) -> Result<String, Failure> {
    let printers = printer.map_or(&config.printers[..], std::slice::from_ref);
    let known: Vec<_> = printers.iter().filter_map(|printer| printer.moonraker.as_ref()).collect();
    let [moonraker] = known[..] else {
        let several = if known.is_empty() { "no Moonraker is" } else { "several printers with a Moonraker are" };
        let of = printer.map(|printer| format!(" for {}", printer.name)).unwrap_or_default();
        let message = format!("--ref host: {several} configured{of}, so that nobody tells what the host runs");
        let hint = "the configuration file names each printer's Moonraker and its boards".to_owned();
        return Err(Failure { hint: Some(hint), ..Failure::usage(message) });
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
