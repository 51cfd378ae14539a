//! A device that USB/IP can attach: a board, or a debug probe.

use std::time::Duration;

use kflash::discover::UsbPath;
use kflash::link::Setup;

use super::live::Live;
use crate::board::{Control, UsbDescriptors};

/// What a host on USB/IP sees.
pub trait Peripheral {
    /// Its clock.
    fn now(&self) -> Duration;

    /// The device, while there is one.
    fn usb(&self) -> Option<&UsbDescriptors>;

    /// The port that it is plugged into.
    fn port(&self) -> &UsbPath;

    /// A control request.
    fn control(&mut self, setup: Setup, data: &[u8], length: u16) -> Control;

    /// What it has for the host on this endpoint; `None` is NAK.
    fn bulk_in(&mut self, endpoint: u8, length: usize) -> Option<Vec<u8>>;

    /// What the host has for it; whether it takes it.
    fn bulk_out(&mut self, endpoint: u8, data: &[u8]) -> bool;

    /// Tells the onlooker.
    fn tell(&mut self, event: &str);
}

impl Peripheral for Live {
    fn now(&self) -> Duration {
        Self::now(self)
    }

    fn usb(&self) -> Option<&UsbDescriptors> {
        Self::usb(self)
    }

    fn port(&self) -> &UsbPath {
        Self::port(self)
    }

    fn control(&mut self, setup: Setup, data: &[u8], length: u16) -> Control {
        self.touched();
        let (board, now) = self.board();
        board.control(now, setup, data, length)
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize) -> Option<Vec<u8>> {
        self.touched();
        let (board, now) = self.board();
        board.bulk_in(now, endpoint, length)
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8]) -> bool {
        self.touched();
        let (board, now) = self.board();
        board.bulk_out(now, endpoint, data)
    }

    fn tell(&mut self, event: &str) {
        Self::tell(self, event);
    }
}
