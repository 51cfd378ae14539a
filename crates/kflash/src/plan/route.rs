//! Which of a board's routes fits what is known.

use crate::addr::FlashAddr;
use crate::board::{BootloaderKind, Cable, InstalledBootloader, Route};
use crate::discover::{Device, Mode};
use crate::event::{Check, Verdict};
use crate::klipper::dictionary::{BuiltFor, Dictionary};
use crate::proto::Protocol;
use crate::query::Resident;

use super::Known;

/// A route with the installed bootloader that it presumes.
#[derive(Clone, Copy, Debug)]
pub struct Chosen<'a> {
    /// The route.
    pub route: &'a Route,
    /// What it presumes at the flash's start.
    pub bootloader: &'a InstalledBootloader,
}

/// The routes that are left, and the checks that narrowed them down.
struct Narrowing<'a, 'c> {
    left: Vec<Chosen<'a>>,
    checks: &'c mut Vec<Check>,
}

/// The first of the board's routes that nothing contradicts. Every comparison made goes into `checks`; `None` if one of
/// them disagrees with all routes.
pub fn choose<'a>(known: &Known<'a>, checks: &mut Vec<Check>) -> Option<Chosen<'a>> {
    let profile = known.profile;
    let with_bootloader = |route: &'a Route| Some(Chosen { route, bootloader: profile.bootloader_of(route)? });
    let start = image_start(known);
    let layouts: Vec<_> = profile.bootloaders.iter().map(|b| format!("{} with {}", b.app_start, b.id)).collect();
    let behind: Vec<_> = profile.bootloaders.iter().filter(|b| Some(b.app_start) == start).collect();
    checks.push(Check {
        name: "image start is one of this board's".into(),
        verdict: if behind.is_empty() { Verdict::Disagrees } else { Verdict::Agrees },
        evidence: match start {
            Some(start) => format!("image starts at {start}; this board's applications at {}", layouts.join(", ")),
            None => format!("image does not tell; this board's applications start at {}", layouts.join(", ")),
        },
    });
    let left: Vec<_> = profile.routes.iter().filter_map(with_bootloader).collect();
    let (left, others): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|chosen| Some(chosen.bootloader.app_start) == start);
    if let (true, [first, ..]) = (left.is_empty(), &*behind) {
        let others: Vec<_> =
            others.iter().map(|it| format!("{} for {}", it.route.id, it.bootloader.app_start)).collect();
        checks.push(Check {
            name: "a route leads behind the installed bootloader".into(),
            verdict: Verdict::Disagrees,
            evidence: format!(
                "no route writes an application behind {} at {}; this board's routes: {}",
                first.id,
                first.app_start,
                others.join(", ")
            ),
        });
    }
    if left.is_empty() {
        return None;
    }
    let mut narrowing = Narrowing { left, checks };

    let cable = cable_of(known.device);
    let routes = narrowing.names();
    narrowing.keep(
        "board can be flashed over this cable",
        format!("device is reached over {}; routes for this image: {routes}", cable.name()),
        |chosen| chosen.route.cable == cable,
    )?;

    let spoken = match (known.target, known.device.mode) {
        (Some(target), _) => Some(target.info.protocol),
        (None, Mode::Katapult) => Some(Protocol::Katapult),
        (None, Mode::Dfu) => Some(Protocol::Dfuse),
        (None, _) => None,
    };
    if let Some(spoken) = spoken {
        let routes = narrowing.names();
        narrowing.keep(
            "a route uses the bootloader that answers",
            format!("device is in {}; routes for this image: {routes}", spoken.name()),
            |chosen| chosen.route.protocol == spoken,
        )?;
    }

    let behind_another = start != Some(known.chip.flash_start);
    match known.resident().filter(|_| behind_another) {
        Some(resident) => narrowing.keep(
            "resident bootloader is the one presumed",
            format!("{} holds {}", known.chip.flash_start, resident.name()),
            |chosen| match resident {
                Resident::Katapult => chosen.bootloader.kind == BootloaderKind::Katapult,
                Resident::Other => chosen.bootloader.kind == BootloaderKind::Vendor,
                Resident::Nothing => false,
            },
        )?,
        None if behind_another => {
            let (verdict, evidence) = match spoken {
                Some(Protocol::Katapult) => (Verdict::Agrees, "Katapult itself answers"),
                _ => (Verdict::Pending, "the application starts behind one; it is read once the bootloader is entered"),
            };
            let name = "resident bootloader is the one presumed".into();
            narrowing.checks.push(Check { name, verdict, evidence: evidence.into() });
        }
        None => {}
    }
    narrowing.left.first().copied()
}

impl<'a> Narrowing<'a, '_> {
    fn names(&self) -> String {
        let names: Vec<_> = self.left.iter().map(|chosen| chosen.route.id.as_str()).collect();
        names.join(", ")
    }

    /// Keeps the routes that `fits`; records the check; `None` if no route is left.
    fn keep(&mut self, name: &str, evidence: String, fits: impl Fn(&Chosen<'a>) -> bool) -> Option<()> {
        self.left.retain(fits);
        let verdict = if self.left.is_empty() { Verdict::Disagrees } else { Verdict::Agrees };
        self.checks.push(Check { name: name.into(), verdict, evidence });
        (!self.left.is_empty()).then_some(())
    }
}

/// Where the image belongs: its own word, else the profile's where all its routes agree on one address.
pub fn image_start(known: &Known<'_>) -> Option<FlashAddr> {
    if let Some(start) = &known.image.start {
        return Some(start.addr);
    }
    let mut starts = known.profile.bootloaders.iter().map(|bootloader| bootloader.app_start);
    let first = starts.next()?;
    starts.all(|start| start == first).then_some(first)
}

/// The cable that a device is reached over.
pub fn cable_of(device: &Device) -> Cable {
    match (device.mode, &device.usb) {
        (Mode::UartBridge, _) | (_, None) => Cable::Uart,
        _ => Cable::Usb,
    }
}

/// The cable that a firmware talks over; `None` for CAN.
pub fn cable_of_build(dictionary: &Dictionary) -> Option<Cable> {
    match dictionary.built_for() {
        BuiltFor::Usb => Some(Cable::Usb),
        BuiltFor::Uart(_) => Some(Cable::Uart),
        BuiltFor::Can | BuiltFor::CanBridge => None,
    }
}
