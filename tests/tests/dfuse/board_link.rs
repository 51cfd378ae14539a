//! A simulated board's USB, held in the hand: its clock moves when a request takes time or somebody waits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kflash::clock::Clock;
use kflash::link::{LinkError, Setup, UsbLink};
use kflash_sim::board::{Control, UsbDescriptors, VirtualBoard};

/// A control transfer on a full-speed bus, as recorded with the F042.
const TRANSFER: Duration = Duration::from_micros(120);

/// A board with its clock.
#[derive(Clone)]
pub struct Bench(Arc<Mutex<(VirtualBoard, Duration)>>);

impl Bench {
    /// Switches the board on and waits until it shows on the bus.
    pub fn new(mut board: VirtualBoard) -> Self {
        board.power(Duration::ZERO, true);
        let now = Duration::from_secs(2);
        board.advance(now);
        Self(Arc::new(Mutex::new((board, now))))
    }

    /// Looks at the board.
    pub fn with<T>(&self, look: impl FnOnce(&mut VirtualBoard, &mut Duration) -> T) -> T {
        let (board, now) = &mut *self.0.lock().unwrap();
        look(board, now)
    }

    pub fn link(&self) -> BoardLink {
        let usb = self.with(|board, _| board.usb().cloned()).unwrap();
        BoardLink { bench: self.clone(), usb, requests_left: usize::MAX }
    }
}

impl Clock for Bench {
    fn now(&self) -> Duration {
        self.with(|_, now| *now)
    }

    fn sleep(&self, duration: Duration) {
        self.with(|board, now| {
            *now += duration;
            board.advance(*now);
        });
    }
}

/// The host's end of the cable.
pub struct BoardLink {
    bench: Bench,
    usb: UsbDescriptors,
    /// After so many requests the cable is pulled.
    pub requests_left: usize,
}

impl BoardLink {
    fn control(&mut self, setup: Setup, data: &[u8], length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        self.requests_left = self.requests_left.checked_sub(1).ok_or(LinkError::Gone)?;
        let enumeration = self.usb.enumeration;
        self.bench.with(|board, now| {
            *now += TRANSFER;
            board.advance(*now);
            if board.usb().is_none_or(|usb| usb.enumeration != enumeration) {
                return Err(LinkError::Gone);
            }
            match board.control(*now, setup, data, length) {
                Control::Done { held, .. } if held > timeout => {
                    *now += timeout;
                    Err(LinkError::TimedOut(timeout))
                }
                Control::Done { data, held } => {
                    *now += held;
                    Ok(data)
                }
                Control::Stall => Err(LinkError::Stall),
                Control::Vanished => Err(LinkError::Gone),
            }
        })
    }
}

impl UsbLink for BoardLink {
    fn device_descriptor(&self) -> &[u8] {
        &self.usb.device
    }

    fn configuration_descriptor(&self) -> &[u8] {
        &self.usb.configuration
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        self.control(setup, &[], length, timeout)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        self.control(setup, data, data.len() as u16, timeout).map(drop)
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        let setup = Setup { request_type: 0x01, request: 0x0b, value: alternate.into(), index: interface.into() };
        self.control_out(setup, &[], Duration::from_secs(1))
    }

    fn bulk_in(&mut self, _endpoint: u8, _length: usize, _timeout: Duration) -> Result<Vec<u8>, LinkError> {
        Err(LinkError::Stall)
    }

    fn bulk_out(&mut self, _endpoint: u8, _data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        Err(LinkError::Stall)
    }
}
