//! USB/IP straight into the vhci driver of this machine: the board is on a real USB port then. Needs root and the module
//! vhci_hcd; neither TCP nor the `usbip` program.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use kflash::discover::UsbPath;

use super::session::Session;
use super::{Message, read_requests, wire};
use crate::mount;
use crate::mount::peripheral::Peripheral;

/// The first controller, with eight ports of up to high speed.
const CONTROLLER: &str = "/sys/devices/platform/vhci_hcd.0";
/// Between looks at a port that is still in use: the kernel takes some milliseconds to tear a device down.
const LOOK: Duration = Duration::from_millis(5);
/// How long the kernel may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A board in a port of vhci.
pub struct Vhci {
    bus: u32,
    sessions: u64,
    attached: Option<(u64, Session<UnixStream>)>,
    /// The enumeration that was attached last: one that the kernel threw out is not attached again.
    enumeration: Option<u64>,
}

impl Vhci {
    /// Finds the controller.
    pub fn new() -> io::Result<Self> {
        Ok(Self { bus: bus()?, sessions: 0, attached: None, enumeration: None })
    }

    /// The first port that is free, as the port path that its device will have.
    pub fn free_port(&self) -> io::Result<UsbPath> {
        let status = status()?;
        let port = ports(&status).find_map(|(port, free)| free.then_some(port));
        let port = port.ok_or_else(|| io::Error::other("every port of vhci is in use"))?;
        format!("{}-{}", self.bus, port + 1).parse().map_err(io::Error::other)
    }

    /// Whether `path` is one of its ports.
    pub fn check(&self, path: &UsbPath) -> io::Result<()> {
        self.port(path).map(|_| ())
    }

    /// Takes what the reader of the kernel's requests handed over.
    pub fn take(&mut self, live: &mut impl Peripheral, message: Message) {
        let Some((number, session)) = &mut self.attached else { return };
        let end = match message {
            Message::Request(from, request) if from == *number => {
                session.take(live, request).err().map(|error| error.to_string())
            }
            Message::Closed(from, why) if from == *number => Some(why),
            _ => None,
        };
        if let Some(why) = end {
            self.detach(live, &why);
        }
    }

    /// Follows the board. Returns when it must be called again at the latest.
    pub fn follow(
        &mut self,
        live: &mut impl Peripheral,
        queue: &SyncSender<mount::Message>,
    ) -> io::Result<Option<Duration>> {
        let enumeration = live.usb().map(|usb| usb.enumeration);
        if self.enumeration.is_some() && self.enumeration != enumeration {
            self.detach(live, "the board left the bus");
            self.enumeration = None;
        }
        if self.enumeration.is_none() && enumeration.is_some() {
            let port = self.port(live.port())?;
            // A device that is attached before the last one is gone from its port would show up on another one.
            if !ports(&status()?).any(|(number, free)| number == port && free) {
                return Ok(Some(live.now() + LOOK));
            }
            self.attach(port, queue)?;
            self.enumeration = enumeration;
            live.tell("attached");
        }
        let Some((_, session)) = &mut self.attached else { return Ok(None) };
        match session.follow(live) {
            Ok(due) => Ok(due),
            Err(error) => {
                self.detach(live, &error.to_string());
                Ok(None)
            }
        }
    }

    fn attach(&mut self, port: u32, queue: &SyncSender<mount::Message>) -> io::Result<()> {
        let (ours, kernels) = UnixStream::pair()?;
        ours.set_write_timeout(Some(PATIENCE))?;
        let devid = self.bus << 16 | (port + 1);
        let file = format!("{CONTROLLER}/attach");
        // The kernel takes its own hold of the socket.
        fs::write(&file, format!("{port} {} {devid} {}", kernels.as_raw_fd(), wire::FULL_SPEED))
            .map_err(|error| io::Error::new(error.kind(), format!("cannot write {file}: {error}")))?;
        self.sessions += 1;
        let (session, queue, reader) = (self.sessions, queue.clone(), ours.try_clone()?);
        thread::spawn(move || read_requests(reader, session, &queue));
        self.attached = Some((session, Session::new(ours, devid)));
        Ok(())
    }

    fn detach(&mut self, live: &mut impl Peripheral, why: &str) {
        if let Some((_, session)) = self.attached.take() {
            // The end of the stream is what unplugging is to vhci. If the kernel closed first, there is nothing left to close.
            let _ = session.stream().shutdown(Shutdown::Both);
            live.tell(&format!("detached: {why}"));
        }
    }

    /// The controller's number of the port at `path`.
    fn port(&self, path: &UsbPath) -> io::Result<u32> {
        let port = path.as_str().strip_prefix(&format!("{}-", self.bus)).and_then(|port| port.parse::<u32>().ok());
        port.and_then(|port| port.checked_sub(1)).ok_or_else(|| {
            let message = format!("{path} is no port of vhci, whose ports are {0}-1, {0}-2 and so on", self.bus);
            io::Error::new(io::ErrorKind::InvalidInput, message)
        })
    }
}

/// The number of the controller's bus for devices up to high speed; the other one is for SuperSpeed.
fn bus() -> io::Result<u32> {
    let entries = fs::read_dir(CONTROLLER).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read {CONTROLLER}: {error} (is the module vhci_hcd loaded?)"))
    })?;
    for entry in entries {
        let path = entry?.path();
        let speed = read(&path.join("speed")).unwrap_or_default();
        if speed.trim() == "480" {
            return read(&path.join("busnum"))?.trim().parse().map_err(io::Error::other);
        }
    }
    Err(io::Error::other(format!("{CONTROLLER} has no bus for full-speed devices")))
}

fn status() -> io::Result<String> {
    read(&Path::new(CONTROLLER).join("status"))
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot read {}: {error}", path.display())))
}

/// The ports up to high speed in the controller's status file, and whether each is free.
fn ports(status: &str) -> impl Iterator<Item = (u32, bool)> {
    status.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (Some("hs"), Some(port), Some(state)) = (words.next(), words.next(), words.next()) else { return None };
        // VDEV_ST_NULL
        Some((port.parse().ok()?, state == "004"))
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn free_ports_are_read_from_the_status_file() {
        let status = "hub port sta spd dev      sockfd local_busid\n\
                      hs  0000 006 002 00010001 000003 1-1\n\
                      hs  0001 004 000 00000000 000000 0-0\n\
                      ss  0008 004 000 00000000 000000 0-0\n";
        assert_eq!(ports(status).collect::<Vec<_>>(), [(0, false), (1, true)]);
    }

    #[test]
    fn a_port_path_is_a_port_of_the_bus() {
        let vhci = Vhci { bus: 3, sessions: 0, attached: None, enumeration: None };
        assert_eq!(vhci.port(&"3-2".parse().unwrap()).unwrap(), 1);
        vhci.port(&"1-2".parse().unwrap()).unwrap_err();
        vhci.port(&"3-2.1".parse().unwrap()).unwrap_err();
    }
}
