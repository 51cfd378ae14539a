//! A DfuSe bootloader that answers anything: the driver ends, in bounded time and with bounded requests.

#![no_main]

use std::cell::Cell;
use std::sync::Mutex;
use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::chip::DfuQuirk;
use kflash::clock::Clock;
use kflash::link::{LinkError, Setup, UsbLink};
use kflash::proto::Bootloader;
use kflash::proto::dfuse::DfuSe;
use libfuzzer_sys::fuzz_target;

const LAYOUT: &str = "@Internal Flash  /0x08000000/32*128Kg";
const CONFIGURATION: [u8; 27] =
    [9, 2, 27, 0, 1, 1, 0, 0xc0, 50, 9, 4, 0, 0, 0, 0xfe, 1, 2, 4, 9, 0x21, 0x0b, 0xff, 0, 32, 0, 0x1a, 1];

#[derive(Default)]
struct TestClock(Mutex<Duration>);

impl Clock for TestClock {
    fn now(&self) -> Duration {
        self.0.lock().map(|now| *now).unwrap_or_default()
    }

    fn sleep(&self, duration: Duration) {
        if let Ok(mut now) = self.0.lock() {
            *now += duration;
        }
    }
}

/// Answers from the fuzzer's bytes, three for each request, around and around.
struct Device {
    bytes: Vec<u8>,
    at: Cell<usize>,
    left: Cell<usize>,
}

impl Device {
    fn next(&self) -> u8 {
        self.at.set(self.at.get() + 1);
        self.bytes[self.at.get() % self.bytes.len()]
    }

    fn outcome(&self) -> Result<(), LinkError> {
        assert!(self.left.get() > 0, "too many requests");
        self.left.set(self.left.get() - 1);
        match self.next() {
            0xff => Err(LinkError::Stall),
            0xfe => Err(LinkError::TimedOut(Duration::from_secs(1))),
            0xfd => Err(LinkError::Gone),
            _ => Ok(()),
        }
    }
}

impl UsbLink for Device {
    fn device_descriptor(&self) -> &[u8] {
        &[]
    }

    fn configuration_descriptor(&self) -> &[u8] {
        &CONFIGURATION
    }

    fn control_in(&mut self, setup: Setup, length: u16, _timeout: Duration) -> Result<Vec<u8>, LinkError> {
        if setup.request_type == 0x80 {
            let text: Vec<u8> = LAYOUT.encode_utf16().flat_map(u16::to_le_bytes).collect();
            return Ok([vec![2 + text.len() as u8, 3], text].concat());
        }
        self.outcome()?;
        if setup.request == 2 {
            let other = self.next();
            return Ok(vec![0; usize::from(if other < 16 { u16::from(other) } else { length })]);
        }
        // No time at all, or enough of it that a wait of 40 s is a few hundred requests.
        let poll = match self.next() {
            poll @ 0..0x40 => [0, 0, poll & 1],
            poll => [poll | 0x80, 0, 0],
        };
        Ok(vec![self.next() % 16, poll[0], poll[1], poll[2], self.next() % 12, 0])
    }

    fn control_out(&mut self, _setup: Setup, _data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        self.outcome()
    }

    fn set_alternate(&mut self, _interface: u8, _alternate: u8) -> Result<(), LinkError> {
        self.outcome()
    }

    fn bulk_in(&mut self, _endpoint: u8, _length: usize, _timeout: Duration) -> Result<Vec<u8>, LinkError> {
        Err(LinkError::Stall)
    }

    fn bulk_out(&mut self, _endpoint: u8, _data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        Err(LinkError::Stall)
    }
}

fuzz_target!(|bytes: &[u8]| {
    if bytes.is_empty() {
        return;
    }
    let device = Device { bytes: bytes.to_vec(), at: Cell::new(0), left: Cell::new(20_000) };
    let clock = TestClock::default();
    let Ok(mut driver) = DfuSe::connect(Box::new(device), &clock, &[DfuQuirk::EndlessBusy]) else { return };
    let Some(sector) = FlashRange::new(FlashAddr(0x0810_0000), FlashSize(0x2_0000)) else { return };
    let _ = driver.erase(sector);
    let _ = driver.write(sector.start, &[7; 100], &mut |_| ());
    let _ = driver.finish();
    let _ = driver.read(FlashRange { size: FlashSize(100), ..sector }, &mut |_| ());
    let _ = driver.start(sector.start);
    // Some twenty waits of 46 s at the most.
    assert!(clock.now() < Duration::from_secs(30 * 46), "waited {:?}", clock.now());
});
