//! Which boards are meant: the one of the command line, or those of configured printers.

use std::fmt::Write as _;
use std::path::Path;

use kflash::board::Profile;
use kflash::boards::{self, BoardError};
use kflash::chip::Chip;
use kflash::config::{self, Config, ConfigError};
use kflash::identify::Selector;

use crate::args::Shared;
use crate::configuration::Configuration;
use crate::failure::Failure;

/// Which board, and which of the devices on this host.
#[derive(clap::Args, Debug)]
pub struct Target {
    /// The board: an id or alias from `kflash boards`, or the path of a profile file. With --printer: of its boards,
    /// the one of this name or kind
    #[arg(long, short, required_unless_present_any = ["printer", "all"])]
    board: Option<String>,
    /// The device: a USB port path (1-1.4), a serial number, a tty path, tcp://HOST:PORT or
    /// usbip://HOST:PORT/BUSID. May be given twice (port and serial): either finds, what is visible must agree
    ///
    /// Without it, the only device that agrees with the board in MCU, mode and start address is taken. A device that
    /// is found in a ROM bootloader always has to be named: all chips of a kind look alike there.
    #[arg(long, short, value_name = "DEVICE", conflicts_with_all = ["printer", "all"])]
    device: Vec<Selector>,
    /// A printer of the configuration: all of its boards, at once. May be given several times
    #[arg(long, short, value_name = "NAME", conflicts_with = "all")]
    printer: Vec<String>,
    /// Every board of every printer of the configuration
    #[arg(long, conflicts_with = "board")]
    all: bool,
}

/// A board that is meant.
#[derive(Clone, Debug)]
pub struct Board {
    /// `PRINTER/BOARD`, where it comes from the configuration.
    pub name: Option<String>,
    /// What it is.
    pub profile: Profile,
    /// Its chip.
    pub chip: Chip,
    /// Which device it is.
    pub selectors: Vec<Selector>,
    /// The printer that it is part of, where that is known.
    pub printer: Option<config::Printer>,
    /// What the configuration says of it.
    pub configured: Option<config::Board>,
    /// The printers that it may be part of, by name, with their Moonrakers.
    pub moonrakers: Vec<(String, config::Moonraker)>,
}

impl Target {
    /// The boards that are meant: at least one. All are looked up before anything is done to any.
    pub fn boards(&self, shared: &Shared) -> Result<Vec<Board>, Failure> {
        let Configuration { config, file } = shared.configuration()?;
        if self.printer.is_empty() && !self.all {
            let name = self.board.as_deref().unwrap_or_default();
            return Ok(vec![self.named(name, &config)?]);
        }
        let printers: Vec<&config::Printer> = match &self.printer[..] {
            [] => config.printers.iter().collect(),
            names => {
                let unique = names.iter().enumerate().filter(|(at, name)| !names[..*at].contains(name));
                let found = |(_, name): (usize, &String)| {
                    config.printer(name).map_err(|error| unknown(&error, file.as_deref()))
                };
                unique.map(found).collect::<Result<_, _>>()?
            }
        };
        let mut chosen = Vec::new();
        for printer in printers {
            for board in &printer.boards {
                let (profile, chip) = find_board(&board.board).map_err(|failure| {
                    let file = file.as_ref().map(|file| format!("{}: ", file.display())).unwrap_or_default();
                    let message = format!("{file}printers.{}.boards.{}: {}", printer.name, board.name, failure.message);
                    Failure { message, ..failure }
                })?;
                let wanted = |name: &String| *name == board.name || is(&profile, name);
                if self.board.as_ref().is_none_or(wanted) {
                    chosen.push(Board {
                        name: Some(format!("{}/{}", printer.name, board.name)),
                        profile,
                        chip,
                        selectors: board.device.clone(),
                        moonrakers: printer.moonraker.iter().map(|it| (printer.name.clone(), it.clone())).collect(),
                        printer: Some(printer.clone()),
                        configured: Some(board.clone()),
                    });
                }
            }
        }
        match (chosen.is_empty(), &self.board) {
            (false, _) => Ok(chosen),
            (true, Some(board)) => {
                Err(Failure::usage(format!("no board named {board:?} in the printer {}", self.printer.join(", "))))
            }
            (true, None) => {
                let mut message = "no printers are configured".to_owned();
                if let Some(file) = file {
                    let _ = write!(message, " in {}", file.display());
                }
                let hint = Some("docs/config.toml in the source is an example of a configuration".to_owned());
                Err(Failure { hint, ..Failure::usage(message) })
            }
        }
    }

    /// The board that is named without a printer, as the configuration has it, and the printers that it may be part of.
    fn named(&self, name: &str, config: &Config) -> Result<Board, Failure> {
        let (profile, chip) = find_board(name)?;
        let may_be = |board: &config::Board| {
            let same = is(&profile, &board.board) || board.board == name;
            same && (self.device.is_empty()
                || board.device.is_empty()
                || board.device.iter().any(|device| self.device.contains(device)))
        };
        let of_printer = |printer: &'_ config::Printer| printer.boards.iter().any(may_be);
        let printers: Vec<_> = config.printers.iter().filter(|printer| of_printer(printer)).collect();
        let candidates: Vec<_> = printers
            .iter()
            .flat_map(|&printer| printer.boards.iter().filter(|board| may_be(board)).map(move |board| (printer, board)))
            .collect();
        let configured = only(&candidates)?;
        let selectors = match (&self.device[..], &candidates[..]) {
            ([], [(_, board)]) => board.device.clone(),
            _ => self.device.clone(),
        };
        Ok(Board {
            name: None,
            selectors,
            printer: configured.map(|(printer, _)| printer.clone()),
            configured: configured.map(|(_, board)| board.clone()),
            moonrakers: printers.iter().filter_map(|it| Some((it.name.clone(), it.moonraker.clone()?))).collect(),
            profile,
            chip,
        })
    }
}

