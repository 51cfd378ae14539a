//! DfuSe: DFU 1.1 with addresses, as ST's ROM bootloaders speak it (AN3156, UM0424) and GD32 and APM32 copy it.
//!
//! A download of block 0 is a command (set the address pointer, erase), a block n from 2 up is data for
//! pointer + (n − 2) · wTransferSize. A command is carried out when `DFU_GETSTATUS` asks for it; that answer may be held
//! until an erase is done, so that the time-out of the request covers the erase and not `bwPollTimeout`.
//!
//! "OK" does not prove a write: chips that are read- or write-protected say it too. Reading back is the only proof.
//!
//! There is no mass erase: kflash never erases what it does not write.

mod doing;
pub mod functional;
pub mod layout;
mod patience;
mod serial;
pub mod status;

use std::time::Duration;

use self::doing::Doing;
use self::functional::{DfuInterface, dfu_interface};
use self::layout::Layout;
use self::patience::Patience;
pub use self::serial::rom_serial;
use self::status::{State, Status};
use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::chip::DfuQuirk;
use crate::clock::Clock;
use crate::link::descriptor::read_strings;
use crate::link::{LinkError, Setup, UsbLink};
use crate::proto::{Access, Bootloader, ProtoError, Protocol, TargetInfo};

/// `bRequest` of DFU 1.1 §3.
const DNLOAD: u8 = 1;
const UPLOAD: u8 = 2;
const GETSTATUS: u8 = 3;
const CLRSTATUS: u8 = 4;
const ABORT: u8 = 6;

/// Commands in block 0 (AN3156 §3.2, §3.3).
const SET_POINTER: u8 = 0x21;
const ERASE: u8 = 0x41;

/// The first block that is data.
const FIRST_DATA_BLOCK: u16 = 2;
/// Blocks that can be counted from one address pointer.
const MOST_BLOCKS: usize = (u16::MAX - FIRST_DATA_BLOCK) as usize + 1;

/// A request that the device answers at once.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// `DFU_GETSTATUS` is held until an erase is done: 2.2 s were seen for 128 KiB, 256 KiB sectors take longer.
const HELD_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest control transfer that hosts pass on; real ones are 1024 and 2048.
const MOST_TRANSFER: usize = 4096;

/// The last block is filled up to this with `ff`: the largest program unit (STM32H7), since half a unit cannot be
/// written where units carry ECC.
const PROGRAM_UNIT: usize = 32;

/// Sectors that [`DfuQuirk::EndlessBusy`] is about (STM32H743, second bank).
const ENDLESS_BUSY_FROM: FlashAddr = FlashAddr(0x0810_0000);
/// Answers after which an endless busy is ended; ST's own tool does so after two polls of 1 s.
const ENDLESS_BUSY_POLLS: u32 = 2;

/// `DFU_CLRSTATUS` in a row that did not help. The STM32H743 needs two.
const MOST_CLEARS: u32 = 4;

/// A DfuSe bootloader.
///
/// It never starts the application by itself: whether that is safe after a failure only the caller knows.
pub struct DfuSe<'a> {
    link: Box<dyn UsbLink>,
    clock: &'a dyn Clock,
    interface: DfuInterface,
    endless_busy: bool,
    /// The state that the device was last seen in; `None` after a failure.
    state: Option<State>,
    info: TargetInfo,
}

impl<'a> DfuSe<'a> {
    /// Takes hold of the bootloader behind `link`: finds its interface and memory, and brings it into dfuIDLE from
    /// whatever an earlier run left. ROMs are often found in dfuERROR (errFIRMWARE) after a reset: that is normal.
    ///
    /// The sectors in [`Bootloader::info`] are the device's own claim, which with [`DfuQuirk::LayoutTooLarge`] is more
    /// than there is.
    pub fn connect(link: Box<dyn UsbLink>, clock: &'a dyn Clock, quirks: &[DfuQuirk]) -> Result<Self, ProtoError> {
        let mut link = link;
        let doing = Doing::Open;
        let interface = dfu_interface(link.configuration_descriptor()).map_err(|what| doing.malformed(what))?;
        let size = usize::from(interface.transfer_size);
        if size == 0 || size > MOST_TRANSFER || !size.is_multiple_of(PROGRAM_UNIT) {
            return Err(doing.malformed(format!("wTransferSize is {}", interface.transfer_size)));
        }
        let (alternate, layout) = internal_flash(link.as_mut(), &interface)?;
        match link.set_alternate(interface.number, alternate) {
            // A device with one alternate may refuse (USB 2.0 §9.4.10).
            Err(LinkError::Stall) if interface.alternates.len() == 1 => {}
            result => result.map_err(|error| doing.link(error))?,
        }
        let version = match *link.device_descriptor() {
            [_, _, _, _, _, _, _, _, _, _, _, _, low, high, ..] => Some(format!("bcdDevice {high:x}.{low:02x}")),
            _ => None,
        };
        let info = TargetInfo {
            protocol: Protocol::Dfuse,
            version,
            mcu: None,
            app_start: None,
            block_size: FlashSize(interface.transfer_size.into()),
            sectors: layout.sectors,
        };
        let endless_busy = quirks.contains(&DfuQuirk::EndlessBusy);
        let mut bootloader = Self { link, clock, interface, endless_busy, state: None, info };
        bootloader.make_idle(doing)?;
        Ok(bootloader)
    }

