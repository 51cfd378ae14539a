//! Links: how bytes and USB requests reach a device. A link knows nothing of protocols.

pub mod cdc;
pub mod descriptor;
#[cfg(test)]
pub(crate) mod fake;
pub mod serial;
pub mod shared;
pub mod tcp;
pub mod trace;
pub mod usb;
pub mod usbip;

use std::time::Duration;

/// A stream of bytes to a device: a tty, a TCP socket, a simulated wire.
pub trait ByteLink: Send {
    /// Reads what is there into `buf`, waiting up to `timeout` for the first byte. `Ok(0)`: nothing came in time.
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError>;
    /// Writes all of `data`.
    fn write(&mut self, data: &[u8]) -> Result<(), LinkError>;
    /// Sets the line's speed in baud; links without a speed (TCP) accept any.
    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError>;
    /// Raises or drops DTR. [`LinkError::Unsupported`] where the link has no modem lines (a pty, TCP).
    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError>;
}

/// A borrowed link: what is built on it can fail and leave the link to its owner.
impl<L: ByteLink + ?Sized> ByteLink for &mut L {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        (**self).read(buf, timeout)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        (**self).write(data)
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        (**self).set_baud(baud)
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        (**self).set_dtr(on)
    }
}

/// A control request, as in USB 2.0 §9.3; the direction bit follows from the call it is used in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// `bmRequestType`, with the direction bit.
    pub request_type: u8,
    /// `bRequest`.
    pub request: u8,
    /// `wValue`.
    pub value: u16,
    /// `wIndex`.
    pub index: u16,
}

/// An opened USB device with its interface 0 claimed.
pub trait UsbLink: Send {
    /// The device descriptor, 18 bytes.
    fn device_descriptor(&self) -> &[u8];
    /// The whole active configuration descriptor, interfaces and class descriptors included.
    fn configuration_descriptor(&self) -> &[u8];
    /// Reads up to `length` bytes from the default pipe.
    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError>;
    /// Writes `data` to the default pipe.
    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError>;
    /// Selects an alternate setting of an interface.
    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError>;
    /// Reads from a bulk IN endpoint up to `length` bytes, a multiple of its `wMaxPacketSize`; an empty vector when nothing
    /// came in time.
    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError>;
    /// Writes to a bulk OUT endpoint.
    fn bulk_out(&mut self, endpoint: u8, data: &[u8], timeout: Duration) -> Result<(), LinkError>;
}

/// What went wrong on a link, in the terms that decide what happens next.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The device refused the request (USB STALL).
    #[error("request stalled by the device")]
    Stall,
    /// No answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The device left the bus, the port closed, the peer hung up.
    #[error("device is gone")]
    Gone,
    /// The operating system denies access to a node.
    #[error("permission denied on {node}")]
    Denied {
        /// The node, such as `/dev/ttyACM0`.
        node: String,
    },
    /// Another process holds the node.
    #[error("{node} is in use")]
    Busy {
        /// The node.
        node: String,
    },
    /// The node exists but belongs to another device than the one meant.
    #[error("{node} is not the device at {expected} any more")]
    Stale {
        /// The node that was opened.
        node: String,
        /// Where the device was expected.
        expected: String,
    },
    /// The link cannot do this.
    #[error("{what} is not possible on this link")]
    Unsupported {
        /// What was asked.
        what: &'static str,
    },
    /// The device broke the rules of USB or of the link's own protocol.
    #[error("malformed answer: {0}")]
    Malformed(String),
    /// Anything else that the operating system said.
    #[error("{node}: {source}")]
    Io {
        /// The node or address.
        node: String,
        /// The system's error.
        source: std::io::Error,
    },
}
