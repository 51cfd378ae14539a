//! A DfuSe bootloader in ROM: DFU 1.1 with ST's commands (AN3156), as strict as the chips and with their ways
//! (`tests/data/silicon`).

use std::time::Duration;

use kflash::link::Setup;

use crate::board::{Control, UsbDescriptors};
use crate::dfu_variant::{DfuVariant, Holds, Leave, Protection};
use crate::flash::Refusal;
use crate::silicon::{Next, Silicon};
use crate::usb::{self, Identity, utf16};

/// bState (DFU 1.1 §6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle = 2,
    DownloadSync = 3,
    DownloadBusy = 4,
    DownloadIdle = 5,
    ManifestSync = 6,
    Manifest = 7,
    UploadIdle = 9,
    Error = 10,
}

const OK: u8 = 0x00;
const ERR_WRITE: u8 = 0x03;
const ERR_FIRMWARE: u8 = 0x0a;
const ERR_VENDOR: u8 = 0x0b;
const ERR_UNKNOWN: u8 = 0x0e;
const ERR_STALLED: u8 = 0x0f;

/// D+ drops so long after the status stage of the last GETSTATUS (F042, recorded).
const DROPS_AFTER: Duration = Duration::from_micros(20);

/// What the last DNLOAD asked for; it is begun by the GETSTATUS after it.
#[derive(Clone, Debug)]
enum Command {
    SetPointer(u32),
    Erase(u32),
    MassErase,
    ReadUnprotect,
    Data { block: u16, bytes: Vec<u8> },
}

/// What has been begun.
#[derive(Clone, Copy, Debug)]
struct Busy {
    end: Duration,
    status: u8,
    polls: [u32; 2],
    endless: bool,
}

/// The bootloader, running.
pub(crate) struct RomDfu {
    variant: DfuVariant,
    state: State,
    status: u8,
    pointer: u32,
    command: Option<Command>,
    busy: Option<Busy>,
    /// The core serves no request before.
    blocked_until: Duration,
}

impl RomDfu {
    pub(crate) fn new(variant: DfuVariant, silicon: &Silicon) -> Self {
        let (state, status) = if variant.starts_in_error { (State::Error, ERR_FIRMWARE) } else { (State::Idle, OK) };
        Self {
            variant,
            state,
            status,
            pointer: silicon.chip.flash_start.0,
            command: None,
            busy: None,
            blocked_until: Duration::ZERO,
        }
    }

    pub(crate) fn descriptors(&self) -> UsbDescriptors {
        let variant = &self.variant;
        let mut body = Vec::new();
        for index in 0..variant.alternates.len() as u8 {
            body.extend([9, 4, 0, index, 0, 0xfe, 1, 2, 4 + index]);
        }
        body.extend([9, 0x21, 0x0b, 255, 0]);
        body.extend(variant.transfer_size.to_le_bytes());
        body.extend([0x1a, 0x01]);
        let mut strings = vec![utf16("STMicroelectronics"), utf16(&variant.product), variant.serial.clone()];
        strings.extend(variant.alternates.iter().map(|alternate| utf16(&alternate.name)));
        let identity = Identity {
            usb: variant.usb,
            class: 0,
            vendor: variant.id.0,
            product: variant.id.1,
            revision: variant.revision,
        };
        usb::descriptors(identity, usb::configuration(1, 0xc0, 50, &body), strings)
    }

    /// A class request.
    pub(crate) fn control(
        &mut self,
        now: Duration,
        silicon: &mut Silicon,
        setup: Setup,
        data: &[u8],
        length: u16,
    ) -> Control {
        let at = now.max(self.blocked_until);
        let answer = match (setup.request_type, setup.request) {
            (0x21, 1) => self.download(at, silicon, setup.value, data),
            (0xa1, 2) => self.upload(silicon, setup.value, length),
            (0xa1, 3) => self.get_status(at, silicon),
            (0x21, 4) => self.clear_status(),
            (0xa1, 5) => done(vec![self.state as u8]),
            (0x21, 6) => self.abort(),
            _ => self.stall(ERR_STALLED),
        };
        match answer {
            Control::Done { data, held } => Control::Done { data, held: held + at.saturating_sub(now) },
            other => other,
        }
    }

    fn stall(&mut self, status: u8) -> Control {
        self.state = State::Error;
        self.status = status;
        self.command = None;
        self.busy = None;
        Control::Stall
    }

