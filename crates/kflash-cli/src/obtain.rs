//! The firmware of each board of a run: read, remembered, built or fetched.
//!
//! Three steps, so that all boards are built in one go: [`Obtainer::order`] asks each device what it takes,
//! [`Obtainer::build`] builds for all of them, [`Obtainer::firmware`] is what is left to do for each.

use kflash::event::Events;
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Flasher, Interrupt, Suggestion, Unheard, Wanted};
use kflash::obtain::Obtained;
use kflash::obtain::build::Order;
use kflash::system::SystemHost;

use crate::args::Shared;
use crate::builds::{Builds, Built};
use crate::failure::Failure;
#[cfg(feature = "sim")]
use crate::firmware::Virtual;
use crate::firmware::{self, Made, Source};
use crate::memory;
use crate::probe::ByProbe;
use crate::render::{self, Screen};
use crate::target::Board;
use crate::tree::{NoTree, environment};

/// Obtains firmware.
#[derive(Clone, Copy)]
pub struct Obtainer<'a> {
    /// How it is built or fetched.
    pub made: &'a Made,
    /// On virtual boards, which nobody asks for a route.
    #[cfg(feature = "sim")]
    pub simulated: Option<Virtual<'a>>,
    /// Through a debug probe, which then is asked for the route.
    pub probe: Option<&'a ByProbe>,
    /// Whether a chip that answers its debug probe only out of a reset may be reset for that.
    pub may_reset: bool,
    /// Stops it.
    pub interrupt: &'a Interrupt,
    /// The options of every verb.
    pub shared: &'a Shared,
}

/// What is to be done for the firmware of a board.
pub enum Ordered {
    /// Nothing: it is there. `None` is the test image of a virtual board.
    Here(Option<Box<Obtained>>),
    /// It is to be built.
    Build {
        /// For what.
        order: Box<Order>,
        /// Whether it is fetched, where there is nothing to build from or with.
        or_fetch: bool,
    },
    /// It is to be fetched, for the route of this id.
    Fetch(Option<String>),
}

/// What is left to do once all is built.
pub enum Supply {
    /// Nothing: it is there. `None` is the test image of a virtual board.
    Here(Option<Box<Obtained>>),
    /// It is to be fetched, for the route of this id.
    Fetch(Option<String>),
}

/// Orders for one tree, each with where it stands in the list of boards.
type Orders = Vec<(usize, Order, bool)>;

impl Source {
    /// Whether the device tells which firmware it takes.
    pub fn asks_device(&self) -> bool {
        match self {
            Self::Previous | Self::Build | Self::Fetch | Self::BuildOrFetch => true,
            Self::File(_) | Self::Test => false,
        }
    }
}

