//! USB/IP over TCP, for clients that need neither a kernel driver nor a right: the board is the only exported device.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, channel};
use std::thread;
use std::time::Duration;

use super::session::Session;
use super::wire::{self, Export, Handshake, Refusal};
use super::{Message, read_requests};
use crate::mount;
use crate::mount::descriptors::Identity;
use crate::mount::live::Live;

/// Exports one board.
pub struct Server {
    address: SocketAddr,
    /// The device on the bus: its enumeration and the device number that it got.
    enumerated: Option<(u64, u32)>,
    /// Device numbers are handed out in turn.
    last_number: u32,
    sessions: u64,
    attached: Option<(u64, Session<TcpStream>)>,
}

/// More connections than any test or person needs at once.
const MAX_CONNECTIONS: usize = 16;
/// How long a peer may take to say what it wants, or to take what it is sent.
const PATIENCE: Duration = Duration::from_secs(10);

impl Server {
    /// Listens on `address`. What clients ask for goes into `queue`.
    pub fn listen(address: SocketAddr, queue: &SyncSender<mount::Message>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let queue = queue.clone();
        thread::spawn(move || accept(&listener, &queue));
        Ok(Self { address, enumerated: None, last_number: 0, sessions: 0, attached: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what a client's reader handed over.
    pub fn take(&mut self, live: &mut Live, message: Message) {
        match message {
            Message::List(mut stream) => {
                let exports: Vec<_> = self.export(live).into_iter().collect();
                // A client that does not wait for its answer has lost nothing.
                let _ = stream.write_all(&wire::device_list(&exports));
            }
            Message::Import(stream, busid, go) => {
                if let Some(session) = self.import(live, stream, &busid) {
                    let _ = go.send(session);
                }
            }
            Message::Request(session, request) => {
                if let Some((number, attached)) = &mut self.attached
                    && *number == session
                    && let Err(error) = attached.take(live, request)
                {
                    self.detach(live, &error.to_string());
                }
            }
            Message::Closed(session, why) => {
                if self.attached.as_ref().is_some_and(|(number, _)| *number == session) {
                    self.detach(live, &why);
                }
            }
        }
    }

    /// Follows the board. Returns when it must be called again at the latest.
    pub fn follow(&mut self, live: &mut Live) -> Option<Duration> {
        let enumeration = live.usb().map(|usb| usb.enumeration);
        if enumeration != self.enumerated.map(|(enumeration, _)| enumeration) {
            self.enumerated = None;
            self.detach(live, "the board left the bus");
        }
        if let Some(enumeration) = enumeration
            && self.enumerated.is_none()
        {
            self.last_number = self.last_number % 127 + 1;
            self.enumerated = Some((enumeration, self.last_number));
        }
        match self.attached.as_mut()?.1.follow(live) {
            Ok(due) => due,
            Err(error) => {
                self.detach(live, &error.to_string());
                None
            }
        }
    }

    fn import(&mut self, live: &mut Live, mut stream: TcpStream, busid: &str) -> Option<u64> {
        let export = self.export(live).filter(|export| export.busid == busid);
        let answer = match &export {
            None => Err(Refusal::NoDevice),
            Some(_) if self.attached.is_some() => Err(Refusal::Busy),
            Some(export) => Ok(export),
        };
        stream.write_all(&wire::import(answer)).ok()?;
        let devid = answer.ok()?.devid();
        self.sessions += 1;
        self.attached = Some((self.sessions, Session::new(stream, devid)));
        live.tell("attached");
        Some(self.sessions)
    }

    fn detach(&mut self, live: &mut Live, why: &str) {
        if let Some((_, session)) = self.attached.take() {
            // Its reader ends with the connection. A peer that hung up has closed it already.
            let _ = session.stream().shutdown(Shutdown::Both);
            live.tell(&format!("detached: {why}"));
        }
    }

    /// What is exported now.
    fn export(&self, live: &Live) -> Option<Export> {
        let (enumeration, device) = self.enumerated?;
        let usb = live.usb().filter(|usb| usb.enumeration == enumeration)?;
        let busid = live.port().to_string();
        let bus = busid.split('-').next()?.parse().ok()?;
        Some(Export { busid, bus, device, identity: Identity::of(usb)? })
    }
}

fn accept(listener: &TcpListener, queue: &SyncSender<mount::Message>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: let some be closed.
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (queue, open) = (queue.clone(), Arc::clone(&open));
        thread::spawn(move || {
            // A connection that breaks in the handshake leaves nothing behind that could be told.
            let _ = converse(stream, &queue);
            open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One client, from its handshake to its end.
fn converse(mut stream: TcpStream, queue: &SyncSender<mount::Message>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let send = |message| queue.send(mount::Message::Usbip(message)).map_err(io::Error::other);
    match wire::read_handshake(&mut stream)? {
        Handshake::List => send(Message::List(stream))?,
        Handshake::Import(busid) => {
            let (go, answer) = channel();
            send(Message::Import(stream.try_clone()?, busid, go))?;
            // Without an answer the import was refused.
            if let Ok(session) = answer.recv() {
                // An attached host may be silent for ever.
                stream.set_read_timeout(None)?;
                read_requests(stream, session, queue);
            }
        }
    }
    Ok(())
}
