//! A CMSIS-DAP v2 probe in a port of vhci, with a chip at its wires.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use kflash::discover::UsbPath;
use kflash::link::Setup;

use super::peripheral::Peripheral;
use super::usbip::vhci::Vhci;
use super::{IDLE, Message, QUEUE};
use crate::board::{Control, UsbDescriptors};
use crate::swd::dap::Probe;
use crate::swd::{CoreState, Target};
use crate::usb::{Identity, Session, configuration, descriptors, standard, utf16};

/// Its bulk endpoints.
const OUT: u8 = 0x01;
const IN: u8 = 0x82;

/// When a probe goes wrong, counted in its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// It is pulled out.
    Unplugged(u64),
    /// It answers no more.
    Mute(u64),
}

/// A probe and its port.
pub struct Desk {
    probe: Probe,
    usb: UsbDescriptors,
    session: Session,
    port: UsbPath,
    answers: VecDeque<Vec<u8>>,
    failing: Option<Failing>,
    plugged: bool,
    started: Instant,
    /// Whether a debugger was on the chip when it was looked at last.
    debugged: bool,
    board: SyncSender<Message>,
}

/// Puts a probe with `target` into `port` and serves it, to the end of the process. What it does to the chip, the board
/// behind `board` follows. `ready` is called once the probe is attached.
pub fn serve(
    target: Target,
    serial: &str,
    port: UsbPath,
    failing: Option<Failing>,
    board: SyncSender<Message>,
) -> io::Result<()> {
    let mut vhci = Vhci::new()?;
    vhci.check(&port)?;
    let mut desk = Desk::new(target, serial, port, failing, board);
    let (sender, queue) = sync_channel(QUEUE);
    loop {
        let due = vhci.follow(&mut desk, &sender)?;
        let wait = due.map_or(IDLE, |due| due.saturating_sub(desk.now()).max(Duration::from_millis(1)));
        match queue.recv_timeout(wait) {
            Ok(Message::Usbip(message)) => vhci.take(&mut desk, message),
            Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

impl Desk {
    fn new(target: Target, serial: &str, port: UsbPath, failing: Option<Failing>, board: SyncSender<Message>) -> Self {
        // CMSIS-DAP documents, "Configure USB peripheral": the interface's string tells a probe; OUT before IN.
        let body = [&[9, 4, 0, 0, 2, 0xff, 0, 0, 4][..], &[7, 5, OUT, 2, 64, 0, 0], &[7, 5, IN, 2, 64, 0, 0]].concat();
        let identity = Identity { usb: 0x0200, class: 0, vendor: 0x1209, product: 0xda42, revision: 0x0100 };
        let strings = ["kflash", "simulated CMSIS-DAP", serial, "CMSIS-DAP v2"].map(utf16).to_vec();
        let usb =
            UsbDescriptors { enumeration: 1, ..descriptors(identity, configuration(1, 0x80, 50, &body), strings) };
        Self {
            probe: Probe::new(serial, target),
            usb,
            session: Session::default(),
            port,
            answers: VecDeque::new(),
            failing,
            plugged: true,
            started: Instant::now(),
            debugged: false,
            board,
        }
    }

    /// Tells the board what became of its chip.
    fn follow(&mut self) {
        let target = self.probe.target();
        let debugged = target.is_debugged();
        if std::mem::replace(&mut self.debugged, debugged) == debugged {
            return;
        }
        let state = target.core();
        let runs = !debugged
            && !target.starts_rom()
            && matches!(state, CoreState::Running | CoreState::Sleeping | CoreState::LockedUp);
        let message = if runs { Message::Started(target.flash()) } else { Message::Halted };
        // Without a board there is nobody to tell.
        let _ = self.board.send(message);
    }
}

impl Peripheral for Desk {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn usb(&self) -> Option<&UsbDescriptors> {
        Some(&self.usb).filter(|_| self.plugged)
    }

    fn port(&self) -> &UsbPath {
        &self.port
    }

    fn control(&mut self, setup: Setup, _data: &[u8], length: u16) -> Control {
        standard(&self.usb, &mut self.session, setup, length)
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize) -> Option<Vec<u8>> {
        let mut answer = self.answers.pop_front().filter(|_| endpoint == IN)?;
        answer.truncate(length);
        Some(answer)
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8]) -> bool {
        if endpoint & 0x7f != OUT {
            return false;
        }
        match self.failing {
            Some(Failing::Unplugged(at)) if self.probe.commands() >= at => {
                self.plugged = false;
                return true;
            }
            Some(Failing::Mute(at)) if self.probe.commands() >= at => return true,
            _ => {}
        }
        match self.probe.packet(data) {
            Ok(answer) if answer.is_empty() => {}
            Ok(answer) => self.answers.push_back(answer),
            // A model that breaks answers no more, which no test takes for success.
            Err(_) => self.failing = Some(Failing::Mute(0)),
        }
        self.follow();
        true
    }

    fn tell(&mut self, _event: &str) {}
}
