//! What every USB device shares: descriptors, standard requests (USB 2.0 §9.4), and the CDC-ACM function that Klipper
//! and Katapult carry.

use std::time::Duration;

use kflash::link::Setup;

use crate::board::{Control, UsbDescriptors};

/// Bulk IN endpoint of the CDC-ACM function.
pub(crate) const CDC_IN: u8 = 0x81;
/// Bulk OUT endpoint of the CDC-ACM function.
pub(crate) const CDC_OUT: u8 = 0x02;

/// The fields of a device descriptor that differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) usb: u16,
    pub(crate) class: u8,
    pub(crate) vendor: u16,
    pub(crate) product: u16,
    pub(crate) revision: u16,
}

/// Descriptors of a device with manufacturer, product and serial as strings 1 to 3.
pub(crate) fn descriptors(identity: Identity, configuration: Vec<u8>, strings: Vec<Vec<u8>>) -> UsbDescriptors {
    let mut device = vec![18, 1];
    device.extend(identity.usb.to_le_bytes());
    device.extend([identity.class, 0, 0, 64]);
    for field in [identity.vendor, identity.product, identity.revision] {
        device.extend(field.to_le_bytes());
    }
    let index = |n: usize| if strings.len() >= n { n as u8 } else { 0 };
    device.extend([index(1), index(2), index(3), 1]);
    UsbDescriptors { device, configuration, strings, enumeration: 0 }
}

/// A string descriptor's payload.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A configuration descriptor around its interfaces.
pub(crate) fn configuration(interfaces: u8, attributes: u8, max_power: u8, body: &[u8]) -> Vec<u8> {
    let mut descriptor = vec![9, 2];
    descriptor.extend((body.len() as u16 + 9).to_le_bytes());
    descriptor.extend([interfaces, 1, 0, attributes, max_power]);
    descriptor.extend_from_slice(body);
    descriptor
}

/// A CDC-ACM device as Klipper and Katapult describe themselves.
pub(crate) fn cdc_acm(vendor: u16, product: u16, strings: [&str; 3]) -> UsbDescriptors {
    let body = [
        &[9, 4, 0, 0, 1, 2, 2, 1, 0][..],
        &[5, 0x24, 0, 0x10, 0x01],
        &[4, 0x24, 2, 0x06],
        &[5, 0x24, 6, 0, 1],
        &[7, 5, 0x83, 3, 8, 0, 255],
        &[9, 4, 1, 0, 2, 10, 0, 0, 0],
        &[7, 5, CDC_OUT, 2, 64, 0, 0],
        &[7, 5, CDC_IN, 2, 64, 0, 0],
    ]
    .concat();
    let identity = Identity { usb: 0x0200, class: 2, vendor, product, revision: 0x0100 };
    descriptors(identity, configuration(2, 0xc0, 50, &body), strings.map(utf16).to_vec())
}

/// What the host has set up since the device was attached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) configured: bool,
    pub(crate) alternate: u8,
}

/// Answers a standard request.
pub(crate) fn standard(device: &UsbDescriptors, session: &mut Session, setup: Setup, length: u16) -> Control {
    let data = |bytes: &[u8]| {
        let length = bytes.len().min(usize::from(length));
        Control::Done { data: bytes[..length].to_vec(), held: Duration::ZERO }
    };
    match (setup.request_type, setup.request) {
        (0x80, 0x06) => match (setup.value >> 8, setup.value & 0xff) {
            (1, 0) => data(&device.device),
            (2, 0) => data(&device.configuration),
            (3, 0) => data(&[4, 3, 0x09, 0x04]),
            (3, index) => match device.strings.get(usize::from(index) - 1) {
                Some(string) => {
                    let mut descriptor = vec![string.len() as u8 + 2, 3];
                    descriptor.extend_from_slice(string);
                    data(&descriptor)
                }
                None => Control::Stall,
            },
            // A device qualifier (6) is for high-speed devices only.
            _ => Control::Stall,
        },
        (0x80..=0x82, 0x00) => data(&[0, 0]),
        (0x80, 0x08) => data(&[u8::from(session.configured)]),
        (0x00, 0x05) | (0x02, 0x01) => data(&[]),
        (0x00, 0x09) if setup.value <= 1 => {
            session.configured = setup.value == 1;
            session.alternate = 0;
            data(&[])
        }
        (0x81, 0x0a) => data(&[session.alternate]),
        (0x01, 0x0b) if has_alternate(&device.configuration, setup.index, setup.value) => {
            session.alternate = setup.value as u8;
            data(&[])
        }
        _ => Control::Stall,
    }
}

fn has_alternate(configuration: &[u8], interface: u16, alternate: u16) -> bool {
    let mut rest = configuration;
    while let [length, kind, ..] = *rest
        && length >= 2
    {
        if kind == 4 && rest.len() > 3 && u16::from(rest[2]) == interface && u16::from(rest[3]) == alternate {
            return true;
        }
        rest = rest.get(usize::from(length)..).unwrap_or_default();
    }
    false
}

/// The ACM half of a CDC function: line coding and modem lines (PSTN subclass 1.2 §6.3).
#[derive(Clone, Debug)]
pub(crate) struct Acm {
    coding: [u8; 7],
    /// DTR is bit 0, RTS bit 1.
    lines: u16,
}

impl Default for Acm {
    fn default() -> Self {
        Self { coding: [0x80, 0x25, 0, 0, 0, 0, 8], lines: 0 }
    }
}

impl Acm {
    /// Answers a class request.
    pub(crate) fn control(&mut self, setup: Setup, data: &[u8]) -> Control {
        let done = |data: &[u8]| Control::Done { data: data.to_vec(), held: Duration::ZERO };
        match (setup.request_type, setup.request) {
            (0x21, 0x20) => match data.try_into() {
                Ok(coding) => {
                    self.coding = coding;
                    done(&[])
                }
                Err(_) => Control::Stall,
            },
            (0xa1, 0x21) => done(&self.coding),
            (0x21, 0x22) => {
                self.lines = setup.value;
                done(&[])
            }
            _ => Control::Stall,
        }
    }

    /// Whether the lines now say what Klipper takes for a request to enter the bootloader: 1200 baud without DTR.
    pub(crate) fn is_touched(&self) -> bool {
        self.coding[..4] == 1200_u32.to_le_bytes() && self.lines & 1 == 0
    }
}
