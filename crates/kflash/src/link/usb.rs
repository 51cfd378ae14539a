//! A USB device through Linux usbfs (`/dev/bus/usb/BBB/DDD`).

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nusb::transfer::{Buffer, Bulk, ControlIn, ControlOut, ControlType, In, Out, Recipient, TransferError};
use nusb::{ErrorKind, MaybeFuture};

use super::descriptor::interfaces;
use super::{LinkError, Setup, UsbLink};

/// Class and subclass of a DFU interface (DFU 1.1 §4.2.3).
const DFU: [u8; 2] = [0xfe, 0x01];

/// An opened usbfs node.
pub struct NusbLink {
    node: String,
    device: nusb::Device,
    claimed: BTreeMap<u8, nusb::Interface>,
    bulk_in: BTreeMap<u8, nusb::Endpoint<Bulk, In>>,
    bulk_out: BTreeMap<u8, nusb::Endpoint<Bulk, Out>>,
    device_descriptor: Vec<u8>,
    configuration: Vec<u8>,
}

impl NusbLink {
    /// Opens a usbfs node and claims interface 0. A kernel driver is detached from DFU interfaces alone: behind any other
    /// it is somebody's tty or disk, and the node is busy.
    pub fn open(node: &Path) -> Result<Self, LinkError> {
        let name = node.display().to_string();
        // Opened here and not by nusb, which knows no other root than `/` and needs sysfs.
        let file = OpenOptions::new().read(true).write(true).open(node).map_err(|error| open_error(&name, error))?;
        let device = nusb::Device::from_fd(OwnedFd::from(file)).wait().map_err(|error| general(&name, error))?;
        let active = device.active_configuration().map_err(|error| general(&name, error.into()))?;
        let configuration = active.as_bytes().to_vec();
        let device_descriptor = device.device_descriptor().as_bytes().to_vec();
        let mut link = Self {
            node: name,
            device,
            claimed: BTreeMap::new(),
            bulk_in: BTreeMap::new(),
            bulk_out: BTreeMap::new(),
            device_descriptor,
            configuration,
        };
        link.claim(0)?;
        Ok(link)
    }

    fn claim(&mut self, number: u8) -> Result<nusb::Interface, LinkError> {
        if let Some(interface) = self.claimed.get(&number) {
            return Ok(interface.clone());
        }
        let is_dfu = interfaces(&self.configuration).iter().any(|one| one.number == number && one.class[..2] == DFU);
        let claimed = if is_dfu {
            self.device.detach_and_claim_interface(number).wait()
        } else {
            self.device.claim_interface(number).wait()
        };
        let interface = claimed.map_err(|error| general(&self.node, error))?;
        self.claimed.insert(number, interface.clone());
        Ok(interface)
    }

    /// Claims the interface that `endpoint` belongs to.
    fn claim_owner(&mut self, endpoint: u8) -> Result<nusb::Interface, LinkError> {
        let owner = interfaces(&self.configuration)
            .iter()
            .find(|one| one.endpoints.iter().any(|candidate| candidate.address == endpoint))
            .map(|one| one.number)
            .ok_or_else(|| LinkError::Malformed(format!("device has no endpoint {endpoint:#04x}")))?;
        self.claim(owner)
    }

    fn transfer_error(&self, error: TransferError, timeout: Duration) -> LinkError {
        match error {
            TransferError::Stall => LinkError::Stall,
            TransferError::Cancelled => LinkError::TimedOut(timeout),
            TransferError::Disconnected => LinkError::Gone,
            other => LinkError::Io { node: self.node.clone(), source: other.into() },
        }
    }
}

impl UsbLink for NusbLink {
    fn device_descriptor(&self) -> &[u8] {
        &self.device_descriptor
    }

