//! What boards would be given: a file, what the tree builds (from the cache or built now), or what the index has.

mod built;
#[cfg_attr(not(feature = "fetch"), path = "offer/fetched/unknown.rs")]
mod fetched;

use std::path::Path;

use kflash::config::Source;
use kflash::exit::ExitCode;
use kflash::flash::{FlashError, Heard};
use kflash::klipper::dictionary::Dictionary;
use kflash::obtain::build::Order;

use self::built::Build;
use super::heard::{Asked, Asker};
use super::target::{Subject, Target};
use crate::args::Shared;
use crate::builds::Builds;
use crate::failure::Failure;
use crate::firmware;

/// The firmware that a board would be given.
#[derive(Clone)]
pub struct Offer {
    /// Its dictionary.
    pub dictionary: Dictionary,
    /// The options that have `kflash flash` take it.
    pub options: Vec<String>,
}

/// Why there is none.
#[derive(Clone)]
pub struct NoOffer {
    /// As a fragment.
    pub why: String,
    /// What failed, if something did.
    pub exit: ExitCode,
}

/// An offer, or why there is none.
pub type Offered = Result<Offer, NoOffer>;

/// Where offers come from.
pub struct Offers<'a> {
    /// The options of every verb.
    #[cfg_attr(not(feature = "fetch"), expect(dead_code, reason = "only what fetches needs them"))]
    pub shared: &'a Shared,
    /// How firmware is built.
    pub builds: Builds<'a>,
}

/// A board of the list, by its place in it, and the route that its firmware is for.
struct Wanted<'s> {
    at: usize,
    target: &'s Target<'s>,
    route: String,
}

impl Offers<'_> {
    /// What each of the boards would be given.
    pub fn of(&self, subjects: &[Subject<'_>], asked: &[Asked], asker: &Asker<'_>) -> Vec<Offered> {
        let mut offers: Vec<Offered> = subjects.iter().map(|_| Err("no firmware is known for it".into())).collect();
        let (mut builds, mut fetches) = (Vec::new(), Vec::new());
        for (at, (subject, asked)) in subjects.iter().zip(asked).enumerate() {
            let (Subject::Board(target), Asked::Board { heard, .. }) = (subject, asked) else { continue };
            let Ok(heard) = &**heard else { continue };
            let source = target.configured.and_then(|(_, board)| board.firmware.as_ref());
            if let Some(Source::File(file)) = source {
                offers[at] = from_file(file, Vec::new()).map_err(NoOffer::from);
                continue;
            }
            match (route(target, heard, asker), source) {
                (Err(none), _) => offers[at] = Err(none),
                (Ok(route), Some(Source::Fetch)) => fetches.push(Wanted { at, target, route }),
                (Ok(route), _) => builds.push(Wanted { at, target, route }),
            }
        }
        for (wanted, build) in self.build(builds) {
            match build {
                Build::Made(offered) => offers[wanted.at] = offered,
                // Without a tree or a toolchain it is fetched, if it may be.
                Build::Cannot(_) if self.builds.config.fetch.is_some() && may_be_fetched(wanted.target) => {
                    fetches.push(wanted);
                }
                Build::Cannot(none) => offers[wanted.at] = Err(none),
            }
        }
        for (wanted, offered) in self.fetch(fetches) {
            offers[wanted.at] = offered;
        }
        offers
    }
}

/// Whether the configuration leaves open where its firmware comes from.
fn may_be_fetched(target: &Target<'_>) -> bool {
    target.configured.is_none_or(|(_, board)| board.firmware.is_none())
}

impl From<&str> for NoOffer {
    fn from(why: &str) -> Self {
        Self { why: why.to_owned(), exit: ExitCode::Ok }
    }
}

impl From<Failure> for NoOffer {
    fn from(failure: Failure) -> Self {
        Self { why: failure.message, exit: failure.exit }
    }
}

/// The offer of a file.
pub fn from_file(file: &Path, options: Vec<String>) -> Result<Offer, Failure> {
    let image = firmware::read(file)?.image;
    let no_klipper = || Failure::usage(format!("{}: no Klipper firmware: it holds no data dictionary", file.display()));
    Ok(Offer { dictionary: image.dictionary.ok_or_else(no_klipper)?, options })
}

/// What the firmware of a board is for: the route of the configuration, else the one that the device suggests.
fn route(target: &Target<'_>, heard: &Heard, asker: &Asker<'_>) -> Result<String, NoOffer> {
    if target.boards.len() > 1 {
        return Err("which board it is is not known; --board names it".into());
    }
    if let Some(route) = target.configured.and_then(|(_, board)| board.route.clone()) {
        return Ok(route);
    }
    let suggested = heard.route(&asker.wanted(target)).map(|(route, _)| route.id);
    suggested.map_err(|FlashError { message, details, .. }| {
        let why = std::iter::once(message).chain(details).collect::<Vec<_>>().join("; ");
        NoOffer { why, exit: ExitCode::Ok }
    })
}

impl Wanted<'_> {
    /// The order for a build.
    fn order(&self) -> Result<Order, NoOffer> {
        let Target { profile, chip, configured, .. } = self.target;
        let set = configured.map(|(_, board)| board.symbols.clone()).unwrap_or_default().into_iter().collect();
        let order = Order::new(profile.clone(), chip.clone(), Some(&self.route), set);
        order.map_err(|error| NoOffer { why: error.summary(), exit: error.exit() })
    }
}
