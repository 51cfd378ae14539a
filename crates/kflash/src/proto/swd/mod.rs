//! SWD: the way in when no cable answers. A debug probe halts the chip, puts a flash algorithm into its RAM and lets its
//! own core erase and write.
//!
//! The probes, the wire and the running of algorithms are probe-rs's. It opens its probe by itself and waits by the
//! system's clock: the one protocol that is not handed a link.
//!
//! Bytes that share a sector with what is written are put back: erasing a sector reads it first, and what is not written
//! over by the end is restored. Option bytes are left alone, unless read protection is lifted on request, which erases
//! the chip.

mod connect;
mod controller;
mod definition;
mod error;
mod live;
mod probes;
mod see;
mod translate;

use std::collections::BTreeMap;

use probe_rs::flashing::{self, DownloadOptions, FlashProgress, ProgressEvent, ProgressOperation};
use probe_rs::{Core, CoreStatus, MemoryInterface as _, Session};

pub use self::connect::Connect;
pub use self::error::SwdError;
pub use self::live::Live;
pub use self::probes::{ParseSelectorError, Probe, ProbeSelector, Probes};
pub use self::see::Seen;
use self::translate::{Cause, cause, failed, unsupported};
use crate::addr::{FlashAddr, FlashRange};
use crate::chip::FlashController;
use crate::proto::{Bootloader, ProtoError, TargetInfo};

/// Bytes read between two signs of progress.
const READ_STEP: u32 = 4096;

/// DHCSR; with its key and C_DEBUGEN, or nothing (ARMv7-M §C1.6.2).
const DHCSR: u64 = 0xe000_edf0;
const DEBUG_ON: u32 = 0xa05f_0001;
const DEBUG_OFF: u32 = 0xa05f_0000;

/// A chip behind a debug probe, halted.
pub struct Swd {
    /// `None` once the chip was started.
    session: Option<Session>,
    probe: Probe,
    info: TargetInfo,
    uid: Option<[u32; 3]>,
    controller: FlashController,
    flash_start: FlashAddr,
    /// Pages of sectors that were erased and not yet written again, by address, as they were before.
    held: BTreeMap<u32, Vec<u8>>,
    /// What reads of erased flash give.
    erased: u8,
}

impl Swd {
    /// The chip's unique id, where it has one.
    pub fn uid(&self) -> Option<[u32; 3]> {
        self.uid
    }

    fn session(&mut self, doing: &str) -> Result<&mut Session, ProtoError> {
        self.session.as_mut().ok_or_else(|| unsupported(doing, "the chip was started"))
    }

    fn core(&mut self, doing: &str) -> Result<Core<'_>, ProtoError> {
        self.session(doing)?.core(0).map_err(|error| failed(doing, &error))
    }

    fn read_into(&mut self, addr: u32, bytes: &mut [u8]) -> Result<(), ProtoError> {
        let doing = format!("cannot read {}", FlashAddr(addr));
        self.core(&doing)?.read(addr.into(), bytes).map_err(|error| failed(&doing, &error))
    }

    fn page_of(&self, addr: u32) -> u32 {
        addr - addr % self.info.block_size.0
    }

    /// Keeps what a sector holds, page by page.
    fn hold(&mut self, sector: FlashRange) -> Result<(), ProtoError> {
        let page_size = self.info.block_size.0;
        for page in (sector.start.0..sector.end().0).step_by(page_size as usize) {
            let mut bytes = vec![0; page_size as usize];
            match self.read_into(page, &mut bytes) {
                Ok(()) => {}
                // A cut may have left words that cannot be read any more: there is nothing to keep.
                Err(ProtoError::Status { .. }) => continue,
                Err(error) => return Err(error),
            }
            self.held.insert(page, bytes);
        }
        Ok(())
    }

    /// Programs whole pages.
    fn program(&mut self, addr: u32, bytes: &[u8], progress: &mut dyn FnMut(u32)) -> Result<(), ProtoError> {
        let doing = format!("cannot write {}", FlashAddr(addr));
        let session = self.session(&doing)?;
        let mut loader = session.target().flash_loader();
        loader.add_data(addr.into(), bytes).map_err(|error| failed(&doing, &error))?;
        let mut options = DownloadOptions::default();
        options.skip_erase = true;
        options.progress = FlashProgress::new(|event| {
            if let ProgressEvent::Progress { operation: ProgressOperation::Program, size, .. } = event {
                progress(size as u32);
            }
        });
        loader.commit(session, options).map_err(|error| failed(&doing, &error))
    }

    /// Writes back one page that was erased along, and proves it.
    fn restore(&mut self, page: u32, bytes: &[u8]) -> Result<(), ProtoError> {
        self.program(page, bytes, &mut |_| ())?;
        let mut read = vec![0; bytes.len()];
        self.read_into(page, &mut read)?;
        if read == bytes {
            return Ok(());
        }
        let doing = format!("cannot restore {}", FlashAddr(page));
        Err(ProtoError::Malformed { doing, what: "it reads otherwise than it was".into() })
    }
}

