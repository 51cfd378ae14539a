//! Where the firmware of a board comes from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kflash::config;
use kflash::obtain::build::kconfig;
use kflash::obtain::cache::is_copy;
use kflash::obtain::{self, Obtained};

use crate::failure::Failure;
#[cfg(feature = "fetch")]
use crate::fetch::MeansArgs;
use crate::target::Board;
use crate::tree::TreeArgs;

/// The firmware, where it is not that of the configuration.
#[derive(clap::Args, Debug)]
pub struct Firmware {
    /// The firmware file: bin, Intel HEX, UF2 or ELF; or the DIR of `kflash build --out DIR` and `kflash fetch --out DIR`,
    /// for all of a printer's boards [default: the configuration's; else it is built if a Klipper tree and its compilers
    /// are there, else fetched if an index is configured]
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["route", "set", "TreeArgs"])]
    #[cfg_attr(feature = "fetch", arg(conflicts_with = "MeansArgs"))]
    firmware: Option<PathBuf>,
    #[command(flatten)]
    pub made: Made,
}

/// How firmware is built, or fetched.
#[derive(clap::Args, Debug, Default)]
pub struct Made {
    /// The way of flashing that firmware is built or fetched for, as `kflash boards BOARD` names it [default: the
    /// configuration's, else the first that nothing contradicts which the device shows]
    #[arg(long, value_name = "ID", help_heading = "Firmware that is built or fetched")]
    pub route: Option<String>,
    /// Set a Kconfig symbol beside those of the board, or instead. May be given several times
    #[arg(long, value_name = "SYMBOL=VALUE", value_parser = kconfig::assignment)]
    #[arg(help_heading = "Firmware that is built or fetched")]
    pub set: Vec<(String, String)>,
    #[command(flatten, next_help_heading = "Firmware that is built or fetched")]
    pub tree: TreeArgs,
    #[cfg(feature = "fetch")]
    #[command(flatten, next_help_heading = "Firmware that is built or fetched")]
    pub means: MeansArgs,
}

/// The firmware, or what does without any.
#[derive(clap::Args, Debug)]
pub struct FirmwareOrElse {
    #[command(flatten)]
    pub firmware: Firmware,
    /// The firmware that this device ran before the one it runs now: kflash keeps what it flashes in its cache
    #[arg(long, help_heading = None::<&str>, conflicts_with_all = ["firmware", "route", "set", "TreeArgs"])]
    #[cfg_attr(feature = "fetch", arg(conflicts_with = "MeansArgs"))]
    #[cfg_attr(feature = "swd", arg(conflicts_with = "via"))]
    previous: bool,
    /// Rehearse on a virtual board, with the very same stages; with a test image, unless firmware is named or
    /// configured. BOOTLOADER is the one that is installed on it, as `kflash boards BOARD` names it [default: the first
    /// that fits]
    #[cfg(feature = "sim")]
    #[arg(long, help_heading = None::<&str>, conflicts_with_all = ["device", "previous"], value_name = "BOOTLOADER")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "")]
    #[cfg_attr(feature = "swd", arg(conflicts_with = "via"))]
    simulate: Option<String>,
}

/// A rehearsal on virtual boards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtual<'a> {
    /// The installed bootloader, where it is named.
    pub bootloader: Option<&'a str>,
}

/// Where the firmware of a board comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// What the device ran before.
    Previous,
    /// A Klipper tree.
    Build,
    /// An index.
    Fetch,
    /// A Klipper tree, if it and its compilers are there; else an index.
    BuildOrFetch,
    /// A test image: only a virtual board takes it.
    Test,
}

impl Firmware {
    /// Where the firmware of each board comes from: a file that is named is for one.
    pub fn sources(&self, boards: Vec<Board>) -> Result<Vec<(Board, Source)>, Failure> {
        self.is_for_one(&boards)?;
        Ok(pair(boards, |board| self.source(board).unwrap_or(Source::BuildOrFetch)))
    }

    /// What is named or configured.
    fn source(&self, board: &Board) -> Option<Source> {
        if let Some(file) = &self.firmware {
            let of_board = board.configured.as_ref().map_or(&board.profile.id.0, |board| &board.name);
            return Some(Source::File(if is_of_boards(file) { file.join(of_board) } else { file.clone() }));
        }
        if let Some(source) = self.made.source() {
            return Some(source);
        }
        board.configured.as_ref()?.firmware.as_ref().map(|source| match source {
            config::Source::Build => Source::Build,
            config::Source::Fetch => Source::Fetch,
            config::Source::File(file) => Source::File(file.clone()),
        })
    }

    fn is_for_one(&self, boards: &[Board]) -> Result<(), Failure> {
        let printers: BTreeSet<_> = boards.iter().filter_map(|board| Some(&board.printer.as_ref()?.name)).collect();
        match (&self.firmware, boards) {
            (Some(file), [_, _, ..]) if !(is_of_boards(file) && printers.len() == 1) => {
                let names: Vec<_> = boards.iter().filter_map(|board| board.name.as_deref()).collect();
                let hint = Some("name the board that it is for with --board".to_owned());
                Err(Failure {
                    hint,
                    ..Failure::usage(format!("one firmware file for several boards: {}", names.join(", ")))
                })
            }
            _ => Ok(()),
        }
    }
}

/// Whether it is a directory with one for each board in it.
fn is_of_boards(path: &Path) -> bool {
    path.is_dir() && !is_copy(path)
}

impl Made {
    /// What the options ask for.
    fn source(&self) -> Option<Source> {
        if self.tree.is_named() || !self.set.is_empty() {
            return Some(Source::Build);
        }
        #[cfg(feature = "fetch")]
        if self.means.is_named() {
            return Some(Source::Fetch);
        }
        None
    }
}

impl FirmwareOrElse {
    /// Where the firmware of each board comes from.
    pub fn sources(&self, boards: Vec<Board>) -> Result<Vec<(Board, Source)>, Failure> {
        self.firmware.is_for_one(&boards)?;
        // A rehearsal takes what is named; nobody waits for a build that was not asked for.
        let otherwise = if self.simulated().is_some() { Source::Test } else { Source::BuildOrFetch };
        Ok(pair(boards, |board| {
            let named = if self.previous { Some(Source::Previous) } else { self.firmware.source(board) };
            named.unwrap_or_else(|| otherwise.clone())
        }))
    }

    /// Whether it is a rehearsal.
    #[cfg(feature = "sim")]
    pub fn simulated(&self) -> Option<Virtual<'_>> {
        self.simulate.as_deref().map(|id| Virtual { bootloader: Some(id).filter(|id| !id.is_empty()) })
    }

    /// Whether it is a rehearsal: there are no virtual boards here.
    #[cfg(not(feature = "sim"))]
    #[expect(clippy::unused_self, reason = "as where there are")]
    pub fn simulated(&self) -> Option<Virtual<'_>> {
        None
    }
}

/// The firmware in a file.
pub fn read(file: &Path) -> Result<Obtained, Failure> {
    obtain::file(file).map_err(|error| Failure::new(error.exit(), error.to_string()))
}

fn pair(boards: Vec<Board>, source: impl Fn(&Board) -> Source) -> Vec<(Board, Source)> {
    let paired = boards.into_iter().map(|board| {
        let source = source(&board);
        (board, source)
    });
    paired.collect()
}
