//! The boards that are asked.

use kflash::board::{BoardId, Profile};
use kflash::chip::Chip;
use kflash::config::{self, Config, Printer};
use kflash::discover::{Device, Place, Scan};
use kflash::host::Holders;
use kflash::identify::{Selector, candidates, select};

use crate::failure::Failure;
use crate::target::find_board;

/// A board to be asked, or a device that may be one.
pub enum Subject<'a> {
    /// A board with what is known of its kind.
    Board(Box<Target<'a>>),
    /// A device of which not even the chip is known.
    Stranger(Box<Stranger>),
}

/// A device that may be boards with different chips, or none that kflash knows.
pub struct Stranger {
    /// The boards that it may be.
    pub boards: Vec<BoardId>,
    /// The device.
    pub device: Device,
    /// Who holds it.
    pub holders: Holders,
}

/// A board of which at least the chip is known.
pub struct Target<'a> {
    /// The boards that it may be; one where that is known.
    pub boards: Vec<BoardId>,
    /// The first of them.
    pub profile: Profile,
    /// Its chip; as far as the running firmware shows it, that of them all.
    pub chip: Chip,
    /// Which device is meant.
    pub selectors: Vec<Selector>,
    /// The printer and its board, where it is configured.
    pub configured: Option<(&'a Printer, &'a config::Board)>,
}

impl<'a> Subject<'a> {
    /// The board that a person named.
    pub fn named(profile: Profile, chip: Chip, selectors: Vec<Selector>) -> Self {
        let boards = vec![profile.id.clone()];
        Self::Board(Box::new(Target { boards, profile, chip, selectors, configured: None }))
    }

    /// The boards of these printers; without any, of all.
    pub fn configured(config: &'a Config, printers: &[String]) -> Result<Vec<Self>, Failure> {
        let printers: Vec<_> = match printers {
            [] => config.printers.iter().collect(),
            names => names.iter().map(|name| config.printer(name)).collect::<Result<_, _>>()?,
        };
        let boards = printers.iter().flat_map(|&printer| printer.boards.iter().map(move |board| (printer, board)));
        let subject = |(printer, board): (&'a Printer, &'a config::Board)| {
            let (profile, chip) = find_board(&board.board)?;
            let boards = vec![profile.id.clone()];
            let selectors = board.device.clone();
            let configured = Some((printer, board));
            Ok(Self::Board(Box::new(Target { boards, profile, chip, selectors, configured })))
        };
        boards.map(subject).collect()
    }

    /// What a device may be, as far as sysfs tells.
    pub fn found(device: Device, holders: Holders, known: &[(Profile, Chip)]) -> Self {
        let boards: Vec<_> = candidates(&device, known).into_iter().map(|candidate| candidate.board).collect();
        let find = |board: &BoardId| known.iter().find(|(profile, _)| profile.id == *board);
        let all: Vec<_> = boards.iter().filter_map(find).collect();
        match (&all[..], selector(&device.place)) {
            // Boards with one MCU are asked alike; whether that resets them is as bad as the worst of them.
            ([(profile, chip), more @ ..], Some(selector)) if more.iter().all(|(_, other)| other.mcu == chip.mcu) => {
                let mut profile = profile.clone();
                profile.opening_resets |= more.iter().any(|(profile, _)| profile.opening_resets);
                let selectors = vec![selector];
                Self::Board(Box::new(Target { boards, profile, chip: chip.clone(), selectors, configured: None }))
            }
            _ => Self::Stranger(Box::new(Stranger { boards, device, holders })),
        }
    }
}

impl Subject<'_> {
    /// What names the device, where that is not seen.
    pub fn selectors(&self) -> &[Selector] {
        match self {
            Self::Board(target) => &target.selectors,
            Self::Stranger(_) => &[],
        }
    }

    /// Where it is, if it is there and unmistakable.
    pub fn place_in(&self, scan: &Scan) -> Option<Place> {
        match self {
            Self::Board(target) => {
                select(scan, &target.selectors, &target.profile, &target.chip).ok().map(|(device, _)| device.place)
            }
            Self::Stranger(stranger) => Some(stranger.device.place.clone()),
        }
    }
}

impl Target<'_> {
    /// Its name for the person: `voron/mcu` of the configuration, else its id.
    pub fn name(&self) -> Option<String> {
        self.configured.map(|(printer, board)| format!("{}/{}", printer.name, board.name))
    }
}

/// What names the device at a place of this host.
fn selector(place: &Place) -> Option<Selector> {
    match place {
        Place::Usb(path) => Some(Selector::UsbPath(path.clone())),
        Place::Tty(path) => Some(Selector::Tty(path.clone())),
        Place::Tcp(_) | Place::Usbip { .. } | Place::Probe(_) => None,
    }
}
