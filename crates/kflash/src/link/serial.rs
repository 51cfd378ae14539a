//! A tty of this host, opened for kflash alone.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat;
use serialport::{ErrorKind, SerialPort, TTYPort};

use super::{ByteLink, LinkError};

/// A tty whose device has stopped reading would block for ever.
const STALL: Duration = Duration::from_secs(5);

/// An open tty: raw, 8 data bits, no parity, no flow control, exclusive (`TIOCEXCL` and `flock`).
#[derive(Debug)]
pub struct SerialLink {
    port: TTYPort,
    node: String,
    /// How long the device may take no byte.
    stall: Duration,
}

impl SerialLink {
    /// Opens `path` at `baud`. Opening raises DTR and RTS, which resets boards that wire them to the reset pin.
    pub fn open(path: &Path, baud: u32) -> Result<Self, LinkError> {
        let node = path.display().to_string();
        let opened = TTYPort::open(&serialport::new(path.to_string_lossy(), baud));
        let port = opened.map_err(|error| match error.kind {
            // So the crate reports EBUSY and a lock that is held.
            ErrorKind::NoDevice => LinkError::Busy { node: node.clone() },
            _ => error_on(&node, error),
        })?;
        // Opening leaves the descriptor blocking; neither a wedged device nor a hangup may hold a read or write.
        fcntl(port.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| errno_on(&node, errno))?;
        Ok(Self { port, node, stall: STALL })
    }

    /// Major and minor number of what was opened, to be compared with the device that was meant.
    pub fn numbers(&self) -> Result<(u32, u32), LinkError> {
        let found = stat::fstat(self.port.as_raw_fd()).map_err(|errno| errno_on(&self.node, errno))?;
        // The kernel's major has 12 bits and its minor 20.
        Ok((stat::major(found.st_rdev) as u32, stat::minor(found.st_rdev) as u32))
    }

    /// Waits until the tty can be read or written; false when it could not in `timeout`.
    fn wait(&self, events: PollFlags, timeout: Duration) -> Result<bool, LinkError> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Up to the next millisecond, so as not to return early and spin.
            let millis = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            let mut fds = [PollFd::new(self.port.as_raw_fd(), events)];
            match poll(&mut fds, millis) {
                Ok(0) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno_on(&self.node, errno)),
                Ok(_) => {
                    // What arrived before a hangup can still be read.
                    let seen = fds[0].revents().unwrap_or(PollFlags::empty());
                    return if seen.intersects(events) { Ok(true) } else { Err(LinkError::Gone) };
                }
            }
        }
    }
}

impl ByteLink for SerialLink {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        if !self.wait(PollFlags::POLLIN, timeout)? {
            return Ok(0);
        }
        match nix::unistd::read(self.port.as_raw_fd(), buf) {
            // A tty says "end of file" when its device has hung up.
            Ok(0) if !buf.is_empty() => Err(LinkError::Gone),
            Ok(count) => Ok(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(errno) => Err(errno_on(&self.node, errno)),
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        let mut rest = data;
        while !rest.is_empty() {
            if !self.wait(PollFlags::POLLOUT, self.stall)? {
                return Err(LinkError::TimedOut(self.stall));
            }
            match nix::unistd::write(self.port.as_raw_fd(), rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno_on(&self.node, errno)),
            }
        }
        Ok(())
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.port.set_baud_rate(baud).map_err(|error| error_on(&self.node, error))
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.port.write_data_terminal_ready(on).map_err(|error| {
            // A pty has no modem lines (ENOTTY); some drivers say EINVAL.
            if [Errno::ENOTTY, Errno::EINVAL].iter().any(|errno| error.description == errno.desc()) {
                LinkError::Unsupported { what: "DTR" }
            } else {
                error_on(&self.node, error)
            }
        })
    }
}

fn errno_on(node: &str, errno: Errno) -> LinkError {
    match errno {
        Errno::EACCES | Errno::EPERM => LinkError::Denied { node: node.to_owned() },
        Errno::EBUSY => LinkError::Busy { node: node.to_owned() },
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::EIO | Errno::EPIPE => LinkError::Gone,
        _ => LinkError::Io { node: node.to_owned(), source: errno.into() },
    }
}

