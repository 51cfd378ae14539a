//! USB/IP (the kernel's Documentation/usb/usbip_protocol.rst, version 1.1.1): over TCP for any client, or straight into
//! the vhci driver of this machine.

pub mod server;
pub mod session;
pub mod vhci;
pub mod wire;

use std::net::TcpStream;
use std::sync::mpsc::{Sender, SyncSender};

/// What a peer's reader thread hands to the board's.
#[derive(Debug)]
pub enum Message {
    /// OP_REQ_DEVLIST: answer on this stream.
    List(TcpStream),
    /// OP_REQ_IMPORT of a bus id: answer on this stream, then tell the reader under which number it goes on.
    Import(TcpStream, String, Sender<u64>),
    /// A request of the session with this number.
    Request(u64, wire::Request),
    /// The session's peer hung up, or broke the protocol in this way.
    Closed(u64, String),
}

/// Reads requests of session `number` until the peer hangs up, breaks the protocol, or nobody wants them any more.
fn read_requests(mut stream: impl std::io::Read, number: u64, queue: &SyncSender<super::Message>) {
    loop {
        let message = match wire::read_request(&mut stream) {
            Ok(request) => Message::Request(number, request),
            Err(error) => Message::Closed(number, error.to_string()),
        };
        let over = matches!(message, Message::Closed(..));
        if queue.send(super::Message::Usbip(message)).is_err() || over {
            return;
        }
    }
}
