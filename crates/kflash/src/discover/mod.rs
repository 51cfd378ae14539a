//! Stage 1: what is plugged in, from sysfs alone. No device is opened.

mod folder;
pub(crate) mod holders;
mod mode;
pub(crate) mod remote;
pub(crate) mod sysfs;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

pub use self::mode::{KNOWN_IDS, KnownId, mode_of};

/// A USB port path such as `1-1.4`: bus 1, root port 1, hub port 4. It survives re-enumeration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct UsbPath(String);

/// Vendor and product id of a USB device, written `1d50:614e`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsbId {
    /// `idVendor`.
    pub vendor: u16,
    /// `idProduct`.
    pub product: u16,
}

/// Where a device is found again, whatever it calls itself after re-enumeration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A USB port of this host.
    Usb(UsbPath),
    /// A tty without a USB parent: a UART, a pty.
    Tty(PathBuf),
    /// A byte stream served over TCP, `host:port`.
    Tcp(String),
    /// A device exported by a USB/IP server.
    Usbip {
        /// `host:port`.
        server: String,
        /// The device's bus id on that server, such as `1-1`.
        busid: String,
    },
    /// Behind a debug probe, which is named as `--probe` takes it.
    Probe(String),
}

/// What a device is at the moment, as its USB ids and names tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Running Klipper on its own USB.
    Klipper,
    /// Running Klipper as a USB-CAN bridge: not supported yet.
    KlipperCanBridge,
    /// In Katapult.
    Katapult,
    /// In a DfuSe bootloader: ST's ROM or its GD32 and APM32 likenesses.
    Dfu,
    /// A USB-UART bridge; what is behind it is not known without opening it.
    UartBridge,
    /// In the boot ROM of an RP2040 or RP2350: not supported yet.
    Rp2Boot,
    /// Something else, or a bare tty.
    Unknown,
}

/// One device, as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Where it is.
    pub place: Place,
    /// What it is at the moment.
    pub mode: Mode,
    /// What USB says of it; `None` for a bare tty or a TCP stream.
    pub usb: Option<UsbIdentity>,
    /// Its tty, where it has one.
    pub tty: Option<TtyNode>,
    /// Its usbfs node, such as `/dev/bus/usb/001/005`.
    pub usbfs: Option<PathBuf>,
    /// The MCU that its product or serial string names, such as `stm32f446xx`. A hint: it proves nothing.
    pub mcu: Option<String>,
}

/// What the USB descriptors of a device say. Strings are the device's own words: show them only through `escape_debug`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UsbIdentity {
    /// Vendor and product.
    pub id: UsbId,
    /// `bcdDevice`, such as 0x2200.
    pub revision: u16,
    /// Bus number, as in the usbfs node; changes with every re-enumeration.
    pub bus: u16,
    /// Device number, as in the usbfs node; changes with every re-enumeration.
    pub number: u16,
    /// `iManufacturer`.
    pub manufacturer: Option<String>,
    /// `iProduct`.
    pub product: Option<String>,
    /// `iSerialNumber`.
    pub serial: Option<String>,
}

/// A tty of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TtyNode {
    /// `/dev/ttyACM0`, without the host root.
    pub node: PathBuf,
    /// The link in `/dev/serial/by-id` that leads to it, which `printer.cfg` should name.
    pub by_id: Option<PathBuf>,
    /// Major and minor number, where sysfs tells.
    pub numbers: Option<(u32, u32)>,
}

/// The devices of a host and the places that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scan {
    /// What was found, by place.
    pub devices: Vec<Device>,
    /// The directories that were read, or found missing.
    pub looked_at: Vec<PathBuf>,
}

/// Why devices could not be listed.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// A directory cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A network server of devices cannot be reached.
    #[error("cannot reach {server}: {source}")]
    Unreachable {
        /// `host:port`.
        server: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Why a text is no USB port path or id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseUsbError {
    /// Not of the form `1-1.4`.
    #[error("{0:?} is no USB port path such as 1-1.4")]
    Path(String),
    /// Not of the form `1d50:614e`.
    #[error("{0:?} is no USB id such as 1d50:614e")]
    Id(String),
}

impl UsbPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UsbPath {
    type Err = ParseUsbError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| part.parse::<u8>().is_ok_and(|n| n > 0) && !part.starts_with('+');
        match text.split_once('-') {
            Some((bus, ports)) if number(bus) && ports.split('.').all(number) => Ok(Self(text.to_owned())),
            _ => Err(ParseUsbError::Path(text.to_owned())),
        }
    }
}

impl fmt::Display for UsbPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl UsbId {
    /// An id from its two halves.
    pub const fn new(vendor: u16, product: u16) -> Self {
        Self { vendor, product }
    }
}

impl FromStr for UsbId {
    type Err = ParseUsbError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half =
            |part: &str| u16::from_str_radix(part, 16).ok().filter(|_| part.len() == 4 && !part.starts_with('+'));
        text.split_once(':')
            .and_then(|(vendor, product)| Some(Self { vendor: half(vendor)?, product: half(product)? }))
            .ok_or_else(|| ParseUsbError::Id(text.to_owned()))
    }
}

impl fmt::Display for UsbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.product)
    }
}

impl Serialize for UsbId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for UsbId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usb(path) => write!(f, "{path}"),
            Self::Tty(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Usbip { server, busid } => write!(f, "usbip://{server}/{busid}"),
            Self::Probe(probe) => write!(f, "debug probe {probe}"),
        }
    }
}
