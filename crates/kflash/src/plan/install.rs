//! A plan that installs Katapult, alone or with an application behind it.

use crate::addr::FlashRange;
use crate::board::{BootloaderKind, InstalledBootloader, Route};
use crate::event::{Check, Verdict};
use crate::image::{Image, PlacedImage};
use crate::proto::Protocol;

use super::checks::{self, check, open};
use super::operations::Layout;
use super::route::Chosen;
use super::{Fate, Known, Op, Plan, PlannedOp, Refusal, Region, WayBack, by_probe};

/// What is to be installed.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Katapult.
    pub bootloader: &'a Image,
    /// The application that it is to start; what lies there stays without one.
    pub application: Option<&'a Image>,
}

/// An image at its place, with the sectors that hold it.
struct Placed {
    name: &'static str,
    image: PlacedImage,
    layout: Layout,
}

/// Makes a plan that installs `parts` by `protocol` ([`Protocol::Dfuse`] or [`Protocol::Swd`]), or says what disagrees.
/// `known.image` is the application, or without one the bootloader.
///
/// All sectors are erased first and the bootloader's first block is written last, so that a cut leaves a chip that
/// starts nothing.
pub fn install(known: &Known<'_>, parts: &Parts<'_>, protocol: Protocol) -> Result<Plan, Refusal> {
    let mut checks = Vec::new();
    let refused = |checks| Err(Refusal { checks, protected: false });
    let Some(installed) = bootloader(known, parts, &mut checks) else { return refused(checks) };
    let Some(route) = route(known, installed, protocol, &mut checks) else { return refused(checks) };
    let chosen = Chosen { route: &route, bootloader: installed };
    let mut placed = Vec::new();
    let wanted = [
        Some(("bootloader", parts.bootloader, known.chip.flash_start)),
        parts.application.map(|image| ("application", image, installed.app_start)),
    ];
    for (name, image, start) in wanted.into_iter().flatten() {
        let evidence = match image.placed(start) {
            Ok(image) => match Layout::new(known, &chosen, image.range()) {
                Some(layout) => {
                    placed.push(Placed { name, image, layout });
                    continue;
                }
                None => format!("{name} takes {}, which passes the end of the address space", image.range()),
            },
            Err(error) => error.to_string(),
        };
        checks.push(check("image fits the flash", false, evidence));
        return refused(checks);
    }
    for part in &placed {
        checks.extend(fits(known, part, &chosen));
        checks.extend(checks::target(known, &chosen, &part.layout));
    }
    if let Some(application) = parts.application {
        checks.extend(behind(known, application, installed, &chosen));
    }
    checks.dedup();
    let image = merged(&placed);
    let disagrees = checks.iter().any(|check| check.verdict == Verdict::Disagrees);
    let Some(image) = image.filter(|_| !disagrees) else {
        let protected =
            known.target.is_some_and(|target| target.info.protocol == Protocol::Dfuse && target.head.is_none());
        return Err(Refusal { checks, protected });
    };
    Ok(Plan {
        board: known.profile.id.to_string(),
        device: known.device.clone(),
        bootloader: installed.kind,
        app_start: installed.app_start,
        operations: operations(known, &placed, protocol),
        regions: regions(known, &placed, protocol),
        checks,
        warnings: known.warnings(protocol),
        already_current: false,
        image,
        route,
    })
}

/// The layout of the board that the bootloader makes.
fn bootloader<'a>(known: &Known<'a>, parts: &Parts<'_>, checks: &mut Vec<Check>) -> Option<&'a InstalledBootloader> {
    let image = parts.bootloader;
    let Some(katapult) = &image.katapult else {
        let what = if image.dictionary.is_some() { "a Klipper application" } else { "without Katapult's signature" };
        checks.push(check("bootloader is Katapult", false, format!("the image is {what}")));
        return None;
    };
    let version = katapult.version.as_deref().unwrap_or("of unknown version");
    checks.push(check("bootloader is Katapult", true, format!("Katapult {}", version.escape_debug())));
    match &katapult.mcu {
        Some(mcu) => {
            let carries = known.chip.mcu.join(" or ");
            let evidence = format!("Katapult is for {mcu}; {} carries {carries}", known.profile.id);
            checks.push(check("Katapult is for this board's MCU", known.chip.is(mcu), evidence));
        }
        None => checks.push(open("Katapult is for this board's MCU", Verdict::NotProvable, "it does not name its MCU")),
    }
    let start = image.start.as_ref().map(|start| start.addr);
    checks.push(check(
        "Katapult lies where the chip starts",
        start == Some(known.chip.flash_start),
        match start {
            Some(start) => format!("Katapult is built for {start}; the flash starts at {}", known.chip.flash_start),
            None => "the image does not tell where it lies".into(),
        },
    ));
    let with_katapult: Vec<_> =
        known.profile.bootloaders.iter().filter(|it| it.kind == BootloaderKind::Katapult).collect();
    if with_katapult.is_empty() {
        let evidence = format!("{} lists no Katapult", known.profile.id);
        checks.push(check("board can have Katapult", false, evidence));
        return None;
    }
    let starts = image.starts_applications_at(known.chip.flash());
    let name = "Katapult starts applications where this board's lie";
    let layouts: Vec<_> = with_katapult.iter().map(|it| it.app_start.to_string()).collect();
    let layouts = layouts.join(" or ");
    if starts.is_empty() {
        let evidence = format!("its code holds no address that could be one; this board's lie at {layouts}");
        checks.push(open(name, Verdict::NotProvable, &evidence));
        return with_katapult.first().copied();
    }
    let found = with_katapult.into_iter().find(|it| starts.contains(&it.app_start));
    let starts: Vec<_> = starts.iter().map(ToString::to_string).collect();
    let evidence = format!("Katapult's code holds {}; this board's applications lie at {layouts}", starts.join(", "));
    checks.push(check(name, found.is_some(), evidence));
    found
}

