//! A byte link that several speakers use in turn.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{ByteLink, LinkError};

/// One open port handed from Klipper's client to Katapult's driver and back. On many USB-UART boards opening the port
/// resets the micro-controller, so that a UART is opened once in a run.
#[derive(Clone)]
pub struct SharedLink(Arc<Mutex<Box<dyn ByteLink>>>);

impl SharedLink {
    /// Shares `link`.
    pub fn new(link: Box<dyn ByteLink>) -> Self {
        Self(Arc::new(Mutex::new(link)))
    }

    fn with<T>(&self, f: impl FnOnce(&mut dyn ByteLink) -> T) -> T {
        f(self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }
}

impl ByteLink for SharedLink {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        self.with(|link| link.read(buf, timeout))
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        self.with(|link| link.write(data))
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.with(|link| link.set_baud(baud))
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.with(|link| link.set_dtr(on))
    }
}
