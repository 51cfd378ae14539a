//! This kflash knows no debug probes.

use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::clock::Clock;
use kflash::event::Events;
use kflash::flash::{FlashError, Flasher, Report, Request};
use serde::Serialize;

/// None is found.
#[derive(Serialize)]
pub enum FoundProbe {}

/// None can be told.
pub fn text(probe: &FoundProbe) -> String {
    match *probe {}
}

/// None.
pub fn list(_: &[(Profile, Chip)], _: bool, _: &dyn Clock) -> Vec<FoundProbe> {
    Vec::new()
}

/// No options.
#[derive(clap::Args, Debug)]
pub struct ProbeArgs {}

impl ProbeArgs {
    /// Nothing: no probe can be asked for.
    #[expect(clippy::unused_self, reason = "as where there are probes")]
    pub fn flash(&self, _: &Flasher<'_>, _: &Request, _: Events<'_>) -> Option<Result<Report, FlashError>> {
        None
    }
}
