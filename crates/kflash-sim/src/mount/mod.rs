//! Ways to reach a simulated board from outside of the process, each in real time.
//!
//! One thread owns the board: it takes [`Message`]s (URBs, bytes of a pty, the buttons that a person presses) from one
//! bounded queue and lets the board's time pass between them. Reader threads only turn bytes into messages.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

pub mod controls;
pub mod descriptors;
pub mod live;
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
    /// End: a signal came, or nobody is at the controls any more.
    Quit,
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