    fn configuration_descriptor(&self) -> &[u8] {
        &self.configuration
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let (control_type, recipient) = kind(setup.request_type)?;
        let Setup { request, value, index, .. } = setup;
        self.device
            .control_in(ControlIn { control_type, recipient, request, value, index, length }, timeout)
            .wait()
            .map_err(|error| self.transfer_error(error, timeout))
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let (control_type, recipient) = kind(setup.request_type)?;
        let Setup { request, value, index, .. } = setup;
        if data.len() > usize::from(u16::MAX) {
            return Err(LinkError::Unsupported { what: "a control transfer of more than 65535 bytes" });
        }
        self.device
            .control_out(ControlOut { control_type, recipient, request, value, index, data }, timeout)
            .wait()
            .map_err(|error| self.transfer_error(error, timeout))
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        // No endpoint may be open while its interface changes.
        self.bulk_in.clear();
        self.bulk_out.clear();
        let claimed = self.claim(interface)?;
        claimed.set_alt_setting(alternate).wait().map_err(|error| general(&self.node, error))
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        if !self.bulk_in.contains_key(&endpoint) {
            let opened = self.claim_owner(endpoint)?.endpoint(endpoint).map_err(|error| general(&self.node, error))?;
            self.bulk_in.insert(endpoint, opened);
        }
        let Some(opened) = self.bulk_in.get_mut(&endpoint) else { return Ok(Vec::new()) };
        if opened.max_packet_size() == 0 {
            return Err(LinkError::Malformed(format!("endpoint {endpoint:#04x} has packets of no bytes")));
        }
        let completion = opened.transfer_blocking(Buffer::new(length), timeout);
        match completion.status {
            // What had come before the time was up is not lost.
            Ok(()) | Err(TransferError::Cancelled) => {
                let mut bytes = completion.buffer.into_vec();
                bytes.truncate(completion.actual_len);
                Ok(bytes)
            }
            Err(error) => Err(self.transfer_error(error, timeout)),
        }
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        if !self.bulk_out.contains_key(&endpoint) {
            let opened = self.claim_owner(endpoint)?.endpoint(endpoint).map_err(|error| general(&self.node, error))?;
            self.bulk_out.insert(endpoint, opened);
        }
        let Some(opened) = self.bulk_out.get_mut(&endpoint) else { return Ok(()) };
        let completion = opened.transfer_blocking(Buffer::from(data), timeout);
        completion.status.map_err(|error| self.transfer_error(error, timeout))
    }
}

/// The type and recipient bits of `bmRequestType` (USB 2.0 §9.3.1).
fn kind(request_type: u8) -> Result<(ControlType, Recipient), LinkError> {
    let control_type = match request_type >> 5 & 3 {
        0 => ControlType::Standard,
        1 => ControlType::Class,
        2 => ControlType::Vendor,
        _ => return Err(LinkError::Unsupported { what: "a request of a reserved type" }),
    };
    let recipient = match request_type & 0x1f {
        0 => Recipient::Device,
        1 => Recipient::Interface,
        2 => Recipient::Endpoint,
        3 => Recipient::Other,
        _ => return Err(LinkError::Unsupported { what: "a request to a reserved recipient" }),
    };
    Ok((control_type, recipient))
}

/// `ENODEV` and `ENXIO`: the node is there, its device is not.
const NO_DEVICE: [i32; 2] = [19, 6];

fn open_error(node: &str, error: io::Error) -> LinkError {
    let node = node.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => LinkError::Denied { node },
        io::ErrorKind::NotFound => LinkError::Gone,
        io::ErrorKind::ResourceBusy => LinkError::Busy { node },
        _ if error.raw_os_error().is_some_and(|code| NO_DEVICE.contains(&code)) => LinkError::Gone,
        _ => LinkError::Io { node, source: error },
    }
}

fn general(node: &str, error: nusb::Error) -> LinkError {
    let node = node.to_owned();
    match error.kind() {
        ErrorKind::Disconnected => LinkError::Gone,
        ErrorKind::Busy => LinkError::Busy { node },
        ErrorKind::PermissionDenied => LinkError::Denied { node },
        _ => LinkError::Io { node, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_missing_node_is_a_device_that_left() {
        let error = NusbLink::open(Path::new("/nonexistent/bus/usb/001/002")).err();
        assert!(matches!(error, Some(LinkError::Gone)), "{error:?}");
    }

    #[test]
    fn a_node_that_is_no_usbfs_node_is_an_error_that_names_it() {
        let error = NusbLink::open(Path::new("/dev/null")).err().unwrap();
        assert!(error.to_string().contains("/dev/null"), "{error}");
    }

    #[test]
    fn request_type_bits() {
        assert_eq!(kind(0x21).unwrap(), (ControlType::Class, Recipient::Interface));
        assert_eq!(kind(0x80).unwrap(), (ControlType::Standard, Recipient::Device));
        assert_eq!(kind(0x40).unwrap(), (ControlType::Vendor, Recipient::Device));
        assert!(kind(0x60).is_err());
        assert!(kind(0x1f).is_err());
    }
}
