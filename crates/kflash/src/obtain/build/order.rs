//! What is ordered and what is delivered.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::BuildError;
use super::kconfig::Request;
use crate::board::{BoardId, Profile, Route};
use crate::chip::Chip;
use crate::event::Check;
use crate::obtain::cache::Entry;
use crate::obtain::provenance::MadeFor;

/// Firmware that is wanted for a board.
#[derive(Clone, Debug)]
pub struct Order {
    /// The board.
    pub profile: Profile,
    /// Its chip.
    pub chip: Chip,
    /// The way that it will be flashed: with the bootloader that it presumes, it decides offset and cable.
    pub route: Route,
    /// Symbols that a person sets beside the profile's, or instead.
    pub set: Vec<(String, String)>,
}

/// Firmware that was built, now or before.
#[derive(Clone, Debug)]
pub struct Firmware {
    /// The board.
    pub board: BoardId,
    /// The route of its profile.
    pub route: String,
    /// The image in the cache.
    pub entry: Entry,
    /// Where it comes from.
    pub source: Source,
    /// What the image proved.
    pub proof: Vec<Check>,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// It was in the cache; no make ran.
    Cache,
    /// It was built.
    Built {
        /// make's output.
        log: PathBuf,
        /// How long it took, in milliseconds.
        ms: u64,
    },
}

impl Order {
    /// An order for a board; without `route` for the first of its routes.
    pub fn new(
        profile: Profile,
        chip: Chip,
        route: Option<&str>,
        set: Vec<(String, String)>,
    ) -> Result<Self, BuildError> {
        let found = match route {
            None => profile.routes.first(),
            Some(id) => profile.routes.iter().find(|route| route.id == id),
        };
        let Some(route) = found.cloned() else {
            let routes = profile.routes.iter().map(|route| route.id.clone()).collect();
            let wanted = route.map(str::to_owned);
            return Err(BuildError::NoRoute { board: profile.id, wanted, routes });
        };
        Ok(Self { profile, chip, route, set })
    }

    /// The symbols that it asks for, and their values.
    pub fn symbols(&self) -> Result<BTreeMap<String, String>, BuildError> {
        Ok(self.request()?.symbols().clone())
    }

    pub(super) fn request(&self) -> Result<Request, BuildError> {
        Ok(Request::of_route(&self.profile, &self.chip, &self.route, &self.set)?)
    }

    /// What an image of it is made for.
    pub(super) fn made_for(&self) -> MadeFor {
        MadeFor { board: self.profile.id.clone(), route: Some(self.route.id.clone()) }
    }
}