/// The crate keeps an errno only as its description.
fn error_on(node: &str, error: serialport::Error) -> LinkError {
    let known = [Errno::EACCES, Errno::EPERM, Errno::EBUSY, Errno::ENOENT, Errno::ENODEV, Errno::ENXIO, Errno::EIO];
    match known.into_iter().find(|errno| error.description == errno.desc()) {
        Some(errno) => errno_on(node, errno),
        None => LinkError::Io { node: node.to_owned(), source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::io::{Read, Write};

    use super::*;

    /// A pty whose slave is closed, so that it can be opened by its name.
    fn pty() -> (TTYPort, String) {
        let (master, slave) = TTYPort::pair().unwrap();
        let name = slave.name().unwrap();
        (master, name)
    }

    #[test]
    fn carries_bytes_both_ways() {
        let (mut master, name) = pty();
        let mut link = SerialLink::open(Path::new(&name), 250_000).unwrap();
        link.write(b"\x01\x88\x11\x00\xf1\x7c\x99\x03").unwrap();
        let mut buf = [0; 16];
        assert_eq!(master.read(&mut buf).unwrap(), 8);
        // Nothing is translated: neither carriage returns, nor XON and XOFF, nor ^C.
        master.write_all(b"\r\n\x03\x11\x13\xff").unwrap();
        assert_eq!(link.read(&mut buf, Duration::from_secs(5)).unwrap(), 6);
        assert_eq!(&buf[..6], b"\r\n\x03\x11\x13\xff");
    }

    #[test]
    fn silence_is_no_error_and_a_hangup_is() {
        let (mut master, name) = pty();
        let mut link = SerialLink::open(Path::new(&name), 250_000).unwrap();
        assert_eq!(link.read(&mut [0; 4], Duration::ZERO).unwrap(), 0);
        assert_eq!(link.read(&mut [0; 4], Duration::from_millis(5)).unwrap(), 0);
        master.write_all(b"bye").unwrap();
        drop(master);
        let first = link.read(&mut [0; 4], Duration::from_secs(5));
        assert!(matches!(first, Ok(3) | Err(LinkError::Gone)), "{first:?}");
        assert!(matches!(link.read(&mut [0; 4], Duration::from_secs(5)), Err(LinkError::Gone)));
        assert!(matches!(link.write(b"x"), Err(LinkError::Gone)));
    }

    #[test]
    fn a_reader_that_stalls_ends_the_write() {
        let (_master, name) = pty();
        let mut link = SerialLink::open(Path::new(&name), 250_000).unwrap();
        link.stall = Duration::from_millis(50);
        assert!(matches!(link.write(&vec![0x55; 1 << 20]), Err(LinkError::TimedOut(_))));
    }

    #[test]
    fn a_second_opener_finds_it_busy() {
        let (_master, name) = pty();
        let _link = SerialLink::open(Path::new(&name), 250_000).unwrap();
        let second = SerialLink::open(Path::new(&name), 250_000);
        assert!(matches!(&second, Err(LinkError::Busy { node }) if *node == name), "{second:?}");
    }

    #[test]
    fn a_missing_node_is_a_device_that_is_gone() {
        let missing = SerialLink::open(Path::new("/dev/ttyACM-none"), 250_000);
        assert!(matches!(missing, Err(LinkError::Gone)), "{missing:?}");
    }

    #[test]
    fn a_pty_takes_any_speed_and_has_no_modem_lines() {
        let (master, name) = pty();
        let mut link = SerialLink::open(Path::new(&name), 250_000).unwrap();
        assert!(matches!(link.set_dtr(true), Err(LinkError::Unsupported { .. })));
        link.set_baud(1200).unwrap();
        assert_eq!(master.baud_rate().unwrap(), 1200, "the master sees the 1200-baud touch");
    }

    #[test]
    fn numbers_are_those_of_the_node() {
        use std::os::unix::fs::MetadataExt;
        let (_master, name) = pty();
        let link = SerialLink::open(Path::new(&name), 250_000).unwrap();
        let rdev = std::fs::metadata(&name).unwrap().rdev();
        assert_eq!(link.numbers().unwrap(), (stat::major(rdev) as u32, stat::minor(rdev) as u32));
    }
}
