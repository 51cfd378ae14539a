//! The real host: sysfs, device nodes, `/proc` and network servers, below a host root.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;

use crate::clock::{Clock, SystemClock};
use crate::discover::holders::Open;
use crate::discover::{Device, DiscoverError, Mode, Place, Scan, TtyNode, UsbId, UsbIdentity, remote, sysfs};
use crate::host::{Holders, Host, LockError};
use crate::identify::Selector;
use crate::link::cdc::CdcLink;
use crate::link::serial::SerialLink;
use crate::link::tcp::TcpLink;
use crate::link::usb::NusbLink;
use crate::link::usbip::UsbipLink;
use crate::link::{ByteLink, LinkError, UsbLink};
use crate::lock::PlaceLock;

/// How long udev may take to set up a device that the kernel shows already: a loaded machine takes its time.
const SETTLE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

/// The machine that kflash runs on, or the one whose `/sys`, `/dev`, `/run` and `/proc` are mounted below a root.
pub struct SystemHost {
    root: PathBuf,
    clock: SystemClock,
    /// Places that no walk through sysfs finds, and what was found at those on USB/IP servers last.
    named: Mutex<BTreeMap<Named, Option<UsbIdentity>>>,
    lock_folder: Option<PathBuf>,
}

/// A place that a person named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Tty(PathBuf),
    Tcp(String),
    Usbip { server: String, busid: String },
}

