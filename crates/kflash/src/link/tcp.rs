//! A byte stream over TCP: a serial port that another machine or a simulator serves raw.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::{ByteLink, LinkError};

/// How long each address of the host may take to accept.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the peer may take no byte.
const WRITE: Duration = Duration::from_secs(5);

/// A connection to `host:port`.
#[derive(Debug)]
pub struct TcpLink {
    stream: TcpStream,
    address: String,
    /// The stream's read timeout, so that it is set only when it changes.
    timeout: Duration,
}

impl TcpLink {
    /// Connects to `host:port`, to the first of its addresses that accepts.
    pub fn connect(address: &str) -> Result<Self, LinkError> {
        let io = |source| LinkError::Io { node: format!("tcp://{address}"), source };
        let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
        for candidate in address.to_socket_addrs().map_err(io)? {
            match TcpStream::connect_timeout(&candidate, CONNECT) {
                Ok(stream) => {
                    // A command waits for its answer: it must not wait for a fuller packet.
                    stream.set_nodelay(true).map_err(io)?;
                    stream.set_write_timeout(Some(WRITE)).map_err(io)?;
                    return Ok(Self { stream, address: address.to_owned(), timeout: Duration::ZERO });
                }
                Err(error) => last = error,
            }
        }
        Err(io(last))
    }

    fn error(&self, source: std::io::Error) -> LinkError {
        match source.kind() {
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected => LinkError::Gone,
            ErrorKind::WouldBlock | ErrorKind::TimedOut => LinkError::TimedOut(WRITE),
            _ => LinkError::Io { node: format!("tcp://{}", self.address), source },
        }
    }
}

impl ByteLink for TcpLink {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        // A socket takes no timeout of zero.
        let timeout = timeout.max(Duration::from_millis(1));
        if timeout != self.timeout {
            self.stream.set_read_timeout(Some(timeout)).map_err(|error| self.error(error))?;
            self.timeout = timeout;
        }
        match self.stream.read(buf) {
            Ok(0) if !buf.is_empty() => Err(LinkError::Gone),
            Ok(count) => Ok(count),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                Ok(0)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        self.stream.write_all(data).map_err(|error| self.error(error))
    }

    /// The far end keeps the speed that it was set to.
    fn set_baud(&mut self, _baud: u32) -> Result<(), LinkError> {
        Ok(())
    }

    fn set_dtr(&mut self, _on: bool) -> Result<(), LinkError> {
        Err(LinkError::Unsupported { what: "DTR" })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpLink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = TcpLink::connect(&listener.local_addr().unwrap().to_string()).unwrap();
        (link, listener.accept().unwrap().0)
    }

    #[test]
    fn carries_bytes_both_ways() {
        let (mut link, mut peer) = pair();
        link.write(b"CONNECT").unwrap();
        let mut buf = [0; 16];
        assert_eq!(peer.read(&mut buf).unwrap(), 7);
        peer.write_all(b"ACK").unwrap();
        assert_eq!(link.read(&mut buf, Duration::from_secs(5)).unwrap(), 3);
        assert_eq!(&buf[..3], b"ACK");
    }

    #[test]
    fn silence_is_no_error_and_a_hangup_is() {
        let (mut link, peer) = pair();
        assert_eq!(link.read(&mut [0; 4], Duration::ZERO).unwrap(), 0);
        assert_eq!(link.read(&mut [0; 4], Duration::from_millis(5)).unwrap(), 0);
        drop(peer);
        assert!(matches!(link.read(&mut [0; 4], Duration::from_secs(5)), Err(LinkError::Gone)));
    }

    #[test]
    fn modem_lines_are_not_there_and_speeds_do_not_matter() {
        let (mut link, _peer) = pair();
        assert!(matches!(link.set_dtr(true), Err(LinkError::Unsupported { .. })));
        link.set_baud(1200).unwrap();
    }

    #[test]
    fn a_refused_connection_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = TcpLink::connect(&address).unwrap_err().to_string();
        assert!(error.contains(&format!("tcp://{address}")), "{error}");
    }
}
