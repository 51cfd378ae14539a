//! Following a board through re-enumeration by its place.

use std::time::Duration;

use crate::discover::{Device, DiscoverError, Place};
use crate::flash::Interrupt;
use crate::host::Host;

/// udev events never reach a pod without the host's network: sysfs is polled.
const POLL: Duration = Duration::from_millis(50);

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The device is there as wanted.
    Found(Box<Device>),
    /// It was not, in time; what was at the place at last.
    TimedOut(Option<Box<Device>>),
    /// A signal asked to stop.
    Interrupted,
}

/// Waits up to `limit` until the device at `place` is as `wanted`. `interrupt`, where given, ends the wait. A host that
/// cannot be looked at is looked at again: only at the end of the time that is an error.
pub fn wait_for(
    host: &dyn Host,
    place: &Place,
    limit: Duration,
    interrupt: Option<&Interrupt>,
    mut wanted: impl FnMut(&Device) -> bool,
) -> Result<Waited, DiscoverError> {
    let deadline = host.clock().now() + limit;
    loop {
        let there = at(host, place);
        match there {
            Ok(Some(device)) if wanted(&device) => return Ok(Waited::Found(Box::new(device))),
            _ if interrupt.is_some_and(Interrupt::requested) => return Ok(Waited::Interrupted),
            there if host.clock().now() >= deadline => return Ok(Waited::TimedOut(there?.map(Box::new))),
            _ => host.clock().sleep(POLL),
        }
    }
}

/// The device at `place` now.
pub fn at(host: &dyn Host, place: &Place) -> Result<Option<Device>, DiscoverError> {
    Ok(host.scan()?.devices.into_iter().find(|device| device.place == *place))
}

/// A number that changes whenever the device enumerates; `None` for what does not enumerate.
pub fn enumeration(device: &Device) -> Option<(u16, u16)> {
    device.usb.as_ref().map(|usb| (usb.bus, usb.number))
}
