//! Where a raw Cortex-M image starts: nothing in Klipper's binaries says so outright.

use std::collections::BTreeMap;

use super::{Start, StartEvidence, VectorTable};
use crate::addr::FlashAddr;

/// Klipper's linker script aligns vector tables to 256 bytes, and every Kconfig offset is a multiple.
const ALIGNMENT: u32 = 0x100;
/// Memory that a stack can lie in: the core-coupled and LPC RAM at 0x10000000, all else from 0x20000000.
const STACK: [std::ops::RangeInclusive<u32>; 2] = [0x1000_0000..=0x100f_ffff, 0x2000_0000..=0x3fff_ffff];
/// Where code lies in flash, below the RAM region of the Cortex-M memory map (ARMv7-M ARM §B3.1).
const CODE_END: u32 = 0x2000_0000;
/// `cpsid i`, the first instruction of Klipper's reset handler on every Cortex-M.
const CPSID_I: [u8; 2] = [0x72, 0xb6];
/// An image holds one or two other candidates; a made-up one could hold thousands.
const MAX_OTHERS: usize = 16;
/// The second-stage bootloader of an RP2040 image, checksum included (RP2040 datasheet §2.8.1.3).
const BOOT2: usize = 256;

impl VectorTable {
    /// The vector table at the start of `image`, or behind the second-stage bootloader of an RP2040.
    pub(super) fn find(image: &[u8]) -> Option<Self> {
        let at = if starts_with_boot2(image) { BOOT2 } else { 0 };
        let (stack_pointer, reset) = (word(image, at)?, word(image, at + 4)?);
        let handlers = [reset, word(image, at + 8)?, word(image, at + 12)?];
        let is_stack = stack_pointer % 4 == 0 && STACK.iter().any(|ram| ram.contains(&stack_pointer));
        // Reset, NMI and HardFault exist on every Cortex-M, and all code is Thumb.
        let are_handlers = reset < CODE_END && handlers.iter().all(|handler| handler % 2 == 1);
        (is_stack && are_handlers).then_some(Self { stack_pointer: FlashAddr(stack_pointer), reset: FlashAddr(reset) })
    }

    /// Address of the reset handler's first instruction.
    pub(super) fn reset_handler(self) -> u32 {
        self.reset.0 & !1
    }
}

/// The start that makes some literal point to the dictionary at offset `dictionary`.
///
/// Where several would do, one with a reset handler that begins as Klipper's does goes before others, and a smaller
/// one before a larger. Of 18 builds for 13 MCUs (Klipper v0.13.0, Kalico), 15 held one to three literals that fit by
/// chance; either rule alone found the true start in all of them.
pub(super) fn by_dictionary_pointer(image: &[u8], table: VectorTable, dictionary: usize) -> Option<Start> {
    let dictionary = u32::try_from(dictionary).ok()?;
    let handler = table.reset_handler();
    let mut candidates = BTreeMap::new();
    for (index, bytes) in image.as_chunks::<4>().0.iter().enumerate() {
        let Some(start) = u32::from_le_bytes(*bytes).checked_sub(dictionary) else { continue };
        if start % ALIGNMENT == 0 && handler.checked_sub(start).is_some_and(|at| (at as usize) < image.len()) {
            candidates.entry(start).or_insert(index as u32 * 4);
        }
    }
    let is_likely = |&start: &u32| image[(handler - start) as usize..].starts_with(&CPSID_I);
    let start = candidates.keys().copied().find(is_likely).or_else(|| candidates.keys().copied().next())?;
    let at = candidates.remove(&start)?;
    let others = candidates.into_keys().take(MAX_OTHERS).map(FlashAddr).collect();
    Some(Start { addr: FlashAddr(start), evidence: StartEvidence::DictionaryPointer { at, others } })
}

/// The start of an image that a stub in flash copies to RAM (RP2040 behind a bootloader): every handler but the reset
/// handler is in RAM, and the reset handler follows the vector table.
pub(super) fn by_reset_handler(image: &[u8], table: VectorTable) -> Option<Start> {
    let (words, _) = image.as_chunks::<4>();
    let is_entry = |bytes: &[u8; 4]| {
        let word = u32::from_le_bytes(*bytes);
        word == 0 || (word % 2 == 1 && STACK[1].contains(&word))
    };
    let entries = words.get(2..)?.iter().take_while(|word| is_entry(word)).count();
    let table_end = (2 + entries) * 4;
    let start = table.reset_handler().checked_sub(u32::try_from(table_end).ok()?)?;
    // NMI and HardFault at least, or there is no table.
    let fits = entries >= 2 && start % ALIGNMENT == 0 && image[table_end..].starts_with(&CPSID_I);
    fits.then_some(Start { addr: FlashAddr(start), evidence: StartEvidence::ResetHandler { at: table_end as u32 } })
}

