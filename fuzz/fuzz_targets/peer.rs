//! A board that answers with the input, whatever it is asked: both drivers end, in bounded time.
//!
//! Each write of the driver lets the next piece of the input arrive; a piece is a length, then so many bytes.

#![no_main]

use std::sync::Mutex;
use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::clock::Clock;
use kflash::klipper::client::Client;
use kflash::link::{ByteLink, LinkError};
use kflash::proto::Bootloader;
use kflash::proto::katapult::Katapult;
use libfuzzer_sys::fuzz_target;

#[derive(Default)]
struct Time(Mutex<Duration>);

impl Clock for Time {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}

struct Peer<'a> {
    rest: &'a [u8],
    arriving: &'a [u8],
    time: &'a Time,
}

impl ByteLink for Peer<'_> {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        let count = buf.len().min(self.arriving.len());
        if count == 0 {
            self.time.sleep(timeout);
        }
        let (now, later) = self.arriving.split_at(count);
        buf[..count].copy_from_slice(now);
        self.arriving = later;
        Ok(count)
    }

    fn write(&mut self, _data: &[u8]) -> Result<(), LinkError> {
        if let Some((&length, rest)) = self.rest.split_first() {
            (self.arriving, self.rest) = rest.split_at(rest.len().min(usize::from(length)));
        }
        Ok(())
    }

    fn set_baud(&mut self, _baud: u32) -> Result<(), LinkError> {
        Ok(())
    }

    fn set_dtr(&mut self, _on: bool) -> Result<(), LinkError> {
        Err(LinkError::Unsupported { what: "DTR" })
    }
}

fuzz_target!(|data: &[u8]| {
    let time = Time::default();
    let peer = || Box::new(Peer { rest: data, arriving: &[], time: &time });
    if let Ok(mut client) = Client::connect(peer(), &time, Duration::from_secs(1)) {
        let _ = client.debug_read(2, 0xE000_ED08);
        let _ = client.reset();
    }
    assert!(time.now() < Duration::from_secs(60));
    if let Ok(mut katapult) = Katapult::connect(peer(), &time, false) {
        let start = katapult.info().app_start.unwrap_or(FlashAddr(0));
        let _ = katapult.write(start, &[0; 64], &mut |_| {});
        let _ = katapult.read(FlashRange { start, size: FlashSize(64) }, &mut |_| {});
        let _ = katapult.finish();
        let _ = katapult.start(start);
    }
    assert!(time.now() < Duration::from_secs(1200));
});
