//! `--trace FILE`: a host whose links record every byte.

use std::any::Any;
use std::fs::File;
use std::io::LineWriter;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::host::{Holders, Host, LockError};
use kflash::link::trace::Tracer;
use kflash::link::{ByteLink, LinkError, UsbLink};

use crate::failure::Failure;

/// A host, with a record of what goes over its links.
pub struct TracedHost {
    host: Arc<dyn Host>,
    /// The record.
    pub tracer: Tracer,
}

/// The clock of a host that is shared with the record.
struct HostClock(Arc<dyn Host>);

impl TracedHost {
    /// `host`, recorded in `file`.
    pub fn new(host: Arc<dyn Host>, file: &Path) -> Result<Self, Failure> {
        let out = File::create(file)
            .map_err(|error| Failure::usage(format!("cannot record in {}: {error}", file.display())))?;
        // Line by line, so that a run that is ended by force leaves its record, too.
        let tracer = Tracer::new(Box::new(LineWriter::new(out)), Arc::new(HostClock(Arc::clone(&host))));
        Ok(Self { host, tracer })
    }
}

impl Host for TracedHost {
    fn clock(&self) -> &dyn Clock {
        self.host.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        self.host.scan()
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        Ok(self.tracer.serial(self.host.open_serial(device, baud)?, &device.place.to_string()))
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        Ok(self.tracer.usb(self.host.open_usb(device)?, &device.place.to_string()))
    }

    fn has_node(&self, device: &Device) -> bool {
        self.host.has_node(device)
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

impl Clock for HostClock {
    fn now(&self) -> Duration {
        self.0.clock().now()
    }

    fn sleep(&self, duration: Duration) {
        self.0.clock().sleep(duration);
    }
}
