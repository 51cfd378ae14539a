//! Which device is meant. Pure: what to open is decided on what was seen.

use super::candidates::evidence;
use super::{Certainty, Selector};
use crate::board::Profile;
use crate::chip::{Chip, DfuSerial};
use crate::discover::{Device, Mode, Place, Scan};
use crate::exit::ExitCode;
use crate::proto::dfuse::rom_serial;

/// Why no device is chosen. Lists hold a line for each device, by [`describe`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Nothing on the host is it.
    #[error("no device found for {what}")]
    NotFound {
        /// The selectors, or the board.
        what: String,
        /// What there is instead.
        seen: Vec<String>,
    },
    /// Several devices would do.
    #[error("{} devices could be {what}", .devices.len())]
    Ambiguous {
        /// The selectors, or the board.
        what: String,
        /// The devices.
        devices: Vec<String>,
    },
    /// The selectors name different devices.
    #[error("{one} and {other} are not the same device")]
    Disagree {
        /// A selector and what it names.
        one: String,
        /// What contradicts it.
        other: String,
        /// The devices.
        devices: Vec<String>,
    },
    /// One device would do, but nothing shows that it is this board.
    #[error("{device} may be {board}, but {why}")]
    NeedsDevice {
        /// The board.
        board: String,
        /// The device.
        device: String,
        /// The place to name with `--device`.
        place: String,
        /// Why it has to be named.
        why: String,
    },
}

impl SelectError {
    /// The exit code that it ends a run with.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::NotFound { .. } => ExitCode::NotFound,
            Self::Ambiguous { .. } | Self::Disagree { .. } | Self::NeedsDevice { .. } => ExitCode::Refused,
        }
    }

    /// The devices to choose from, a line each.
    pub fn devices(&self) -> &[String] {
        match self {
            Self::NotFound { seen: devices, .. } | Self::Ambiguous { devices, .. } | Self::Disagree { devices, .. } => {
                devices
            }
            Self::NeedsDevice { .. } => &[],
        }
    }
}

/// The device that is meant, and how sure that is: [`Certainty::Pinned`] with selectors, [`Certainty::Proved`] without.
///
/// Any selector finds the device; those that find one must agree on it, and so must the serial number that it shows.
/// Without selectors it is the only device on the host that may be this board, if it says of itself that its MCU is the
/// board's. The start address is for the plan to compare: sysfs does not know it.
pub fn select(
    scan: &Scan,
    selectors: &[Selector],
    profile: &Profile,
    chip: &Chip,
) -> Result<(Device, Certainty), SelectError> {
    if selectors.is_empty() {
        unnamed(scan, profile, chip).map(|device| (device, Certainty::Proved))
    } else {
        named(scan, selectors, chip).map(|device| (device, Certainty::Pinned))
    }
}

fn named(scan: &Scan, selectors: &[Selector], chip: &Chip) -> Result<Device, SelectError> {
    let what = selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    let found = |selector: &Selector| -> Vec<&Device> {
        scan.devices.iter().filter(|device| names(selector, device, chip)).collect()
    };
    // Selectors that find nothing may name what the device does not show at the moment.
    let visible: Vec<_> =
        selectors.iter().map(|selector| (selector, found(selector))).filter(|(_, found)| !found.is_empty()).collect();
    let Some((first, devices)) = visible.first() else {
        return Err(SelectError::NotFound { what, seen: describe_all(&scan.devices) });
    };
    let mut agreed = devices.clone();
    for (selector, devices) in &visible[1..] {
        let both: Vec<_> = agreed.iter().copied().filter(|device| devices.contains(device)).collect();
        if both.is_empty() {
            let side = |selector: &Selector, device: &Device| format!("{selector} (at {})", device.place);
            return Err(SelectError::Disagree {
                one: side(first, agreed[0]),
                other: side(selector, devices[0]),
                devices: describe_all(agreed.iter().chain(devices).copied()),
            });
        }
        agreed = both;
    }
    let [device] = agreed[..] else {
        return Err(SelectError::Ambiguous { what, devices: describe_all(agreed) });
    };
    for selector in selectors {
        if let Some(other) = contradiction(selector, device) {
            let one = format!("{} (found by {first})", device.place);
            return Err(SelectError::Disagree { one, other, devices: describe_all([device]) });
        }
    }
    Ok(device.clone())
}

