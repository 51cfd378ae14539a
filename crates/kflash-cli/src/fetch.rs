//! `kflash fetch`: prebuilt firmware from an index.

mod means;
mod text;

use std::path::PathBuf;

use kflash::config::Source;
use kflash::event::Events;
use kflash::exit::ExitCode;
use kflash::flash::Interrupt;
use kflash::obtain::cache::Cache;
use kflash::obtain::fetch::{FetchError, Fetcher, Wanted as Listed};

pub use self::means::{Means, MeansArgs};
use self::text::Ended;
use crate::args::Shared;
use crate::build::out;
use crate::failure::Failure;
use crate::render::{Display, Screen};
use crate::sheet::shown;
use crate::signal;
use crate::which::{Wanted, Which};

/// Fetches prebuilt firmware of a board, or of several, into the cache
///
/// The index says which image is for which board. It has to be signed with minisign, and the signature is checked before
/// anything in it is believed; an index that is older than one seen before is refused. The image has to have the size and
/// digest that the index says, and to be firmware for this board by its own word: MCU, version, start address, cable.
/// Only then it is kept in the cache. What was cut off is gone on with the next time.
///
/// Indexes come over HTTPS (through HTTPS_PROXY or ALL_PROXY, but for the hosts in NO_PROXY), from a file, or over plain
/// HTTP from this machine itself. `kflash publish` makes them.
#[derive(clap::Args, Debug)]
#[command(disable_version_flag = true)]
#[command(after_help = "Examples:
  kflash fetch --board btt-octopus-v1.1-f446
  kflash fetch -b btt-octopus-v1.1-f446 --from https://firmware.example/index.json --key farm.pub
  kflash fetch -b btt-octopus-v1.1-f446 --route dfu --version v0.13.0-730-g84104bbbd
  kflash fetch -b creality-v4.2.7 --from /mnt/firmware/index.json --allow-unsigned
  kflash fetch --printer voron --out firmware/")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// The version, exactly as the index has it [default: the first that the index lists]
    #[arg(long = "version", id = "wanted", value_name = "VERSION")]
    version: Option<String>,
    /// Also write each image, with its dictionary and provenance, to a directory in DIR that is named after the board:
    /// `kflash flash --firmware DIR` takes them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    means: MeansArgs,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let wanted = args.which.wanted(&shared.configuration()?.config, &Source::Fetch)?;
    for Wanted { profile, route, .. } in &wanted {
        if let Some(id) = route.as_deref().filter(|id| profile.routes.iter().all(|route| route.id != *id)) {
            let routes: Vec<_> = profile.routes.iter().map(|route| route.id.as_str()).collect();
            let message = format!("{} has no route {}; it has {}", profile.id, shown(id), routes.join(", "));
            return Err(Failure::usage(message));
        }
    }
    let means = args.means.resolve(shared)?;
    if let Some(dir) = &args.out {
        out::make(dir)?;
    }
    let cache = shared.cache()?;
    let interrupt = signal::interrupt()
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
    let display = Display::new(shared.json, std::iter::empty(), Screen::default());
    let mut progress = display.board(None);
    let fetched = with_fetcher(&means, &cache, &interrupt, |fetcher| {
        let events: Events<'_> = &mut |event| progress.event(&event);
        let believed = fetcher.index(&means.source, events)?;
        let mut image = |Wanted { profile, chip, route, .. }: &Wanted| {
            let listed = Listed { profile, route: route.as_deref(), version: args.version.as_deref() };
            fetcher.image(&believed, &listed, chip, events)
        };
        let images: Vec<_> = wanted.iter().map(&mut image).collect();
        Ok((believed, images))
    });
    let well = fetched.as_ref().is_ok_and(|(_, images)| images.iter().all(Result::is_ok));
    progress.end(well, "");
    let (believed, images) = fetched?;
    let images = wanted.iter().zip(images).map(|(wanted, image)| {
        let image = image?;
        let path = match &args.out {
            Some(dir) => out::write(dir, wanted, &image.entry)?,
            None => image.entry.path.join(&image.entry.provenance.image.name),
        };
        Ok((image, path))
    });
    let images = images.collect();
    Ok(Ended { believed: &believed, wanted: &wanted, images }.print(shared.json))
}

/// Runs `fetch` with what it takes.
pub fn with_fetcher<T>(
    means: &Means,
    cache: &Cache,
    interrupt: &Interrupt,
    fetch: impl FnOnce(&Fetcher<'_>) -> Result<T, FetchError>,
) -> Result<T, Failure> {
    let clock = kflash::clock::SystemClock::new();
    Ok(fetch(&Fetcher { net: &means.net, cache, clock: &clock, interrupt })?)
}
