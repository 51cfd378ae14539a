//! A chip that runs on while its flash is read.

use probe_rs::architecture::arm::ArmDebugInterface;

use super::connect::{CORE_AP, Connect, Looked};
use super::controller::Protection;
use super::translate::failed;
use super::{READ_STEP, SwdError};
use crate::addr::FlashRange;
use crate::proto::{ProtoError, TargetInfo};

/// A chip behind a debug probe that runs on: neither stopped nor reset.
pub struct Live {
    interface: Box<dyn ArmDebugInterface>,
    info: TargetInfo,
    readable: bool,
}

impl Live {
    /// Finds the probe and the chip, and checks that it is the one meant. `None` where nothing answers: a chip whose
    /// firmware has taken the pins, or sleeps, answers only out of a reset.
    pub fn connect(wanted: &Connect<'_>) -> Result<Option<Self>, SwdError> {
        let (definition, of) = wanted.definition()?;
        let probe = wanted.probes.select(wanted.probe)?;
        let Some(Looked { interface, look }) = wanted.look(&probe, &definition, of)? else { return Ok(None) };
        wanted.judge(&look, &probe, of)?;
        let info = wanted.info(&definition, &look);
        Ok(Some(Self { interface, info, readable: look.protection == Protection::Open }))
    }

    /// What the chip is.
    pub fn info(&self) -> &TargetInfo {
        &self.info
    }

    /// Whether its flash may be read. It may not where it is protected, and is to be unlocked.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Reads `range`; calls `progress` with the bytes of each step.
    pub fn read(&mut self, range: FlashRange, progress: &mut dyn FnMut(u32)) -> Result<Vec<u8>, ProtoError> {
        let doing = format!("cannot read {}", range.start);
        let mut memory = self.interface.memory_interface(&CORE_AP).map_err(|error| failed(&doing, &error))?;
        let mut bytes = vec![0; range.size.0 as usize];
        let mut addr = range.start;
        for step in bytes.chunks_mut(READ_STEP as usize) {
            let failed = |error| failed(&format!("cannot read {addr}"), &error);
            memory.read(addr.0.into(), step).map_err(failed)?;
            addr.0 += step.len() as u32;
            progress(step.len() as u32);
        }
        Ok(bytes)
    }
}