    fn setup(&self, request_type: u8, request: u8, value: u16) -> Setup {
        Setup { request_type, request, value, index: self.interface.number.into() }
    }

    /// A class request to the interface with `data`; the state is not known after it.
    fn request(&mut self, request: u8, block: u16, data: &[u8]) -> Result<(), LinkError> {
        self.state = None;
        self.link.control_out(self.setup(0x21, request, block), data, REQUEST_TIMEOUT)
    }

    fn get_status(&mut self, doing: Doing, timeout: Duration) -> Result<Status, ProtoError> {
        self.state = None;
        let bytes = self.link.control_in(self.setup(0xa1, GETSTATUS, 0), 6, timeout).map_err(|e| doing.link(e))?;
        let status = Status::decode(&bytes)
            .ok_or_else(|| doing.malformed(format!("answer to DFU_GETSTATUS is {bytes:02x?}")))?;
        self.state = Some(status.state);
        Ok(status)
    }

    /// Asks for the state. A device that is busy may stall that: it is asked again after the time that it last named.
    fn poll(&mut self, doing: Doing, patience: &mut Patience) -> Result<Status, ProtoError> {
        loop {
            match self.get_status(doing, HELD_TIMEOUT) {
                Err(ProtoError::Link { source: LinkError::Stall, .. }) if patience.forgives_stall() => {
                    patience.wait_again(self.clock, doing)?;
                }
                result => return result,
            }
        }
    }

    /// Why a request was stalled, which only dfuERROR tells.
    fn reason_for_stall(&mut self, doing: Doing) -> ProtoError {
        match self.get_status(doing, HELD_TIMEOUT) {
            Ok(status) if status.state == State::Error => doing.status(status.code),
            _ => doing.link(LinkError::Stall),
        }
    }

    /// Leads the device from any state into dfuIDLE.
    fn make_idle(&mut self, doing: Doing) -> Result<(), ProtoError> {
        let mut patience = Patience::new(self.clock);
        let (mut clears, mut aborts) = (0, 0);
        loop {
            let status = self.poll(doing, &mut patience)?;
            match status.state {
                State::Idle => return Ok(()),
                // Nowhere else: several ROMs stall DFU_CLRSTATUS outside dfuERROR.
                State::Error if clears < MOST_CLEARS => {
                    clears += 1;
                    self.request(CLRSTATUS, 0, &[]).map_err(|error| doing.link(error))?;
                }
                State::Error => return Err(doing.status(status.code)),
                State::DownloadIdle | State::UploadIdle if aborts < MOST_CLEARS => {
                    aborts += 1;
                    self.request(ABORT, 0, &[]).map_err(|error| doing.link(error))?;
                }
                // A killed run may have left it in the endless busy of its last erase.
                State::DownloadBusy if self.endless_busy && patience.polls() >= ENDLESS_BUSY_POLLS => {
                    clears += 1;
                    if clears > MOST_CLEARS {
                        return Err(doing.stuck(patience.waited(self.clock)));
                    }
                    self.request(CLRSTATUS, 0, &[]).map_err(|error| doing.link(error))?;
                }
                State::DownloadSync | State::DownloadBusy | State::ManifestSync | State::Manifest => {
                    patience.wait(self.clock, doing, status.poll)?;
                }
                State::ManifestWaitReset => {
                    return Err(doing.unsupported("device waits for a reset (dfuMANIFEST-WAIT-RESET)"));
                }
                State::AppIdle | State::AppDetach => {
                    return Err(doing.unsupported(format!("device runs its application ({})", status.state.name())));
                }
                State::DownloadIdle | State::UploadIdle => {
                    return Err(doing.malformed(format!("device stays in {}", status.state.name())));
                }
            }
        }
    }

