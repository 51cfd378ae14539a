//! A board on a pty: its UART, or the tty that cdc_acm would make of its USB.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use kflash::discover::UsbId;

use super::descriptors::Identity;
use super::live::Live;
use super::sysfs::{Parent, Tree};
use super::terminal::{Terminal, Wire};
use crate::mount;

pub use super::terminal::Message;

/// Which cable the pty stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cable {
    /// The chip's own USB: a tty while a CDC device is on the bus.
    Usb,
    /// The chip's UART.
    Uart {
        /// The USB-UART bridge before it; without one, it is on the host's own UART.
        bridge: Option<UsbId>,
        /// Whether DTR resets the chip.
        opening_resets: bool,
    },
}

/// A board on a pty.
pub struct Pty {
    cable: Cable,
    tree: Option<Tree>,
    tty: Option<String>,
    terminals: u64,
    /// What is on the host now, by enumeration.
    present: Option<(u64, Option<Terminal>)>,
}

impl Pty {
    /// A pty for `cable`. With `tree` the host around it is made, too; the tty is called `tty` there, or as Linux would
    /// call the first of its kind.
    pub fn new(cable: Cable, tree: Option<Tree>, tty: Option<String>) -> Self {
        Self { cable, tree, tty, terminals: 0, present: None }
    }

    /// Takes what the reader of a terminal handed over.
    pub fn take(&mut self, live: &mut Live, message: Message) {
        if let Some((_, Some(terminal))) = &mut self.present {
            terminal.take(live, message);
        }
    }

    /// Follows the board: makes and removes the tty, moves bytes to the host. Returns when it must be called again at the
    /// latest.
    pub fn follow(&mut self, live: &mut Live, queue: &SyncSender<mount::Message>) -> io::Result<Option<Duration>> {
        let enumeration = match self.cable {
            Cable::Usb => live.usb().map(|usb| usb.enumeration),
            Cable::Uart { .. } => live.plugged().then_some(0),
        };
        if self.present.as_ref().map(|(present, _)| *present) != enumeration {
            if self.present.take().is_some()
                && let Some(tree) = &mut self.tree
            {
                tree.remove()?;
            }
            if let Some(enumeration) = enumeration {
                self.present = Some((enumeration, self.appear(live, queue)?));
            }
        }
        match &mut self.present {
            Some((_, Some(terminal))) => terminal.follow(live),
            _ => Ok(None),
        }
    }

    fn appear(&mut self, live: &mut Live, queue: &SyncSender<mount::Message>) -> io::Result<Option<Terminal>> {
        let (parent, wire, usual) = match &self.cable {
            Cable::Usb => {
                let identity = live.usb().and_then(Identity::of);
                let identity = identity.ok_or_else(|| io::Error::other("the board shows malformed descriptors"))?;
                let wire = identity.cdc().map(|(interface, output, input)| Wire::Cdc { interface, output, input });
                (Some(Parent::Chip(identity)), wire, "ttyACM0")
            }
            Cable::Uart { bridge, opening_resets } => {
                let usual = if bridge.is_some() { "ttyUSB0" } else { "ttyS0" };
                (bridge.map(Parent::Bridge), Some(Wire::Uart { opening_resets: *opening_resets }), usual)
            }
        };
        let terminal = wire.map(|wire| {
            self.terminals += 1;
            Terminal::open(self.terminals, wire, live, queue)
        });
        let terminal = terminal.transpose()?;
        let mut event = terminal.as_ref().map(|terminal| format!("tty pts={}", terminal.slave().display()));
        if let Some(tree) = &mut self.tree {
            let name = live.tty().or(self.tty.as_deref()).unwrap_or(usual);
            let tty = terminal.as_ref().map(|terminal| (name, terminal.slave()));
            let by_id = tree.add(live.port(), parent.as_ref(), tty)?;
            if let Some(event) = &mut event {
                let by_id = by_id.map(|link| format!(" by-id={}", link.display())).unwrap_or_default();
                event.push_str(&[" node=/dev/", name, &by_id].concat());
            }
        }
        if let Some(event) = event {
            live.tell(&event);
        }
        Ok(terminal)
    }

    /// Takes the board's entries out of the host around it.
    pub fn close(&mut self) -> io::Result<()> {
        self.present = None;
        self.tree.as_mut().map_or(Ok(()), Tree::remove)
    }
}
