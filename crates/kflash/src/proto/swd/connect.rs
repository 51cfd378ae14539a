//! From a probe to a halted chip that is the one meant.

use std::collections::BTreeMap;

use probe_rs::architecture::arm::dp::DpAddress;
use probe_rs::architecture::arm::memory::ArmMemoryInterface;
use probe_rs::architecture::arm::sequences::DefaultArmSequence;
use probe_rs::architecture::arm::{ArmDebugInterface, ArmError, FullyQualifiedApAddress};
use probe_rs::config::DebugSequence;
use probe_rs::{MemoryInterface as _, Permissions, Session};

use super::controller::Protection;
use super::definition::Definition;
use super::probes::{Probe, ProbeSelector, Probes};
use super::translate::{Cause, cause, failed};
use super::{DEBUG_OFF, DEBUG_ON, DHCSR, Swd, SwdError};
use crate::addr::FlashRange;
use crate::chip::{Chip, SwdChip};
use crate::clock::Clock;
use crate::proto::{Access, ProtoError, Protocol, Sector, TargetInfo};

/// The access port to the core's bus, on every chip that kflash knows.
pub(super) const CORE_AP: FullyQualifiedApAddress = FullyQualifiedApAddress::v1_with_default_dp(0);
/// Its vector catches (ARMv7-M §C1.6.5).
const DEMCR: u64 = 0xe000_edfc;
/// S_RESET_ST of DHCSR: cleared by reading, unless the core still is in reset.
const S_RESET_ST: u32 = 1 << 25;

/// What is wanted of a debug probe.
pub struct Connect<'a> {
    /// Where probes are looked for.
    pub probes: &'a Probes,
    /// Which one, where there are several.
    pub probe: Option<&'a ProbeSelector>,
    /// The chip that is expected.
    pub chip: &'a Chip,
    /// The chip's target definition in YAML; `None` where kflash has none.
    pub definition: Option<&'a str>,
    /// Lift read protection, which erases the whole chip.
    pub unlock: bool,
    /// What is waited by.
    pub clock: &'a dyn Clock,
}

/// What a chip shows before anything is done to it.
pub(super) struct Look {
    pub idcode: u32,
    /// In KiB, where the chip has such a register.
    pub flash_size: Option<u16>,
    pub protection: Protection,
    /// What option bytes keep from being erased and written.
    write_protected: Vec<FlashRange>,
    held_in_reset: bool,
}

/// A running chip that was looked at.
pub(super) struct Looked {
    pub interface: Box<dyn ArmDebugInterface>,
    pub look: Look,
}

impl Swd {
    /// Finds the probe and the chip, checks that it is the one meant, and halts it out of a reset.
    pub fn connect(wanted: &Connect<'_>) -> Result<Self, SwdError> {
        let (definition, of) = wanted.definition()?;
        let probe = wanted.probes.select(wanted.probe)?;
        match wanted.look(&probe, &definition, of)? {
            Some(Looked { look, .. }) => wanted.judge(&look, &probe, of)?,
            // Firmware may have taken the pins, or sleep: then only a reset makes the chip answer.
            None => debug_in_reset(&probe)?,
        }
        let mut session = attach(&probe, &definition)?;
        let mut look = look_through(&mut session, wanted.chip, of).map_err(SwdError::Session)?;
        wanted.judge(&look, &probe, of)?;
        if look.protection != Protection::Open {
            (session, look) = wanted.unlock(session, &probe, &definition, of)?;
        }
        let info = wanted.info(&definition, &look);
        let uid = uid(&mut session, wanted.chip).map_err(SwdError::Session)?;
        let (controller, flash_start, erased) = (of.controller, wanted.chip.flash_start, definition.erased);
        let (session, held) = (Some(session), BTreeMap::new());
        Ok(Self { session, probe, info, uid, controller, flash_start, held, erased })
    }
}

impl<'a> Connect<'a> {
    /// What is needed to flash the chip.
    pub(super) fn definition(&self) -> Result<(Definition, &'a SwdChip), SwdError> {
        let none = || SwdError::NoDefinition { chip: self.chip.id.clone() };
        let of = self.chip.swd.as_ref().ok_or_else(none)?;
        Ok((Definition::read(self.chip, self.definition.ok_or_else(none)?)?, of))
    }

