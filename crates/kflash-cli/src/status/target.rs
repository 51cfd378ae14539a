//! The boards that are asked.

use kflash::board::{BoardId, Profile};
use kflash::chip::Chip;
use kflash::discover::{Device, Place};
use kflash::host::Holders;
use kflash::identify::{Selector, candidates};

/// A board to be asked, or a device that may be one.
pub enum Subject {
    /// A board with what is known of its kind.
    Board(Box<Target>),
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
pub struct Target {
    /// The boards that it may be; one where that is known.
    pub boards: Vec<BoardId>,
    /// The first of them.
    pub profile: Profile,
    /// Its chip; as far as the running firmware shows it, that of them all.
    pub chip: Chip,
    /// Which device is meant.
    pub selectors: Vec<Selector>,
}

impl Subject {
    /// The board that a person named.
    pub fn named(profile: Profile, chip: Chip, selectors: Vec<Selector>) -> Self {
        Self::Board(Box::new(Target { boards: vec![profile.id.clone()], profile, chip, selectors }))
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
                Self::Board(Box::new(Target { boards, profile, chip: chip.clone(), selectors: vec![selector] }))
            }
            _ => Self::Stranger(Box::new(Stranger { boards, device, holders })),
        }
    }
}

/// What names the device at a place of this host.
fn selector(place: &Place) -> Option<Selector> {
    match place {
        Place::Usb(path) => Some(Selector::UsbPath(path.clone())),
        Place::Tty(path) => Some(Selector::Tty(path.clone())),
        Place::Tcp(_) | Place::Usbip { .. } => None,
    }
}