fn word(image: &[u8], at: usize) -> Option<u32> {
    image.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether the first 256 bytes end in the checksum that the RP2040's boot ROM asks for: CRC-32, polynomial 0x04c11db7,
/// not reflected, all ones at first, no final xor.
fn starts_with_boot2(image: &[u8]) -> bool {
    let Some(code) = image.get(..BOOT2 - 4) else { return false };
    let crc = code.iter().fold(u32::MAX, |crc, &byte| {
        (0..8)
            .fold(crc ^ u32::from(byte) << 24, |crc, _| crc << 1 ^ if crc & 0x8000_0000 == 0 { 0 } else { 0x04c1_1db7 })
    });
    word(image, BOOT2 - 4) == Some(crc)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// An image of `words` behind a vector table for `start`, with the reset handler at `handler`.
    fn image(start: u32, handler: usize, size: usize) -> Vec<u8> {
        let mut bytes = vec![0xa5; size];
        let reset = start + handler as u32 + 1;
        for (at, word) in [0x2000_5000, reset, reset + 8, reset + 8].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&u32::to_le_bytes(word));
        }
        bytes[handler..handler + 2].copy_from_slice(&CPSID_I);
        bytes
    }

    fn put(bytes: &mut [u8], at: usize, word: u32) {
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    fn start_of(bytes: &[u8], dictionary: usize) -> Option<Start> {
        by_dictionary_pointer(bytes, VectorTable::find(bytes).unwrap(), dictionary)
    }

    #[test]
    fn a_smaller_candidate_without_a_reset_handler_gives_way() {
        let mut bytes = image(0x0800_8000, 0x7000, 0xa000);
        put(&mut bytes, 0x200, 0x0800_8000 + 0x9003);
        put(&mut bytes, 0x300, 0x0800_7f00 + 0x9003);
        put(&mut bytes, 0x400, 0x0800_9100 + 0x9003);
        let start = start_of(&bytes, 0x9003).unwrap();
        assert_eq!(start.addr, FlashAddr(0x0800_8000));
        let others = vec![FlashAddr(0x0800_7f00), FlashAddr(0x0800_9100)];
        assert_eq!(start.evidence, StartEvidence::DictionaryPointer { at: 0x200, others });
    }

    #[test]
    fn of_equal_candidates_the_smallest_is_taken() {
        let mut bytes = image(0x0800_8000, 0x7000, 0xa000);
        bytes[0x7000] = 0;
        put(&mut bytes, 0x300, 0x0800_9100 + 0x9003);
        put(&mut bytes, 0x400, 0x0800_8000 + 0x9003);
        assert_eq!(start_of(&bytes, 0x9003).unwrap().addr, FlashAddr(0x0800_8000));
    }

    #[test]
    fn a_start_that_leaves_the_reset_handler_outside_is_none() {
        let mut bytes = image(0x0800_8000, 0x7000, 0xa000);
        put(&mut bytes, 0x300, 0x0800_f100 + 0x9003);
        put(&mut bytes, 0x304, 0x0800_5000 + 0x9003);
        put(&mut bytes, 0x308, 0x0800_8080 + 0x9003);
        assert_eq!(start_of(&bytes, 0x9003), None);
    }

    #[test]
    fn what_is_no_vector_table() {
        assert!(VectorTable::find(&image(0x0800_0000, 0x40, 0x100)).is_some());
        for (at, word) in [(0, 0x0bab_940c), (0, 0x2000_5002), (4, 0x0800_0040), (4, 0x2000_0041), (8, 0x0800_0040)] {
            let mut bytes = image(0x0800_0000, 0x40, 0x100);
            put(&mut bytes, at, word);
            assert_eq!(VectorTable::find(&bytes), None, "{word:#x} at {at}");
        }
        assert_eq!(VectorTable::find(&[0; 15]), None);
    }

    #[test]
    fn boot2_is_known_by_its_checksum() {
        // CRC-32/MPEG-2 of 252 zeros, from an independent computation.
        let mut bytes = vec![0; BOOT2];
        put(&mut bytes, 252, 0x7065_399a);
        assert!(starts_with_boot2(&bytes));
        bytes[7] = 1;
        assert!(!starts_with_boot2(&bytes));
    }
}
