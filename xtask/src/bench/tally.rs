//! A host that counts what passes its links.

use std::any::Any;
use std::ops::Sub;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::host::{Holders, Host, LockError};
use kflash::link::{ByteLink, LinkError, Setup, UsbLink};
use kflash_sim::host::SimHost;

/// What has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes of a stream; setup and data stages of control requests.
    pub bytes: u64,
    /// Answers that were waited for: turns of a stream from sending to receiving, control requests.
    pub round_trips: u64,
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { bytes: self.bytes - earlier.bytes, round_trips: self.round_trips - earlier.round_trips }
    }
}

type Shared = Arc<Mutex<Counts>>;

/// A simulated host whose links count.
pub struct Tally {
    host: SimHost,
    counts: Shared,
}

impl Tally {
    pub fn new(host: SimHost) -> Self {
        Self { host, counts: Shared::default() }
    }

    /// What has passed so far.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counts: &Shared, bytes: usize, round_trips: u64) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    counts.bytes += bytes as u64;
    counts.round_trips += round_trips;
}

impl Host for Tally {
    fn clock(&self) -> &dyn Clock {
        self.host.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        self.host.scan()
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        let link = self.host.open_serial(device, baud)?;
        Ok(Box::new(Stream { link, counts: Arc::clone(&self.counts), asked: false }))
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        Ok(Box::new(Usb { link: self.host.open_usb(device)?, counts: Arc::clone(&self.counts) }))
    }

    fn holders(&self, device: &Device) -> Holders {
        self.host.holders(device)
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        self.host.lock(device)
    }

    fn simulated(&self) -> bool {
        true
    }
}

struct Stream {
    link: Box<dyn ByteLink>,
    counts: Shared,
    /// Something was sent since something last came.
    asked: bool,
}

impl ByteLink for Stream {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        let count = self.link.read(buf, timeout)?;
        if count > 0 {
            add(&self.counts, count, std::mem::take(&mut self.asked).into());
        }
        Ok(count)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        add(&self.counts, data.len(), 0);
        self.asked = true;
        self.link.write(data)
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.link.set_baud(baud)
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.link.set_dtr(on)
    }
}

struct Usb {
    link: Box<dyn UsbLink>,
    counts: Shared,
}

/// The setup stage of a control request (USB 2.0 §9.3).
const SETUP: usize = 8;

impl UsbLink for Usb {
    fn device_descriptor(&self) -> &[u8] {
        self.link.device_descriptor()
    }

    fn configuration_descriptor(&self) -> &[u8] {
        self.link.configuration_descriptor()
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let answer = self.link.control_in(setup, length, timeout);
        add(&self.counts, SETUP + answer.as_ref().map_or(0, Vec::len), 1);
        answer
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        add(&self.counts, SETUP + data.len(), 1);
        self.link.control_out(setup, data, timeout)
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        add(&self.counts, SETUP, 1);
        self.link.set_alternate(interface, alternate)
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        self.link.bulk_in(endpoint, length, timeout)
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        self.link.bulk_out(endpoint, data, timeout)
    }
}