/// The way that writes it.
fn route(
    known: &Known<'_>,
    installed: &InstalledBootloader,
    protocol: Protocol,
    checks: &mut Vec<Check>,
) -> Option<Route> {
    if protocol == Protocol::Swd {
        return Some(by_probe::route(known, installed));
    }
    let mut routes: Vec<_> = known.profile.routes.iter().filter(|route| route.protocol == protocol).collect();
    routes.sort_by_key(|route| route.bootloader != installed.id);
    if routes.is_empty() {
        let evidence = format!("{} has no {} in its ROM; a debug probe can do it", known.chip.id, protocol.name());
        checks.push(check("board has a bootloader in ROM", false, evidence));
    }
    routes.first().map(|route| Route { bootloader: installed.id.clone(), ..(*route).clone() })
}

/// Whether a part lies within its bounds, and is a program.
fn fits(known: &Known<'_>, part: &Placed, chosen: &Chosen<'_>) -> Vec<Check> {
    let (image, written) = (part.image.range(), part.layout.written);
    let app_start = chosen.bootloader.app_start;
    if part.name == "application" {
        return checks::placement(known, chosen, &part.layout, image);
    }
    let last = part.layout.sectors.last().map_or(written.end(), |sector| sector.end());
    vec![check(
        "Katapult ends before the application",
        last <= app_start && written.end() <= app_start,
        format!("Katapult takes {image}, and its sectors end at {last}; applications start at {app_start}"),
    )]
}

/// Whether the application is one that this Katapult starts.
fn behind(known: &Known<'_>, application: &Image, installed: &InstalledBootloader, chosen: &Chosen<'_>) -> Vec<Check> {
    let mut checks = vec![checks::application(application, known.profile, known.chip)];
    if let Some(dictionary) = &application.dictionary {
        if chosen.route.protocol == Protocol::Swd {
            checks.extend(by_probe::image(application, known.profile, known.chip).into_iter().skip(1));
        } else {
            checks.push(checks::cable(dictionary, chosen.route.cable, "the device is reached over"));
        }
    }
    let start = application.start.as_ref().map(|start| start.addr);
    checks.push(check(
        "Katapult starts the application there",
        start == Some(installed.app_start),
        match start {
            Some(start) => format!("Katapult starts {}; the application is built for {start}", installed.app_start),
            None => "the application does not tell where it lies".into(),
        },
    ));
    checks.extend(checks::not_provable(known, chosen));
    checks
}

/// All parts as one image. What lies between them is never written.
fn merged(placed: &[Placed]) -> Option<PlacedImage> {
    let (first, last) = (placed.first()?.image.range(), placed.last()?.image.range());
    let all = FlashRange::between(first.start, last.end())?;
    let mut bytes = vec![0xff; all.size.0 as usize];
    for part in placed {
        let range = part.image.range();
        let at = (range.start.0 - all.start.0) as usize;
        bytes.get_mut(at..at + range.size.0 as usize)?.copy_from_slice(&part.image.bytes(range));
    }
    PlacedImage::new(all.start, bytes)
}

fn operations(known: &Known<'_>, placed: &[Placed], protocol: Protocol) -> Vec<PlannedOp> {
    let begun = match protocol {
        Protocol::Swd => WayBack::Swd,
        _ if known.profile.hands.boot0.is_some() => WayBack::Boot0,
        _ => WayBack::Swd,
    };
    let mut ops = Vec::new();
    let mut plan = |op, way_back| ops.push(PlannedOp { op, way_back });
    for sector in placed.iter().flat_map(|part| &part.layout.sectors) {
        plan(Op::Erase { sector: *sector }, begun);
    }
    for part in placed.iter().rev() {
        let first = part.layout.first_block();
        if let Some(rest) = part.layout.after(first.end()) {
            plan(Op::Write { range: rest }, begun);
        }
        plan(Op::Write { range: first }, begun);
    }
    plan(Op::Finish, begun);
    for part in placed {
        plan(Op::ReadBack { range: part.layout.written }, WayBack::Cable);
    }
    plan(Op::Start { addr: known.chip.flash_start }, WayBack::Cable);
    ops
}

fn regions(known: &Known<'_>, placed: &[Placed], protocol: Protocol) -> Vec<Region> {
    let mut regions = Vec::new();
    let mut at = known.chip.flash_start;
    let mut add = |to, name: &str, fate| {
        if let Some(range) = FlashRange::between(at, to).filter(|range| !range.is_empty()) {
            regions.push(Region { range, name: name.into(), fate });
            at = to;
        }
    };
    for part in placed {
        add(part.layout.written.start, "free", Fate::Kept);
        add(part.layout.written.end(), part.name, Fate::Written);
        let erased_to = part.layout.sectors.last().map_or(part.layout.written.end(), |sector| sector.end());
        let rest = if protocol == Protocol::Swd { Fate::Kept } else { Fate::Erased };
        add(erased_to, "rest of its last sector", rest);
    }
    add(known.flash().end(), if placed.len() == 1 { "application" } else { "free" }, Fate::Kept);
    regions
}