    /// Looks at a running chip without stopping it; `None` where nothing answers.
    pub(super) fn look(
        &self,
        probe: &Probe,
        definition: &Definition,
        of: &SwdChip,
    ) -> Result<Option<Looked>, SwdError> {
        let DebugSequence::Arm(sequence) = definition.target.debug_sequence.clone() else {
            let problem = "its core is no Arm core".into();
            return Err(SwdError::BadDefinition { chip: self.chip.id.clone(), problem });
        };
        let doing = "cannot look at the chip";
        let mut opened = probe.open()?;
        opened.attach_to_unspecified().map_err(|error| failed(doing, &error))?;
        let mut interface =
            opened.try_into_arm_debug_interface(sequence.clone()).map_err(|(_, error)| failed(doing, &error))?;
        let looked = interface.select_debug_port(DpAddress::Default).and_then(|()| {
            // Its identity may be clocked only for debuggers.
            sequence.debug_device_unlock(interface.as_mut(), &CORE_AP, &Permissions::new())?;
            look_at(interface.memory_interface(&CORE_AP)?.as_mut(), self.chip, of)
        });
        match looked {
            Ok(look) => Ok(Some(Looked { interface, look })),
            Err(error) if cause(&error) == Cause::TargetSilent => Ok(None),
            Err(error) => Err(failed(doing, &error).into()),
        }
    }

    /// Refuses a chip that is not the one meant, or that cannot be flashed.
    pub(super) fn judge(&self, look: &Look, probe: &Probe, of: &SwdChip) -> Result<(), SwdError> {
        if look.held_in_reset {
            return Err(SwdError::HeldInReset { probe: probe.to_string() });
        }
        let wrong = |found| Err(SwdError::WrongChip { chip: self.chip.id.clone(), found });
        if look.idcode & 0xfff != u32::from(of.device_id) {
            return wrong(format!(
                "the chip's DEV_ID is {:#05x} and not {:#05x} (DBGMCU_IDCODE reads {:#010x})",
                look.idcode & 0xfff,
                of.device_id,
                look.idcode
            ));
        }
        let expected = self.chip.flash().size.0 / 1024;
        match look.flash_size {
            // Blank on chips whose factory did not set it.
            Some(size) if size != u16::MAX && u32::from(size) < expected => {
                return wrong(format!("the chip has {size} KiB of flash and not {expected} KiB"));
            }
            _ => {}
        }
        let (register, can_be_lifted) = match &look.protection {
            Protection::Open => return Ok(()),
            Protection::Level1 { register } => (register.clone(), true),
            Protection::Level2 { register } => (register.clone(), false),
        };
        if can_be_lifted && self.unlock {
            return Ok(());
        }
        Err(SwdError::Protected { chip: self.chip.id.clone(), register, can_be_lifted })
    }

    /// Lifts read protection and attaches anew.
    fn unlock(
        &self,
        mut session: Session,
        probe: &Probe,
        definition: &Definition,
        of: &SwdChip,
    ) -> Result<(Session, Look), SwdError> {
        let doing = "cannot lift the read protection";
        {
            let mut core = session.core(0).map_err(|error| failed(doing, &error))?;
            of.controller.lift_protection(&mut core, self.clock)?;
        }
        drop(session);
        let mut session = attach(probe, definition)?;
        let look = look_through(&mut session, self.chip, of).map_err(SwdError::Session)?;
        match look.protection {
            Protection::Open => Ok((session, look)),
            Protection::Level1 { register } | Protection::Level2 { register } => {
                Err(SwdError::Protected { chip: self.chip.id.clone(), register, can_be_lifted: false })
            }
        }
    }

    pub(super) fn info(&self, definition: &Definition, look: &Look) -> TargetInfo {
        let access = |range: &FlashRange| {
            let writable = !look.write_protected.contains(range);
            Access { read: true, erase: writable, write: writable }
        };
        TargetInfo {
            protocol: Protocol::Swd,
            version: Some(format!("DBGMCU_IDCODE {:08x}", look.idcode)),
            mcu: None,
            app_start: None,
            block_size: definition.page_size,
            sectors: self.chip.sectors().map(|range| Sector { access: access(&range), range }).collect(),
        }
    }
}

/// Halts the chip out of a reset. Attaching under reset times out once on a chip that was just powered: probe-rs
/// 0.32 sets the reset catch before C_DEBUGEN, without which it is ignored. Where it times out twice, the reset line
/// is not connected.
fn attach(probe: &Probe, definition: &Definition) -> Result<Session, SwdError> {
    let doing = "cannot halt the chip";
    let mut error = None;
    for under_reset in [true, true, false] {
        let opened = probe.open()?;
        let target = definition.target.clone();
        // Only the target is needed of the registry, and that is given.
        let registry = probe_rs::config::Registry::new();
        let attached = if under_reset {
            opened.attach_under_reset_with_registry(target, Permissions::new(), &registry)
        } else {
            opened.attach_with_registry(target, Permissions::new(), &registry)
        };
        match attached {
            Ok(session) => return Ok(session),
            Err(failure) => match cause(&failure) {
                Cause::TimedOut => error = Some(failure),
                Cause::TargetSilent => return Err(SwdError::NoTarget { probe: probe.to_string() }),
                _ => return Err(failed(doing, &failure).into()),
            },
        }
    }
    let stuck = |error: probe_rs::Error| failed(doing, &error).into();
    Err(error.map_or_else(|| SwdError::NoTarget { probe: probe.to_string() }, stuck))
}

