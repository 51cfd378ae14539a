//! `kflash fetch`: prebuilt firmware from an index.

mod means;

use kflash::event::{Check, Events};
use kflash::exit::ExitCode;
use kflash::flash::Interrupt;
use kflash::obtain::cache::Cache;
use kflash::obtain::fetch::{Believed, FetchedImage, Fetcher, Wanted};
use kflash::obtain::provenance::Provenance;
use kflash::timestamp::Timestamp;
use serde::Serialize;

pub use self::means::{Means, MeansArgs};
use crate::args::Shared;
use crate::failure::Failure;
use crate::render::{self, Display, Screen};
use crate::sheet::{Sheet, shown};
use crate::signal;
use crate::target::find_board;

/// Fetches prebuilt firmware of a board into the cache
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
  kflash fetch -b creality-v4.2.7 --from /mnt/firmware/index.json --allow-unsigned")]
pub struct Args {
    /// The board: an id or alias from `kflash boards`, or the path of a profile file
    #[arg(long, short)]
    board: String,
    /// The way that it will be flashed, as `kflash boards BOARD` names it [default: the first of the board's that the
    /// index has an image for]
    #[arg(long, value_name = "ID")]
    route: Option<String>,
    /// The version, exactly as the index has it [default: the first that the index lists]
    #[arg(long = "version", id = "wanted", value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    means: MeansArgs,
}

/// The result as JSON.
#[derive(Serialize)]
struct Fetched<'a> {
    result: &'static str,
    board: &'a str,
    route: &'a str,
    cached: bool,
    key: String,
    path: String,
    index: IndexShown<'a>,
    warnings: Vec<String>,
    checks: &'a [Check],
    provenance: &'a Provenance,
    exit_code: u8,
    exit: ExitCode,
}

/// Which index it was.
#[derive(Serialize)]
struct IndexShown<'a> {
    url: String,
    serial: u64,
    created: Timestamp,
    /// The number of the key that signed it.
    signed_by: Option<&'a str>,
    /// Whether it is older than one that was seen before.
    old: bool,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let (profile, chip) = find_board(&args.board)?;
    if let Some(id) = args.route.as_deref().filter(|id| profile.routes.iter().all(|route| route.id != *id)) {
        let routes: Vec<_> = profile.routes.iter().map(|route| route.id.as_str()).collect();
        let message = format!("{} has no route {}; it has {}", profile.id, shown(id), routes.join(", "));
        return Err(Failure::usage(message));
    }
    let means = args.means.resolve(shared)?;
    let cache = shared.cache()?;
    let interrupt = signal::interrupt()
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
    let display = Display::new(shared.json, std::iter::empty(), Screen::default());
    let mut progress = display.board(None);
    let wanted = Wanted { profile: &profile, route: args.route.as_deref(), version: args.version.as_deref() };
    let fetched = with_fetcher(&means, &cache, &interrupt, |fetcher| {
        let events: Events<'_> = &mut |event| progress.event(&event);
        let believed = fetcher.index(&means.source, events)?;
        let image = fetcher.image(&believed, &wanted, &chip, events)?;
        Ok((believed, image))
    });
    progress.end(fetched.is_ok(), "");
    let (believed, image) = fetched?;
    if shared.json {
        render::result_json(&json(&believed, &image, &profile.id.0));
    } else {
        render::result(&text(&believed, &image, &profile.id.0));
    }
    Ok(ExitCode::Ok)
}

/// Runs `fetch` with what it takes.
pub fn with_fetcher<T>(
    means: &Means,
    cache: &Cache,
    interrupt: &Interrupt,
    fetch: impl FnOnce(&Fetcher<'_>) -> Result<T, kflash::obtain::fetch::FetchError>,
) -> Result<T, Failure> {
    let clock = kflash::clock::SystemClock::new();
    Ok(fetch(&Fetcher { net: &means.net, cache, clock: &clock, interrupt })?)
}

/// What a person has to know, however well it went.
fn warnings(believed: &Believed) -> Vec<String> {
    let mut warnings = Vec::new();
    if believed.key_id.is_none() {
        warnings.push("the index is not signed: nobody vouches for this firmware".to_owned());
    }
    if believed.old {
        warnings.push("the index is older than one that was fetched before".to_owned());
    }
    warnings
}

fn json<'a>(believed: &'a Believed, image: &'a FetchedImage, board: &'a str) -> Fetched<'a> {
    Fetched {
        result: "fetched",
        board,
        route: &image.route,
        cached: image.cached,
        key: image.entry.key.to_string(),
        path: file(image),
        index: IndexShown {
            url: believed.at.to_string(),
            serial: believed.index.serial,
            created: believed.index.created,
            signed_by: believed.key_id.as_deref(),
            old: believed.old,
        },
        warnings: warnings(believed),
        checks: &image.checks,
        provenance: &image.entry.provenance,
        exit_code: ExitCode::Ok.code(),
        exit: ExitCode::Ok,
    }
}

fn text(believed: &Believed, image: &FetchedImage, board: &str) -> String {
    let provenance = &image.entry.provenance;
    let title = if image.cached { "In the cache already" } else { "Fetched" };
    let mut sheet = Sheet::new(&format!("{title}: {} {}", shown(&provenance.app), shown(&provenance.version)));
    for warning in warnings(believed) {
        sheet.line("WARNING", &warning);
    }
    sheet.line("board", &format!("{board}, route {}", image.route));
    sheet.line("file", &file(image));
    sheet.line("", &format!("{} bytes, sha256 {}", provenance.image.size, provenance.image.sha256));
    let index = &believed.index;
    let by = believed.key_id.as_deref().map_or_else(String::new, |id| format!(", signed by key {id}"));
    sheet.line("index", &believed.at.to_string());
    sheet.line("", &format!("of {}, serial {}{by}", index.created, index.serial));
    sheet.into_text()
}

/// The image's file in the cache.
fn file(image: &FetchedImage) -> String {
    image.entry.path.join(&image.entry.provenance.image.name).display().to_string()
}
