//! Devices that are not plugged into this host: on a USB/IP server, or behind a TCP port.

use std::io;

use super::mode::{mcu_of, mode_of};
use super::{Device, DiscoverError, Mode, Place, UsbIdentity};
use crate::link::descriptor::read_strings;
use crate::link::usbip::{Exported, UsbipLink, list};
use crate::link::{LinkError, UsbLink};

/// The device `busid` of `server`; `None` while it is off the bus.
///
/// The server's list has no strings. Where `last`, what this device was found to be before, is another enumeration, they
/// are read from the device, as a host does when one is plugged in; a device that somebody uses stays without.
pub(crate) fn usbip(
    server: &str,
    busid: &str,
    last: &mut Option<UsbIdentity>,
) -> Result<Option<Device>, DiscoverError> {
    let listed = list(server).map_err(|error| {
        let source = match error {
            LinkError::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        };
        DiscoverError::Unreachable { server: server.to_owned(), source }
    })?;
    let Some(exported) = listed.into_iter().find(|exported| exported.busid == busid) else { return Ok(None) };
    let listed = identity(&exported);
    let known = last.take().filter(|last| (last.id, last.bus, last.number) == (listed.id, listed.bus, listed.number));
    *last = known.or_else(|| with_strings(server, busid, &listed).ok());
    let usb = last.clone().unwrap_or(listed);
    let mode = mode_of(usb.id, usb.manufacturer.as_deref());
    Ok(Some(Device {
        place: Place::Usbip { server: server.to_owned(), busid: busid.to_owned() },
        mode,
        mcu: mcu_of(mode, usb.product.as_deref()),
        usb: Some(usb),
        tty: None,
        usbfs: None,
    }))
}

/// A byte stream: nothing is known of what is behind it.
pub(crate) fn tcp(address: &str) -> Device {
    Device { place: Place::Tcp(address.to_owned()), mode: Mode::Unknown, usb: None, tty: None, usbfs: None, mcu: None }
}

fn identity(exported: &Exported) -> UsbIdentity {
    let small = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    UsbIdentity {
        id: exported.id,
        revision: exported.revision,
        bus: small(exported.bus),
        number: small(exported.number),
        manufacturer: None,
        product: None,
        serial: None,
    }
}

fn with_strings(server: &str, busid: &str, listed: &UsbIdentity) -> Result<UsbIdentity, LinkError> {
    let mut link = UsbipLink::open(server, busid)?;
    // iManufacturer, iProduct, iSerialNumber (USB 2.0 §9.6.1).
    let indices = match link.device_descriptor() {
        [.., manufacturer, product, serial, _] => [*manufacturer, *product, *serial],
        _ => [0; 3],
    };
    let [manufacturer, product, serial] = read_strings(&mut link, indices)?;
    Ok(UsbIdentity { manufacturer, product, serial, ..listed.clone() })
}
