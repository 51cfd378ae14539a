//! A host that notes which bytes of a run belong to which frame.

use std::any::Any;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::host::{Holders, Host, LockError};
use kflash::link::{ByteLink, LinkError, Setup, UsbLink};
use kflash_sim::host::SimHost;

/// What was sent at once, and what came back before the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Frames of one kind begin alike.
    pub kind: Vec<u8>,
    /// Number of the operation that sent it.
    pub operation: u64,
    /// Numbers of the bytes sent, from 1.
    pub bytes_out: RangeInclusive<u64>,
    /// Numbers of the bytes that came back.
    pub bytes_in: RangeInclusive<u64>,
}

type Frames = Arc<Mutex<Vec<Frame>>>;

/// A simulated host whose traffic is noted.
pub struct TapHost {
    host: SimHost,
    frames: Frames,
}

impl TapHost {
    /// Taps `host`.
    pub fn new(host: SimHost) -> Self {
        Self { host, frames: Frames::default() }
    }

    /// What has passed.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tap<L: ?Sized>(&self, link: Box<L>) -> Tap<L> {
        Tap { link, host: self.host.clone(), frames: Arc::clone(&self.frames) }
    }
}

/// A tapped link.
struct Tap<L: ?Sized> {
    link: Box<L>,
    host: SimHost,
    frames: Frames,
}

impl<L: ?Sized> Tap<L> {
    /// Notes what `act` sends and receives; a frame of its own where it sends.
    fn note<T>(&mut self, kind: Option<Vec<u8>>, act: impl FnOnce(&mut L) -> T) -> T {
        let before = self.host.counters();
        let done = act(&mut self.link);
        let after = self.host.counters();
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_in = before.bytes_in + 1..=after.bytes_in;
        match (kind, frames.last_mut()) {
            (Some(kind), _) => {
                let bytes_out = before.bytes_out + 1..=after.bytes_out;
                frames.push(Frame { kind, operation: before.operations + 1, bytes_out, bytes_in });
            }
            (None, Some(last)) => last.bytes_in = *last.bytes_in.start()..=after.bytes_in,
            (None, None) => {}
        }
        done
    }
}

impl ByteLink for Tap<dyn ByteLink> {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        self.note(None, |link| link.read(buf, timeout))
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        // Katapult's frames and Klipper's blocks differ in their third byte; a block's second is its sequence number.
        let kind = data.iter().take(3).enumerate().filter(|(at, _)| *at != 1).map(|(_, byte)| *byte).collect();
        self.note(Some(kind), |link| link.write(data))
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.link.set_baud(baud)
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.link.set_dtr(on)
    }
}

impl UsbLink for Tap<dyn UsbLink> {
    fn device_descriptor(&self) -> &[u8] {
        self.link.device_descriptor()
    }

    fn configuration_descriptor(&self) -> &[u8] {
        self.link.configuration_descriptor()
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        self.note(Some(kind_of(setup)), |link| link.control_in(setup, length, timeout))
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let kind = [kind_of(setup), data.iter().take(1).copied().filter(|_| setup.value == 0).collect()].concat();
        self.note(Some(kind), |link| link.control_out(setup, data, timeout))
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        self.link.set_alternate(interface, alternate)
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        self.note(None, |link| link.bulk_in(endpoint, length, timeout))
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        self.note(Some(vec![endpoint]), |link| link.bulk_out(endpoint, data, timeout))
    }
}

/// Requests differ in type and number, and those that carry a block number in whether it is 0.
fn kind_of(setup: Setup) -> Vec<u8> {
    vec![setup.request_type, setup.request, u8::from(setup.value == 0)]
}

impl Host for TapHost {
    fn clock(&self) -> &dyn Clock {
        self.host.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        self.host.scan()
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        Ok(Box::new(self.tap(self.host.open_serial(device, baud)?)))
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        Ok(Box::new(self.tap(self.host.open_usb(device)?)))
    }

    fn holders(&self, device: &Device) -> Holders {
        self.host.holders(device)
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        self.host.lock(device)
    }

    fn simulated(&self) -> bool {
        self.host.simulated()
    }
}