fn unnamed(scan: &Scan, profile: &Profile, chip: &Chip) -> Result<Device, SelectError> {
    let may_be: Vec<_> = scan.devices.iter().filter(|device| evidence(device, profile, chip).is_some()).collect();
    let board = profile.id.to_string();
    match may_be[..] {
        [] => Err(SelectError::NotFound { what: board, seen: describe_all(&scan.devices) }),
        [device] => match unproved(device) {
            Some(why) => {
                let place = device.place.to_string();
                Err(SelectError::NeedsDevice { board, device: describe(device), place, why: why.to_owned() })
            }
            None => Ok(device.clone()),
        },
        _ => Err(SelectError::Ambiguous { what: board, devices: describe_all(may_be) }),
    }
}

/// Why the only device that may be a board is still not known to be it.
fn unproved(device: &Device) -> Option<&'static str> {
    match device.mode {
        Mode::Dfu => Some("every STM32 in its ROM bootloader looks like this"),
        Mode::Rp2Boot => Some("every RP2040 in its boot ROM looks like this"),
        Mode::UartBridge | Mode::Unknown => Some("what is behind it cannot be seen without opening it"),
        Mode::Klipper | Mode::Katapult if device.mcu.is_none() => Some("it does not say what MCU it has"),
        Mode::Klipper | Mode::Katapult | Mode::KlipperCanBridge => None,
    }
}

/// Whether `selector` names `device`.
fn names(selector: &Selector, device: &Device, chip: &Chip) -> bool {
    match (selector, &device.place) {
        (Selector::UsbPath(path), Place::Usb(place)) => path == place,
        (Selector::Serial(serial), _) => {
            let shown = device.usb.as_ref().and_then(|usb| usb.serial.as_deref());
            shown == Some(serial)
                || (device.mode == Mode::Dfu && shown.is_some() && shown == rom_serial_of(serial, chip).as_deref())
        }
        (Selector::Tty(path), Place::Tty(place)) if path == place => true,
        (Selector::Tty(path), _) => {
            device.tty.as_ref().is_some_and(|tty| tty.node == *path || tty.by_id.as_ref() == Some(path))
        }
        (Selector::Tcp(address), Place::Tcp(place)) => address == place,
        (Selector::Usbip { server, busid }, Place::Usbip { server: at, busid: id }) => server == at && busid == id,
        _ => false,
    }
}

/// What `device` shows that `selector` cannot be true of.
fn contradiction(selector: &Selector, device: &Device) -> Option<String> {
    // A boot ROM shows another serial than the application does, and often one that all chips share.
    let own_serial = !matches!(device.mode, Mode::Dfu | Mode::Rp2Boot);
    match (selector, device.usb.as_ref().and_then(|usb| usb.serial.as_deref())) {
        (Selector::Serial(serial), Some(shown)) if own_serial && serial != shown => {
            Some(format!("the serial {serial:?} (it shows {shown:?})"))
        }
        _ => None,
    }
}

/// The serial in ROM DFU of the chip whose Klipper or Katapult serial is `serial`: its unique id in hexadecimal, in order
/// of memory.
fn rom_serial_of(serial: &str, chip: &Chip) -> Option<String> {
    if chip.rom_dfu.as_ref()?.serial != DfuSerial::Uid || serial.len() != 24 {
        return None;
    }
    if !serial.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(serial.get(at..at + 8)?, 16).ok().map(u32::swap_bytes);
    Some(rom_serial([word(0)?, word(8)?, word(16)?]))
}

/// A device in a line: place, mode, MCU, serial, tty. The device's own words are escaped.
pub fn describe(device: &Device) -> String {
    let mode = match device.mode {
        Mode::Klipper => "Klipper",
        Mode::KlipperCanBridge => "Klipper as USB-CAN bridge",
        Mode::Katapult => "Katapult",
        Mode::Dfu => "DFU bootloader",
        Mode::UartBridge => "USB-UART bridge",
        Mode::Rp2Boot => "RP2 boot ROM",
        Mode::Unknown => match device.place {
            Place::Tty(_) => "tty",
            Place::Tcp(_) => "byte stream",
            Place::Probe(_) => "debug probe",
            Place::Usb(_) | Place::Usbip { .. } => "unknown",
        },
    };
    let mcu = device.mcu.as_ref().map(|mcu| format!(" on {mcu}"));
    let serial = device.usb.as_ref().and_then(|usb| usb.serial.as_ref());
    let serial = serial.map(|serial| format!(", serial {}", serial.escape_debug()));
    let tty = device.tty.as_ref().filter(|tty| device.place != Place::Tty(tty.node.clone()));
    let tty = tty.map(|tty| format!(", {}", tty.node.display().to_string().escape_debug()));
    let more: String = [mcu, serial, tty].into_iter().flatten().collect();
    format!("{}: {mode}{more}", device.place)
}

fn describe_all<'a>(devices: impl IntoIterator<Item = &'a Device>) -> Vec<String> {
    devices.into_iter().map(describe).collect()
}
