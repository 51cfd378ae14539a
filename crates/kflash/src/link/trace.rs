//! A record of every byte and transfer on the links of one run, one line each:
//!
//! ```text
//!     0.001234 /dev/ttyACM0 > 08 11 01 00 28 42 24 7e |....(B$~|
//!     0.003210 /dev/ttyACM0 < 05 10 9e 81 7e |....~|
//! ```
//!
//! `>` goes to the device, `<` comes from it, `=` sets the line, `!` is an error. The time is in seconds since the
//! record began.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{ByteLink, LinkError, Setup, UsbLink};
use crate::clock::Clock;

/// A record that several links write to. Clones write to the same record.
#[derive(Clone)]
pub struct Tracer {
    record: Arc<Mutex<Record>>,
    clock: Arc<dyn Clock>,
    start: Duration,
}

struct Record {
    out: Box<dyn Write + Send>,
    /// The first failure; nothing is written after it.
    failed: Option<std::io::Error>,
}

impl Tracer {
    /// Begins a record on `out`.
    pub fn new(out: Box<dyn Write + Send>, clock: Arc<dyn Clock>) -> Self {
        let start = clock.now();
        Self { record: Arc::new(Mutex::new(Record { out, failed: None })), clock, start }
    }

    /// `link`, with everything on it recorded under `name`.
    pub fn serial<'a>(&self, link: Box<dyn ByteLink + 'a>, name: &str) -> Box<dyn ByteLink + 'a> {
        Box::new(Traced { link, name: name.escape_debug().to_string(), tracer: self.clone() })
    }

    /// `link`, with everything on it recorded under `name`.
    pub fn usb<'a>(&self, link: Box<dyn UsbLink + 'a>, name: &str) -> Box<dyn UsbLink + 'a> {
        Box::new(Traced { link, name: name.escape_debug().to_string(), tracer: self.clone() })
    }

    /// Flushes the record, and tells whether all of it was written. A record that cannot be written never stops a
    /// flash.
    pub fn finish(&self) -> std::io::Result<()> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        match record.failed.take() {
            Some(error) => Err(error),
            None => record.out.flush(),
        }
    }

    fn line(&self, name: &str, what: &str) {
        let seconds = self.clock.now().saturating_sub(self.start).as_secs_f64();
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.failed.is_none() {
            record.failed = writeln!(record.out, "{seconds:12.6} {name} {what}").err();
        }
    }
}

/// A link whose traffic is recorded.
struct Traced<L> {
    link: L,
    name: String,
    tracer: Tracer,
}

impl<L> Traced<L> {
    /// Records what came of an operation that the text `what` describes, and passes it on.
    fn note<T>(&self, what: &str, result: Result<T, LinkError>) -> Result<T, LinkError> {
        match &result {
            Ok(_) => self.tracer.line(&self.name, what),
            Err(error) => self.tracer.line(&self.name, &format!("{what} ! {error}")),
        }
        result
    }
}

impl ByteLink for Traced<Box<dyn ByteLink + '_>> {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        let result = self.link.read(buf, timeout);
        let what = match &result {
            Ok(0) => format!("< nothing in {} ms", timeout.as_millis()),
            Ok(count) => format!("< {}", dump(&buf[..*count])),
            Err(_) => "<".to_owned(),
        };
        self.note(&what, result)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        let result = self.link.write(data);
        self.note(&format!("> {}", dump(data)), result)
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        let result = self.link.set_baud(baud);
        self.note(&format!("= {baud} baud"), result)
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        let result = self.link.set_dtr(on);
        self.note(if on { "= DTR on" } else { "= DTR off" }, result)
    }
}

impl UsbLink for Traced<Box<dyn UsbLink + '_>> {
    fn device_descriptor(&self) -> &[u8] {
        self.link.device_descriptor()
    }

    fn configuration_descriptor(&self) -> &[u8] {
        self.link.configuration_descriptor()
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let result = self.link.control_in(setup, length, timeout);
        let data = result.as_deref().map_or_else(|_| String::new(), dump);
        self.note(format!("< {} wLength {length}: {data}", describe(setup)).trim_end(), result)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let result = self.link.control_out(setup, data, timeout);
        self.note(format!("> {} wLength {}: {}", describe(setup), data.len(), dump(data)).trim_end(), result)
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        let result = self.link.set_alternate(interface, alternate);
        self.note(&format!("= interface {interface} alternate {alternate}"), result)
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let result = self.link.bulk_in(endpoint, length, timeout);
        let data = match &result {
            Ok(data) if data.is_empty() => format!("nothing in {} ms", timeout.as_millis()),
            Ok(data) => dump(data),
            Err(_) => String::new(),
        };
        self.note(format!("< endpoint {endpoint:#04x}: {data}").trim_end(), result)
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let result = self.link.bulk_out(endpoint, data, timeout);
        self.note(format!("> endpoint {endpoint:#04x}: {}", dump(data)).trim_end(), result)
    }
}