impl SystemHost {
    /// The host whose root is mounted at `root`; `/` for this one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), clock: SystemClock::new(), named: Mutex::default(), lock_folder: None }
    }

    /// Lists the places that `selectors` name and no walk through sysfs finds, too: ttys without a USB parent, network
    /// servers. Returns the selectors with a tty's links (`/dev/serial/by-path/...`, a udev rule of the person's own)
    /// followed to its node, as they have to be for [`crate::identify::select`].
    #[must_use]
    pub fn with_selectors(mut self, selectors: Vec<Selector>) -> (Self, Vec<Selector>) {
        let resolved: Vec<_> = selectors.into_iter().map(|selector| self.resolve(selector)).collect();
        let named = resolved.iter().filter_map(|selector| match selector {
            Selector::Tty(path) => Some(Named::Tty(path.clone())),
            Selector::Tcp(address) => Some(Named::Tcp(address.clone())),
            Selector::Usbip { server, busid } => Some(Named::Usbip { server: server.clone(), busid: busid.clone() }),
            Selector::UsbPath(_) | Selector::Serial(_) => None,
        });
        self.named.get_mut().unwrap_or_else(PoisonError::into_inner).extend(named.map(|named| (named, None)));
        (self, resolved)
    }

    /// Locks in `folder` where the host has no `/run` that this user may write to.
    #[must_use]
    pub fn with_lock_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.lock_folder = Some(folder.into());
        self
    }

    /// Who holds the nodes of each device open, in one walk through `/proc`.
    pub fn holders_of(&self, devices: &[Device]) -> Vec<Holders> {
        let numbers: Vec<_> = devices.iter().map(numbers).collect();
        let open = Open::look(&self.root, &numbers.iter().flatten().copied().collect());
        let holders = numbers.iter().map(|numbers| match (&open, &numbers[..]) {
            (None, _) | (_, []) => Holders::Unknown,
            (Some(open), numbers) => open.holders(numbers),
        });
        holders.collect()
    }

    /// The node that flashing `device` as it is now takes, where this user may not open it.
    pub fn denied(&self, device: &Device) -> Option<PathBuf> {
        let by_node = matches!(device.mode, Mode::Dfu | Mode::Rp2Boot);
        let node = if by_node { device.usbfs.as_ref() } else { device.tty.as_ref().map(|tty| &tty.node) };
        let node = sysfs::under(&self.root, node?);
        (access(&node, Access::READ_OK | Access::WRITE_OK) == Err(Errno::ACCESS)).then_some(node)
    }

    fn resolve(&self, selector: Selector) -> Selector {
        match selector {
            Selector::Tty(path) => {
                let path = sysfs::resolve(&self.root, &path);
                // A device plugin gives nodes other names than the kernel does: which device it is, its numbers tell.
                Selector::Tty(sysfs::usb_tty_at(&self.root, &path).unwrap_or(path))
            }
            other => other,
        }
    }

    /// Opens as `open` does, and again for a while where a device that is there still lacks its tty, its node, or udev's
    /// permissions on it: sysfs shows a device before any of them.
    fn settled<T>(&self, device: &Device, open: impl Fn() -> Result<T, LinkError>) -> Result<T, LinkError> {
        let deadline = self.clock.now() + SETTLE;
        loop {
            let unsettled = match open() {
                Err(error @ (LinkError::Denied { .. } | LinkError::Gone | LinkError::Unsupported { .. })) => error,
                result => return result,
            };
            if !self.is_there(device) || self.clock.now() >= deadline {
                return Err(unsettled);
            }
            self.clock.sleep(POLL);
        }
    }

    /// Whether the device on USB has not enumerated anew since it was seen. Its numbers are handed out with every
    /// enumeration: those of a device that left may be another's by now.
    fn is_there(&self, device: &Device) -> bool {
        match (&device.place, &device.usb) {
            (Place::Usb(path), Some(usb)) => sysfs::bus_and_number(&self.root, path) == Some((usb.bus, usb.number)),
            _ => false,
        }
    }

    /// The tty of `device`, opened.
    fn open_tty(&self, device: &Device, baud: u32) -> Result<SerialLink, LinkError> {
        let seen_since = match &device.place {
            Place::Usb(path) if device.tty.is_none() => sysfs::tty_of(&self.root, path),
            _ => None,
        };
        let tty =
            device.tty.as_ref().or(seen_since.as_ref()).ok_or(LinkError::Unsupported { what: "a byte stream" })?;
        let node = match &device.place {
            Place::Usb(_) => sysfs::node_of(&self.root, tty),
            _ => None,
        };
        let node = node.unwrap_or_else(|| sysfs::under(&self.root, &tty.node));
        // A name left behind by one device opens "fine" on the next: what counts is which device has the numbers. Looked at
        // before, so that no other board is reset by DTR, and after, because it may have happened in between.
        let is_meant = |numbers: (u32, u32)| match &device.place {
            Place::Usb(path) => sysfs::is_tty_of(&self.root, numbers, path),
            _ => Some(numbers) == tty.numbers,
        };
        let stale = || stale(&tty.node.display().to_string(), &device.place);
        if sysfs::char_device_numbers(&node).is_some_and(|numbers| !is_meant(numbers)) {
            return Err(stale());
        }
        let link = SerialLink::open(&node, baud)?;
        if is_meant(link.numbers()?) { Ok(link) } else { Err(stale()) }
    }

    /// The usbfs node of `device`, opened.
    fn open_node(&self, device: &Device) -> Result<NusbLink, LinkError> {
        let node = device.usbfs.as_ref().ok_or(LinkError::Unsupported { what: "USB" })?;
        let stale = || stale(&node.display().to_string(), &device.place);
        // Looked at before, so that another's interface is not claimed, and after, because it may have left in between.
        if !self.is_there(device) {
            return Err(stale());
        }
        let link = NusbLink::open(&sysfs::under(&self.root, node))?;
        if self.is_there(device) { Ok(link) } else { Err(stale()) }
    }
}

impl Named {
    fn find(
        &self,
        host: &SystemHost,
        found: &[Device],
        last: &mut Option<UsbIdentity>,
    ) -> Result<Option<Device>, DiscoverError> {
        match self {
            Self::Tty(path) => {
                let known = found.iter().any(|device| device.tty.as_ref().is_some_and(|tty| tty.node == *path));
                Ok(if known { None } else { sysfs::bare_tty(&host.root, path) })
            }
            Self::Tcp(address) => Ok(Some(remote::tcp(address))),
            Self::Usbip { server, busid } => remote::usbip(server, busid, last),
        }
    }
}

fn stale(node: &str, place: &Place) -> LinkError {
    LinkError::Stale { node: node.to_owned(), expected: place.to_string() }
}