/// No printer of this name in the configuration, or no configuration at all.
fn unknown(error: &ConfigError, file: Option<&Path>) -> Failure {
    let hint = match file {
        Some(file) => format!("the configuration is {}", file.display()),
        None => "there is no configuration: it is kflash/config.toml in $XDG_CONFIG_HOME or ~/.config, else \
                 /etc/kflash/config.toml, or what --config names"
            .to_owned(),
    };
    Failure { hint: Some(hint), ..Failure::usage(error.to_string()) }
}

/// The configured board that is meant: any of them, if they are to be given the same.
fn only<'a>(
    candidates: &[(&'a config::Printer, &'a config::Board)],
) -> Result<Option<(&'a config::Printer, &'a config::Board)>, Failure> {
    let Some(&(printer, board)) = candidates.first() else { return Ok(None) };
    let alike = |&(of, it): &(&config::Printer, &config::Board)| {
        (&of.klipper, &it.firmware, &it.symbols, &it.route)
            == (&printer.klipper, &board.firmware, &board.symbols, &board.route)
    };
    if candidates.iter().all(alike) {
        return Ok(Some((printer, board)));
    }
    let names = candidates.iter().map(|(printer, board)| format!("--printer {} --board {}", printer.name, board.name));
    let message = format!("{} is several boards of the configuration, with different firmware", board.board);
    let hint = Some("name the one that is meant, or its device with --device".to_owned());
    Err(Failure { details: names.collect(), hint, ..Failure::usage(message) })
}

/// The board of a name or a file.
pub fn find_board(name: &str) -> Result<(Profile, Chip), Failure> {
    boards::find(name).map_err(|error| {
        let hint = matches!(error, BoardError::NoSuchBoard { .. })
            .then(|| "`kflash boards` lists all; a board that is missing takes one file: give its path".to_owned());
        Failure { hint, ..Failure::usage(error.to_string()) }
    })
}

/// Whether a profile has this id or alias.
fn is(profile: &Profile, name: &str) -> bool {
    profile.aliases.iter().chain([&profile.id.0]).any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const CONFIG: &str = r#"
        [[printers]]
        name = "voron"
        moonraker = { url = "http://voron:7125" }
        [[printers.boards]]
        name = "mcu"
        board = "octopus-v1.1"
        device = ["1-1.4", "290034001751333038363536"]
        [[printers.boards]]
        board = "btt-skr-pico"

        [[printers]]
        name = "trident"
        moonraker = { url = "http://trident:7125" }
        [[printers.boards]]
        board = "btt-octopus-v1.1-f446"
        device = ["1-1.5"]
    "#;

    fn gates(board: &str, device: &[&str]) -> Vec<String> {
        let config = Config::parse(Path::new("c"), CONFIG.as_bytes(), None).unwrap();
        let device = device.iter().map(|text| text.parse().unwrap()).collect();
        let target = Target { board: None, device, printer: Vec::new(), all: false };
        let board = target.named(board, &config).unwrap_or_else(|failure| panic!("{failure:?}"));
        board.moonrakers.into_iter().map(|(printer, _)| printer).collect()
    }

    fn named(config: &str, device: &[&str]) -> Result<Board, Failure> {
        let config = Config::parse(Path::new("c"), config.as_bytes(), None).unwrap();
        let device = device.iter().map(|text| text.parse().unwrap()).collect();
        Target { board: None, device, printer: Vec::new(), all: false }.named("btt-octopus-v1.1-f446", &config)
    }

    #[test]
    fn a_board_without_a_printers_name_is_as_the_configuration_has_it() {
        let board = named(CONFIG, &["1-1.4"]).unwrap();
        assert_eq!((board.configured.unwrap().name.as_str(), board.printer.unwrap().name.as_str()), ("mcu", "voron"));
        // Which of two is meant makes no difference as long as they are given the same, but for the device.
        let either = named(CONFIG, &[]).unwrap();
        assert_eq!((either.configured.is_some(), either.selectors.len()), (true, 0));
        let other = CONFIG.replace("device = [\"1-1.5\"]", "device = [\"1-1.5\"]\nsymbols = { WANT_SENSORS = \"n\" }");
        let refused = named(&other, &[]).unwrap_err();
        assert_eq!(refused.details, ["--printer voron --board mcu", "--printer trident --board btt-octopus-v1.1-f446"]);
        let board = named(&other, &["1-1.5"]).unwrap();
        assert_eq!(board.configured.unwrap().symbols["WANT_SENSORS"], "n");
        let only = other.split("[[printers]]").nth(2).unwrap();
        let board = named(&format!("[[printers]]{only}"), &[]).unwrap();
        assert_eq!(board.selectors, ["1-1.5".parse().unwrap()]);
    }

    #[test]
    fn a_board_without_a_printers_name_is_still_one_of_the_printers_that_may_have_it() {
        assert_eq!(gates("btt-octopus-v1.1-f446", &[]), ["voron", "trident"]);
        assert_eq!(gates("btt-octopus-v1.1-f446", &["1-1.4"]), ["voron"]);
        assert_eq!(gates("octopus-v1.1", &["1-1.5"]), ["trident"]);
        assert_eq!(gates("octopus-v1.1", &["1-9"]), [""; 0]);
        // What is configured without a device may be any.
        assert_eq!(gates("btt-skr-pico", &["1-9"]), ["voron"]);
        assert_eq!(gates("creality-v4.2.7", &[]), [""; 0]);
    }
}
