//! This kflash knows no debug probes.

use std::convert::Infallible;

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

/// No way through a probe; who asks for it is told how to get it.
#[derive(clap::Args, Debug)]
pub struct ProbeArgs {
    #[arg(long, hide = true, value_parser = no_probes)]
    via: Option<Infallible>,
}

fn no_probes(_: &str) -> Result<Infallible, &'static str> {
    Err("this kflash was built without debug probes: cargo build --release -p kflash-cli --features swd")
}

/// The same.
pub type ErasingProbeArgs = ProbeArgs;

impl ProbeArgs {
    /// None can be asked for.
    pub fn asked(&self) -> Option<ByProbe> {
        self.via.map(|never| match never {})
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