fn describe(setup: Setup) -> String {
    let Setup { request_type, request, value, index } = setup;
    format!("control {request_type:02x} {request:02x} wValue {value:#06x} wIndex {index}")
}

/// Bytes in hex and as text; nothing for no bytes.
fn dump(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return String::new();
    }
    let mut line = String::with_capacity(4 * bytes.len() + 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(line, "{byte:02x} ");
    }
    line.push('|');
    line.extend(bytes.iter().map(|byte| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    }));
    line.push('|');
    line
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::link::fake::{FakeClock, FakeLink, soon};

    /// What was written, shared with the test.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Usb;

    impl UsbLink for Usb {
        fn device_descriptor(&self) -> &[u8] {
            &[18, 1]
        }
        fn configuration_descriptor(&self) -> &[u8] {
            &[9, 2]
        }
        fn control_in(&mut self, _: Setup, _: u16, _: Duration) -> Result<Vec<u8>, LinkError> {
            Ok(vec![0, 0, 0, 0, 2, 0])
        }
        fn control_out(&mut self, _: Setup, _: &[u8], _: Duration) -> Result<(), LinkError> {
            Err(LinkError::Stall)
        }
        fn set_alternate(&mut self, _: u8, _: u8) -> Result<(), LinkError> {
            Ok(())
        }
        fn bulk_in(&mut self, _: u8, _: usize, _: Duration) -> Result<Vec<u8>, LinkError> {
            Ok(Vec::new())
        }
        fn bulk_out(&mut self, _: u8, _: &[u8], _: Duration) -> Result<(), LinkError> {
            Err(LinkError::Gone)
        }
    }

    #[test]
    fn one_record_holds_the_traffic_of_all_links() {
        let out = Shared::default();
        let clock = Arc::new(FakeClock::default());
        clock.sleep(Duration::from_secs(7));
        let tracer = Tracer::new(Box::new(out.clone()), clock.clone());

        let log = Mutex::default();
        let fake = FakeLink::new(&clock, &log, |_| soon(b"\x05~".to_vec()));
        let mut serial = tracer.serial(Box::new(fake), "/dev/ttyACM0");
        let mut buf = [0; 8];
        serial.set_baud(1200).unwrap();
        serial.set_dtr(false).unwrap();
        serial.write(b"\x08A").unwrap();
        assert_eq!(serial.read(&mut buf, Duration::from_millis(20)).unwrap(), 2);
        assert_eq!(serial.read(&mut buf, Duration::from_millis(20)).unwrap(), 0);

        let mut usb = tracer.usb(Box::new(Usb), "1-1.4\n");
        assert_eq!(usb.device_descriptor(), [18, 1]);
        assert_eq!(usb.configuration_descriptor(), [9, 2]);
        let setup = Setup { request_type: 0xA1, request: 3, value: 0, index: 1 };
        let second = Duration::from_secs(1);
        assert_eq!(usb.control_in(setup, 6, second).unwrap().len(), 6);
        usb.control_out(Setup { request_type: 0x21, request: 1, value: 2, index: 0 }, b"!", second).unwrap_err();
        usb.set_alternate(0, 1).unwrap();
        usb.bulk_in(0x81, 64, second).unwrap();
        usb.bulk_out(1, b"", second).unwrap_err();
        tracer.finish().unwrap();

        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "    0.000000 /dev/ttyACM0 = 1200 baud",
                "    0.000000 /dev/ttyACM0 = DTR off",
                "    0.000000 /dev/ttyACM0 > 08 41 |.A|",
                "    0.001000 /dev/ttyACM0 < 05 7e |.~|",
                "    0.021000 /dev/ttyACM0 < nothing in 20 ms",
                "    0.021000 1-1.4\\n < control a1 03 wValue 0x0000 wIndex 1 wLength 6: 00 00 00 00 02 00 |......|",
                "    0.021000 1-1.4\\n > control 21 01 wValue 0x0002 wIndex 0 wLength 1: 21 |!| ! request stalled by the device",
                "    0.021000 1-1.4\\n = interface 0 alternate 1",
                "    0.021000 1-1.4\\n < endpoint 0x81: nothing in 1000 ms",
                "    0.021000 1-1.4\\n > endpoint 0x01: ! device is gone",
            ]
        );
    }

    #[test]
    fn a_full_disk_is_told_at_the_end_and_stops_nothing() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let tracer = Tracer::new(Box::new(Full), Arc::new(FakeClock::default()));
        tracer.usb(Box::new(Usb), "1-1").set_alternate(0, 0).unwrap();
        assert_eq!(tracer.finish().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }
}
