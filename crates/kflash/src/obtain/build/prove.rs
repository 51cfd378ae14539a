//! The proof: what was built is what was wanted, by its own word. Else nothing is stored.

use crate::addr::{FlashAddr, FlashRange};
use crate::board::{Profile, Route};
use crate::chip::Chip;
use crate::digest::Sha256;
use crate::event::{Check, Verdict};
use crate::image::{Format, Image};
use crate::plan::checks;

/// What an image has to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The board.
    pub profile: &'a Profile,
    /// Its chip.
    pub chip: &'a Chip,
    /// The way that it will be flashed.
    pub route: &'a Route,
    /// Whether the compiler was one for Cortex-M.
    pub cortex_m: bool,
    /// What the tree calls its version.
    pub version: &'a str,
    /// Whether Klipper calls a build of it unclean: the tree is dirty, or without git.
    pub unclean: bool,
}

/// Compares `image` and the build's own `dictionary` (`klipper.dict`) with what was wanted. All that was compared is
/// returned.
pub fn prove(image: &Image, dictionary: &[u8], wanted: &Wanted<'_>) -> Vec<Check> {
    let Wanted { profile, chip, route, .. } = *wanted;
    let mut found = vec![checks::application(image, profile, chip)];
    if let Some(own) = &image.dictionary {
        found.push(checks::cable(own, route.cable, "the route takes"));
        let same = own.sha256 == Sha256::of(dictionary).to_string();
        let evidence = format!("the image's has the digest {}", own.sha256);
        found.push(check("dictionary in the image is the build's", same, evidence));
        found.push(version(&own.version, wanted));
    }
    if let Some(bootloader) = profile.bootloader_of(route) {
        let app_start = bootloader.app_start;
        let start = start(image);
        found.push(check(
            "image starts where the bootloader starts it",
            start == Some(app_start),
            match start {
                Some(start) => format!("image starts at {start}; behind {} it starts at {app_start}", bootloader.id),
                None => format!("image does not tell; behind {} it starts at {app_start}", bootloader.id),
            },
        ));
        let range = FlashRange { start: app_start, ..image.range() };
        found.push(checks::region(range, range.end(), app_start, chip.flash()));
        if wanted.cortex_m {
            found.push(checks::vector_table(image, range, chip));
        }
    }
    found
}

/// Where an image starts. A raw one without a vector table could be anybody's.
fn start(image: &Image) -> Option<FlashAddr> {
    match (image.format, &image.start) {
        (_, Some(start)) => Some(start.addr),
        (Format::Bin, None) => None,
        (_, None) => Some(image.range().start),
    }
}

fn check(name: &str, agrees: bool, evidence: String) -> Check {
    Check { name: name.into(), verdict: if agrees { Verdict::Agrees } else { Verdict::Disagrees }, evidence }
}

/// Klipper appends a time and a host where the same could not be built again: a tree that is dirty or without git, or
/// compilers of mixed versions.
fn version(version: &str, wanted: &Wanted<'_>) -> Check {
    let rest = version.strip_prefix(wanted.version);
    let agrees = match rest {
        Some("") => !wanted.unclean,
        Some(rest) => is_time_and_host(rest),
        None => false,
    };
    let evidence = format!("dictionary says {version}; the tree is {}", wanted.version);
    check("version is the tree's", agrees, evidence)
}

/// `-20261121_024840-HOST`
fn is_time_and_host(rest: &str) -> bool {
    let Some((time, host)) = rest.strip_prefix('-').and_then(|rest| rest.split_once('-')) else { return false };
    let digit = |(at, byte): (usize, u8)| if at == 8 { byte == b'_' } else { byte.is_ascii_digit() };
    time.len() == 15 && time.bytes().enumerate().all(digit) && !host.is_empty()
}
