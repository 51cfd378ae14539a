//! A CDC ACM function as a stream of bytes (PSTN 1.2 §6.3), for devices that no kernel driver serves.

use std::time::Duration;

use super::descriptor::interfaces;
use super::{ByteLink, LinkError, Setup, UsbLink};

/// Class and subclass of the communication interface: CDC, abstract control model.
const COMMUNICATION: [u8; 2] = [0x02, 0x02];
/// Class of the data interface.
const DATA: u8 = 0x0a;

const SET_LINE_CODING: u8 = 0x20;
const SET_CONTROL_LINE_STATE: u8 = 0x22;
/// Bits of `SET_CONTROL_LINE_STATE`.
const DTR: u16 = 1;
const RTS: u16 = 2;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A CDC ACM function of a USB device.
pub struct CdcLink {
    link: Box<dyn UsbLink>,
    communication: u8,
    bulk_in: u8,
    bulk_out: u8,
    packet: usize,
    /// Bytes that came but were not asked for yet.
    left: Vec<u8>,
}

impl CdcLink {
    /// Opens the stream as a tty is opened: `baud` at 8N1, DTR and RTS raised.
    pub fn open(link: Box<dyn UsbLink>, baud: u32) -> Result<Self, LinkError> {
        let none = |what: &str| LinkError::Malformed(format!("device has no {what}"));
        let all = interfaces(link.configuration_descriptor());
        let communication =
            all.iter().find(|one| one.class[..2] == COMMUNICATION).ok_or_else(|| none("CDC ACM interface"))?.number;
        let data = all.iter().filter(|one| one.class[0] == DATA).flat_map(|one| &one.endpoints);
        let bulk_in = data.clone().find(|one| one.is_bulk_in()).ok_or_else(|| none("bulk IN endpoint"))?;
        let bulk_out = data.clone().find(|one| one.is_bulk_out()).ok_or_else(|| none("bulk OUT endpoint"))?;
        if bulk_in.max_packet == 0 {
            return Err(none("bulk IN endpoint with a packet size"));
        }
        let (bulk_in, packet, bulk_out) = (bulk_in.address, bulk_in.max_packet.into(), bulk_out.address);
        let mut cdc = Self { link, communication, bulk_in, bulk_out, packet, left: Vec::new() };
        cdc.set_baud(baud)?;
        cdc.set_dtr(true)?;
        Ok(cdc)
    }

    fn request(&mut self, request: u8, value: u16, data: &[u8]) -> Result<(), LinkError> {
        let setup = Setup { request_type: 0x21, request, value, index: self.communication.into() };
        self.link.control_out(setup, data, TIMEOUT)
    }
}

impl ByteLink for CdcLink {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        if self.left.is_empty() {
            // One packet at a time: a longer transfer would wait for the short packet that ends it.
            self.left = self.link.bulk_in(self.bulk_in, self.packet, timeout)?;
        }
        let length = buf.len().min(self.left.len());
        buf[..length].copy_from_slice(&self.left[..length]);
        self.left.drain(..length);
        Ok(length)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        self.link.bulk_out(self.bulk_out, data, TIMEOUT)
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        let [a, b, c, d] = baud.to_le_bytes();
        // One stop bit, no parity, 8 data bits.
        self.request(SET_LINE_CODING, 0, &[a, b, c, d, 0, 0, 8])
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.request(SET_CONTROL_LINE_STATE, if on { DTR | RTS } else { RTS }, &[])
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::{Arc, Mutex};

    use super::*;

    /// Communication and data interface as Klipper has them (interfaces 0 and 1).
    const KLIPPER: [u8; 39] = [
        9, 2, 39, 0, 2, 1, 0, 0xc0, 50, // configuration
        9, 4, 0, 0, 1, 2, 2, 1, 0, // communication, without the functional descriptors
        9, 4, 1, 0, 2, 10, 0, 0, 0, // data
        6, 0x24, 6, 0, 1, 0, // something else
        // The endpoints follow in `configuration`.
        2, 0x30, 2, 0x30, 2, 0x30,
    ];

