//! One pty with a board behind it.
//!
//! A pty has neither modem lines nor parity, but its master sees whether the slave is open and at which speed. So DTR is
//! up while the slave is open: what a tty does by default. The slave is not held open here, as some flashers refuse a tty
//! that any process has open.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

use kflash::link::Setup;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::live::Live;
use crate::mount;

/// What the reader of a terminal hands to the board's thread. The number is the terminal's, so that what an old one still
/// had to say is not taken for the new one's.
#[derive(Debug)]
pub struct Message(u64, Happening);

#[derive(Debug)]
enum Happening {
    /// The host opened it.
    Opened,
    /// The host closed it, at this speed.
    Closed(u32),
    /// The host sent bytes at this speed.
    Bytes(u32, Vec<u8>),
}

/// What carries the bytes on the board's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Its UART.
    Uart {
        /// Whether DTR resets the chip.
        opening_resets: bool,
    },
    /// A CDC device: the interface of its class requests, its bulk OUT and its bulk IN endpoint.
    Cdc {
        /// `bInterfaceNumber`.
        interface: u8,
        /// `bEndpointAddress`.
        output: u8,
        /// `bEndpointAddress`.
        input: u8,
    },
}

/// One pty, from its appearance to its end.
pub struct Terminal {
    number: u64,
    wire: Wire,
    master: File,
    slave: PathBuf,
    open: bool,
    /// Bytes that the host has not taken yet.
    unread: VecDeque<u8>,
    /// Its reader ends when this is dropped.
    _stop: PipeWriter,
}

/// How much is asked of a bulk endpoint at once.
const READ: usize = 4096;
/// Between looks whether the slave was opened: the master is not woken by that.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// Before the host is offered again what it had no room for.
const RETRY: Duration = Duration::from_millis(5);

/// SET_CONFIGURATION (USB 2.0 §9.4.7).
const SET_CONFIGURATION: (u8, u8) = (0x00, 9);
/// SET_LINE_CODING and SET_CONTROL_LINE_STATE (USB PSTN 1.2 §6.3.10, §6.3.12).
const SET_LINE_CODING: (u8, u8) = (0x21, 0x20);
const SET_CONTROL_LINE_STATE: (u8, u8) = (0x21, 0x22);

