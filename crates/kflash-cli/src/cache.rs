//! `kflash cache`: the images that were built, fetched or flashed.

mod text;

use std::time::Duration;

use clap::Subcommand;
use kflash::boards;
use kflash::exit::ExitCode;
use kflash::obtain::cache::{Cache, Key, Listed, Swept};
use kflash::timestamp::Timestamp;
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::render;

/// Lists, shows and removes the images that were built, fetched or flashed
///
/// The cache holds each image with its dictionary, the configuration that it was built with and its provenance, and
/// remembers what each device ran. Every image is compared with its digest whenever it is read: one that is damaged is
/// said to be so, and never flashed.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash cache list
  kflash cache show btt-octopus-v1.1-f446
  kflash cache show 3f2a9c1b
  kflash cache remove 3f2a9c1b 77d0e4aa
  kflash cache gc --keep-days 7 --dry-run")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Lists the images: version, boards, size, when last used, and where from
    List,
    /// Says where images come from: all that is known of their making, and which devices run them
    Show {
        /// The first digits of an image's key, at least four; or a board, for all of its images
        #[arg(value_name = "KEY|BOARD")]
        which: String,
    },
    /// Removes images
    Remove {
        /// The first digits of each image's key, at least four
        #[arg(value_name = "KEY", required = true)]
        keys: Vec<String>,
    },
    /// Removes what was not used for long, what is damaged, and what killed runs left behind
    ///
    /// What a device runs, or ran before, stays, and so does what another process works on. Repositories, checkouts and
    /// logs of builds go by the same age.
    Gc {
        /// How long an image stays that is not used
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        keep_days: u32,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// What was removed, as JSON.
#[derive(Serialize)]
struct Cleared<'a> {
    dry_run: bool,
    #[serde(flatten)]
    swept: &'a Swept,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let cache = shared.cache()?;
    match &args.what {
        What::List => list(&cache, shared.json),
        What::Show { which } => show(&cache, which, shared.json),
        What::Remove { keys } => remove(&cache, keys, shared.json),
        What::Gc { keep_days, dry_run } => gc(&cache, *keep_days, *dry_run, shared.json),
    }
}

fn list(cache: &Cache, json: bool) -> Result<ExitCode, Failure> {
    let mut all = cache.list()?;
    all.sort_by_key(|listed| std::cmp::Reverse(listed.used));
    if json {
        render::result_json(&all);
    } else if all.is_empty() {
        render::note(&format!("no images in {}", cache.dir().display()));
    } else {
        render::result(&text::list(&all, Timestamp::now()));
    }
    Ok(ExitCode::Ok)
}

fn show(cache: &Cache, which: &str, json: bool) -> Result<ExitCode, Failure> {
    let mut all = cache.list()?;
    all.sort_by_key(|listed| std::cmp::Reverse(listed.used));
    let chosen: Vec<_> = match by_prefix(&all, which)? {
        Some(listed) => vec![listed],
        None => of_board(&all, which)?,
    };
    if json {
        render::result_json(&chosen);
    } else {
        let devices = cache.devices()?.devices;
        let sheets: Vec<_> = chosen.iter().map(|listed| text::sheet(cache, listed, &devices)).collect();
        render::result(&sheets.join("\n"));
    }
    Ok(ExitCode::Ok)
}

fn remove(cache: &Cache, prefixes: &[String], json: bool) -> Result<ExitCode, Failure> {
    let all = cache.list()?;
    // All are found before the first is removed.
    let found = prefixes.iter().map(|prefix| by_prefix(&all, prefix)?.ok_or_else(|| no_image(prefix)));
    let mut chosen: Vec<&Listed> = found.collect::<Result<_, _>>()?;
    chosen.sort_by_key(|listed| listed.key);
    chosen.dedup_by_key(|listed| listed.key);
    for key in chosen.iter().filter_map(|listed| listed.key) {
        cache.remove(&key)?;
    }
    if json {
        render::result_json(&chosen);
    } else {
        let lines: Vec<_> = chosen.iter().map(|listed| format!("removed {}", text::name(listed))).collect();
        render::result(&lines.join("\n"));
    }
    Ok(ExitCode::Ok)
}

fn gc(cache: &Cache, keep_days: u32, dry_run: bool, json: bool) -> Result<ExitCode, Failure> {
    let day = Duration::from_secs(24 * 60 * 60);
    let swept = cache.gc(keep_days * day, Timestamp::now(), dry_run)?;
    if json {
        render::result_json(&Cleared { dry_run, swept: &swept });
    } else {
        render::result(&text::swept(&swept, dry_run));
    }
    match swept.failed.first() {
        None => Ok(ExitCode::Ok),
        Some(first) => {
            let details = swept.failed.iter().map(|failed| format!("{}: {}", failed.path.display(), failed.error));
            let message = format!("{} could not be removed", first.path.display());
            Err(Failure { details: details.collect(), ..Failure::new(ExitCode::Denied, message) })
        }
    }
}

/// The image whose key begins so; `None` if there is none.
fn by_prefix<'a>(all: &'a [Listed], prefix: &str) -> Result<Option<&'a Listed>, Failure> {
    let begins = |key: &Key| prefix.len() >= 4 && key.to_string().starts_with(prefix);
    let fitting: Vec<_> = all.iter().filter(|listed| listed.key.as_ref().is_some_and(begins)).collect();
    match fitting[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => {
            let message = format!("{} images have keys that begin with {prefix}", fitting.len());
            let details = fitting.iter().map(|listed| text::name(listed)).collect();
            Err(Failure { details, ..Failure::usage(message) })
        }
    }
}

/// The images of a board.
fn of_board<'a>(all: &'a [Listed], name: &str) -> Result<Vec<&'a Listed>, Failure> {
    let Ok((profile, _)) = boards::find(name) else { return Err(no_image(name)) };
    let is_for = |listed: &&Listed| listed.provenance.as_ref().is_some_and(|it| it.is_for(&profile.id));
    let fitting: Vec<_> = all.iter().filter(is_for).collect();
    if fitting.is_empty() {
        return Err(Failure::usage(format!("no image in the cache is for {}", profile.id)));
    }
    Ok(fitting)
}

fn no_image(name: &str) -> Failure {
    let hint = "`kflash cache list` lists all images, `kflash boards` all boards; a key needs four digits at least";
    let message = format!("no image has a key that begins with {name:?}, and no board has this name");
    Failure { hint: Some(hint.to_owned()), ..Failure::usage(message) }
}