impl Obtainer<'_> {
    /// What is to be done for the firmware of a board. Asks the device, where that decides.
    pub fn order(&self, board: &Board, source: &Source, events: Events<'_>) -> Result<Ordered, Failure> {
        let build = |or_fetch, events: Events<'_>| {
            let Board { profile, chip, configured, .. } = board;
            let route = self.route(board, events)?;
            let symbols = configured.as_ref().map(|board| board.symbols.clone()).unwrap_or_default();
            let set = symbols.into_iter().chain(self.made.set.iter().cloned()).collect();
            let order = Order::new(profile.clone(), chip.clone(), route.as_deref(), set)?;
            Ok(Ordered::Build { order: Box::new(order), or_fetch })
        };
        match source {
            Source::File(file) => Ok(Ordered::Here(Some(Box::new(firmware::read(file)?)))),
            Source::Previous => {
                let (host, selectors) = SystemHost::new(&self.shared.host_root).with_selectors(board.selectors.clone());
                let flasher = Flasher { host: &host, interrupt: self.interrupt, hands: false };
                let previous = memory::previous(&self.shared.cache()?, &flasher, &wanted(board, &selectors))?;
                Ok(Ordered::Here(Some(Box::new(previous))))
            }
            Source::Build => build(false, events),
            Source::BuildOrFetch => build(true, events),
            Source::Fetch => Ok(Ordered::Fetch(self.route(board, events)?)),
            Source::Test => Ok(Ordered::Here(None)),
        }
    }

    /// The route that firmware for a board is made for; `None` leaves it open.
    fn route(&self, board: &Board, events: Events<'_>) -> Result<Option<String>, Failure> {
        let configured = board.configured.as_ref().and_then(|board| board.route.as_deref());
        let named = self.made.route.as_deref().or(configured);
        #[cfg(feature = "sim")]
        if let Some(Virtual { bootloader }) = self.simulated {
            let told = named.or(bootloader).is_some();
            let route = crate::simulate::route(board, named, bootloader, None)?;
            return Ok(told.then(|| route.id.clone()));
        }
        if let Some(route) = named {
            return Ok(Some(route.to_owned()));
        }
        let (host, selectors) = SystemHost::new(&self.shared.host_root).with_selectors(board.selectors.clone());
        let flasher = Flasher { host: &host, interrupt: self.interrupt, hands: false };
        let of_flash = |error| Failure::of_flash(error, &board.profile.hands);
        if let Some(probe) = self.probe {
            let wanted = Wanted { may_reset: self.may_reset, ..wanted(board, &selectors) };
            return Ok(Some(probe.route(&flasher, &wanted, events).map_err(of_flash)?.id));
        }
        let Suggestion { route, heard, .. } = flasher.route(&wanted(board, &selectors), events).map_err(of_flash)?;
        match heard.unheard {
            // Nobody waits for a build that is for no board.
            Some(Unheard::NoDevice { what }) => {
                Err(of_flash(FlashError::new(ExitCode::NotFound, FailureKind::NoDevice, BoardState::Untouched, what)))
            }
            _ => Ok(Some(route.id)),
        }
    }

    /// Builds what is to be built, for all boards at once; one failure stops no other.
    pub fn build(
        &self,
        boards: &[&Board],
        ordered: Vec<Result<Ordered, Failure>>,
        screen: &Screen,
    ) -> Result<Vec<Result<Supply, Failure>>, Failure> {
        let mut supplies = Vec::new();
        let mut orders = Orders::new();
        for (at, ordered) in ordered.into_iter().enumerate() {
            supplies.push(ordered.map(|ordered| match ordered {
                Ordered::Here(obtained) => Supply::Here(obtained),
                Ordered::Fetch(route) => Supply::Fetch(route),
                // In its place, until it is built.
                Ordered::Build { order, or_fetch } => {
                    orders.push((at, *order, or_fetch));
                    Supply::Here(None)
                }
            }));
        }
        if orders.is_empty() {
            return Ok(supplies);
        }
        let config = self.shared.configuration()?.config;
        let builds = Builds {
            config: &config,
            tree: &self.made.tree,
            cache: &self.shared.cache()?,
            environment: &environment(),
            interrupt: self.interrupt,
            no_build: false,
            json: self.shared.json,
            screen,
        };
        let can_fetch = self.can_fetch(&config);
        let left: Vec<_> =
            orders.iter().map(|(at, order, or_fetch)| (*at, order.route.id.clone(), *or_fetch)).collect();
        let orders = orders.into_iter().map(|(at, order, _)| (boards[at].printer.as_ref(), order)).collect();
        for ((at, route, or_fetch), built) in left.into_iter().zip(builds.of(orders)) {
            let instead = or_fetch && can_fetch && built.cannot();
            supplies[at] = match built {
                Built::Firmware(firmware) => Ok(Supply::Here(Some(Box::new(firmware.entry.into())))),
                built => match failure(boards[at], built, or_fetch) {
                    failure if instead => {
                        render::note(&format!("{}: {}; it is fetched", boards[at].profile.id, failure.message));
                        Ok(Supply::Fetch(Some(route)))
                    }
                    failure => Err(failure),
                },
            };
        }
        Ok(supplies)
    }

    /// The firmware; `None` is the test image of a virtual board.
    pub fn firmware(&self, board: &Board, supply: Supply, events: Events<'_>) -> Result<Option<Obtained>, Failure> {
        match supply {
            Supply::Here(obtained) => Ok(obtained.map(|obtained| *obtained)),
            Supply::Fetch(route) => self.fetch(board, route.as_deref(), events).map(Some),
        }
    }

    #[cfg(feature = "fetch")]
    fn can_fetch(&self, config: &kflash::config::Config) -> bool {
        self.made.means.is_named() || config.fetch.is_some()
    }

    #[cfg(not(feature = "fetch"))]
    #[expect(clippy::unused_self, reason = "as where it can be fetched")]
    fn can_fetch(&self, _: &kflash::config::Config) -> bool {
        false
    }

    #[cfg(feature = "fetch")]
    fn fetch(&self, board: &Board, route: Option<&str>, events: Events<'_>) -> Result<Obtained, Failure> {
        use kflash::obtain::fetch::Wanted;
        let means = self.made.means.resolve(self.shared)?;
        let cache = self.shared.cache()?;
        let wanted = Wanted { profile: &board.profile, route, version: None };
        let image = crate::fetch::with_fetcher(&means, &cache, self.interrupt, |fetcher| {
            let believed = fetcher.index(&means.source, events)?;
            fetcher.image(&believed, &wanted, &board.chip, events)
        })?;
        Ok(image.entry.into())
    }

    #[cfg(not(feature = "fetch"))]
    #[expect(clippy::unused_self, reason = "as where it can be fetched")]
    fn fetch(&self, _: &Board, _: Option<&str>, _: Events<'_>) -> Result<Obtained, Failure> {
        Err(Failure::usage("this kflash cannot fetch: it was built without the feature `fetch`"))
    }
}

/// The board as it is to be asked: it is about to be flashed, so that whatever opening its port does is done to it anyway.
fn wanted<'a>(board: &'a Board, selectors: &'a [kflash::identify::Selector]) -> Wanted<'a> {
    Wanted { profile: &board.profile, chip: &board.chip, selectors, may_reset: true }
}

/// Why nothing was built for a board.
fn failure(board: &Board, built: Built, or_fetch: bool) -> Failure {
    match built {
        Built::NoTree(none @ (NoTree::NoGit | NoTree::Bad(_))) => none.into(),
        Built::Failed(error) => Failure::from(error.as_ref()),
        Built::NoTree(NoTree::None) | Built::NotCached | Built::Firmware(_) => nowhere(board, or_fetch),
    }
}

/// There is nothing to build from, and nothing to fetch.
fn nowhere(board: &Board, or_fetch: bool) -> Failure {
    let name = board.name.as_deref().unwrap_or(&board.profile.id.0);
    let index = if or_fetch { ", and no index to fetch from" } else { "" };
    let message = format!("no firmware for {name}: no Klipper or Kalico tree in ~/klipper or ~/kalico{index}");
    let hint = "--klipper DIR or --git URL names a tree to build from, --from URL an index to fetch from, --firmware a file; \
                the configuration does so for all runs";
    Failure { hint: Some(hint.to_owned()), ..Failure::usage(message) }
}
