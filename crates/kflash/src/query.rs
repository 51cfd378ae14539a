//! Asking running firmware what it is, over its ordinary cable.

use std::time::Duration;

use serde::Serialize;

use crate::addr::{FlashAddr, FlashSize};
use crate::chip::Chip;
use crate::clock::Clock;
use crate::klipper::client::{Client, KlipperError};
use crate::klipper::dictionary::Dictionary;
use crate::link::ByteLink;

/// Vector table offset register of a Cortex-M3 and up, and of most M0+ (ARMv7-M §B3.2.5).
const VTOR: u32 = 0xE000_ED08;
/// `debug_read`'s orders.
const BYTE: u8 = 0;
const HALFWORD: u8 = 1;
const WORD: u8 = 2;
/// Stands just before the reset handler of every Katapult that can be entered from an application.
const KATAPULT_SIGNATURE: &[u8; 8] = b"CanBoot!";

/// What running firmware says of itself and of the chip under it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunningFirmware {
    /// Its data dictionary.
    pub dictionary: Dictionary,
    /// Where its vector table lies, which is where it starts; `None` where the chip cannot tell.
    pub app_start: Option<FlashAddr>,
    /// The chip's own word on its flash size.
    pub flash_size: Option<FlashSize>,
    /// The chip's unique id.
    pub uid: Option<[u32; 3]>,
    /// What lies before the application.
    pub resident: Option<Resident>,
}

/// What lies at the flash's start, before an application that starts elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resident {
    /// Katapult, by its signature.
    Katapult,
    /// Some other code with a sane vector table.
    Other,
    /// No code: blank, or no vector table.
    Nothing,
}

impl Resident {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Katapult => "Katapult, by its signature",
            Self::Other => "a bootloader other than Katapult",
            Self::Nothing => "nothing that could start an application",
        }
    }
}

/// Connects to Klipper on `link` and asks it everything that plans rest on. Changes nothing on the board.
pub fn ask<'a>(
    link: Box<dyn ByteLink + 'a>,
    clock: &'a dyn Clock,
    chip: &Chip,
    limit: Duration,
) -> Result<(Client<'a>, RunningFirmware), KlipperError> {
    let mut client = Client::connect(link, clock, limit)?;
    let dictionary = client.dictionary().clone();
    let mut running = RunningFirmware { dictionary, app_start: None, flash_size: None, uid: None, resident: None };
    // Reading registers of another chip than expected may fault it.
    if running.dictionary.mcu().is_some_and(|mcu| chip.is(mcu)) {
        // Firmware can be built without debug_read, or not answer it: then the chip stays silent about itself, and what the
        // dictionary says is still known.
        if let Err(KlipperError::Link(error)) = ask_chip(&mut client, chip, &mut running) {
            return Err(error.into());
        }
    }
    Ok((client, running))
}

fn ask_chip(client: &mut Client<'_>, chip: &Chip, running: &mut RunningFirmware) -> Result<(), KlipperError> {
    if !chip.lacks_vtor {
        let vtor = FlashAddr(client.debug_read(WORD, VTOR)?);
        running.app_start = Some(vtor).filter(|&vtor| chip.flash().contains(vtor));
    }
    if let Some(register) = chip.flash_size_register {
        let kib = client.debug_read(HALFWORD, register.0)?;
        running.flash_size = Some(FlashSize(kib * 1024)).filter(|_| (1..=0x4000).contains(&kib));
    }
    if let Some(register) = chip.uid_register {
        let mut word = |i: u32| client.debug_read(WORD, register.0 + 4 * i);
        running.uid = Some([word(0)?, word(1)?, word(2)?]);
    }
    if running.app_start.is_some_and(|start| start != chip.flash_start) {
        running.resident = Some(ask_resident(client, chip)?);
    }
    Ok(())
}

fn ask_resident(client: &mut Client<'_>, chip: &Chip) -> Result<Resident, KlipperError> {
    let base = chip.flash_start.0;
    let head = [client.debug_read(WORD, base)?, client.debug_read(WORD, base + 4)?];
    if !is_vector_table(head, chip) {
        return Ok(Resident::Nothing);
    }
    // Thumb bit and the 8 bytes of the signature, which the reset handler follows at once.
    let signature = head[1].wrapping_sub(9);
    let mut found = [0_u8; 8];
    for (byte, addr) in found.iter_mut().zip(signature..) {
        *byte = client.debug_read(BYTE, addr)? as u8;
    }
    Ok(if &found == KATAPULT_SIGNATURE { Resident::Katapult } else { Resident::Other })
}

/// What `flash_head`, the bytes from the flash's start, holds.
pub fn resident_in(flash_head: &[u8], chip: &Chip) -> Resident {
    let word =
        |at: usize| flash_head.get(at..at + 4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap_or([0; 4])));
    let (Some(stack), Some(reset)) = (word(0), word(4)) else { return Resident::Nothing };
    if !is_vector_table([stack, reset], chip) {
        return Resident::Nothing;
    }
    let signature = reset.wrapping_sub(9).wrapping_sub(chip.flash_start.0) as usize;
    match flash_head.get(signature..signature.saturating_add(8)) {
        Some(found) if found == KATAPULT_SIGNATURE => Resident::Katapult,
        _ => Resident::Other,
    }
}

/// Whether two words can be an initial stack pointer and a reset vector of this chip.
pub fn is_vector_table([stack, reset]: [u32; 2], chip: &Chip) -> bool {
    let stack = FlashAddr(stack);
    chip.ram.iter().any(|ram| stack > ram.start && stack <= ram.end())
        && reset & 1 == 1
        && chip.flash().contains(FlashAddr(reset & !1))
}
