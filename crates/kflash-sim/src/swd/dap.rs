//! A CMSIS-DAP v2 probe, written from Arm's CMSIS-DAP documents (2.1): its commands, on a [`Target`] at its wires.

use super::{Port, Refused, Target};

/// Bytes of the largest packet.
const PACKET: u16 = 512;
/// Packets that it takes ahead.
const PACKETS: u8 = 4;
/// WAITs that a transfer is repeated for, until the host says otherwise.
const RETRIES: u16 = 100;
/// nRESET among the pins.
const NRESET: u8 = 1 << 7;
/// SWCLK and SWDIO, which idle high.
const IDLE: u8 = 0x03;

/// Status bytes of a command.
const DONE: u8 = 0x00;
const ERROR: u8 = 0xff;
/// Acknowledges of a transfer.
const OK: u8 = 1;
const WAIT: u8 = 2;
const FAULT: u8 = 4;
const NO_ACK: u8 = 7;
/// The value that was read did not match.
const MISMATCH: u8 = 1 << 4;

/// A probe with a chip at its wires.
pub struct Probe {
    target: Target,
    serial: String,
    retries: u16,
    matches: u16,
    /// Bits that a value match compares.
    mask: u32,
    commands: u64,
}

/// What is left of a request. What is missing of a short one reads as zeros.
struct Request<'a>(&'a [u8]);

/// A transfer, as the host asks for it.
#[derive(Clone, Copy)]
struct Transfer(u8);

impl Transfer {
    fn port(self) -> Port {
        if self.0 & 1 == 0 { Port::Debug } else { Port::Access }
    }

    fn is_read(self) -> bool {
        self.0 & 2 != 0
    }

    fn addr(self) -> u8 {
        self.0 & 0xc
    }

    fn matches(self) -> bool {
        self.0 & 0x10 != 0
    }

    fn sets_mask(self) -> bool {
        self.0 & 0x20 != 0
    }
}

impl Request<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        let mut taken = taken.to_vec();
        taken.resize(count, 0);
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }
}

impl Probe {
    /// A probe with this serial number.
    pub fn new(serial: &str, target: Target) -> Self {
        Self { target, serial: serial.to_owned(), retries: RETRIES, matches: 0, mask: u32::MAX, commands: 0 }
    }

    /// The chip.
    pub fn target(&mut self) -> &mut Target {
        &mut self.target
    }

    /// Commands so far.
    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Carries out the commands of a packet; what it answers, which is nothing for what asks for no answer.
    pub fn packet(&mut self, packet: &[u8]) -> Result<Vec<u8>, String> {
        self.target.run()?;
        let mut request = Request(packet);
        if packet.is_empty() {
            return Ok(Vec::new());
        }
        self.command(&mut request)
    }

    fn command(&mut self, request: &mut Request<'_>) -> Result<Vec<u8>, String> {
        self.commands += 1;
        let id = request.u8();
        let mut answer = vec![id];
        match id {
            // DAP_Info
            0x00 => answer.extend(self.info(request.u8())),
            // DAP_HostStatus, DAP_Delay
            0x01 | 0x09 => {
                request.u16();
                answer.push(DONE);
            }
            // DAP_Connect: SWD is all there is.
            0x02 => answer.push(u8::from(request.u8() <= 1)),
            // DAP_Disconnect
            0x03 => answer.push(DONE),
            // DAP_TransferConfigure
            0x04 => {
                request.u8();
                (self.retries, self.matches) = (request.u16(), request.u16());
                answer.push(DONE);
            }
            0x05 => answer.extend(self.transfers(request)),
            0x06 => answer.extend(self.block(request)),
            // DAP_WriteABORT
            0x08 => {
                request.u8();
                let value = request.u32();
                answer.push(if self.target.write(Port::Debug, 0, value).is_ok() { DONE } else { ERROR });
            }
            0x10 => answer.push(self.pins(request)?),
            // DAP_SWJ_Clock
            0x11 => {
                request.u32();
                answer.push(DONE);
            }
            // DAP_SWJ_Sequence
            0x12 => {
                let bits = match request.u8() {
                    0 => 256,
                    bits => usize::from(bits),
                };
                let levels = request.take(bits.div_ceil(8));
                self.target.swj(bits, &levels);
                answer.push(DONE);
            }
            // DAP_SWD_Configure
            0x13 => {
                request.u8();
                answer.push(DONE);
            }
            // DAP_ExecuteCommands
            0x7f => {
                let count = request.u8();
                answer.push(count);
                for _ in 0..count {
                    if request.0.is_empty() {
                        break;
                    }
                    answer.extend(self.command(request)?);
                }
            }
            _ => {
                request.0 = &[];
                return Ok(vec![ERROR]);
            }
        }
        Ok(answer)
    }

