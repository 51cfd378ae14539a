//! Which boards a device may be. What USB says is a hint: it can contradict a board, and never proves one.

use super::{Candidate, Certainty};
use crate::board::{Cable, Profile};
use crate::chip::{Chip, DfuSerial};
use crate::discover::{Device, Mode, Place, UsbId};
use crate::proto::Protocol;

/// The id of the RP2040's boot ROM.
const RP2040_BOOT: UsbId = UsbId::new(0x2e8a, 0x0003);
/// The id of ST's ROM bootloader.
pub(crate) const ST_DFU: UsbId = UsbId::new(0x0483, 0xdf11);

/// The boards that nothing contradicts, those with the most evidence first.
pub fn candidates(device: &Device, boards: &[(Profile, Chip)]) -> Vec<Candidate> {
    let may_be = boards.iter().filter_map(|(profile, chip)| {
        let evidence = evidence(device, profile, chip)?;
        Some(Candidate { board: profile.id.clone(), certainty: Certainty::Possible, evidence })
    });
    let mut candidates: Vec<_> = may_be.collect();
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.evidence.len()));
    candidates
}

/// What speaks for `device` being this board; `None` where something speaks against it.
pub(super) fn evidence(device: &Device, profile: &Profile, chip: &Chip) -> Option<Vec<String>> {
    let takes = |cable: Cable| profile.routes.iter().any(|route| route.cable == cable);
    let speaks = |protocol: Protocol, cable: Cable| {
        profile.routes.iter().any(|route| route.protocol == protocol && route.cable == cable)
    };
    let id = device.usb.as_ref().map(|usb| usb.id);
    match device.mode {
        Mode::Klipper if takes(Cable::Usb) => mcu(device, chip, "Klipper"),
        Mode::Katapult if speaks(Protocol::Katapult, Cable::Usb) => mcu(device, chip, "Katapult"),
        // GD32 and APM32 show ids of their own: those chips have profiles of their own.
        Mode::Dfu if id == Some(ST_DFU) && speaks(Protocol::Dfuse, Cable::Usb) => Some(dfu(device, chip)),
        Mode::UartBridge if id.is_some() && id == profile.uart_bridge => {
            Some(vec![format!("its USB-UART bridge is {}", profile.uart_bridge?)])
        }
        Mode::Rp2Boot if id == Some(RP2040_BOOT) && chip.is("rp2040") => {
            Some(vec!["is an RP2040 in its boot ROM".into()])
        }
        // A UART of the host, or a stream: any board that is wired to one.
        Mode::Unknown if matches!(device.place, Place::Tty(_) | Place::Tcp(_)) && takes(Cable::Uart) => {
            Some(Vec::new())
        }
        _ => None,
    }
}

fn mcu(device: &Device, chip: &Chip, application: &str) -> Option<Vec<String>> {
    match &device.mcu {
        Some(mcu) if chip.is(mcu) => Some(vec![format!("{application} says that it runs on {mcu}")]),
        Some(_) => None,
        None => Some(Vec::new()),
    }
}

/// A serial that is the same on every chip of a kind speaks for the kind; any other proves nothing either way.
fn dfu(device: &Device, chip: &Chip) -> Vec<String> {
    let serial = device.usb.as_ref().and_then(|usb| usb.serial.as_deref());
    match chip.rom_dfu.as_ref().map(|rom| &rom.serial) {
        Some(DfuSerial::Constant(constant)) if serial == Some(constant) => {
            vec![format!("the serial {constant} is that of every {} in its ROM bootloader", chip.id)]
        }
        _ => Vec::new(),
    }
}
