//! What a person writes after `--device`.

use std::fmt;
use std::str::FromStr;

use super::Selector;
use crate::discover::UsbId;

/// The port that IANA gives to USB/IP.
const USBIP_PORT: &str = "3240";

/// A USB string descriptor has 126 UTF-16 units.
const LONGEST_SERIAL: usize = 126 * 3;

/// Why a text names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSelectorError {
    /// A USB id names a kind of device.
    #[error("{0} is the id of a kind of device, not of one: name its port path, serial number or tty")]
    UsbId(UsbId),
    /// No `host:port`.
    #[error("{0:?} is no address such as tcp://host:port")]
    Address(String),
    /// No USB/IP device.
    #[error("{0:?} is no USB/IP device such as usbip://host:port/1-1")]
    Usbip(String),
    /// Nothing of the kind.
    #[error("{0:?} is no USB port path, serial number, tty, tcp:// or usbip:// address")]
    Text(String),
}

impl FromStr for Selector {
    type Err = ParseSelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(address) = text.strip_prefix("tcp://") {
            let address = host_and_port(address, None).ok_or_else(|| ParseSelectorError::Address(text.to_owned()))?;
            return Ok(Self::Tcp(address));
        }
        if let Some(place) = text.strip_prefix("usbip://") {
            let wrong = || ParseSelectorError::Usbip(text.to_owned());
            let (server, busid) = place.split_once('/').ok_or_else(wrong)?;
            let server = host_and_port(server, Some(USBIP_PORT)).ok_or_else(wrong)?;
            // As the kernel names devices, without its interfaces: 31 bytes of digits, dots and dashes.
            let busid = Some(busid).filter(|busid| !busid.is_empty() && busid.len() < 32);
            let busid = busid.filter(|busid| busid.bytes().all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte)));
            return Ok(Self::Usbip { server, busid: busid.ok_or_else(wrong)?.to_owned() });
        }
        if text.starts_with('/') && text.len() > 1 {
            return Ok(Self::Tty(text.into()));
        }
        if let Ok(path) = text.parse() {
            return Ok(Self::UsbPath(path));
        }
        if let Ok(id) = text.parse() {
            return Err(ParseSelectorError::UsbId(id));
        }
        let serial = !text.is_empty() && text.len() <= LONGEST_SERIAL && !text.contains(['/', '\0']);
        if serial { Ok(Self::Serial(text.to_owned())) } else { Err(ParseSelectorError::Text(text.to_owned())) }
    }
}

/// `host:port`, `[v6]:port`, or `host` alone where there is a default port.
fn host_and_port(text: &str, default: Option<&str>) -> Option<String> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of a bare IPv6 address are no port.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, default?),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |host: &str, more: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c) || more.contains(c))
    };
    let host_fits = bracketed.map_or_else(|| plain(host, ""), |host| plain(host, ":%"));
    let port: u16 = port.parse().ok().filter(|&port| port > 0)?;
    host_fits.then(|| format!("{host}:{port}"))
}

impl fmt::Display for Selector {
    /// As the person writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UsbPath(path) => write!(f, "{path}"),
            Self::Serial(serial) => write!(f, "{}", serial.escape_debug()),
            Self::Tty(path) => write!(f, "{}", path.display().to_string().escape_debug()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Usbip { server, busid } => write!(f, "usbip://{server}/{busid}"),
        }
    }
}
