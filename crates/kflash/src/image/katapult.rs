//! Katapult images, told by the signature before their reset handler and by the strings that they hold.

use std::collections::BTreeSet;

use super::{Image, KatapultStrings, Start, StartEvidence, VectorTable};
use crate::addr::{FlashAddr, FlashRange};

/// Eight bytes before the reset handler, by which Klipper finds Katapult. Klipper images hold them too, elsewhere.
const SIGNATURE: &[u8] = b"CanBoot!";
/// Vector tables are aligned to this, so that the reset vector's low byte tells where in the image the handler is.
const ALIGNMENT: u32 = 0x100;
/// Applications start at the start of a sector, of which the smallest have 1 KiB.
const START_ALIGNMENT: u32 = 0x400;
/// First letters of the MCU names that Katapult is built for.
const FAMILIES: [&[u8]; 4] = [b"stm32", b"lpc17", b"rp2040", b"rp2350"];
/// The longest MCU name or version.
const MAX_STRING: usize = 64;

/// Katapult's strings, and where an image without addresses starts; `None` where the image is not Katapult.
pub(super) fn find(image: &[u8], table: VectorTable) -> Option<(KatapultStrings, Start)> {
    let (handler_at, start) =
        image.windows(SIGNATURE.len()).enumerate().filter(|(_, bytes)| *bytes == SIGNATURE).find_map(|(at, _)| {
            let handler_at = u32::try_from(at + SIGNATURE.len()).ok()?;
            let start = table.reset_handler().checked_sub(handler_at)?;
            (start % ALIGNMENT == 0).then_some((handler_at, start))
        })?;
    let start = Start { addr: FlashAddr(start), evidence: StartEvidence::KatapultSignature { at: handler_at - 8 } };
    Some((strings(image), start))
}

impl Image {
    /// Where an image of Katapult starts applications: the addresses behind it in `flash` that its code holds as a word
    /// and that an application can start at. Every build looked at holds exactly one (F446, G0B1, RP2040 of 902f335).
    pub fn starts_applications_at(&self, flash: FlashRange) -> Vec<FlashAddr> {
        let Some(start) = self.start.as_ref().map(|start| start.addr) else { return Vec::new() };
        let Ok(image) = self.placed(start) else { return Vec::new() };
        let range = image.range();
        let bytes = image.bytes(range);
        let words = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap_or_default()));
        let starts = words
            .map(FlashAddr)
            .filter(|addr| addr.0.is_multiple_of(START_ALIGNMENT) && *addr >= range.end() && flash.contains(*addr));
        starts.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// The MCU's name, and the version that follows it, both ended by zero. What comes before the name need not be zero.
fn strings(image: &[u8]) -> KatapultStrings {
    let mut strings = image.split(|&byte| byte == 0).filter(|string| !string.is_empty()).peekable();
    while let Some(string) = strings.next() {
        let name_length =
            string.iter().rev().take_while(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()).count();
        let name = &string[string.len() - name_length..];
        let name = FAMILIES.iter().filter_map(|&family| find_last(name, family)).map(|at| &name[at..]).next();
        if let Some(mcu) = name.and_then(printable) {
            return KatapultStrings { mcu: Some(mcu), version: strings.peek().copied().and_then(printable) };
        }
    }
    KatapultStrings { version: None, mcu: None }
}

fn find_last(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).rposition(|window| window == what)
}

fn printable(string: &[u8]) -> Option<String> {
    let is_word = string.len() <= MAX_STRING && string.iter().all(u8::is_ascii_graphic);
    is_word.then(|| String::from_utf8_lossy(string).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_as_seen_in_builds() {
        // katapult-g0b1.bin at 0x10d0, katapult-rp2040.bin at 0x1348.
        for (bytes, mcu) in [
            (b"\xe2\xe7\xc0\x46stm32g0b1xx\0v0.0.1-109-g902f335\0\x18\x03s\0t\0m\0".as_slice(), "stm32g0b1xx"),
            (b"\x90\x12\0 rp2040\0v0.0.1-109-g902f335\0\x0e\x03r\0".as_slice(), "rp2040"),
        ] {
            let found = strings(bytes);
            assert_eq!(found.mcu.as_deref(), Some(mcu));
            assert_eq!(found.version.as_deref(), Some("v0.0.1-109-g902f335"));
        }
    }

    #[test]
    fn strings_that_are_not_there() {
        assert_eq!(strings(b"stm32g0b1xx"), KatapultStrings { mcu: Some("stm32g0b1xx".into()), version: None });
        assert_eq!(strings(b"\0\x01\x02\0"), KatapultStrings { mcu: None, version: None });
        assert_eq!(strings(b"rp2040\0\x1b[31m\0").version, None);
    }
}