    fn info(&self, id: u8) -> Vec<u8> {
        let text = |text: &str| {
            let mut info = vec![text.len() as u8 + 1];
            info.extend_from_slice(text.as_bytes());
            info.push(0);
            info
        };
        match id {
            0x01 => text("kflash"),
            0x02 => text("simulated debug probe"),
            0x03 => text(&self.serial),
            0x04 => text("2.1.1"),
            // Capabilities: SWD.
            0xf0 => vec![1, 1],
            0xfe => vec![1, PACKETS],
            0xff => [&[2][..], &PACKET.to_le_bytes()].concat(),
            _ => vec![0],
        }
    }

    /// DAP_SWJ_Pins.
    fn pins(&mut self, request: &mut Request<'_>) -> Result<u8, String> {
        let (levels, selected) = (request.u8(), request.u8());
        request.u32();
        if selected & NRESET != 0 {
            self.target.set_reset(levels & NRESET != 0)?;
        }
        Ok(if self.target.reset_is_high() { IDLE | NRESET } else { IDLE })
    }

    /// DAP_Transfer.
    fn transfers(&mut self, request: &mut Request<'_>) -> Vec<u8> {
        request.u8();
        let (mut done, mut acknowledge, mut data) = (0, OK, Vec::new());
        for _ in 0..request.u8() {
            let transfer = Transfer(request.u8());
            let value = if !transfer.is_read() || transfer.matches() { request.u32() } else { 0 };
            // What follows a failure is skipped.
            if acknowledge != OK {
                continue;
            }
            acknowledge = match (transfer.is_read(), transfer.matches(), transfer.sets_mask()) {
                (true, true, _) => self.read_until(transfer, value),
                (true, false, _) => match self.read(transfer) {
                    Ok(word) => {
                        data.extend(word.to_le_bytes());
                        OK
                    }
                    Err(refused) => acknowledge_of(refused),
                },
                (false, _, true) => {
                    self.mask = value;
                    OK
                }
                (false, _, false) => self.write(transfer, value).map_or_else(acknowledge_of, |()| OK),
            };
            done += u8::from(acknowledge == OK);
        }
        [&[done, acknowledge][..], &data].concat()
    }

    /// DAP_TransferBlock.
    fn block(&mut self, request: &mut Request<'_>) -> Vec<u8> {
        request.u8();
        let (count, transfer) = (request.u16(), Transfer(request.u8()));
        let (mut done, mut acknowledge, mut data) = (0_u16, OK, Vec::new());
        for _ in 0..count {
            let result = if transfer.is_read() {
                self.read(transfer).map(|word| data.extend(word.to_le_bytes()))
            } else {
                let value = request.u32();
                self.write(transfer, value)
            };
            if let Err(refused) = result {
                acknowledge = acknowledge_of(refused);
                break;
            }
            done += 1;
        }
        [&done.to_le_bytes()[..], &[acknowledge], &data].concat()
    }

    /// Reads until the bits of the mask are `value`'s, or for as often as the host said.
    fn read_until(&mut self, transfer: Transfer, value: u32) -> u8 {
        for _ in 0..=self.matches {
            match self.read(transfer) {
                Ok(word) if word & self.mask == value => return OK,
                Ok(_) => {}
                Err(refused) => return acknowledge_of(refused),
            }
        }
        OK | MISMATCH
    }

    /// Reads of an access port are posted on the wire; the host gets what it asked for.
    fn read(&mut self, transfer: Transfer) -> Result<u32, Refused> {
        let addr = transfer.addr();
        let posted = self.patiently(|target| target.read(transfer.port(), addr))?;
        match transfer.port() {
            Port::Debug => Ok(posted),
            Port::Access => self.patiently(|target| target.read(Port::Debug, 0xc)),
        }
    }

    fn write(&mut self, transfer: Transfer, value: u32) -> Result<(), Refused> {
        self.patiently(|target| target.write(transfer.port(), transfer.addr(), value))
    }

    fn patiently<T>(&mut self, mut act: impl FnMut(&mut Target) -> Result<T, Refused>) -> Result<T, Refused> {
        for _ in 0..self.retries {
            match act(&mut self.target) {
                Err(Refused::Wait) => {}
                result => return result,
            }
        }
        act(&mut self.target)
    }
}

fn acknowledge_of(refused: Refused) -> u8 {
    match refused {
        Refused::Wait => WAIT,
        Refused::Fault => FAULT,
        Refused::Silence => NO_ACK,
    }
}