    /// Sends a block and waits until the device is done with it. `may_hang`: it may be busy without end.
    fn download(&mut self, doing: Doing, block: u16, data: &[u8], may_hang: bool) -> Result<(), ProtoError> {
        if !matches!(self.state, Some(State::Idle | State::DownloadIdle)) {
            self.make_idle(doing)?;
        }
        match self.request(DNLOAD, block, data) {
            Err(LinkError::Stall) => return Err(self.reason_for_stall(doing)),
            result => result.map_err(|error| doing.link(error))?,
        }
        let mut patience = Patience::new(self.clock);
        loop {
            let status = self.poll(doing, &mut patience)?;
            match status.state {
                // Its bwPollTimeout means nothing any more, though the STM32F042 repeats it.
                State::DownloadIdle => return Ok(()),
                State::Error => return Err(doing.status(status.code)),
                State::DownloadBusy if may_hang && patience.polls() >= ENDLESS_BUSY_POLLS => {
                    self.request(CLRSTATUS, 0, &[]).map_err(|error| doing.link(error))?;
                    return self.make_idle(doing);
                }
                State::DownloadSync | State::DownloadBusy => patience.wait(self.clock, doing, status.poll)?,
                other => return Err(doing.malformed(format!("device is in {} after a download", other.name()))),
            }
        }
    }

    fn set_pointer(&mut self, doing: Doing, addr: FlashAddr) -> Result<(), ProtoError> {
        self.download(doing, 0, &command(SET_POINTER, addr), false)
    }

    /// Refuses a range that is not wholly in sectors with the access that `allows` looks for.
    fn check(&self, doing: Doing, range: FlashRange, what: &str, allows: fn(Access) -> bool) -> Result<(), ProtoError> {
        let mut next = range.start;
        while next < range.end() {
            let Some(sector) = self.info.sectors.iter().find(|sector| sector.range.contains(next)) else {
                return Err(doing.unsupported(format!("device has no flash at {next}")));
            };
            if !allows(sector.access) {
                return Err(doing.unsupported(format!("device does not allow to {what} {}", sector.range)));
            }
            next = sector.range.end();
        }
        Ok(())
    }

    fn upload(&mut self, doing: Doing, block: u16, length: u16) -> Result<Vec<u8>, ProtoError> {
        self.state = None;
        match self.link.control_in(self.setup(0xa1, UPLOAD, block), length, REQUEST_TIMEOUT) {
            Err(LinkError::Stall) => Err(self.reason_for_stall(doing)),
            result => result.map_err(|error| doing.link(error)),
        }
    }
}