/// A device on a USB/IP server, imported.
fn import(device: &Device, server: &str, busid: &str) -> Result<UsbipLink, LinkError> {
    let link = UsbipLink::open(server, busid)?;
    // idVendor and idProduct (USB 2.0 §9.6.1).
    let id = match link.device_descriptor() {
        [_, _, _, _, _, _, _, _, a, b, c, d, ..] => {
            UsbId::new(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))
        }
        _ => UsbId::new(0, 0),
    };
    // Its port may hold another device of the same kind by now.
    let is_meant =
        |usb: &UsbIdentity| usb.id == id && link.device_id() == u32::from(usb.bus) << 16 | u32::from(usb.number);
    if device.usb.as_ref().is_some_and(is_meant) { Ok(link) } else { Err(stale(busid, &device.place)) }
}

/// The character devices of a device: its tty and its usbfs node.
fn numbers(device: &Device) -> Vec<(u32, u32)> {
    let tty = device.tty.as_ref().and_then(|tty| tty.numbers);
    let usbfs = device.usb.as_ref().map(|usb| usbfs_numbers(usb.bus, usb.number)).filter(|_| device.usbfs.is_some());
    tty.into_iter().chain(usbfs).collect()
}

/// The numbers of `/dev/bus/usb/BUS/NUMBER` (linux drivers/usb/core/usb.c, `usb_alloc_dev`, and devices.txt, major 189).
fn usbfs_numbers(bus: u16, number: u16) -> (u32, u32) {
    (189, u32::from(bus.saturating_sub(1)) * 128 + u32::from(number.saturating_sub(1)))
}

impl Host for SystemHost {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        let mut scan = sysfs::scan(&self.root)?;
        for (named, last) in self.named.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            scan.devices.extend(named.find(self, &scan.devices, last)?);
            scan.looked_at.push(match named {
                Named::Tty(path) => sysfs::under(&self.root, path),
                Named::Tcp(address) => format!("tcp://{address}").into(),
                Named::Usbip { server, busid } => format!("usbip://{server}/{busid}").into(),
            });
        }
        Ok(scan)
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        match &device.place {
            Place::Usbip { server, busid } => {
                let link = CdcLink::open(Box::new(import(device, server, busid)?), baud)?;
                Ok(Box::new(link))
            }
            Place::Tcp(address) => Ok(Box::new(TcpLink::connect(address)?)),
            Place::Usb(_) | Place::Tty(_) => Ok(Box::new(self.settled(device, || self.open_tty(device, baud))?)),
            Place::Probe(_) => Err(LinkError::Unsupported { what: "a byte stream" }),
        }
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        match &device.place {
            Place::Usb(_) => Ok(Box::new(self.settled(device, || self.open_node(device))?)),
            Place::Usbip { server, busid } => Ok(Box::new(import(device, server, busid)?)),
            Place::Tty(_) | Place::Tcp(_) | Place::Probe(_) => Err(LinkError::Unsupported { what: "USB" }),
        }
    }

    fn has_node(&self, device: &Device) -> bool {
        let Place::Usb(path) = &device.place else { return true };
        if let (Mode::Dfu | Mode::Rp2Boot, Some(node), Some(usb)) = (device.mode, &device.usbfs, &device.usb) {
            let numbers = sysfs::char_device_numbers(&sysfs::under(&self.root, node));
            return numbers == Some(usbfs_numbers(usb.bus, usb.number));
        }
        // A device is seen before its tty is.
        let deadline = self.clock.now() + SETTLE;
        loop {
            match sysfs::tty_of(&self.root, path) {
                Some(tty @ TtyNode { numbers: Some(_), .. }) => return sysfs::node_of(&self.root, &tty).is_some(),
                _ if !self.is_there(device) || self.clock.now() >= deadline => return false,
                _ => self.clock.sleep(POLL),
            }
        }
    }

    fn holders(&self, device: &Device) -> Holders {
        self.holders_of(std::slice::from_ref(device)).pop().unwrap_or(Holders::Unknown)
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        let lock = PlaceLock::take(&self.root, self.lock_folder.as_deref(), &device.place)?;
        Ok(Box::new(lock))
    }
}

#[cfg(test)]
mod tests;
