//! A tty of the simulated host: what the kernel's `cdc_acm` does for a CDC function, or a UART.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use kflash::link::{ByteLink, LinkError, Setup};

use crate::fault::FaultKind;
use crate::usb::{CDC_IN, CDC_OUT};

use super::world::{Shared, World, follow, lock};
use super::{BoardKey, Plug};

/// A full-speed bulk packet: 19 of 64 bytes fit a frame of 1 ms (USB 2.0 §5.8.4).
const PACKET_TIME: Duration = Duration::from_micros(53);
/// A control request of the kernel's on behalf of the tty.
const REQUEST_TIME: Duration = Duration::from_micros(300);

const SET_LINE_CODING: u8 = 0x20;
const SET_CONTROL_LINE_STATE: u8 = 0x22;

/// An open tty.
pub(super) struct SimSerial {
    world: Shared,
    key: BoardKey,
    stamp: u64,
    id: u64,
    baud: u32,
    inbox: VecDeque<u8>,
}

impl SimSerial {
    pub(super) fn open(world: Shared, key: BoardKey, stamp: u64, node: PathBuf, baud: u32) -> Result<Self, LinkError> {
        let id = {
            let mut world = lock(&world);
            world.links += 1;
            let id = world.links;
            world.open.insert(id, node);
            id
        };
        let mut link = Self { world, key, stamp, id, baud, inbox: VecDeque::new() };
        link.set_lines(3)?;
        link.set_speed(baud)?;
        // What came while nobody listened is lost on a UART.
        let world = link.world.clone();
        let mut world = lock(&world);
        let now = world.now;
        let seat = world.alive(key, stamp)?;
        if !matches!(seat.plug, Plug::Usb(_)) {
            seat.board.uart_read(now, baud);
        }
        Ok(link)
    }

    fn class_request(&self, request: u8, value: u16, data: &[u8]) -> Result<(), LinkError> {
        let mut world = lock(&self.world);
        let now = world.now;
        let seat = world.alive(self.key, self.stamp)?;
        if matches!(seat.plug, Plug::Usb(_)) {
            let setup = Setup { request_type: 0x21, request, value, index: 0 };
            seat.board.control(now, setup, data, data.len() as u16);
            world.advance(now + REQUEST_TIME);
        }
        Ok(())
    }

    fn set_lines(&self, lines: u16) -> Result<(), LinkError> {
        {
            let mut world = lock(&self.world);
            let now = world.now;
            let seat = world.alive(self.key, self.stamp)?;
            if lines & 1 == 1 && seat.opening_resets {
                seat.board.press_reset(now);
            }
        }
        self.class_request(SET_CONTROL_LINE_STATE, lines, &[])
    }

    fn set_speed(&mut self, baud: u32) -> Result<(), LinkError> {
        self.baud = baud;
        let mut coding = baud.to_le_bytes().to_vec();
        coding.extend([0, 0, 8]);
        self.class_request(SET_LINE_CODING, 0, &coding)
    }

    /// Counts an operation; what is to befall its bytes.
    fn begin(&self) -> Option<FaultKind> {
        let mut world = lock(&self.world);
        let faults = world.plan.operation();
        faults.into_iter().filter_map(|fault| world.strike(self.key, fault)).last()
    }

    fn end(&self) {
        let mut world = lock(&self.world);
        for fault in world.plan.after_operation() {
            world.strike(self.key, fault);
        }
    }

    /// Takes from the device what it has sent by now.
    fn pump(&mut self, world: &mut World) -> Result<(), LinkError> {
        let now = world.now;
        let seat = world.alive(self.key, self.stamp)?;
        if !matches!(seat.plug, Plug::Usb(_)) {
            self.inbox.extend(seat.board.uart_read(now, self.baud));
            return Ok(());
        }
        let mut packets = 0;
        while let Some(bytes) = seat.board.bulk_in(now, CDC_IN, 64) {
            self.inbox.extend(bytes);
            packets += 1;
        }
        if packets > 0 {
            world.advance(now + PACKET_TIME * packets);
        }
        Ok(())
    }

