//! Which boards firmware is obtained for, without looking at any device.

use std::collections::BTreeMap;

use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::config::{self, Config, Printer, Source};

use crate::failure::Failure;
use crate::render;
use crate::target::find_board;
use crate::tree::printer_of;

/// Which boards.
#[derive(clap::Args, Debug)]
pub struct Which {
    /// The board: an id or alias from `kflash boards`, or the path of a profile file. May be given several times. With
    /// --printer: of its boards, the one of this name or kind
    #[arg(long = "board", short, value_name = "BOARD", required_unless_present = "printer")]
    pub boards: Vec<String>,
    /// A printer of the configuration: its boards, as the configuration has them, but for those whose firmware comes from
    /// elsewhere
    #[arg(long, short, value_name = "NAME")]
    pub printer: Option<String>,
    /// The way that it will be flashed, as `kflash boards BOARD` names it: with the bootloader that it presumes, it
    /// decides where the firmware starts and over which cable it talks [default: the configuration's, else the board's
    /// first that there can be firmware for]
    #[arg(long, value_name = "ID")]
    pub route: Option<String>,
}

/// A board that firmware is wanted for.
#[derive(Debug)]
pub struct Wanted {
    /// `PRINTER/BOARD`, where it comes from the configuration.
    pub name: Option<String>,
    /// What it is.
    pub profile: Profile,
    /// Its chip.
    pub chip: Chip,
    /// The route, where it is said.
    pub route: Option<String>,
    /// Symbols beyond those of its profile.
    pub symbols: BTreeMap<String, String>,
}

impl Which {
    /// The boards, each once; of a printer, those whose firmware may come from `source`. A board that was named is taken
    /// wherever the configuration has its firmware from.
    pub fn wanted(&self, config: &Config, source: &Source) -> Result<Vec<Wanted>, Failure> {
        let Some(name) = &self.printer else { return self.named() };
        let printer = config.printer(name)?;
        let boards = printer.boards.iter().map(|board| self.configured(printer, board));
        let mut boards = boards.collect::<Result<Vec<_>, Failure>>()?;
        if !self.boards.is_empty() {
            for name in &self.boards {
                if boards.iter().all(|(board, wanted)| !is(board, wanted, name)) {
                    let names: Vec<_> = printer.boards.iter().map(|board| board.name.as_str()).collect();
                    let message = format!("{} has no board {name:?}; it has {}", printer.name, names.join(", "));
                    return Err(Failure::usage(message));
                }
            }
            boards.retain(|(board, wanted)| self.boards.iter().any(|name| is(board, wanted, name)));
            return Ok(boards.into_iter().map(|(_, wanted)| wanted).collect());
        }
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            boards.into_iter().partition(|(board, _)| board.firmware.as_ref().is_none_or(|it| it == source));
        for (board, _) in elsewhere {
            let whence = match &board.firmware {
                Some(Source::File(file)) => format!("the file {}", file.display()),
                Some(Source::Fetch) => "the index".to_owned(),
                _ => "the tree".to_owned(),
            };
            render::note(&format!("{}/{}: left out, its firmware comes from {whence}", printer.name, board.name));
        }
        if here.is_empty() {
            let message =
                format!("all firmware for {} comes from elsewhere; --board names a board of it", printer.name);
            return Err(Failure::usage(message));
        }
        Ok(here.into_iter().map(|(_, wanted)| wanted).collect())
    }

    /// The printer whose boards they are: the one that is named, else the only one that has one of them.
    pub fn printer_of<'c>(&self, config: &'c Config) -> Result<Option<&'c Printer>, Failure> {
        if let Some(name) = &self.printer {
            return Ok(Some(config.printer(name)?));
        }
        Ok(printer_of(config, &self.boards))
    }

    fn named(&self) -> Result<Vec<Wanted>, Failure> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for name in &self.boards {
            let (profile, chip) = find_board(name)?;
            if wanted.iter().all(|other| other.profile.id != profile.id) {
                let (route, symbols) = (self.route.clone(), BTreeMap::new());
                wanted.push(Wanted { name: None, profile, chip, route, symbols });
            }
        }
        Ok(wanted)
    }

    fn configured<'c>(
        &self,
        printer: &Printer,
        board: &'c config::Board,
    ) -> Result<(&'c config::Board, Wanted), Failure> {
        let (profile, chip) = find_board(&board.board)?;
        let name = Some(format!("{}/{}", printer.name, board.name));
        let route = self.route.clone().or_else(|| board.route.clone());
        Ok((board, Wanted { name, profile, chip, route, symbols: board.symbols.clone() }))
    }
}

impl Wanted {
    /// Its name for the person.
    pub fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.profile.id.0)
    }
}

/// Whether a printer's board has this name, or is of this kind.
fn is(board: &config::Board, wanted: &Wanted, name: &str) -> bool {
    board.name == name || find_board(name).is_ok_and(|(profile, _)| profile.id == wanted.profile.id)
}
