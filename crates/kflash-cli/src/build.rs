//! `kflash build`: firmware from a Klipper tree.

mod failure;
pub mod out;
mod text;

use std::io::{self, IsTerminal};
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use kflash::config::Source;
use kflash::exit::ExitCode;
use kflash::obtain::build::tree::Tree;
use kflash::obtain::build::{BuildError, Builder, Order, kconfig};

use crate::args::Shared;
use crate::failure::Failure;
use crate::render::{self, BuildProgress, Screen};
use crate::signal;
use crate::tree::{TreeArgs, Trees, environment};
use crate::which::{Wanted, Which};

/// Builds the firmware of a board, or of several
///
/// Takes the symbols that the board's profile asks for, lets the tree's own Kconfig resolve them, and stops if one of
/// them did not hold. Builds in a copy: the tree is never written to, whoever owns it. What was built must prove that it
/// is for this board: MCU, start address, size, cable and version. It is kept in the cache, so that the same is never
/// built twice: neither for two boards, nor in two runs.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kflash build --board btt-octopus-v1.1-f446
  kflash build -b btt-octopus-v1.1-f446 -b btt-ebb36-v1.2 --klipper ~/klipper --out firmware/
  kflash build -b btt-skr-pico --git https://github.com/Klipper3d/klipper --ref v0.13.0
  kflash build -b creality-v4.2.7 --set SERIAL_BAUD=115200 --set LOW_LEVEL_OPTIONS=y
  kflash build -b btt-octopus-v1.1-f446 --route dfu --show-config
  kflash build --printer voron --ref host --out firmware/")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    tree: TreeArgs,
    /// Set a Kconfig symbol beside those of the board, or instead. May be given several times
    #[arg(long, value_name = "SYMBOL=VALUE", value_parser = kconfig::assignment)]
    set: Vec<(String, String)>,
    /// Also write each image, with its dictionary, configuration and provenance, to a directory in DIR that is named after
    /// the board: `kflash flash --firmware DIR` takes them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Build nothing; print the configuration that the tree makes of the board's symbols
    #[arg(long, conflicts_with_all = ["out", "menuconfig"])]
    show_config: bool,
    /// Build nothing; open the tree's own menu of that configuration, and print what was changed as --set
    #[arg(long, conflicts_with_all = ["out", "show_config"])]
    menuconfig: bool,
    /// Compilers that run at once [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    jobs: Option<u16>,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if args.menuconfig && (!terminal || shared.json) {
        return Err(Failure::usage("--menuconfig needs a terminal"));
    }
    let config = shared.configuration()?.config;
    let wanted = args.which.wanted(&config, &Source::Build)?;
    if args.menuconfig && wanted.len() > 1 {
        return Err(Failure::usage("--menuconfig is for one board"));
    }
    let orders = wanted.iter().map(|wanted| args.order(wanted)).collect::<Result<Vec<_>, _>>()?;
    if let Some(dir) = &args.out {
        out::make(dir)?;
    }
    let cache = shared.cache()?;
    let environment = environment();
    let interrupt = signal::interrupt()
        .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
    let trees = Trees {
        config: &config,
        printer: args.which.printer_of(&config)?,
        cache: &cache,
        environment: &environment,
        interrupt: &interrupt,
    };
    let tree = args.tree.find(&trees)?;
    let jobs = args.jobs.map_or_else(cores, usize::from);
    let builder = Builder { cache: &cache, environment: &environment, interrupt: &interrupt, jobs };
    if args.show_config {
        return show_config(&builder, &tree, &orders, shared.json);
    }
    if args.menuconfig {
        return menuconfig(&builder, &tree, &orders, args);
    }
    let mut progress = BuildProgress::new(shared.json, &Screen::default());
    let outcomes = builder.build(&tree, &orders, &mut |event| progress.event(&event));
    progress.end();
    let written = wanted.iter().zip(&outcomes).map(|(wanted, outcome)| match (&args.out, outcome) {
        (Some(dir), Ok(firmware)) => out::write(dir, wanted, &firmware.entry).map(Some),
        _ => Ok(None),
    });
    let written: Vec<_> = written.collect::<Result<_, _>>()?;
    let names: Vec<_> = wanted.iter().map(|wanted| wanted.name.as_deref()).collect();
    Ok(text::print(&names, &orders, &outcomes, &written, shared.json))
}

impl Args {
    /// What is wanted for a board: --set has the last word.
    fn order(&self, wanted: &Wanted) -> Result<Order, Failure> {
        let mut symbols = wanted.symbols.clone();
        symbols.extend(self.set.iter().cloned());
        let set = symbols.into_iter().collect();
        Ok(Order::new(wanted.profile.clone(), wanted.chip.clone(), wanted.route.as_deref(), set)?)
    }
}

/// The cores that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The configuration of each board, for `--show-config`.
fn show_config(builder: &Builder<'_>, tree: &Tree, orders: &[Order], json: bool) -> Result<ExitCode, Failure> {
    let resolved = orders.iter().map(|order| builder.configure(tree, order));
    let resolved = resolved.collect::<Result<Vec<_>, BuildError>>()?;
    if json {
        render::result_json(&text::configurations(orders, &resolved));
        return Ok(ExitCode::Ok);
    }
    for (order, resolved) in orders.iter().zip(&resolved) {
        if orders.len() > 1 {
            render::result(&format!("# {} ({})", order.profile.id, order.route.id));
        }
        render::result(&resolved.config);
    }
    Ok(ExitCode::Ok)
}

/// The tree's menu, and what was changed in it.
fn menuconfig(builder: &Builder<'_>, tree: &Tree, orders: &[Order], args: &Args) -> Result<ExitCode, Failure> {
    let Some(order) = orders.first() else { return Ok(ExitCode::Ok) };
    let changed = builder.menuconfig(tree, order)?;
    // What was set on this command line counts on, unless it was changed.
    let kept = args.set.iter().filter(|(symbol, _)| changed.iter().all(|(other, _)| other != symbol));
    let set: Vec<_> = kept.chain(&changed).map(|(symbol, value)| text::set(symbol, value)).collect();
    if changed.is_empty() {
        render::note("nothing was changed");
    }
    render::result(&set.join("\n"));
    Ok(ExitCode::Ok)
}