    fn download(&mut self, now: Duration, silicon: &mut Silicon, block: u16, data: &[u8]) -> Control {
        match self.state {
            State::Idle | State::DownloadIdle => {}
            // Busy, it refuses and goes on.
            State::DownloadBusy => return Control::Stall,
            _ => return self.stall(ERR_STALLED),
        }
        if data.is_empty() {
            // DFU 1.1 §A.2.3: not in dfuIDLE.
            if self.state != State::DownloadIdle {
                return self.stall(ERR_STALLED);
            }
            self.state = State::ManifestSync;
            if self.variant.leave == Leave::VanishAtDownload {
                self.leave(silicon, now);
            }
            return done(Vec::new());
        }
        if data.len() > usize::from(self.variant.transfer_size) {
            return self.stall(ERR_STALLED);
        }
        let address = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_le_bytes);
        let command = match (block, data) {
            (0, [0x21, bytes @ ..]) => address(bytes).map(Command::SetPointer),
            (0, [0x41]) => Some(Command::MassErase),
            (0, [0x41, bytes @ ..]) => address(bytes).map(Command::Erase),
            (0, [0x92]) => Some(Command::ReadUnprotect),
            (0 | 1, _) => None,
            (block, bytes) => Some(Command::Data { block, bytes: bytes.to_vec() }),
        };
        if command.is_none() {
            return self.stall(ERR_STALLED);
        }
        self.command = command;
        self.state = State::DownloadSync;
        done(Vec::new())
    }

    fn upload(&mut self, silicon: &Silicon, block: u16, length: u16) -> Control {
        if !matches!(self.state, State::Idle | State::UploadIdle) || length > self.variant.transfer_size {
            return self.stall(ERR_STALLED);
        }
        let wanted = usize::from(length);
        let bytes = match block {
            0 => vec![0x00, 0x21, 0x41, 0x92],
            1 => return self.stall(ERR_STALLED),
            _ if silicon.read_protected => return self.stall(ERR_VENDOR),
            _ => {
                let offset = u32::from(block - 2) * u32::from(self.variant.transfer_size);
                let address = self.pointer.wrapping_add(offset);
                let Some(left) = self.left(address) else { return self.stall(self.variant.outside) };
                let count = wanted.min(left as usize);
                let bytes: Option<Vec<u8>> = match silicon.flash.read(address, count) {
                    Some(bytes) => Some(bytes.to_vec()),
                    None if silicon.flash.contains(address) => None,
                    None => Some(vec![0xff; count]),
                };
                match bytes {
                    Some(bytes) => bytes,
                    None => return self.stall(ERR_UNKNOWN),
                }
            }
        };
        let bytes = bytes[..bytes.len().min(wanted)].to_vec();
        self.state = if bytes.len() < wanted { State::Idle } else { State::UploadIdle };
        done(bytes)
    }

    /// Bytes from `address` to the end of its memory; `None` outside of every memory.
    fn left(&self, address: u32) -> Option<u32> {
        self.variant.alternates.iter().find_map(|memory| {
            let offset = address.checked_sub(memory.start)?;
            (offset <= memory.size).then(|| memory.size - offset)
        })
    }

    fn get_status(&mut self, now: Duration, silicon: &mut Silicon) -> Control {
        match self.state {
            State::DownloadSync => {
                let Some(command) = self.command.take() else { return self.stall(ERR_UNKNOWN) };
                let busy = self.execute(now, silicon, command);
                self.busy = Some(busy);
                self.state = State::DownloadBusy;
                let mut held = Duration::ZERO;
                if !busy.endless {
                    if self.variant.holds == Holds::First {
                        held = busy.end.saturating_sub(now);
                    }
                    if self.variant.holds != Holds::Nothing {
                        self.blocked_until = busy.end;
                    }
                }
                self.reply(busy.polls[0], held)
            }
            State::DownloadBusy => {
                let Some(busy) = self.busy else { return self.stall(ERR_UNKNOWN) };
                if busy.endless || now < busy.end {
                    return self.reply(busy.polls[0], Duration::ZERO);
                }
                self.busy = None;
                self.status = busy.status;
                if busy.status == OK {
                    self.state = State::DownloadIdle;
                    self.reply(busy.polls[1], Duration::ZERO)
                } else {
                    self.state = State::Error;
                    self.reply(0, Duration::ZERO)
                }
            }
            State::ManifestSync => {
                self.state = State::Manifest;
                self.leave(silicon, now);
                match self.variant.leave {
                    Leave::Manifest(poll) => self.reply(poll, Duration::ZERO),
                    Leave::Stall => Control::Stall,
                    Leave::Vanish | Leave::VanishAtDownload => Control::Vanished,
                }
            }
            _ => self.reply(0, Duration::ZERO),
        }
    }

    fn reply(&self, poll: u32, held: Duration) -> Control {
        let poll = poll.to_le_bytes();
        Control::Done { data: vec![self.status, poll[0], poll[1], poll[2], self.state as u8, 0], held }
    }

    fn leave(&self, silicon: &mut Silicon, now: Duration) {
        silicon.next = Some((now + DROPS_AFTER, Next::Jump(self.pointer)));
    }

    fn clear_status(&mut self) -> Control {
        match self.state {
            State::Error => {
                self.state = State::Idle;
                self.status = OK;
                done(Vec::new())
            }
            // The way out of the H743's endless busy that ST's own tool takes.
            State::DownloadBusy if self.busy.is_some_and(|busy| busy.endless) => {
                self.stall(ERR_UNKNOWN);
                done(Vec::new())
            }
            _ if self.variant.stalls_needless_clear => Control::Stall,
            _ => done(Vec::new()),
        }
    }

    fn abort(&mut self) -> Control {
        match self.state {
            State::DownloadBusy | State::Manifest | State::Error => self.stall(ERR_STALLED),
            _ => {
                self.state = State::Idle;
                self.command = None;
                done(Vec::new())
            }
        }
    }

    fn execute(&mut self, now: Duration, silicon: &mut Silicon, command: Command) -> Busy {
        let polls = match &command {
            Command::SetPointer(_) => self.variant.pointer_polls,
            Command::Data { .. } => self.variant.data_polls,
            _ => self.variant.erase_polls,
        };
        let done = |end: Duration, status: u8| Busy { end, status, polls, endless: false };
        if silicon.read_protected && !matches!(command, Command::ReadUnprotect) {
            return match (self.variant.protection, command) {
                (Protection::Refuses, _) => done(now, ERR_VENDOR),
                (Protection::Silent, Command::SetPointer(address)) => {
                    self.pointer = address;
                    done(now, OK)
                }
                (Protection::Silent, _) => done(now, OK),
            };
        }
        match command {
            Command::SetPointer(address) => {
                if self.left(address).is_none_or(|left| left == 0) {
                    return done(now, self.variant.outside);
                }
                self.pointer = address;
                done(now, OK)
            }
            Command::Erase(address) => {
                if self.left(address).is_none_or(|left| left == 0) {
                    return done(now, self.variant.outside);
                }
                // Write-protected or claimed by the layout alone: nothing happens, and it says so nowhere.
                let end = if silicon.flash.contains(address) {
                    silicon.flash.erase(now, address).unwrap_or(now)
                } else {
                    now
                };
                let endless = self.variant.endless_busy_from.is_some_and(|from| address >= from);
                Busy { end, status: OK, polls, endless }
            }
            Command::MassErase => done(erase_all(silicon, now), OK),
            Command::ReadUnprotect => {
                let end = erase_all(silicon, now);
                silicon.read_protected = false;
                silicon.next = Some((end, Next::OptionLoad));
                done(end, OK)
            }
            Command::Data { block, bytes } => {
                let offset = u32::from(block - 2) * u32::from(self.variant.transfer_size);
                let address = self.pointer.wrapping_add(offset);
                if self.left(address).is_none_or(|left| (left as usize) < bytes.len()) {
                    return done(now, self.variant.outside);
                }
                if !silicon.flash.contains(address) {
                    return done(now, OK);
                }
                let unit = silicon.chip.program_unit.0.max(1) as usize;
                let mut bytes = bytes;
                bytes.resize(bytes.len().next_multiple_of(unit), 0xff);
                match silicon.flash.program(now, address, &bytes) {
                    Ok(end) => done(end, OK),
                    Err(Refusal::Protected) => done(now, OK),
                    Err(Refusal::NotBlank | Refusal::Address) => done(now, ERR_WRITE),
                }
            }
        }
    }
}

fn erase_all(silicon: &mut Silicon, now: Duration) -> Duration {
    let starts: Vec<u32> = silicon.flash.sectors().iter().map(|sector| sector.start.0).collect();
    starts.into_iter().fold(now, |at, start| silicon.flash.erase(at, start).unwrap_or(at))
}

fn done(data: Vec<u8>) -> Control {
    Control::Done { data, held: Duration::ZERO }
}
