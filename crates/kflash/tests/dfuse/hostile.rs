//! Devices that answer anything at all: no panic, no hang, nothing without bound.

use std::sync::Arc;
use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::chip::DfuQuirk;
use kflash::clock::Clock;
use kflash::link::{LinkError, Setup, UsbLink};
use kflash::proto::Bootloader;
use kflash::proto::dfuse::DfuSe;
use proptest::prelude::*;

use super::chip::{TestClock, configuration, string_descriptor};

/// Answers from a list, around and around.
struct Noise {
    answers: Vec<Vec<u8>>,
    next: usize,
    configuration: Vec<u8>,
    layout: Vec<u8>,
    requests: Arc<std::sync::atomic::AtomicUsize>,
}

impl Noise {
    fn answer(&mut self) -> Result<Vec<u8>, LinkError> {
        self.requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.next += 1;
        let answer = &self.answers[self.next % self.answers.len()];
        match answer.as_slice() {
            [] => Err(LinkError::Stall),
            [0xff, ..] => Err(LinkError::TimedOut(Duration::from_secs(1))),
            bytes => Ok(bytes.to_vec()),
        }
    }
}

impl UsbLink for Noise {
    fn device_descriptor(&self) -> &[u8] {
        &[]
    }
    fn configuration_descriptor(&self) -> &[u8] {
        &self.configuration
    }
    fn control_in(&mut self, setup: Setup, length: u16, _timeout: Duration) -> Result<Vec<u8>, LinkError> {
        if setup.request_type == 0x80 {
            return Ok(self.layout.clone());
        }
        let mut bytes = self.answer()?;
        bytes.truncate(length.into());
        Ok(bytes)
    }
    fn control_out(&mut self, _setup: Setup, _data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        self.answer().map(drop)
    }
    fn set_alternate(&mut self, _interface: u8, _alternate: u8) -> Result<(), LinkError> {
        Ok(())
    }
    fn bulk_in(&mut self, _endpoint: u8, _length: usize, _timeout: Duration) -> Result<Vec<u8>, LinkError> {
        Ok(Vec::new())
    }
    fn bulk_out(&mut self, _endpoint: u8, _data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        Ok(())
    }
}

fn answers() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let status = (0_u8..3, 0_u8..2, 0_u8..2, 0_u8..12).prop_map(|(code, low, high, state)| {
        let code = [0, 0x0a, 0x0b][usize::from(code)];
        vec![code, low, 0, high, state, 0]
    });
    // Mostly what a device in good faith would say, so that the driver gets beyond its first steps.
    let good = prop_oneof![Just(vec![0, 0, 0, 0, 2, 0]), Just(vec![0, 1, 0, 0, 4, 0]), Just(vec![0, 0, 0, 0, 5, 0])];
    let any = proptest::collection::vec(any::<u8>(), 0..8);
    proptest::collection::vec(prop_oneof![4 => good, 2 => status, 1 => any], 1..40)
}

proptest! {
    #[test]
    fn no_answer_makes_the_driver_panic_or_hang(answers in answers(), quirk in any::<bool>()) {
        let requests = Arc::default();
        let link = Noise {
            answers,
            next: 0,
            configuration: configuration(1, 32),
            layout: string_descriptor("@Internal Flash  /0x08000000/32*128Kg"),
            requests: Arc::clone(&requests),
        };
        let clock = TestClock::default();
        let quirks = if quirk { vec![DfuQuirk::EndlessBusy] } else { vec![] };
        if let Ok(mut driver) = DfuSe::connect(Box::new(link), &clock, &quirks) {
            let sector = FlashRange::new(FlashAddr(0x0810_0000), FlashSize(0x2_0000)).unwrap();
            let _ = driver.erase(sector);
            let _ = driver.write(sector.start, &[7; 320], &mut |_| ());
            let _ = driver.finish();
            let _ = driver.read(FlashRange { size: FlashSize(320), ..sector }, &mut |_| ());
            let _ = driver.start(sector.start);
        }
        // A bound for each of the about forty waits that these steps can have.
        prop_assert!(clock.now() < Duration::from_secs(40 * 46), "{:?}", clock.now());
        prop_assert!(requests.load(std::sync::atomic::Ordering::Relaxed) < 100_000);
    }

    #[test]
    fn no_string_or_configuration_makes_the_driver_panic(
        configuration in proptest::collection::vec(any::<u8>(), 0..80),
        layout in proptest::collection::vec(any::<u8>(), 0..255),
        keep in any::<bool>(),
    ) {
        let configuration = if keep { super::chip::configuration(1, 64) } else { configuration };
        let link = Noise { answers: vec![vec![0, 0, 0, 0, 2, 0]], next: 0, configuration, layout, requests: Arc::default() };
        let _ = DfuSe::connect(Box::new(link), &TestClock::default(), &[]);
    }
}
