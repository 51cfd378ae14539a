//! A usbfs node of the simulated host.

use std::time::Duration;

use kflash::link::{LinkError, Setup, UsbLink};

use crate::board::{Control, UsbDescriptors};
use crate::fault::FaultKind;

use super::BoardKey;
use super::world::{Shared, World, follow, lock};

/// Setup and status stage of a control request.
const REQUEST_TIME: Duration = Duration::from_micros(100);
/// A 64-byte packet of its data stage: 2048 bytes take 2.9 ms (F042, recorded).
const PACKET_TIME: Duration = Duration::from_micros(90);

/// An open usbfs node.
pub(super) struct SimUsb {
    world: Shared,
    key: BoardKey,
    stamp: u64,
    id: u64,
    device: UsbDescriptors,
}

impl SimUsb {
    pub(super) fn new(world: Shared, key: BoardKey, stamp: u64, id: u64, device: UsbDescriptors) -> Self {
        Self { world, key, stamp, id, device }
    }

    fn control(&mut self, setup: Setup, data: &[u8], length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let answer = self.run(setup, data, length, timeout);
        follow(&self.world);
        answer
    }

    fn run(&mut self, setup: Setup, data: &[u8], length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let mut world = lock(&self.world);
        let faults = world.plan.operation();
        let mut data = data.to_vec();
        for fault in faults {
            match world.strike(self.key, fault) {
                None => {}
                Some(FaultKind::Stall) => return Err(LinkError::Stall),
                Some(FaultKind::Corrupt) if !data.is_empty() => data[0] ^= 1,
                Some(_) => {
                    let end = world.now + timeout;
                    world.advance(end);
                    return Err(LinkError::TimedOut(timeout));
                }
            }
        }
        world.alive(self.key, self.stamp)?;
        self.befall(&mut world, &mut data, false)?;
        let packets = data.len().max(usize::from(length)).div_ceil(64) as u32;
        let now = world.now + REQUEST_TIME + PACKET_TIME * packets;
        world.advance(now);
        let answer = world.alive(self.key, self.stamp)?.board.control(now, setup, &data, length);
        let answer = match answer {
            Control::Done { held, .. } if held > timeout => {
                world.advance(now + timeout);
                Err(LinkError::TimedOut(timeout))
            }
            Control::Done { data, held } => {
                if !held.is_zero() {
                    world.advance(now + held);
                }
                Ok(data)
            }
            Control::Stall => Err(LinkError::Stall),
            Control::Vanished => Err(LinkError::Gone),
        };
        for fault in world.plan.after_operation() {
            world.strike(self.key, fault);
        }
        world.alive(self.key, self.stamp)?;
        let mut answer = answer?;
        self.befall(&mut world, &mut answer, true)?;
        Ok(answer)
    }

    /// What happens to the bytes of a data stage. The device acts on whole data stages alone.
    fn befall(&self, world: &mut World, data: &mut [u8], incoming: bool) -> Result<(), LinkError> {
        for byte in data {
            let faults = if incoming { world.plan.byte_in() } else { world.plan.byte_out() };
            for fault in faults {
                match world.strike(self.key, fault) {
                    None => {}
                    Some(FaultKind::Corrupt) => *byte ^= 1,
                    // USB has no lost bytes, only packets that are repeated until the device answers.
                    Some(_) => return Err(LinkError::Stall),
                }
                world.alive(self.key, self.stamp)?;
            }
        }
        Ok(())
    }
}

impl UsbLink for SimUsb {
    fn device_descriptor(&self) -> &[u8] {
        &self.device.device
    }

    fn configuration_descriptor(&self) -> &[u8] {
        &self.device.configuration
    }

    fn control_in(&mut self, setup: Setup, length: u16, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let setup = Setup { request_type: setup.request_type | 0x80, ..setup };
        self.control(setup, &[], length, timeout)
    }

    fn control_out(&mut self, setup: Setup, data: &[u8], timeout: Duration) -> Result<(), LinkError> {
        let setup = Setup { request_type: setup.request_type & 0x7f, ..setup };
        self.control(setup, data, data.len() as u16, timeout).map(|_| ())
    }

    fn set_alternate(&mut self, interface: u8, alternate: u8) -> Result<(), LinkError> {
        let setup = Setup { request_type: 0x01, request: 0x0b, value: alternate.into(), index: interface.into() };
        self.control(setup, &[], 0, Duration::from_secs(5)).map(|_| ())
    }

    fn bulk_in(&mut self, endpoint: u8, length: usize, timeout: Duration) -> Result<Vec<u8>, LinkError> {
        let mut world = lock(&self.world);
        let deadline = world.now + timeout;
        let mut bytes = loop {
            let now = world.now;
            let seat = world.alive(self.key, self.stamp)?;
            if let Some(bytes) = seat.board.bulk_in(now, endpoint, length) {
                break bytes;
            }
            if now >= deadline {
                return Ok(Vec::new());
            }
            let next = world.next_event().map_or(deadline, |at| at.min(deadline));
            world.advance(next.max(now + Duration::from_nanos(1)));
        };
        for fault in world.plan.operation() {
            world.strike(self.key, fault);
        }
        world.alive(self.key, self.stamp)?;
        self.befall(&mut world, &mut bytes, true)?;
        Ok(bytes)
    }

    fn bulk_out(&mut self, endpoint: u8, data: &[u8], _timeout: Duration) -> Result<(), LinkError> {
        let mut world = lock(&self.world);
        for fault in world.plan.operation() {
            if world.strike(self.key, fault).is_some() {
                return Err(LinkError::Stall);
            }
        }
        let mut data = data.to_vec();
        world.alive(self.key, self.stamp)?;
        self.befall(&mut world, &mut data, false)?;
        let now = world.now + PACKET_TIME * data.len().div_ceil(64) as u32;
        world.advance(now);
        let accepted = world.alive(self.key, self.stamp)?.board.bulk_out(now, endpoint, &data);
        if accepted { Ok(()) } else { Err(LinkError::Stall) }
    }
}

impl Drop for SimUsb {
    fn drop(&mut self) {
        lock(&self.world).open.remove(&self.id);
    }
}
