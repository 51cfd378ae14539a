//! Ways to reach a simulated board from outside of the process, each in real time.
//!
//! One thread owns the board: it takes [`Message`]s (URBs, bytes of a pty, the buttons that a person presses) from one
//! bounded queue and lets the board's time pass between them. Reader threads only turn bytes into messages.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

pub mod controls;
pub mod descriptors;
pub mod live;
pub mod peripheral;
#[cfg(feature = "swd")]
pub mod probe;
pub mod pty;
pub mod sysfs;
pub mod terminal;
pub mod usbip;

use controls::Control;
use live::Live;

/// How many messages may wait: a reader that is faster than the board waits itself.
pub const QUEUE: usize = 64;

/// What reaches the thread that owns the board.
#[derive(Debug)]
pub enum Message {
    /// From a USB/IP peer.
    Usbip(usbip::Message),
    /// From a pty.
    Pty(pty::Message),
    /// A line of the person or script at the controls.
    Control(String),
    /// A debug probe halted the chip: it does nothing by itself.
    Halted,
    /// A debug probe let go of the chip, which starts with this in its flash.
    Started(Vec<u8>),
    /// End: a signal came, or nobody is at the controls any more.
    Quit,
}

/// Bytes on a UART come every 40 us: they are moved several at a time, as USB-UART bridges do.
const GRAIN: Duration = Duration::from_micros(200);
/// A board to which nothing happens is looked at again after this.
const IDLE: Duration = Duration::from_secs(60);

/// Lets the board live at its mount until [`Message::Quit`] or the control `quit`, then takes it away from the host.
/// `sender` is for the mount's readers, whose messages come out of `queue`.
pub fn serve(
    live: &mut Live,
    mut mount: Mount,
    sender: &SyncSender<Message>,
    queue: &Receiver<Message>,
) -> io::Result<()> {
    loop {
        // What is told has happened: whoever reads "gone" finds the board's nodes gone.
        let due = mount.follow(live, sender)?;
        live.follow()?;
        let due = [due, live.due()].into_iter().flatten().min();
        let wait = due.map_or(IDLE, |due| live.until(due).max(GRAIN));
        let message = queue.recv_timeout(wait);
        live.tick();
        match message {
            Ok(Message::Quit) | Err(RecvTimeoutError::Disconnected) => return mount.close(),
            Ok(Message::Control(line)) if line.trim() == "quit" => return mount.close(),
            Ok(Message::Control(line)) => {
                let done = line.parse().and_then(|control: Control| {
                    mount.check(&control)?;
                    live.control(control).map_err(|error| error.to_string())
                });
                match done {
                    Ok(()) => live.tell(&format!("done {}", line.trim())),
                    Err(error) => live.tell(&format!("error {error}")),
                }
            }
            Ok(Message::Halted) => live.halt(),
            Ok(Message::Started(flash)) => live.start(&flash).map_err(io::Error::other)?,
            Ok(message) => mount.take(live, message),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A way to reach a board.
pub enum Mount {
    /// USB/IP over TCP.
    Usbip(usbip::server::Server),
    /// USB/IP into the kernel of this machine.
    Vhci(usbip::vhci::Vhci),
    /// A pty, maybe with a tree that looks like sysfs and devtmpfs around it.
    Pty(pty::Pty),
}

impl Mount {
    /// Takes a message of its readers. Those of other mounts are not for it and change nothing.
    pub fn take(&mut self, live: &mut Live, message: Message) {
        match (self, message) {
            (Self::Usbip(server), Message::Usbip(message)) => server.take(live, message),
            (Self::Vhci(vhci), Message::Usbip(message)) => vhci.take(live, message),
            (Self::Pty(pty), Message::Pty(message)) => pty.take(live, message),
            _ => {}
        }
    }

    /// Says why it cannot follow the board there, if the control would move it.
    pub fn check(&self, control: &Control) -> Result<(), String> {
        match (self, control) {
            (Self::Vhci(vhci), Control::Plug(Some(port))) => vhci.check(port).map_err(|error| error.to_string()),
            _ => Ok(()),
        }
    }

    /// Takes the board away from the host, for good.
    pub fn close(self) -> io::Result<()> {
        match self {
            // The host sees the end of the stream.
            Self::Usbip(_) | Self::Vhci(_) => Ok(()),
            Self::Pty(mut pty) => pty.close(),
        }
    }

    /// Follows the board: attaches and detaches it, hands over what it has to say. Returns when it must be called again
    /// at the latest, as a time of the board's clock.
    pub fn follow(&mut self, live: &mut Live, queue: &SyncSender<Message>) -> io::Result<Option<Duration>> {
        match self {
            Self::Usbip(server) => Ok(server.follow(live)),
            Self::Vhci(vhci) => vhci.follow(live, queue),
            Self::Pty(pty) => pty.follow(live, queue),
        }
    }
}
