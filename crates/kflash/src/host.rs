//! The host: where devices are found, opened and locked. The real one reads sysfs; the simulator brings its own.

use std::any::Any;

use serde::Serialize;

use crate::clock::Clock;
use crate::discover::{Device, DiscoverError, Scan};
use crate::link::{ByteLink, LinkError, UsbLink};

/// A machine with boards. The stages of a flash see nothing else of the world.
pub trait Host: Send + Sync {
    /// The host's clock.
    fn clock(&self) -> &dyn Clock;

    /// Every device on the host, without touching one.
    fn scan(&self) -> Result<Scan, DiscoverError>;

    /// Opens the byte stream of `device` at `baud`, for itself alone, and checks that the node still is that device.
    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError>;

    /// Opens `device` by its USB node and checks that the node still is that device.
    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError>;

    /// Whether this host has a node of `device` as it is now. A container keeps the nodes that it was created with: what
    /// enumerates anew may have none there.
    fn has_node(&self, _device: &Device) -> bool {
        true
    }

    /// Who holds the nodes of `device` open.
    fn holders(&self, device: &Device) -> Holders;

    /// Takes the host-wide lock on the device's place, so that two runs of kflash never meet. Released on drop.
    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError>;

    /// Whether this is a simulation; results then say so.
    fn simulated(&self) -> bool {
        false
    }
}

/// Who holds a node open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holders {
    /// These processes, possibly none; `complete` is false where other users' processes cannot be looked into.
    Seen {
        /// The holders found.
        processes: Vec<Holder>,
        /// Whether every process could be looked at.
        complete: bool,
    },
    /// `/proc` does not tell here.
    Unknown,
}

/// A process that holds a node open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Its name, from `/proc/PID/comm`.
    pub name: String,
}

/// Why the lock of a device could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another run holds it.
    #[error("another kflash works on {place}{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held {
        /// The device's place.
        place: String,
        /// The other run's process id, where it is known.
        pid: Option<u32>,
    },
    /// The lock file cannot be made.
    #[error("cannot lock {place}: {source}")]
    Io {
        /// The lock file.
        place: String,
        /// The system's error.
        source: std::io::Error,
    },
}
