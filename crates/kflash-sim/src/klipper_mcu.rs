//! A micro-controller that runs Klipper: `identify`, `debug_read`, `get_uptime`, `reset`, and the requests to enter a
//! bootloader.
//!
//! What it says of itself is the dictionary of the image in its flash (Klipper `src/command.c`, `src/basecmd.c`,
//! `src/debugcmds.c`).

use std::sync::Arc;
use std::time::Duration;

use kflash::link::Setup;

use crate::board::{Control, UsbDescriptors};
use crate::execute::{Firmware, FirmwareCable};
use crate::klipper_wire::{Received, Receiver, block, put_int, take_int};
use crate::outbox::Outbox;
use crate::silicon::{KATAPULT_REQUEST, Next, ROM_REQUEST, Silicon};
use crate::usb::{self, Acm};

/// The longest content of a block.
const LONGEST_CONTENT: usize = 59;
/// From a request to the reset: Klipper leaves the bus first.
const LEAVES_AFTER: Duration = Duration::from_millis(5);
/// After a fault nothing runs until the watchdog resets the chip.
const WATCHDOG: Duration = Duration::from_millis(500);
/// From a block's arrival to the answer.
const ANSWERS_AFTER: Duration = Duration::from_micros(50);

/// Klipper, running.
pub(crate) struct KlipperMcu {
    firmware: Arc<Firmware>,
    /// Where it was started.
    start: u32,
    /// When it was started.
    since: Duration,
    receiver: Receiver,
    acm: Acm,
    out: Outbox,
    shutdown: bool,
    /// It waits for its own reset and looks at nothing any more.
    leaving: bool,
}

impl KlipperMcu {
    pub(crate) fn new(firmware: Arc<Firmware>, start: u32, now: Duration) -> Self {
        let mut mcu = Self {
            start,
            since: now,
            receiver: Receiver::default(),
            acm: Acm::default(),
            out: Outbox::default(),
            shutdown: false,
            leaving: false,
            firmware,
        };
        mcu.respond(now, "starting", &[]);
        mcu
    }

    pub(crate) fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    /// As Klipper describes itself on USB; `None` where it was built for another cable.
    pub(crate) fn descriptors(&self, silicon: &Silicon) -> Option<UsbDescriptors> {
        let strings = ["Klipper", &self.firmware.mcu, &silicon.serial()];
        (self.firmware.cable == FirmwareCable::Usb).then(|| usb::cdc_acm(0x1d50, 0x614e, strings))
    }

    pub(crate) fn baud(&self) -> Option<u32> {
        match self.firmware.cable {
            FirmwareCable::Uart(baud) => Some(baud),
            FirmwareCable::Usb | FirmwareCable::Can => None,
        }
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.out
    }

    pub(crate) fn next_output(&self) -> Option<Duration> {
        self.out.ready()
    }

    /// A class request on its USB.
    pub(crate) fn control(&mut self, now: Duration, silicon: &mut Silicon, setup: Setup, data: &[u8]) -> Control {
        let answer = self.acm.control(setup, data);
        let line_request = setup.request_type == 0x21 && matches!(setup.request, 0x20 | 0x22);
        if line_request && answer != Control::Stall && self.acm.is_touched() {
            self.enter_bootloader(now, silicon);
        }
        answer
    }

    /// Bytes from the host.
    pub(crate) fn receive(&mut self, now: Duration, silicon: &mut Silicon, bytes: &[u8]) {
        if self.leaving {
            return;
        }
        self.receiver.push(bytes);
        while !self.leaving {
            if self.baud().is_some() && self.receiver.pending() == uart_request() {
                self.receiver.clear();
                self.enter_bootloader(now, silicon);
                if self.leaving {
                    return;
                }
                self.acknowledge(now);
            }
            match self.receiver.poll() {
                None => return,
                Some(Received::Dropped) => {}
                Some(Received::Refused) => self.acknowledge(now),
                Some(Received::Block(content)) => {
                    self.dispatch(now, silicon, &content);
                    if !self.leaving {
                        self.acknowledge(now);
                    }
                }
            }
        }
    }

    fn acknowledge(&mut self, now: Duration) {
        self.out.send(now + ANSWERS_AFTER, block(self.receiver.expected(), &[]));
    }

    fn dispatch(&mut self, now: Duration, silicon: &mut Silicon, mut content: &[u8]) {
        while !content.is_empty() && !self.leaving {
            let firmware = Arc::clone(&self.firmware);
            let command = take_int(&mut content).and_then(|id| {
                let id = i64::from(id.cast_signed());
                firmware.commands.iter().find(|(_, known)| **known == id)
            });
            let Some((format, _)) = command else {
                self.shutdown = true;
                return;
            };
            let Some(arguments) = arguments(format, &mut content) else {
                self.shutdown = true;
                return;
            };
            match (format.split(' ').next().unwrap_or_default(), &arguments[..]) {
                ("identify", &[offset, count]) => self.identify(now, offset, count & 0xff),
                ("debug_read", &[order, addr]) => self.debug_read(now, silicon, order, addr),
                ("get_uptime", []) => self.uptime(now),
                ("reset", []) => self.leave(silicon, now + LEAVES_AFTER, Next::Reset),
                ("clear_shutdown", []) => self.shutdown = false,
                _ => {}
            }
        }
    }