/// Turns debugging on in a chip that is held in reset, where no firmware has its pins. It stays on when the reset ends:
/// attaching under reset then catches the chip before its first instruction.
fn debug_in_reset(probe: &Probe) -> Result<(), SwdError> {
    let doing = "cannot look at the chip in reset";
    let mut opened = probe.open()?;
    opened.target_reset_assert().map_err(|error| failed(doing, &error))?;
    if let Err(error) = opened.attach_to_unspecified() {
        let _ = opened.target_reset_deassert();
        return Err(failed(doing, &error).into());
    }
    let (mut opened, turned_on) = match opened.try_into_arm_debug_interface(DefaultArmSequence::create()) {
        Ok(mut interface) => {
            let turned_on = interface.select_debug_port(DpAddress::Default).and_then(|()| {
                let mut memory = interface.memory_interface(&CORE_AP)?;
                memory.write_word_32(DHCSR, DEBUG_ON)?;
                memory.flush()
            });
            (interface.close(), turned_on)
        }
        Err((opened, error)) => (opened, Err(error)),
    };
    // Whatever came of it, the chip is not left in reset.
    opened.target_reset_deassert().map_err(|error| failed(doing, &error))?;
    match turned_on {
        Err(error) if cause(&error) == Cause::TargetSilent => Err(SwdError::NoTarget { probe: probe.to_string() }),
        turned_on => turned_on.map_err(|error| failed(doing, &error).into()),
    }
}

/// Takes the debugger off a running chip, which then is as if no probe had been there. It runs on either way.
pub(super) fn let_go(probe: &Probe) {
    let write = || -> Option<()> {
        let mut opened = probe.open().ok()?;
        opened.attach_to_unspecified().ok()?;
        let mut interface = opened.try_into_arm_debug_interface(DefaultArmSequence::create()).ok()?;
        let mut memory = interface.memory_interface(&CORE_AP).ok()?;
        memory.write_word_32(DEMCR, 0).ok()?;
        memory.write_word_32(DHCSR, DEBUG_OFF).ok()?;
        memory.flush().ok()
    };
    // Only a power cycle is left to do it.
    let _ = write();
}

/// Reads what tells one chip from another.
fn look_at(memory: &mut dyn ArmMemoryInterface, chip: &Chip, of: &SwdChip) -> Result<Look, ArmError> {
    let in_reset = [memory.read_word_32(DHCSR)?, memory.read_word_32(DHCSR)?, memory.read_word_32(DHCSR)?];
    let flash_size = match chip.flash_size_register {
        Some(at) => {
            let word = memory.read_word_32(u64::from(at.0 & !3))?;
            Some((word >> (8 * (at.0 & 3))) as u16)
        }
        None => None,
    };
    Ok(Look {
        idcode: memory.read_word_32(of.controller.idcode())?,
        flash_size,
        protection: of.controller.protection(memory)?,
        write_protected: of.controller.write_protected(memory, &chip.sectors().collect::<Vec<_>>())?,
        held_in_reset: in_reset.iter().all(|dhcsr| dhcsr & S_RESET_ST != 0),
    })
}

/// The same through an attached session.
fn look_through(session: &mut Session, chip: &Chip, of: &SwdChip) -> Result<Look, ProtoError> {
    let failed = |error: ArmError| failed("cannot look at the chip", &error);
    let interface = session.get_arm_interface().map_err(failed)?;
    let mut memory = interface.memory_interface(&CORE_AP).map_err(failed)?;
    look_at(memory.as_mut(), chip, of).map_err(failed)
}

/// The chip's unique id.
fn uid(session: &mut Session, chip: &Chip) -> Result<Option<[u32; 3]>, ProtoError> {
    let Some(register) = chip.uid_register else { return Ok(None) };
    let doing = "cannot read the chip's unique id";
    let mut words = [0; 3];
    let mut core = session.core(0).map_err(|error| failed(doing, &error))?;
    core.read_32(register.0.into(), &mut words).map_err(|error| failed(doing, &error))?;
    Ok(Some(words))
}
