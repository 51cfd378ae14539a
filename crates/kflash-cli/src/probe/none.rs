//! This kflash knows no debug probes.

use kflash::board::{Profile, Route};
use kflash::chip::Chip;
use kflash::clock::Clock;
use kflash::event::Events;
use kflash::flash::{FlashError, Flasher, Report, Request, Wanted};
use kflash::plan::Plan;
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

/// No options.
pub type ErasingProbeArgs = ProbeArgs;

impl ProbeArgs {
    /// None can be asked for.
    #[expect(clippy::unused_self, reason = "as where there are probes")]
    pub fn asked(&self) -> Option<ByProbe> {
        None
    }
}

/// There is no such way.
#[derive(Debug)]
pub enum ByProbe {}

impl ByProbe {
    /// Never called.
    pub fn route(&self, _: &Flasher<'_>, _: &Wanted<'_>, _: Events<'_>) -> Result<Route, FlashError> {
        match *self {}
    }

    /// Never called.
    pub fn plan(&self, _: &Flasher<'_>, _: &Request, _: Events<'_>) -> Result<Plan, FlashError> {
        match *self {}
    }

    /// Never called.
    pub fn flash(&self, _: &Flasher<'_>, _: &Request, _: Events<'_>) -> Result<Report, FlashError> {
        match *self {}
    }

    /// Never called.
    pub fn verify(&self, _: &Flasher<'_>, _: &Request, _: bool, _: Events<'_>) -> Result<Report, FlashError> {
        match *self {}
    }
}