impl Bootloader for Swd {
    fn info(&self) -> &TargetInfo {
        &self.info
    }

    fn read(&mut self, range: FlashRange, progress: &mut dyn FnMut(u32)) -> Result<Vec<u8>, ProtoError> {
        let mut bytes = vec![0; range.size.0 as usize];
        let mut addr = range.start.0;
        for step in bytes.chunks_mut(READ_STEP as usize) {
            self.read_into(addr, step)?;
            addr += step.len() as u32;
            progress(step.len() as u32);
        }
        Ok(bytes)
    }

    /// Erases one sector, which has to be one of [`TargetInfo::sectors`], and keeps what it held.
    fn erase(&mut self, sector: FlashRange) -> Result<(), ProtoError> {
        let doing = format!("cannot erase {}", sector.start);
        if !self.info.sectors.iter().any(|listed| listed.range == sector) {
            return Err(unsupported(&doing, format!("{sector} is no sector of the chip")));
        }
        self.hold(sector)?;
        let (start, end) = (sector.start.0.into(), sector.end().0.into());
        flashing::erase(self.session(&doing)?, &mut FlashProgress::empty(), start, end, false)
            .map_err(|error| failed(&doing, &error))
    }

    /// Writes `data`, and with it what the pages at its ends held before they were erased.
    fn write(&mut self, addr: FlashAddr, data: &[u8], progress: &mut dyn FnMut(u32)) -> Result<(), ProtoError> {
        let page_size = self.info.block_size.0;
        let first = self.page_of(addr.0);
        let end = addr.0.checked_add(data.len() as u32).and_then(|end| end.checked_next_multiple_of(page_size));
        let Some(end) = end else {
            return Err(unsupported(&format!("cannot write {addr}"), "it passes the end of the address space"));
        };
        let mut bytes = vec![self.erased; (end - first) as usize];
        for (page, into) in (first..end).step_by(page_size as usize).zip(bytes.chunks_mut(page_size as usize)) {
            if let Some(held) = self.held.remove(&page) {
                into.copy_from_slice(&held);
            }
        }
        let before = (addr.0 - first) as usize;
        bytes[before..before + data.len()].copy_from_slice(data);
        let mut left = data.len() as u32;
        self.program(first, &bytes, &mut |size| {
            let step = size.min(left);
            left -= step;
            progress(step);
        })?;
        // Whatever share of the pages was not told.
        if left > 0 {
            progress(left);
        }
        Ok(())
    }

    /// Restores what was erased along with what was written.
    fn finish(&mut self) -> Result<(), ProtoError> {
        while let Some((page, bytes)) = self.held.pop_first() {
            if bytes.iter().any(|byte| *byte != self.erased) {
                self.restore(page, &bytes)?;
            }
        }
        Ok(())
    }

    /// Resets the chip, which then starts as after power-on, and takes the debugger off it. `addr` is where that leads
    /// through whatever is installed.
    fn start(&mut self, addr: FlashAddr) -> Result<(), ProtoError> {
        let doing = format!("cannot start {addr}");
        let (controller, flash_start) = (self.controller, self.flash_start);
        let mut core = self.core(&doing)?;
        controller.forget_blank(&mut core, flash_start).map_err(|error| failed(&doing, &error))?;
        // Flashing leaves the core halted in the algorithm.
        let status = match core.reset().and_then(|()| core.status()) {
            // It runs, and uses the pins for something else.
            Err(error) if cause(&error) == Cause::TargetSilent => CoreStatus::Running,
            status => status.map_err(|error| failed(&doing, &error))?,
        };
        drop(core);
        // Its end halts the core once more, and leaves debugging on.
        self.session = None;
        connect::let_go(&self.probe);
        if status == CoreStatus::LockedUp {
            let status = "the core locks up: no program lies where it starts".into();
            return Err(ProtoError::Status { doing, status, protected: false });
        }
        Ok(())
    }
}