impl Bootloader for DfuSe<'_> {
    fn info(&self) -> &TargetInfo {
        &self.info
    }

    fn read(&mut self, range: FlashRange, progress: &mut dyn FnMut(u32)) -> Result<Vec<u8>, ProtoError> {
        let doing = Doing::Read(range.start);
        if !self.interface.can_upload {
            return Err(doing.unsupported("device cannot upload"));
        }
        self.check(doing, range, "read", |access| access.read)?;
        let block_size = self.info.block_size.0;
        let mut bytes = Vec::new();
        while (bytes.len() as u32) < range.size.0 {
            let done = bytes.len() as u32;
            let addr = FlashAddr(range.start.0 + done);
            let block = done / block_size % MOST_BLOCKS as u32;
            let doing = Doing::Read(addr);
            if block == 0 {
                self.set_pointer(doing, addr)?;
                // An upload starts from dfuIDLE only (DFU 1.1 §A.1).
                self.make_idle(doing)?;
            }
            let wanted = block_size.min(range.size.0 - done);
            let part = self.upload(doing, FIRST_DATA_BLOCK + block as u16, wanted as u16)?;
            if part.len() as u32 != wanted {
                return Err(doing.malformed(format!("device sent {} bytes of {wanted}", part.len())));
            }
            bytes.extend_from_slice(&part);
            progress(wanted);
        }
        Ok(bytes)
    }

    /// Erases one sector, which has to be one of [`TargetInfo::sectors`].
    fn erase(&mut self, sector: FlashRange) -> Result<(), ProtoError> {
        let doing = Doing::Erase(sector.start);
        if !self.info.sectors.iter().any(|listed| listed.range == sector) {
            return Err(doing.unsupported(format!("{sector} is not one sector of the device")));
        }
        self.check(doing, sector, "erase", |access| access.erase)?;
        let may_hang = self.endless_busy && sector.start >= ENDLESS_BUSY_FROM;
        self.download(doing, 0, &command(ERASE, sector.start), may_hang)
    }

    fn write(&mut self, addr: FlashAddr, data: &[u8], progress: &mut dyn FnMut(u32)) -> Result<(), ProtoError> {
        let doing = Doing::Write(addr);
        let padded = u32::try_from(data.len().next_multiple_of(PROGRAM_UNIT))
            .ok()
            .and_then(|length| FlashRange::new(addr, FlashSize(length)))
            .ok_or_else(|| doing.unsupported("data passes the end of the address space"))?;
        self.check(doing, padded, "write", |access| access.write)?;
        let mut next = addr;
        for (index, part) in data.chunks(self.info.block_size.0 as usize).enumerate() {
            let doing = Doing::Write(next);
            let block = index % MOST_BLOCKS;
            // The device counts blocks on from the pointer (AN3156 §3.1), which saves two requests for each.
            if block == 0 {
                self.set_pointer(doing, next)?;
            }
            let mut part = part.to_vec();
            let length = part.len() as u32;
            part.resize(part.len().next_multiple_of(PROGRAM_UNIT), 0xff);
            self.download(doing, FIRST_DATA_BLOCK + block as u16, &part, false)?;
            progress(length);
            next = FlashAddr(next.0 + length);
        }
        Ok(())
    }

    /// Brings the device into dfuIDLE; it keeps nothing back in RAM.
    fn finish(&mut self) -> Result<(), ProtoError> {
        self.make_idle(Doing::Finish)
    }

    /// Leaves for the application at `addr`: pointer, then a download of no bytes (AN3156 §3.5).
    ///
    /// From that download on the device may stall, stop answering or leave the bus, each of which real chips do when
    /// they obey. Success is to be confirmed by what comes back.
    fn start(&mut self, addr: FlashAddr) -> Result<(), ProtoError> {
        let doing = Doing::Start(addr);
        if !self.info.sectors.iter().any(|sector| sector.range.contains(addr)) {
            return Err(doing.unsupported("device has no flash there"));
        }
        self.set_pointer(doing, addr)?;
        match self.request(DNLOAD, FIRST_DATA_BLOCK, &[]) {
            // Either it left, or it refuses: the next answer tells.
            Ok(()) | Err(LinkError::Stall) => {}
            Err(LinkError::Gone | LinkError::TimedOut(_) | LinkError::Io { .. }) => return Ok(()),
            Err(error) => return Err(doing.link(error)),
        }
        let mut patience = Patience::new(self.clock);
        loop {
            match self.get_status(doing, REQUEST_TIMEOUT) {
                Err(ProtoError::Link {
                    source: LinkError::Stall | LinkError::Gone | LinkError::TimedOut(_) | LinkError::Io { .. },
                    ..
                }) => return Ok(()),
                Err(error) => return Err(error),
                Ok(status) => match status.state {
                    State::Error => return Err(doing.status(status.code)),
                    State::DownloadSync | State::DownloadBusy | State::ManifestSync => {
                        patience.wait(self.clock, doing, status.poll)?;
                    }
                    _ => return Ok(()),
                },
            }
        }
    }
}

/// A command with an address, little-endian.
fn command(code: u8, addr: FlashAddr) -> [u8; 5] {
    let [a, b, c, d] = addr.0.to_le_bytes();
    [code, a, b, c, d]
}

/// The alternate that is the chip's flash, with its layout.
///
/// The first of that name: the STM32G0B1 gives all three of its alternates the name of the first.
fn internal_flash(link: &mut dyn UsbLink, interface: &DfuInterface) -> Result<(u8, Layout), ProtoError> {
    let doing = Doing::Open;
    let mut names = Vec::new();
    for &(alternate, string) in &interface.alternates {
        let [name] = read_strings(link, [string]).map_err(|error| doing.link(error))?;
        let name = name.unwrap_or_default();
        if !name.trim_start_matches('@').trim_start().starts_with("Internal Flash") {
            names.push(name);
            continue;
        }
        let layout = Layout::parse(&name).map_err(|error| doing.malformed(error.to_string()))?;
        return Ok((alternate, layout));
    }
    Err(doing.malformed(format!("no alternate is named Internal Flash, only {names:?}")))
}
