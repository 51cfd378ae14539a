//! A USB device on a USB/IP server, in user space: no kernel module, no root.
//!
//! The protocol is the kernel's `Documentation/usb/usbip_protocol.rst`, version 1.1.1; all its numbers are big-endian.
//! A server is not trusted: whatever it sends is bounded, and after nonsense the connection counts as gone.

mod wire;

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

pub use self::wire::Exported;
use self::wire::{Command, Head};
use super::{LinkError, Setup, UsbLink};

/// For connecting, for the handshake, and for a server to take back a request.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests to a device that was just imported.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A server learns a moment late that its last client let go of a device.
const GIVEN_BACK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(20);
/// More devices than a machine has ports.
const MOST_DEVICES: u32 = 1024;

/// A device imported from a USB/IP server. It is given back when this is dropped.
pub struct UsbipLink {
    connection: Connection,
    device_id: u32,
    sequence: u32,
    device_descriptor: Vec<u8>,
    configuration: Vec<u8>,
}

/// The devices that `server` (`host:port`) exports.
pub fn list(server: &str) -> Result<Vec<Exported>, LinkError> {
    let mut connection = Connection::open(server)?;
    let deadline = Instant::now() + SERVER_TIMEOUT;
    connection.send(&wire::list_request())?;
    connection.operation_reply(wire::REPLY_LIST, deadline)?;
    let count = connection.take(4, deadline)?;
    let count = u32::from_be_bytes([count[0], count[1], count[2], count[3]]);
    if count > MOST_DEVICES {
        return Err(LinkError::Malformed(format!("{server} claims to export {count} devices")));
    }
    let mut devices = Vec::new();
    for _ in 0..count {
        let mut device = connection.exported(deadline)?;
        for _ in 0..device.interface_count {
            let interface = connection.take(wire::INTERFACE_LENGTH, deadline)?;
            device.interfaces.push([interface[0], interface[1], interface[2]]);
        }
        devices.push(device);
    }
    Ok(devices)
}

impl UsbipLink {
    /// Imports the device `busid` (such as `1-1`) of `server` (`host:port`) and configures it, as a host does
    /// with a device that was plugged in.
    pub fn open(server: &str, busid: &str) -> Result<Self, LinkError> {
        let request = wire::import_request(busid)
            .ok_or_else(|| LinkError::Malformed(format!("{busid:?} is no bus id of a USB/IP server")))?;
        let give_up = Instant::now() + GIVEN_BACK;
        let (mut connection, deadline) = loop {
            let mut connection = Connection::open(server)?;
            let deadline = Instant::now() + SERVER_TIMEOUT;
            connection.send(&request)?;
            match connection.operation_reply(wire::REPLY_IMPORT, deadline) {
                Ok(()) => break (connection, deadline),
                Err(LinkError::Busy { .. }) if Instant::now() < give_up => std::thread::sleep(RETRY),
                Err(LinkError::Busy { .. }) => {
                    return Err(LinkError::Busy { node: format!("usbip://{server}/{busid}") });
                }
                Err(error) => return Err(error),
            }
        };
        let device = connection.exported(deadline)?;
        if device.busid != busid {
            return Err(LinkError::Stale {
                node: format!("usbip://{server}/{}", device.busid.escape_debug()),
                expected: busid.to_owned(),
            });
        }
        let mut link = Self {
            connection,
            device_id: device.bus << 16 | device.number & 0xffff,
            sequence: 0,
            device_descriptor: Vec::new(),
            configuration: Vec::new(),
        };
        link.device_descriptor = link.descriptor(0x0100, 18)?;
        let head = link.descriptor(0x0200, 9)?;
        let &[_, _, low, high, _, value, ..] = head.as_slice() else {
            return Err(LinkError::Malformed(format!("configuration descriptor is {head:02x?}")));
        };
        link.configuration = link.descriptor(0x0200, u16::from_le_bytes([low, high]))?;
        // SET_CONFIGURATION, USB 2.0 §9.4.7.
        let setup = Setup { request_type: 0x00, request: 0x09, value: value.into(), index: 0 };
        link.control_out(setup, &[], REQUEST_TIMEOUT)?;
        Ok(link)
    }

    /// Bus and number of the device on its server, which change with every enumeration: the number in the lower 16 bits.
    pub fn device_id(&self) -> u32 {
        self.device_id
    }