    fn configuration(packet: u8) -> Vec<u8> {
        [&KLIPPER[..], &[7, 5, 0x02, 2, packet, 0, 0], &[7, 5, 0x83, 2, packet, 0, 0]].concat()
    }

    #[derive(Default)]
    struct Log {
        control: Vec<(Setup, Vec<u8>)>,
        out: Vec<(u8, Vec<u8>)>,
        packets: Vec<Vec<u8>>,
        asked: Vec<(u8, usize)>,
    }

    struct FakeLink(Vec<u8>, Arc<Mutex<Log>>);

    impl UsbLink for FakeLink {
        fn device_descriptor(&self) -> &[u8] {
            &[]
        }
        fn configuration_descriptor(&self) -> &[u8] {
            &self.0
        }
        fn control_in(&mut self, _: Setup, _: u16, _: Duration) -> Result<Vec<u8>, LinkError> {
            Err(LinkError::Stall)
        }
        fn control_out(&mut self, setup: Setup, data: &[u8], _: Duration) -> Result<(), LinkError> {
            self.1.lock().unwrap().control.push((setup, data.to_vec()));
            Ok(())
        }
        fn set_alternate(&mut self, _: u8, _: u8) -> Result<(), LinkError> {
            Err(LinkError::Stall)
        }
        fn bulk_in(&mut self, endpoint: u8, length: usize, _: Duration) -> Result<Vec<u8>, LinkError> {
            let mut log = self.1.lock().unwrap();
            log.asked.push((endpoint, length));
            Ok(log.packets.pop().unwrap_or_default())
        }
        fn bulk_out(&mut self, endpoint: u8, data: &[u8], _: Duration) -> Result<(), LinkError> {
            self.1.lock().unwrap().out.push((endpoint, data.to_vec()));
            Ok(())
        }
    }

    fn open(configuration: Vec<u8>) -> (Arc<Mutex<Log>>, Result<CdcLink, LinkError>) {
        let log = Arc::new(Mutex::new(Log::default()));
        (Arc::clone(&log), CdcLink::open(Box::new(FakeLink(configuration, log)), 250_000))
    }

    #[test]
    fn the_touch_of_1200_baud() {
        let (log, cdc) = open(configuration(64));
        let mut cdc = cdc.unwrap();
        cdc.set_baud(1200).unwrap();
        cdc.set_dtr(false).unwrap();
        let setup = |request, value| Setup { request_type: 0x21, request, value, index: 0 };
        let expected = [
            (setup(0x20, 0), vec![0x90, 0xd0, 3, 0, 0, 0, 8]),
            (setup(0x22, 3), vec![]),
            (setup(0x20, 0), vec![0xb0, 4, 0, 0, 0, 0, 8]),
            (setup(0x22, 2), vec![]),
        ];
        assert_eq!(log.lock().unwrap().control, expected);
    }

    #[test]
    fn packets_become_a_stream() {
        let (log, cdc) = open(configuration(64));
        let mut cdc = cdc.unwrap();
        log.lock().unwrap().packets = vec![b"!".to_vec(), b"hello".to_vec()];
        let mut buf = [0; 3];
        assert_eq!(cdc.read(&mut buf, TIMEOUT).unwrap(), 3);
        assert_eq!(&buf, b"hel");
        assert_eq!(cdc.read(&mut buf, TIMEOUT).unwrap(), 2);
        assert_eq!(cdc.read(&mut buf, TIMEOUT).unwrap(), 1);
        assert_eq!(cdc.read(&mut buf, TIMEOUT).unwrap(), 0);
        cdc.write(b"abc").unwrap();
        let log = log.lock().unwrap();
        assert_eq!(log.asked, [(0x83, 64); 3]);
        assert_eq!(log.out, [(2, b"abc".to_vec())]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (configuration, text) in [
            (vec![], "malformed answer: device has no CDC ACM interface"),
            (KLIPPER.to_vec(), "malformed answer: device has no bulk IN endpoint"),
            (configuration(0), "malformed answer: device has no bulk IN endpoint with a packet size"),
        ] {
            assert_eq!(open(configuration).1.err().unwrap().to_string(), text);
        }
    }
}