    fn identify(&mut self, now: Duration, offset: u32, count: u32) {
        let stream = &self.firmware.stream;
        let from = (offset as usize).min(stream.len());
        let to = (from + count as usize).min(stream.len());
        let mut content = vec![0];
        put_int(&mut content, offset);
        content.push((to - from) as u8);
        content.extend_from_slice(&stream[from..to]);
        self.send(now, &content);
    }

    fn debug_read(&mut self, now: Duration, silicon: &mut Silicon, order: u32, addr: u32) {
        let length = 1_u32 << order.min(2);
        let bytes = (0..length).map(|i| self.byte(silicon, addr.wrapping_add(i))).collect::<Option<Vec<u8>>>();
        match bytes {
            Some(bytes) => {
                let value = bytes.iter().rev().fold(0_u32, |value, &byte| value << 8 | u32::from(byte));
                self.respond(now, "debug_result val=%u", &[value]);
            }
            None => self.leave(silicon, now + WATCHDOG, Next::Reset),
        }
    }

    /// Its clock counts from 0 at each start; the high word is kept by software.
    fn uptime(&mut self, now: Duration) {
        const PER_SECOND: u128 = 1_000_000_000;
        let ticks = now.saturating_sub(self.since).as_nanos() * u128::from(self.firmware.clock_freq) / PER_SECOND;
        self.respond(now, "uptime high=%u clock=%u", &[(ticks >> 32) as u32, ticks as u32]);
    }

    fn byte(&self, silicon: &Silicon, addr: u32) -> Option<u8> {
        const VTOR: u32 = 0xe000_ed08;
        match addr {
            VTOR..0xe000_ed0c if !silicon.chip.lacks_vtor => {
                let table = if silicon.chip.runs_from_ram { 0x2000_0000 } else { self.start };
                Some(table.to_le_bytes()[(addr - VTOR) as usize])
            }
            _ => silicon.byte(addr),
        }
    }

    fn respond(&mut self, now: Duration, format: &str, values: &[u32]) {
        if let Some(&id) = self.firmware.responses.get(format) {
            let mut content = Vec::new();
            put_int(&mut content, id as u32);
            for &value in values {
                put_int(&mut content, value);
            }
            self.send(now, &content);
        }
    }

    fn send(&mut self, now: Duration, content: &[u8]) {
        if content.len() > LONGEST_CONTENT {
            self.shutdown = true;
            return;
        }
        self.out.send(now + ANSWERS_AFTER, block(self.receiver.expected(), content));
    }

    fn leave(&mut self, silicon: &mut Silicon, at: Duration, next: Next) {
        self.leaving = true;
        silicon.next = Some((at, next));
    }

    /// What the firmware does when it is asked for a bootloader; nothing, where it knows none.
    fn enter_bootloader(&mut self, now: Duration, silicon: &mut Silicon) {
        let base = silicon.boot_base();
        let at = now + LEAVES_AFTER;
        if self.start != base && holds_katapult(silicon, base) {
            if let Some(stack) = silicon.flash.word(base) {
                silicon.ram.insert(stack, KATAPULT_REQUEST);
            }
            return self.leave(silicon, at, Next::Reset);
        }
        let offset = self.start - silicon.chip.flash_start.0;
        if silicon.is("rp2") {
            return self.leave(silicon, at, Next::Rom);
        }
        if silicon.is("stm32f103") {
            // HID bootloader and STM32duino: none of them is there to see the request.
            if matches!(offset, 0x800 | 0x2000) {
                self.leave(silicon, at, Next::Reset);
            }
            return;
        }
        if silicon.klipper_jumps_to_rom() && self.firmware.cable == FirmwareCable::Usb {
            if !(silicon.is("stm32f4") && offset == 0x4000) {
                let request_at = silicon.rom_request_at();
                silicon.ram.insert(request_at, ROM_REQUEST);
            }
            self.leave(silicon, at, Next::Reset);
        }
    }
}

/// Katapult's signature lies 9 bytes before the address in its reset vector.
fn holds_katapult(silicon: &Silicon, base: u32) -> bool {
    let signature = silicon.flash.word(base + 4).and_then(|reset| silicon.flash.read(reset.checked_sub(9)?, 8));
    signature == Some(b"CanBoot!")
}

/// The request for the serial bootloader: the length, sequence and end of a block, with a checksum that is wrong.
fn uart_request() -> &'static [u8] {
    b"\x20\x1c Request Serial Bootloader!! \x7e"
}

/// The integers of a command by its format; strings are skipped. `None` if the content ends too early.
fn arguments(format: &str, content: &mut &[u8]) -> Option<Vec<u32>> {
    let mut values = Vec::new();
    for parameter in format.split(' ').skip(1) {
        let (_, kind) = parameter.split_once('=')?;
        if kind.ends_with('s') {
            let (&length, rest) = content.split_first()?;
            *content = rest.get(usize::from(length)..)?;
        } else {
            values.push(take_int(content)?);
        }
    }
    Some(values)
}
