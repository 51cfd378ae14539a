//! A board on a pty: its UART, or the tty that cdc_acm would make of its USB.

use std::io;
use std::path::PathBuf;
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
    /// The name of the tty and its pty, as they were last.
    last: Option<(String, PathBuf)>,
    /// What is on the host now, by enumeration.
    present: Option<(u64, Option<Terminal>)>,
}

impl Pty {
    /// A pty for `cable`. With `tree` the host around it is made, too; the tty is called `tty` there, or as Linux would
    /// call the first of its kind.
    pub fn new(cable: Cable, tree: Option<Tree>, tty: Option<String>) -> Self {
        Self { cable, tree, tty, terminals: 0, last: None, present: None }
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
        let name = live.tty().or(self.tty.as_deref()).unwrap_or(usual).to_owned();
        let terminal = wire.map(|wire| self.open(&name, wire, live, queue)).transpose()?;
        let mut event = terminal.as_ref().map(|terminal| format!("tty pts={}", terminal.slave().display()));
        if let Some(tree) = &mut self.tree {
            let tty = terminal.as_ref().map(|terminal| (&*name, terminal.slave()));
            let by_id = tree.add(live.port(), parent.as_ref(), tty)?;
            if let Some(event) = &mut event {
                let by_id = by_id.map(|link| format!(" by-id={}", link.display())).unwrap_or_default();
                event.push_str(&[" node=/dev/", &name, &by_id].concat());
            }
        }
        if let Some(event) = event {
            live.tell(&event);
        }
        Ok(terminal)
    }

    /// A pty for the tty of this name. Under another name than before it has other numbers, too, as the kernel has it.
    fn open(
        &mut self,
        name: &str,
        wire: Wire,
        live: &mut Live,
        queue: &SyncSender<mount::Message>,
    ) -> io::Result<Terminal> {
        let taken = self.last.take().filter(|(last, _)| last != name).map(|(_, pty)| pty);
        let mut kept = Vec::new();
        loop {
            self.terminals += 1;
            let terminal = Terminal::open(self.terminals, wire, live, queue)?;
            if taken.as_deref() == Some(terminal.slave()) {
                kept.push(terminal);
                continue;
            }
            self.last = Some((name.to_owned(), terminal.slave().to_owned()));
            return Ok(terminal);
        }
    }

    /// Takes the board's entries out of the host around it.
    pub fn close(&mut self) -> io::Result<()> {
        self.present = None;
        self.tree.as_mut().map_or(Ok(()), Tree::remove)
    }
}
