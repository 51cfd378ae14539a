//! What a fetched image must prove before it is believed to be the one.

use super::index::Entry;
use crate::addr::{FlashAddr, FlashRange};
use crate::board::{Profile, Route};
use crate::chip::Chip;
use crate::event::{Check, Verdict};
use crate::image::{Format, Image, StartEvidence};
use crate::plan::checks;

/// What the index says, compared with the board that it names. Before anything is downloaded.
pub(super) fn of_entry(entry: &Entry, profile: &Profile, chip: &Chip, route: &Route) -> Vec<Check> {
    let mut made = vec![check(
        "index names this board's MCU",
        chip.is(&entry.mcu),
        format!("index says {}; {} carries {}", entry.mcu, profile.id, chip.mcu.join(" or ")),
    )];
    if let Some(bootloader) = profile.bootloader_of(route) {
        made.push(check(
            "index names this route's start",
            bootloader.app_start == entry.start,
            format!(
                "index says {}; route {} of {} starts at {}",
                entry.start, route.id, profile.id, bootloader.app_start
            ),
        ));
    }
    made
}

/// What the image says of itself, compared with the index and the board.
pub(super) fn of_image(image: &Image, entry: &Entry, profile: &Profile, chip: &Chip, route: &Route) -> Vec<Check> {
    let mut made = vec![checks::application(image, profile, chip)];
    if let Some(dictionary) = &image.dictionary {
        made.push(checks::cable(dictionary, route.cable, "the route takes"));
        made.push(check(
            "image is what the index names",
            (&dictionary.app, &dictionary.version) == (&entry.app, &entry.version)
                && dictionary.mcu() == Some(&entry.mcu),
            format!(
                "dictionary says {} {} for {}; index says {} {} for {}",
                dictionary.app,
                dictionary.version,
                dictionary.mcu().unwrap_or("no MCU at all"),
                entry.app,
                entry.version,
                entry.mcu
            ),
        ));
    }
    made.push(start(image, entry));
    let range = FlashRange { start: entry.start, ..image.range() };
    // An end beyond the address space is beyond every flash.
    let end = FlashRange::new(range.start, range.size).map_or(FlashAddr(u32::MAX), FlashRange::end);
    made.push(checks::region(range, end, entry.start, chip.flash()));
    if image.vector_table.is_some() {
        made.push(checks::vector_table(image, range, chip));
    }
    made
}

/// Those that disagree: what with what.
pub(super) fn disagreements(checks: &[Check]) -> Vec<String> {
    let disagree = checks.iter().filter(|check| check.verdict == Verdict::Disagrees);
    disagree.map(|check| check.evidence.clone()).collect()
}

fn start(image: &Image, entry: &Entry) -> Check {
    let name = "image starts where the index says";
    match (&image.start, image.format) {
        (None, Format::Bin) => {
            let evidence = "a raw image that does not tell".to_owned();
            Check { name: name.into(), verdict: Verdict::NotProvable, evidence }
        }
        (start, _) => {
            let at = start.as_ref().map_or(image.range().start, |start| start.addr);
            let others = match start.as_ref().map(|start| &start.evidence) {
                Some(StartEvidence::DictionaryPointer { others, .. }) => others.as_slice(),
                _ => &[],
            };
            let agrees = at == entry.start || others.contains(&entry.start);
            check(name, agrees, format!("image starts at {at}; index says {}", entry.start))
        }
    }
}

fn check(name: &str, agrees: bool, evidence: String) -> Check {
    Check { name: name.into(), verdict: if agrees { Verdict::Agrees } else { Verdict::Disagrees }, evidence }
}
