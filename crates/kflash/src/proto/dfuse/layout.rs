//! The memory layout in the name of a DfuSe alternate (UM0424 §10.3.2):
//! `@Internal Flash  /0x08000000/04*016Kg,01*064Kg,07*128Kg`.

use crate::addr::{FlashAddr, FlashRange, FlashSize};
use crate::proto::{Access, Sector};

/// More sectors than any chip has (an STM32L072 has 1536), so that no list is ever expanded without bound.
const MOST_SECTORS: u32 = 16384;

/// What an alternate says of its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The memory's name: `Internal Flash`.
    pub name: String,
    /// Its sectors, in the order in which they are listed. They do not overlap.
    pub sectors: Vec<Sector>,
}

/// Why a text is no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no memory layout: {why}")]
pub struct ParseLayoutError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Layout {
    /// Reads the name of an alternate.
    ///
    /// Real ones lack the unit (`1536*128g`), the padding (`2*3Ke`) or have a space for it (`01*016 e`), and may hold two
    /// regions (`/0x1FFF7800/01*048 e/0x1FFFF800/01*048 e`).
    pub fn parse(text: &str) -> Result<Self, ParseLayoutError> {
        parse(text).map_err(|why| ParseLayoutError { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Layout, &'static str> {
    let mut parts = text.trim_end_matches('\0').strip_prefix('@').ok_or("it does not start with @")?.split('/');
    let name = parts.next().unwrap_or_default().trim().to_owned();
    let mut sectors: Vec<Sector> = Vec::new();
    let mut regions: Vec<FlashRange> = Vec::new();
    while let Some(address) = parts.next() {
        let address = address.trim();
        let digits = address.strip_prefix("0x").or_else(|| address.strip_prefix("0X")).ok_or("an address has no 0x")?;
        let start = number(digits, 16).map(FlashAddr).ok_or("an address is not hexadecimal")?;
        let mut end = start;
        for run in parts.next().ok_or("an address has no sectors")?.split(',') {
            let (count, size, access) = parse_run(run)?;
            if count > MOST_SECTORS - sectors.len() as u32 {
                return Err("it lists more sectors than any chip has");
            }
            for _ in 0..count {
                let range = FlashRange::new(end, size).ok_or("it passes the end of the address space")?;
                sectors.push(Sector { range, access });
                end = range.end();
            }
        }
        let region = FlashRange::between(start, end).ok_or("it passes the end of the address space")?;
        if regions.iter().any(|other| other.overlaps(region)) {
            return Err("its regions overlap");
        }
        regions.push(region);
    }
    if sectors.is_empty() {
        return Err("it lists no sectors");
    }
    Ok(Layout { name, sectors })
}

/// `04*016Kg`: count, size of one sector, access.
fn parse_run(run: &str) -> Result<(u32, FlashSize, Access), &'static str> {
    let (count, rest) = run.trim().split_once('*').ok_or("a run of sectors has no *")?;
    let letter = rest.chars().next_back().ok_or("a run of sectors has no size")?;
    // The letter's low bits are the access; `a` is 0x61 (UM0424 §10.3.2).
    let bits = match letter {
        'a'..='g' => letter as u32 & 7,
        _ => return Err("a run of sectors ends in no letter from a to g"),
    };
    let access = Access { read: bits & 1 != 0, erase: bits & 2 != 0, write: bits & 4 != 0 };
    let size = rest[..rest.len() - letter.len_utf8()].trim_end();
    let units = [("K", 1024), ("M", 1024 * 1024), ("B", 1), ("", 1)];
    let stripped = units.iter().find_map(|&(unit, bytes)| Some((size.strip_suffix(unit)?, bytes)));
    let (digits, unit) = stripped.unwrap_or((size, 1));
    let size = number(digits.trim(), 10).and_then(|size| size.checked_mul(unit)).ok_or("a sector size is no number")?;
    let count = number(count.trim(), 10).ok_or("a number of sectors is no number")?;
    match (count, size) {
        (0, _) | (_, 0) => Err("a run of sectors is empty"),
        (count, size) => Ok((count, FlashSize(size), access)),
    }
}

/// A number of digits alone: `from_str_radix` would take a sign.
fn number(digits: &str, radix: u32) -> Option<u32> {
    u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn sizes(text: &str) -> Vec<(u32, u32)> {
        Layout::parse(text).unwrap().sectors.iter().map(|sector| (sector.range.start.0, sector.range.size.0)).collect()
    }

    #[test]
    fn sectors_of_several_sizes() {
        let layout = Layout::parse("@Internal Flash  /0x08000000/04*016Kg,01*064Kg,03*128Kg").unwrap();
        assert_eq!(layout.name, "Internal Flash");
        assert_eq!(layout.sectors.len(), 8);
        assert_eq!(layout.sectors[4].range.start, FlashAddr(0x0801_0000));
        assert_eq!(layout.sectors[7].range.end(), FlashAddr(0x0808_0000));
        assert!(layout.sectors.iter().all(|sector| sector.access == Access { read: true, erase: true, write: true }));
    }

    #[test]
    fn access_letters() {
        let access = |letter| Layout::parse(&format!("@x/0x0/1*1K{letter}")).unwrap().sectors[0].access;
        assert_eq!(access('a'), Access { read: true, erase: false, write: false });
        assert_eq!(access('b'), Access { read: false, erase: true, write: false });
        assert_eq!(access('e'), Access { read: true, erase: false, write: true });
    }

    #[test]
    fn odd_forms_that_real_chips_list() {
        assert_eq!(sizes("@OTP Memory /0x1FF07800/01*528e"), [(0x1ff0_7800, 528)]);
        assert_eq!(sizes("@DATA Memory /0x08080000/2*3Ke"), [(0x0808_0000, 3072), (0x0808_0c00, 3072)]);
        assert_eq!(
            sizes("@Option Bytes   /0x1FFF7800/01*048 e/0x1FFFF800/01*048 e"),
            [(0x1fff_7800, 48), (0x1fff_f800, 48)]
        );
        assert_eq!(
            sizes("@Flash/0x08000000/1*1Mg, 2*16Bg"),
            [(0x0800_0000, 1 << 20), (0x0810_0000, 16), (0x0810_0010, 16)]
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_reason() {
        for (text, why) in [
            ("", "it does not start with @"),
            ("Internal Flash", "it does not start with @"),
            ("@Internal Flash", "it lists no sectors"),
            ("@x/08000000/1*1Kg", "an address has no 0x"),
            ("@x/0x0800000g/1*1Kg", "an address is not hexadecimal"),
            ("@x/0x+1/1*1Kg", "an address is not hexadecimal"),
            ("@x/0x08000000", "an address has no sectors"),
            ("@x/0x08000000/", "a run of sectors has no *"),
            ("@x/0x08000000/4*", "a run of sectors has no size"),
            ("@x/0x08000000/4*1K", "a run of sectors ends in no letter from a to g"),
            ("@x/0x08000000/4*1Kh", "a run of sectors ends in no letter from a to g"),
            ("@x/0x08000000/4*Kg", "a sector size is no number"),
            ("@x/0x08000000/-4*1Kg", "a number of sectors is no number"),
            ("@x/0x08000000/0*1Kg", "a run of sectors is empty"),
            ("@x/0x08000000/4*0Kg", "a run of sectors is empty"),
            ("@x/0x08000000/4*4294967295Kg", "a sector size is no number"),
            ("@x/0x08000000/4294967295*1 g", "it lists more sectors than any chip has"),
            ("@x/0x00000000/16384*1 g,1*1 g", "it lists more sectors than any chip has"),
            ("@x/0xFFFFFC00/2*1Kg", "it passes the end of the address space"),
            ("@x/0x08000000/4*1Kg/0x08000400/1*1Kg", "its regions overlap"),
        ] {
            assert_eq!(Layout::parse(text).unwrap_err().why, why, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,130}") {
            let _ = Layout::parse(&text);
        }

        #[test]
        fn near_layouts_stay_bounded(text in "@[A-Za-z ]{0,4}(/0x[0-9A-Fa-f]{0,9}(/[0-9*KMBag, ]{0,30}){0,2}){0,6}") {
            if let Ok(layout) = Layout::parse(&text) {
                prop_assert!(layout.sectors.len() <= MOST_SECTORS as usize);
            }
        }

        #[test]
        fn a_written_layout_is_read_back(start in 0_u32..0xf000_0000, runs in proptest::collection::vec((1_u32..100, 1_u32..100, 1_u32..8), 1..5)) {
            let text: Vec<_> = runs
                .iter()
                .map(|&(count, size, bits)| format!("{count:02}*{size:03}K{}", char::from(0x60 + bits as u8)))
                .collect();
            let layout = Layout::parse(&format!("@Internal Flash  /0x{start:08X}/{}", text.join(","))).unwrap();
            let mut next = start;
            let mut sectors = layout.sectors.iter();
            for (count, size, bits) in runs {
                for _ in 0..count {
                    let sector = sectors.next().unwrap();
                    prop_assert_eq!(sector.range.start.0, next);
                    prop_assert_eq!(sector.range.size.0, size * 1024);
                    prop_assert_eq!(u32::from(sector.access.read) | u32::from(sector.access.erase) << 1 | u32::from(sector.access.write) << 2, bits);
                    next += size * 1024;
                }
            }
            prop_assert!(sectors.next().is_none());
        }
    }
}
