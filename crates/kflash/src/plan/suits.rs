//! What speaks against an image for a board, before any device is looked at.

use super::route::behind;
use super::{Refusal, by_probe, checks};
use crate::board::Profile;
use crate::chip::Chip;
use crate::event::{Check, Verdict};
use crate::image::Image;

/// Whether `image` can be flashed to boards of this kind at all, whatever bootloader and cable the one at hand has.
pub fn suits(image: &Image, profile: &Profile, chip: &Chip) -> Result<(), Refusal> {
    let mut made = by_probe::image(image, profile, chip);
    if let Some(bootloader) = behind(image, profile, &mut made).first() {
        match image.placed(bootloader.app_start) {
            Ok(placed) => {
                let range = placed.range();
                made.push(checks::region(range, range.end(), bootloader.app_start, chip.flash()));
                made.push(checks::vector_table(image, range, chip));
            }
            Err(error) => made.push(checks::check("image fits the flash", false, error.to_string())),
        }
    }
    let agrees = |check: &Check| check.verdict != Verdict::Disagrees;
    if made.iter().all(agrees) { Ok(()) } else { Err(Refusal { checks: made, protected: false }) }
}
