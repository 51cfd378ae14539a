//! Where the firmware of a board comes from.

use std::path::{Path, PathBuf};

use kflash::config;
use kflash::host::Host;
use kflash::identify::Selector;
use kflash::obtain::{self, Obtained};

use crate::args::Shared;
use crate::failure::Failure;
use crate::memory;
use crate::target::Board;

/// The firmware, where it is not that of the configuration.
#[derive(clap::Args, Debug)]
pub struct Firmware {
    /// The firmware file: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE")]
    firmware: Option<PathBuf>,
}

/// The firmware, or what does without any.
#[derive(clap::Args, Debug)]
pub struct FirmwareOrElse {
    #[command(flatten)]
    firmware: Firmware,
    /// The firmware that this device ran before the one it runs now: kflash keeps what it flashes in its cache
    #[arg(long, conflicts_with = "firmware")]
    previous: bool,
    /// Rehearse on a virtual board, with the very same stages; without --firmware, with a test image. BOOTLOADER is
    /// the one that is installed on it, as `kflash boards BOARD` names it [default: the first that fits]
    #[cfg(feature = "sim")]
    #[arg(long, conflicts_with_all = ["device", "previous"], value_name = "BOOTLOADER")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "")]
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
    /// A test image: only a virtual board takes it.
    Test,
}

/// A board whose firmware is wanted.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The board.
    pub board: &'a Board,
    /// The options of every verb.
    pub shared: &'a Shared,
}

impl Firmware {
    /// Where the firmware of each board comes from: a file that is named is for one.
    pub fn sources(&self, boards: Vec<Board>) -> Result<Vec<(Board, Source)>, Failure> {
        self.is_for_one(&boards)?;
        pair(boards, |board| self.source(board))
    }

    fn source(&self, board: &Board) -> Result<Source, Failure> {
        if let Some(file) = &self.firmware {
            return Ok(Source::File(file.clone()));
        }
        if let Some(config::Source::File(file)) = board.configured.as_ref().and_then(|it| it.firmware.as_ref()) {
            return Ok(Source::File(file.clone()));
        }
        let hint = Some("name a file with --firmware".to_owned());
        let message = format!("no firmware for {}", board.name.as_deref().unwrap_or(&board.profile.id.0));
        Err(Failure { hint, ..Failure::usage(message) })
    }

    fn is_for_one(&self, boards: &[Board]) -> Result<(), Failure> {
        match (&self.firmware, boards) {
            (Some(_), [_, _, ..]) => {
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

impl FirmwareOrElse {
    /// Where the firmware of each board comes from.
    pub fn sources(&self, boards: Vec<Board>) -> Result<Vec<(Board, Source)>, Failure> {
        self.firmware.is_for_one(&boards)?;
        pair(boards, |board| match (self.previous, self.simulated()) {
            (true, _) => Ok(Source::Previous),
            // A rehearsal takes what there is.
            (false, Some(_)) => Ok(self.firmware.source(board).unwrap_or(Source::Test)),
            (false, None) => self.firmware.source(board),
        })
    }

    /// Whether it is a rehearsal.
    #[cfg(feature = "sim")]
    pub fn simulated(&self) -> Option<Virtual<'_>> {
        self.simulate.as_deref().map(|id| Virtual { bootloader: Some(id).filter(|id| !id.is_empty()) })
    }

    /// Whether it is a rehearsal: there are no virtual boards here.
    #[cfg(not(feature = "sim"))]
    pub fn simulated(&self) -> Option<Virtual<'_>> {
        None
    }
}

impl Place<'_> {
    /// The firmware for the device that is meant.
    pub fn firmware(&self, source: &Source, host: &dyn Host, selectors: &[Selector]) -> Result<Obtained, Failure> {
        let Board { profile, chip, .. } = self.board;
        match source {
            Source::File(file) => read(file),
            Source::Previous => memory::previous(&self.shared.cache()?, host, profile, chip, selectors),
            Source::Test => Err(Failure::usage("a test image is for virtual boards")),
        }
    }

    /// The firmware for a virtual board; `None` for a test image.
    #[cfg(feature = "sim")]
    pub fn of_rehearsal(source: &Source) -> Result<Option<Obtained>, Failure> {
        match source {
            Source::File(file) => read(file).map(Some),
            Source::Previous => Err(Failure::usage("a virtual board ran nothing before")),
            Source::Test => Ok(None),
        }
    }
}

/// The firmware in a file.
pub fn read(file: &Path) -> Result<Obtained, Failure> {
    obtain::file(file).map_err(|error| Failure::new(error.exit(), error.to_string()))
}

fn pair(
    boards: Vec<Board>,
    source: impl Fn(&Board) -> Result<Source, Failure>,
) -> Result<Vec<(Board, Source)>, Failure> {
    let paired = boards.into_iter().map(|board| source(&board).map(|source| (board, source)));
    paired.collect()
}