    /// Hands `bytes` to the device, through whatever is to befall them.
    fn deliver(&self, world: &mut World, bytes: &[u8]) -> Result<(), LinkError> {
        let mut passed = Vec::with_capacity(bytes.len());
        let mut cut = false;
        for &byte in bytes {
            let mut arriving = Some(byte);
            for fault in world.plan.byte_out() {
                cut |= matches!(fault, FaultKind::Cut | FaultKind::CutPower);
                if cut {
                    // The bytes before it have arrived.
                    self.send(world, &std::mem::take(&mut passed))?;
                }
                arriving = match world.strike(self.key, fault) {
                    None => arriving,
                    Some(FaultKind::Corrupt) => arriving.map(|byte| byte ^ 1),
                    Some(_) => None,
                };
            }
            if cut {
                return Err(LinkError::Gone);
            }
            passed.extend(arriving);
        }
        self.send(world, &passed)
    }

    fn send(&self, world: &mut World, bytes: &[u8]) -> Result<(), LinkError> {
        let baud = self.baud;
        if !matches!(world.alive(self.key, self.stamp)?.plug, Plug::Usb(_)) {
            let now = world.now;
            world.alive(self.key, self.stamp)?.board.uart_write(now, baud, bytes);
            return Ok(());
        }
        for packet in bytes.chunks(64) {
            world.advance(world.now + PACKET_TIME);
            let now = world.now;
            world.alive(self.key, self.stamp)?.board.bulk_out(now, CDC_OUT, packet);
        }
        Ok(())
    }
}

impl ByteLink for SimSerial {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        let shared = self.world.clone();
        let outcome = {
            let mut world = lock(&shared);
            let deadline = world.now + timeout;
            loop {
                match self.pump(&mut world) {
                    Err(error) if self.inbox.is_empty() => break Err(error),
                    _ => {}
                }
                if !self.inbox.is_empty() {
                    break Ok(true);
                }
                if world.now >= deadline {
                    break Ok(false);
                }
                let next = world.next_event().map_or(deadline, |at| at.min(deadline));
                let soonest = world.now + Duration::from_nanos(1);
                world.advance(next.max(soonest));
            }
        };
        follow(&shared);
        if !outcome? {
            return Ok(0);
        }
        let befalls = self.begin();
        self.end();
        let mut world = lock(&shared);
        world.alive(self.key, self.stamp)?;
        if matches!(befalls, Some(FaultKind::Corrupt)) {
            self.inbox[0] ^= 1;
        }
        let wanted = matches!(befalls, None | Some(FaultKind::Corrupt));
        let mut count = 0;
        while count < buf.len()
            && let Some(byte) = self.inbox.pop_front()
        {
            let mut arriving = wanted.then_some(byte);
            for fault in world.plan.byte_in() {
                let cut = matches!(fault, FaultKind::Cut | FaultKind::CutPower);
                arriving = match world.strike(self.key, fault) {
                    None => arriving,
                    Some(FaultKind::Corrupt) => arriving.map(|byte| byte ^ 1),
                    Some(_) => None,
                };
                if cut {
                    self.inbox.clear();
                    return if count > 0 { Ok(count) } else { Err(LinkError::Gone) };
                }
            }
            if let Some(byte) = arriving {
                buf[count] = byte;
                count += 1;
            }
        }
        Ok(count)
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        let befalls = self.begin();
        {
            let mut world = lock(&self.world);
            world.alive(self.key, self.stamp)?;
            match befalls {
                None => self.deliver(&mut world, data)?,
                Some(FaultKind::Corrupt) => {
                    let mut data = data.to_vec();
                    data.iter_mut().take(1).for_each(|byte| *byte ^= 1);
                    self.deliver(&mut world, &data)?;
                }
                Some(_) => {}
            }
        }
        self.end();
        follow(&self.world);
        lock(&self.world).alive(self.key, self.stamp).map(|_| ())
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.begin();
        self.set_speed(baud)?;
        self.end();
        Ok(())
    }

    fn set_dtr(&mut self, on: bool) -> Result<(), LinkError> {
        self.begin();
        self.set_lines(if on { 3 } else { 2 })?;
        self.end();
        Ok(())
    }
}

impl Drop for SimSerial {
    /// The kernel drops DTR and RTS when a tty is closed.
    fn drop(&mut self) {
        // A device that has left does not hear of it.
        drop(self.set_lines(0));
        lock(&self.world).open.remove(&self.id);
    }
}
