//! Which of a board's routes fits what is known: with an image, and for one that is still to be made.

use crate::addr::FlashAddr;
use crate::board::{BootloaderKind, Cable, InstalledBootloader, Profile, Route};
use crate::discover::{Device, Mode};
use crate::event::{Check, Verdict};
use crate::image::Image;
use crate::klipper::dictionary::{BuiltFor, Dictionary};
use crate::proto::Protocol;
use crate::query::{Resident, RunningFirmware};

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
    let start = image_start(known.image, profile);
    let behind = behind(known.image, profile, checks);
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
            |chosen| chosen.bootloader.kind.is(resident),
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

/// The bootloaders that the image can lie behind.
pub(super) fn behind<'a>(image: &Image, profile: &'a Profile, checks: &mut Vec<Check>) -> Vec<&'a InstalledBootloader> {
    let start = image_start(image, profile);
    let all = &profile.bootloaders;
    let layouts: Vec<_> = all.iter().map(|b| format!("{} with {}", b.app_start, b.id)).collect();
    let behind: Vec<_> = all.iter().filter(|b| Some(b.app_start) == start).collect();
    checks.push(Check {
        name: "image start is one of this board's".into(),
        verdict: if behind.is_empty() { Verdict::Disagrees } else { Verdict::Agrees },
        evidence: match start {
            Some(start) => format!("image starts at {start}; this board's applications at {}", layouts.join(", ")),
            None => format!("image does not tell; this board's applications start at {}", layouts.join(", ")),
        },
    });
    behind
}

/// What was seen of a board before there is an image for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// The board.
    pub profile: &'a Profile,
    /// Where its chip's flash starts.
    pub flash_start: FlashAddr,
    /// The device; `None` where there is none, or a debug probe leads to the chip.
    pub device: Option<&'a Device>,
    /// What runs on it.
    pub running: Option<&'a RunningFirmware>,
    /// Where the Katapult that answers starts applications.
    pub katapult_starts: Option<FlashAddr>,
    /// What its ROM bootloader or a debug probe reads at the flash's start.
    pub head: Option<&'a Head>,
}

/// What lies in a flash, as read from the ROM bootloader or through a debug probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Katapult.
    Katapult,
    /// No code.
    Nothing,
    /// Other code: an application, or a vendor's bootloader. The addresses, of those at which the board's
    /// applications may start behind the latter, where one does.
    Other(Vec<FlashAddr>),
}

/// The first of the board's routes that nothing seen contradicts. Every comparison made goes into `checks`; `None` if one
/// of them disagrees with all routes.
pub(crate) fn suggest<'a>(seen: &Seen<'a>, checks: &mut Vec<Check>) -> Option<Chosen<'a>> {
    let with_bootloader = |route| Some(Chosen { route, bootloader: seen.profile.bootloader_of(route)? });
    let mut narrowing = Narrowing { left: seen.profile.routes.iter().filter_map(with_bootloader).collect(), checks };
    if let Some(device) = seen.device {
        let cable = cable_of(device);
        let routes = narrowing.names();
        narrowing.keep(
            "board can be flashed over this cable",
            format!("device is reached over {}; this board's routes: {routes}", cable.name()),
            |chosen| chosen.route.cable == cable,
        )?;
        let spoken = match device.mode {
            Mode::Katapult => Some(Protocol::Katapult),
            Mode::Dfu => Some(Protocol::Dfuse),
            _ => None,
        };
        if let Some(spoken) = spoken {
            let routes = narrowing.names();
            narrowing.keep(
                "a route uses the bootloader that answers",
                format!("device is in {}; routes over this cable: {routes}", spoken.name()),
                |chosen| chosen.route.protocol == spoken,
            )?;
        }
    }

    let running = seen.running.and_then(|running| running.app_start);
    let start = running.map(|start| (start, "running vector table lies")).or_else(|| {
        let start = seen.katapult_starts?;
        Some((start, "Katapult starts applications"))
    });
    if let Some((start, says)) = start {
        let routes = narrowing.names_with_start();
        narrowing.keep(
            "a route leads to where this board's application starts",
            format!("{says} at {start}; routes: {routes}"),
            |chosen| chosen.bootloader.app_start == start,
        )?;
    } else if seen.running.is_some() {
        narrowing.checks.push(Check {
            name: "a route leads to where this board's application starts".into(),
            verdict: Verdict::NotProvable,
            evidence: "neither the chip nor the running firmware tells where its vector table lies".into(),
        });
    }

    let name = "a route presumes the bootloader that is installed";
    let at = seen.flash_start;
    if let Some(resident) = seen.running.and_then(|running| running.resident) {
        narrowing
            .keep(name, format!("{at} holds {}", resident.name()), |chosen| chosen.bootloader.kind.is(resident))?;
    }
    let kind = |kind| move |chosen: &Chosen<'_>| chosen.bootloader.kind == kind;
    match seen.head {
        Some(Head::Katapult) => {
            let evidence = format!("{at} holds {}", Resident::Katapult.name());
            narrowing.keep(name, evidence, kind(BootloaderKind::Katapult))?;
        }
        Some(Head::Nothing) => {
            narrowing.keep(name, format!("{at} holds no code"), kind(BootloaderKind::None))?;
        }
        Some(Head::Other(starts)) => narrowing.keep_other(name, at, starts, seen.profile)?,
        None => {}
    }
    narrowing.left.first().copied()
}

impl BootloaderKind {
    /// Whether `resident`, found before an application that starts elsewhere, is of this kind.
    pub(super) fn is(self, resident: Resident) -> bool {
        match resident {
            Resident::Katapult => self == Self::Katapult,
            Resident::Other => self == Self::Vendor,
            Resident::Nothing => false,
        }
    }
}

impl<'a> Narrowing<'a, '_> {
    fn names_with_start(&self) -> String {
        let name = |chosen: &Chosen<'_>| format!("{} for {}", chosen.route.id, chosen.bootloader.app_start);
        self.left.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    /// Keeps the routes that fit code that is not Katapult's. A vendor's bootloader whose application was never written,
    /// or was cut off, looks like an application without a bootloader: to take one for the other would overwrite it.
    fn keep_other(&mut self, name: &str, at: FlashAddr, starts: &[FlashAddr], profile: &Profile) -> Option<()> {
        let other = format!("{at} holds other code than Katapult");
        if let [start, ..] = starts {
            return self.keep(name, format!("{other}, and an application starts at {start}"), |chosen| {
                chosen.bootloader.kind == BootloaderKind::Vendor && chosen.bootloader.app_start == *start
            });
        }
        self.left.retain(|chosen| chosen.bootloader.kind != BootloaderKind::Katapult);
        let vendors = profile.bootloaders.iter().any(|it| it.kind == BootloaderKind::Vendor);
        if vendors && !self.left.is_empty() {
            let routes = self.names();
            let evidence =
                format!("{other}: an application, or a vendor's bootloader without one; name the route: {routes}");
            return self.keep(name, evidence, |_| false);
        }
        self.keep(name, other, |_| true)
    }

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
fn image_start(image: &Image, profile: &Profile) -> Option<FlashAddr> {
    if let Some(start) = &image.start {
        return Some(start.addr);
    }
    let mut starts = profile.bootloaders.iter().map(|bootloader| bootloader.app_start);
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
