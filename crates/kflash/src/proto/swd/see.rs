//! What is behind a probe, where nobody said what to expect.

use probe_rs::architecture::arm::dp::DpAddress;
use probe_rs::architecture::arm::sequences::DefaultArmSequence;
use serde::Serialize;

use super::SwdError;
use super::connect::{CORE_AP, Connect, Looked};
use super::controller::Protection;
use super::definition::Definition;
use super::probes::{Probe, Probes};
use super::translate::{Cause, cause, failed};
use crate::boards;
use crate::chip::{Chip, FlashController};
use crate::clock::Clock;

/// CPUID (ARMv7-M §B3.2.3); its bits 4 to 15 tell the core.
const CPUID: u64 = 0xe000_ed00;

/// A chip that was looked at, and not disturbed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Its core: `Cortex-M4`.
    pub core: String,
    /// DBGMCU_IDCODE, where kflash knows where to look for it.
    pub idcode: Option<u32>,
    /// Its flash in KiB, as it says itself.
    pub flash_kib: Option<u16>,
    /// The chips that it may be, of those that kflash can flash.
    pub chips: Vec<String>,
    /// The register that says that it is read-protected.
    pub read_protected: Option<String>,
}

impl Probes {
    /// Looks at the chip behind `probe` without stopping it. Chips that kflash can flash are told by their ids.
    pub fn see(&self, probe: &Probe, chips: &[Chip], clock: &dyn Clock) -> Result<Seen, SwdError> {
        let part = part(probe)?;
        let core = match part {
            0xc20 => "Cortex-M0".into(),
            0xc60 => "Cortex-M0+".into(),
            0xc23 => "Cortex-M3".into(),
            0xc24 => "Cortex-M4".into(),
            0xc27 => "Cortex-M7".into(),
            other => format!("core {other:#05x}"),
        };
        let mut seen = Seen { core, idcode: None, flash_kib: None, chips: Vec::new(), read_protected: None };
        let alike = |chip: &&Chip| chip.swd.as_ref().is_some_and(|of| of.controller.cores().contains(&part));
        // All chips of such a controller keep their ids in the same places.
        let Some((chip, of)) = chips.iter().find(alike).and_then(|chip| Some((chip, chip.swd.as_ref()?))) else {
            return Ok(seen);
        };
        let Some(yaml) = boards::swd_definition(&chip.id) else { return Ok(seen) };
        let definition = Definition::read(chip, yaml)?;
        let selector = probe.selector();
        let connect =
            Connect { probes: self, probe: Some(&selector), chip, definition: Some(yaml), unlock: false, clock };
        let Some(Looked { look, .. }) = connect.look(probe, &definition, of)? else {
            return Err(SwdError::NoTarget { probe: probe.to_string() });
        };
        seen.idcode = Some(look.idcode);
        seen.flash_kib = look.flash_size.filter(|size| *size != u16::MAX);
        seen.read_protected = match look.protection {
            Protection::Open => None,
            Protection::Level1 { register } | Protection::Level2 { register } => Some(register),
        };
        let same = chips.iter().filter(|chip| {
            let id = chip.swd.as_ref().map(|of| u32::from(of.device_id));
            let size = seen.flash_kib.is_none_or(|size| u32::from(size) * 1024 == chip.flash().size.0);
            id == Some(look.idcode & 0xfff) && size
        });
        seen.chips = same.map(|chip| chip.id.clone()).collect();
        Ok(seen)
    }
}

impl FlashController {
    /// The cores of the chips that have it.
    fn cores(self) -> &'static [u32] {
        match self {
            Self::Stm32f1 => &[0xc23],
            Self::Stm32f4 => &[0xc24],
            Self::Stm32g0 => &[0xc60],
        }
    }
}

/// The part number of the core.
fn part(probe: &Probe) -> Result<u32, SwdError> {
    let doing = "cannot look at the chip";
    let mut opened = probe.open()?;
    opened.attach_to_unspecified().map_err(|error| failed(doing, &error))?;
    let mut interface = opened
        .try_into_arm_debug_interface(DefaultArmSequence::create())
        .map_err(|(_, error)| failed(doing, &error))?;
    let read = interface.select_debug_port(DpAddress::Default).and_then(|()| {
        let mut memory = interface.memory_interface(&CORE_AP)?;
        memory.read_word_32(CPUID)
    });
    match read {
        Ok(cpuid) => Ok(cpuid >> 4 & 0xfff),
        Err(error) if cause(&error) == Cause::TargetSilent => Err(SwdError::NoTarget { probe: probe.to_string() }),
        Err(error) => Err(failed(doing, &error).into()),
    }
}
