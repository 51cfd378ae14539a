//! The way that no profile has to list: any board whose chip a debug probe can flash.

use crate::board::{Cable, InstalledBootloader, Profile, Route};
use crate::chip::Chip;
use crate::event::{Check, Verdict};
use crate::image::Image;
use crate::klipper::dictionary::BuiltFor;
use crate::proto::Protocol;

use super::Known;
use super::checks::{application, check, open};
use super::route::{behind, cable_of_build};

/// Its name, as a route.
const ID: &str = "swd";

/// Checks of the image alone and against the board. The probe takes any; the board will answer over a cable of its own.
pub fn image(image: &Image, profile: &Profile, chip: &Chip) -> Vec<Check> {
    let mut checks = vec![application(image, profile, chip)];
    let cables: Vec<_> = profile.routes.iter().map(|route| route.cable).collect();
    if let Some(dictionary) = &image.dictionary {
        let cable = cable_of_build(dictionary);
        let built = match (cable, dictionary.built_for()) {
            (Some(cable), _) => cable.name(),
            (None, BuiltFor::CanBridge) => "a USB-CAN bridge",
            (None, _) => "CAN",
        };
        let has: Vec<_> = [Cable::Usb, Cable::Uart].into_iter().filter(|cable| cables.contains(cable)).collect();
        let has: Vec<_> = has.into_iter().map(Cable::name).collect();
        checks.push(check(
            "image talks over a cable of this board",
            cable.is_some_and(|cable| cables.contains(&cable)),
            format!("image talks over {built}; {} over {}", profile.id, has.join(" or ")),
        ));
    }
    checks
}

/// The route, and the bootloader that the image lies behind: the first of the board's that nothing contradicts.
pub fn choose<'a>(known: &Known<'a>, checks: &mut Vec<Check>) -> Option<(Route, &'a InstalledBootloader)> {
    let mut left = behind(known.image, known.profile, checks);
    let first = *left.first()?;
    if first.app_start != known.chip.flash_start {
        let name = "resident bootloader is the one presumed";
        checks.push(if let Some(resident) = known.resident() {
            left.retain(|bootloader| bootloader.kind.is(resident));
            let evidence = format!("{} holds {}", known.chip.flash_start, resident.name());
            check(name, !left.is_empty(), evidence)
        } else {
            open(name, Verdict::Pending, "the application starts behind one; it is read through the probe")
        });
    }
    let bootloader = *left.first()?;
    Some((route(known, bootloader), bootloader))
}

/// The way through the probe, behind `bootloader`.
pub fn route(known: &Known<'_>, bootloader: &InstalledBootloader) -> Route {
    let cable = known.image.dictionary.as_ref().and_then(cable_of_build);
    Route {
        id: ID.into(),
        bootloader: bootloader.id.clone(),
        cable: cable.unwrap_or(Cable::Usb),
        protocol: Protocol::Swd,
        enter: Vec::new(),
        bootloader_baud: None,
        kconfig: std::collections::BTreeMap::new(),
    }
}
