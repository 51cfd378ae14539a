//! The real host: sysfs, device nodes, `/proc` and network servers, below a host root.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::clock::{Clock, SystemClock};
use crate::discover::{Device, DiscoverError, Place, Scan, holders, sysfs};
use crate::host::{Holders, Host, LockError};
use crate::identify::Selector;
use crate::link::{ByteLink, LinkError, UsbLink};
use crate::lock::PlaceLock;

/// The machine that kflash runs on, or the one whose `/sys`, `/dev`, `/run` and `/proc` are mounted below a root.
pub struct SystemHost {
    root: PathBuf,
    clock: SystemClock,
    /// Places that no walk through sysfs finds.
    named: BTreeSet<Named>,
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
        Self { root: root.into(), clock: SystemClock::new(), named: BTreeSet::new(), lock_folder: None }
    }

    /// Lists the places that `selectors` name and no walk through sysfs finds, too: ttys without a USB parent, network
    /// servers. Returns the selectors with a tty's links (`/dev/serial/by-path/...`, a udev rule of the person's own)
    /// followed to its node, as they have to be for [`crate::identify::select`].
    #[must_use]
    pub fn with_selectors(mut self, selectors: Vec<Selector>) -> (Self, Vec<Selector>) {
        let resolved: Vec<_> = selectors.into_iter().map(|selector| self.resolve(selector)).collect();
        self.named.extend(resolved.iter().filter_map(|selector| match selector {
            Selector::Tty(path) => Some(Named::Tty(path.clone())),
            Selector::Tcp(address) => Some(Named::Tcp(address.clone())),
            Selector::Usbip { server, busid } => Some(Named::Usbip { server: server.clone(), busid: busid.clone() }),
            Selector::UsbPath(_) | Selector::Serial(_) => None,
        }));
        (self, resolved)
    }

    /// Locks in `folder` where the host has no `/run` that this user may write to.
    #[must_use]
    pub fn with_lock_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.lock_folder = Some(folder.into());
        self
    }

    fn resolve(&self, selector: Selector) -> Selector {
        match selector {
            Selector::Tty(path) => Selector::Tty(sysfs::resolve(&self.root, &path)),
            other => other,
        }
    }

    fn named_device(&self, named: &Named, found: &[Device]) -> Result<Option<Device>, DiscoverError> {
        match named {
            Named::Tty(path) => {
                let known = found.iter().any(|device| device.tty.as_ref().is_some_and(|tty| tty.node == *path));
                Ok(if known { None } else { sysfs::bare_tty(&self.root, path) })
            }
            Named::Tcp(address) => Ok(Some(stream(address))),
            Named::Usbip { .. } => Ok(None),
        }
    }
}

/// A byte stream: nothing is known of what is behind it.
fn stream(address: &str) -> Device {
    Device {
        place: Place::Tcp(address.to_owned()),
        mode: crate::discover::Mode::Unknown,
        usb: None,
        tty: None,
        usbfs: None,
        mcu: None,
    }
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
        for named in &self.named {
            let device = self.named_device(named, &scan.devices)?;
            scan.devices.extend(device);
            scan.looked_at.push(match named {
                Named::Tty(path) => sysfs::under(&self.root, path),
                Named::Tcp(address) => format!("tcp://{address}").into(),
                Named::Usbip { server, busid } => format!("usbip://{server}/{busid}").into(),
            });
        }
        Ok(scan)
    }

    fn open_serial(&self, device: &Device, _baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        let _ = device;
        Err(LinkError::Unsupported { what: "a byte stream" })
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        let _ = device;
        Err(LinkError::Unsupported { what: "USB" })
    }

    fn holders(&self, device: &Device) -> Holders {
        let tty = device.tty.as_ref().and_then(|tty| tty.numbers);
        let usbfs =
            device.usb.as_ref().map(|usb| usbfs_numbers(usb.bus, usb.number)).filter(|_| device.usbfs.is_some());
        let numbers: Vec<_> = tty.into_iter().chain(usbfs).collect();
        if numbers.is_empty() { Holders::Unknown } else { holders::holders(&self.root, &numbers) }
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        let lock = PlaceLock::take(&self.root, self.lock_folder.as_deref(), &device.place)?;
        Ok(Box::new(lock))
    }
}