impl Terminal {
    /// Opens a pty in raw mode. What the host does with it goes into `queue`.
    pub fn open(number: u64, wire: Wire, live: &mut Live, queue: &SyncSender<mount::Message>) -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = PathBuf::from(OsStr::from_bytes(ptsname(&master, Vec::new())?.as_bytes()));
        {
            // The mode outlasts the closing of the slave, and having been open once makes the master say when it is not.
            let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
            let mut mode = tcgetattr(&slave)?;
            mode.make_raw();
            mode.set_speed(9600)?;
            tcsetattr(&slave, OptionalActions::Now, &mode)?;
        }
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let master = File::from(master);
        let (stopped, stop) = io::pipe()?;
        let (reader, queue) = (master.try_clone()?, queue.clone());
        thread::spawn(move || {
            // The pty ends with the board's enumeration, or with the process.
            let _ = read(number, reader, &stopped, &queue);
        });
        let terminal = Self { number, wire, master, slave, open: false, unread: VecDeque::new(), _stop: stop };
        if let Wire::Cdc { .. } = wire {
            // As a host does when it has read the descriptors.
            terminal.request(live, SET_CONFIGURATION, 1, &[]);
        }
        Ok(terminal)
    }

    /// The node that the host opens.
    pub fn slave(&self) -> &Path {
        &self.slave
    }

    /// Takes what its reader handed over.
    pub fn take(&mut self, live: &mut Live, Message(number, happening): Message) {
        if number != self.number {
            return;
        }
        live.touched();
        match happening {
            Happening::Opened => self.open = true,
            Happening::Closed(_) => {
                self.open = false;
                self.unread.clear();
            }
            Happening::Bytes(..) => {}
        }
        match (happening, self.wire) {
            (Happening::Opened, Wire::Uart { opening_resets: true }) => {
                let (board, now) = live.board();
                board.press_reset(now);
            }
            (Happening::Opened | Happening::Closed(_), Wire::Uart { .. }) => {}
            (Happening::Opened, Wire::Cdc { .. }) => self.request(live, SET_CONTROL_LINE_STATE, 3, &[]),
            (Happening::Closed(baud), Wire::Cdc { .. }) => {
                self.code_line(live, baud);
                self.request(live, SET_CONTROL_LINE_STATE, 0, &[]);
            }
            (Happening::Bytes(baud, bytes), Wire::Uart { .. }) => {
                let (board, now) = live.board();
                board.uart_write(now, baud, &bytes);
            }
            (Happening::Bytes(_, bytes), Wire::Cdc { output, .. }) => {
                let (board, now) = live.board();
                // A host that writes to a device that stalls loses the bytes.
                let _ = board.bulk_out(now, output & 0x0f, &bytes);
            }
        }
    }

    /// Moves the board's bytes to the host. Returns when it must be called again at the latest, where that is known.
    pub fn follow(&mut self, live: &mut Live) -> io::Result<Option<Duration>> {
        loop {
            while !self.unread.is_empty() {
                match self.master.write(self.unread.as_slices().0) {
                    Ok(taken) => drop(self.unread.drain(..taken)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(live.now() + RETRY)),
                    Err(error) => return Err(error),
                }
            }
            let (board, now) = live.board();
            let bytes = match self.wire {
                Wire::Uart { .. } => board.uart_read(now, speed(&self.master)?),
                // Nobody asks a CDC device for bytes while its tty is closed: it keeps them.
                Wire::Cdc { input, .. } if self.open => board.bulk_in(now, input, READ).unwrap_or_default(),
                Wire::Cdc { .. } => Vec::new(),
            };
            if bytes.is_empty() {
                return Ok(None);
            }
            live.touched();
            // What arrives on a closed UART is lost.
            if self.open {
                self.unread.extend(bytes);
            }
        }
    }

    fn code_line(&self, live: &mut Live, baud: u32) {
        // One stop bit, no parity, eight bits.
        let [a, b, c, d] = baud.to_le_bytes();
        self.request(live, SET_LINE_CODING, 0, &[a, b, c, d, 0, 0, 8]);
    }

    /// A class request to the CDC device, or SET_CONFIGURATION.
    fn request(&self, live: &mut Live, (request_type, request): (u8, u8), value: u16, data: &[u8]) {
        let Wire::Cdc { interface, .. } = self.wire else { return };
        let index = if request_type & 0x1f == 1 { u16::from(interface) } else { 0 };
        let (board, now) = live.board();
        // cdc_acm goes on whatever the device answers.
        let _ = board.control(now, Setup { request_type, request, value, index }, data, data.len() as u16);
    }
}

/// Hands over what the host does with the pty until the terminal is closed.
fn read(number: u64, mut master: File, stopped: &PipeReader, queue: &SyncSender<mount::Message>) -> io::Result<()> {
    let tell = |happening| queue.send(mount::Message::Pty(Message(number, happening))).map_err(io::Error::other);
    let mut open = false;
    let mut baud = speed(&master)?;
    let mut buffer = [0; 4096];
    loop {
        // The master of a closed slave is always "ready": look at it now and then instead of waiting for it.
        let mut fds = [PollFd::new(stopped, PollFlags::empty()), PollFd::new(&master, PollFlags::IN)];
        poll(&mut fds[..if open { 2 } else { 1 }], if open { None } else { Some(&LOOK) })?;
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        poll(&mut fds[1..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let seen = fds[1].revents();
        let now = speed(&master)?;
        if seen.contains(PollFlags::IN) {
            // Otherwise the slave was closed after the look (EIO), which the next one will see.
            if let Ok(length) = master.read(&mut buffer) {
                if !open {
                    tell(Happening::Opened)?;
                    open = true;
                }
                tell(Happening::Bytes(now, buffer[..length].to_vec()))?;
                continue;
            }
        }
        let closed = seen.contains(PollFlags::HUP);
        // Whoever opens and closes between two looks leaves at least the speed that they set.
        if !open && (!closed || now != baud) {
            tell(Happening::Opened)?;
            open = true;
        }
        if open && closed {
            tell(Happening::Closed(now))?;
            open = false;
            baud = now;
        }
    }
}

/// The speed that the slave is set to.
fn speed(master: &File) -> io::Result<u32> {
    Ok(tcgetattr(master)?.output_speed())
}