    fn descriptor(&mut self, value: u16, length: u16) -> Result<Vec<u8>, LinkError> {
        self.control_in(Setup { request_type: 0x80, request: 0x06, value, index: 0 }, length, REQUEST_TIMEOUT)
    }

    /// Sends one request to the device and waits for what becomes of it; takes it back when its time is up.
    fn submit(&mut self, mut command: Command, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let sequence = self.next_sequence();
        command.sequence = sequence;
        command.device_id = self.device_id;
        let most = command.in_length;
        let deadline = Instant::now() + timeout;
        self.connection.send(&command.encode())?;
        match self.connection.reply(sequence, most, deadline)? {
            Some(Reply::Submitted { status, data }) => self.outcome(status, data, timeout),
            Some(Reply::Unlinked { .. }) => Err(self.connection.broken("an answer to no question")),
            None => self.unlink(sequence, most, timeout),
        }
    }

    /// Takes back a request. It may have been done in the meantime: then its answer comes first and counts.
    fn unlink(&mut self, submitted: u32, most: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let sequence = self.next_sequence();
        let deadline = Instant::now() + SERVER_TIMEOUT;
        self.connection.send(&wire::encode_unlink(sequence, self.device_id, submitted))?;
        let mut outcome = Err(LinkError::TimedOut(timeout));
        loop {
            match self.connection.reply(submitted, most, deadline)? {
                Some(Reply::Submitted { status, data }) => outcome = self.outcome(status, data, timeout),
                Some(Reply::Unlinked { sequence: answered }) if answered == sequence => return outcome,
                Some(Reply::Unlinked { .. }) => return Err(self.connection.broken("an answer to no question")),
                None => return Err(self.connection.broken("no answer to a request that was taken back")),
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        // 0 is not used by the kernel's client.
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        self.sequence
    }

    /// The status of a request is a negated errno of Linux (`usbip_protocol.rst`, USBIP_RET_SUBMIT).
    fn outcome(&self, status: i32, data: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        match -status {
            0 => Ok(data),
            // EPIPE
            32 => Err(LinkError::Stall),
            // ENODEV, ESHUTDOWN, ENXIO
            19 | 108 | 6 => Err(LinkError::Gone),
            // ENOENT, ECONNRESET: taken back. ETIMEDOUT
            2 | 104 | 110 => Err(LinkError::TimedOut(timeout)),
            errno => Err(LinkError::Io {
                node: self.connection.server.clone(),
                source: match errno {
                    1..=4095 => io::Error::from_raw_os_error(errno),
                    _ => io::Error::other(format!("status {status}")),
                },
            }),
        }
    }
}

impl UsbLink for UsbipLink {
    fn device_descriptor(&self) -> &[u8] {
        &self.device_descriptor
    }

    fn configuration_descriptor(&self) -> &[u8] {
        &self.configuration
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        self.submit(Command::control_in(setup, length), timeout)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let length = u16::try_from(data.len())
            .map_err(|_| LinkError::Unsupported { what: "a control transfer of more than 65535 bytes" })?;
        self.submit(Command::control_out(setup, length, data), timeout).map(drop)
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        // SET_INTERFACE, USB 2.0 §9.4.10.
        let setup = Setup { request_type: 0x01, request: 0x0b, value: alternate.into(), index: interface.into() };
        self.control_out(setup, &[], REQUEST_TIMEOUT)
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        match self.submit(Command::bulk_in(endpoint, length), timeout) {
            Err(LinkError::TimedOut(_)) => Ok(Vec::new()),
            result => result,
        }
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        self.submit(Command::bulk_out(endpoint, data), timeout).map(drop)
    }
}

/// A connection to a server, with what came in but is not a whole answer yet.
struct Connection {
    server: String,
    stream: TcpStream,
    inbox: Vec<u8>,
    /// After nonsense or silence nothing that comes can be understood any more.
    broken: bool,
}

impl Connection {
    fn open(server: &str) -> Result<Self, LinkError> {
        let failed = |source| LinkError::Io { node: server.to_owned(), source };
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in server.to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&address, SERVER_TIMEOUT) {
                Ok(stream) => {
                    // Requests are small and each waits for its answer.
                    stream.set_nodelay(true).map_err(failed)?;
                    stream.set_write_timeout(Some(SERVER_TIMEOUT)).map_err(failed)?;
                    return Ok(Self { server: server.to_owned(), stream, inbox: Vec::new(), broken: false });
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    fn broken(&mut self, what: &str) -> LinkError {
        self.broken = true;
        LinkError::Malformed(format!("{}: {what}", self.server))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        if self.broken {
            return Err(LinkError::Gone);
        }
        self.stream.write_all(bytes).map_err(|error| {
            // Part of it may have gone out.
            self.broken = true;
            self.io_error(error)
        })
    }

    fn io_error(&self, source: io::Error) -> LinkError {
        match source.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => LinkError::Gone,
            _ => LinkError::Io { node: self.server.clone(), source },
        }
    }

    /// Waits until the inbox holds `length` bytes; false when the time is up. Nothing that came is lost.
    fn fill(&mut self, length: usize, deadline: Instant) -> Result<bool, LinkError> {
        let mut chunk = [0; 4096];
        while self.inbox.len() < length {
            let left = deadline.saturating_duration_since(Instant::now());
            // A time-out of zero would wait for ever. What is there is read even when the time is up.
            let wait = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(wait)).map_err(|error| self.io_error(error))?;
            let most = chunk.len().min(length - self.inbox.len());
            match self.stream.read(&mut chunk[..most]) {
                Ok(0) => {
                    self.broken = true;
                    return Err(LinkError::Gone);
                }
                Ok(count) => self.inbox.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if left.is_zero() {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.broken = true;
                    return Err(self.io_error(error));
                }
            }
        }
        Ok(true)
    }

    /// The next `length` bytes of the handshake.
    fn take(&mut self, length: usize, deadline: Instant) -> Result<Vec<u8>, LinkError> {
        if self.fill(length, deadline)? {
            return Ok(self.inbox.drain(..length).collect());
        }
        self.broken = true;
        Err(LinkError::TimedOut(SERVER_TIMEOUT))
    }

    /// The head of the answer to a request for the list or for a device.
    fn operation_reply(&mut self, code: u16, deadline: Instant) -> Result<(), LinkError> {
        let head = self.take(wire::OPERATION_LENGTH, deadline)?;
        match wire::decode_operation(&head, code).map_err(|what| self.broken(&what))? {
            0 => Ok(()),
            // ST_NA and ST_DEV_BUSY; older servers say the first of a device that is in use.
            1 | 2 => Err(LinkError::Busy { node: self.server.clone() }),
            // ST_NODEV
            4 => Err(LinkError::Gone),
            status => Err(LinkError::Io {
                node: self.server.clone(),
                source: io::Error::other(format!("server refuses with status {status}")),
            }),
        }
    }

    fn exported(&mut self, deadline: Instant) -> Result<Exported, LinkError> {
        let bytes = self.take(wire::DEVICE_LENGTH, deadline)?;
        Exported::decode(&bytes).map_err(|what| self.broken(&what))
    }

    /// The next answer, whole; `None` when the time is up. `submitted` is the only request that may be answered with
    /// data, of at most `most` bytes.
    fn reply(&mut self, submitted: u32, most: usize, deadline: Instant) -> Result<Option<Reply>, LinkError> {
        if !self.fill(wire::HEADER_LENGTH, deadline)? {
            return Ok(None);
        }
        let head = wire::decode_head(&self.inbox[..wire::HEADER_LENGTH]).map_err(|what| self.broken(&what))?;
        let (sequence, status, length) = match head {
            Head::Unlinked { sequence } => {
                self.inbox.drain(..wire::HEADER_LENGTH);
                return Ok(Some(Reply::Unlinked { sequence }));
            }
            Head::Submitted { sequence, status, length } => (sequence, status, length as usize),
        };
        if sequence != submitted {
            return Err(self.broken("an answer to no question"));
        }
        // Of a request that writes, the length is what was written and nothing follows.
        let length = if most == 0 { 0 } else { length };
        if length > most {
            return Err(self.broken(&format!("{length} bytes in answer to a request for {most}")));
        }
        if !self.fill(wire::HEADER_LENGTH + length, deadline)? {
            return Ok(None);
        }
        let data = self.inbox.drain(..wire::HEADER_LENGTH + length).skip(wire::HEADER_LENGTH).collect();
        Ok(Some(Reply::Submitted { status, data }))
    }
}

/// An answer, whole.
enum Reply {
    /// The request was done; the status is a negated errno.
    Submitted {
        /// 0, or a negated errno.
        status: i32,
        /// What was read.
        data: Vec<u8>,
    },
    /// A request was taken back, or was done already.
    Unlinked {
        /// Of the request to take it back.
        sequence: u32,
    },
}
