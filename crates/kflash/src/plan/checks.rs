//! What is compared before anything is written.

use crate::addr::{FlashAddr, FlashRange};
use crate::board::{Cable, Profile};
use crate::chip::{Chip, DfuQuirk, DfuSerial};
use crate::discover::Mode;
use crate::event::{Check, Verdict};
use crate::identify::ST_DFU;
use crate::image::Image;
use crate::klipper::dictionary::{BuiltFor, Dictionary};
use crate::proto::dfuse::rom_serial;
use crate::proto::{Protocol, Sector};
use crate::query::{self, Resident};

use super::operations::Layout;
use super::route::{Chosen, cable_of, cable_of_build};
use super::{Known, Target};

/// A check of two sides that either agree or not.
pub(super) fn check(name: &str, agrees: bool, evidence: String) -> Check {
    Check { name: name.into(), verdict: if agrees { Verdict::Agrees } else { Verdict::Disagrees }, evidence }
}

/// A check that cannot be made yet, or not at all.
pub(super) fn open(name: &str, verdict: Verdict, evidence: &str) -> Check {
    Check { name: name.into(), verdict, evidence: evidence.into() }
}

fn carries(profile: &Profile, chip: &Chip) -> String {
    format!("{} carries {}", profile.id, chip.mcu.join(" or "))
}

/// Checks of the image alone and against the chip that the board carries.
pub fn image(known: &Known<'_>) -> Vec<Check> {
    let mut checks = vec![application(known.image, known.profile, known.chip)];
    if let Some(dictionary) = &known.image.dictionary {
        checks.push(cable(dictionary, cable_of(known.device), "the device is reached over"));
    }
    checks
}

/// Whether an image is an application for the chip of a board.
pub fn application(image: &Image, profile: &Profile, chip: &Chip) -> Check {
    let name = "image is a Klipper application";
    match &image.dictionary {
        Some(dictionary) => {
            let mcu = dictionary.mcu().unwrap_or("no MCU at all");
            let evidence = format!("dictionary names {mcu}; {}", carries(profile, chip));
            check("image is for this board's MCU", chip.is(mcu), evidence)
        }
        None if image.katapult.is_some() => {
            check(name, false, "it is a Katapult bootloader; only applications are flashed".into())
        }
        None => {
            let evidence = "it holds no data dictionary, so that neither its MCU nor its run can be proven";
            check(name, false, evidence.into())
        }
    }
}

/// Whether an image of this dictionary talks over `cable`, which something (`the device is reached over`) asks for.
pub fn cable(dictionary: &Dictionary, cable: Cable, asks: &str) -> Check {
    let built = match dictionary.built_for() {
        BuiltFor::Usb => "USB".into(),
        BuiltFor::Uart(baud) => format!("a UART at {baud} baud"),
        BuiltFor::Can => "CAN".into(),
        BuiltFor::CanBridge => "a USB-CAN bridge".into(),
    };
    let evidence = format!("image talks over {built}; {asks} {}", cable.name());
    check("image talks over the cable in use", cable_of_build(dictionary) == Some(cable), evidence)
}

/// Whether an image, which writing takes up to `end`, lies between where applications start and the end of the flash.
pub fn region(image: FlashRange, end: FlashAddr, app_start: FlashAddr, flash: FlashRange) -> Check {
    check(
        "image fits the application region",
        image.start >= app_start && end <= flash.end(),
        format!("image takes {image} ({}); application region is {app_start}..{}", image.size, flash.end()),
    )
}

/// Whether an image that lies at `range` begins with a vector table that leads into it.
pub fn vector_table(image: &Image, range: FlashRange, chip: &Chip) -> Check {
    let name = "vector table is sane";
    let Some(vectors) = image.vector_table else {
        return check(name, false, "image does not begin with one".into());
    };
    let stack = vectors.stack_pointer;
    let in_ram = chip.ram.iter().any(|ram| stack > ram.start && stack <= ram.end());
    let handler = FlashAddr(vectors.reset.0 & !1);
    let in_image = range.contains(handler) || (chip.runs_from_ram && chip.ram.iter().any(|ram| ram.contains(handler)));
    check(
        name,
        in_ram && in_image && vectors.reset.0 & 1 == 1,
        format!("stack pointer {stack}, reset vector {}; image takes {range}", vectors.reset),
    )
}

/// Checks of the image at its address.
pub fn placement(known: &Known<'_>, chosen: &Chosen<'_>, layout: &Layout, image: FlashRange) -> Vec<Check> {
    let mut checks = Vec::new();
    let app_start = chosen.bootloader.app_start;
    let flash = known.flash();
    checks.push(region(image, layout.written.end(), app_start, flash));
    checks.push(vector_table(known.image, image, known.chip));

    let first = layout.sectors.first();
    checks.push(check(
        "erasing spares what lies before the application",
        first.is_some_and(|sector| sector.start == app_start),
        match first {
            Some(sector) => format!("application starts at {app_start}; its first sector is {sector}"),
            None => format!("no sector of the flash {flash} holds {app_start}"),
        },
    ));
    checks
}

/// Checks against what runs on the board.
pub fn running(known: &Known<'_>, chosen: &Chosen<'_>, layout: &Layout) -> Vec<Check> {
    let mut checks = Vec::new();
    let Some(running) = known.running else {
        // A hint that proves nothing; but a device that contradicts the board is not asked to leave for its bootloader.
        if let Some(mcu) = &known.device.mcu {
            let evidence = format!("its USB product string names {mcu}; {}", carries(known.profile, known.chip));
            checks.push(check("device's MCU is this board's", known.chip.is(mcu), evidence));
        }
        return checks;
    };
    let mcu = running.dictionary.mcu().unwrap_or("no MCU at all");
    checks.push(check(
        "device's MCU is this board's",
        known.chip.is(mcu),
        format!("running {} {} names {mcu}", running.dictionary.app, running.dictionary.version),
    ));
    match running.app_start {
        Some(start) => checks.push(check(
            "image starts where the running application does",
            start == chosen.bootloader.app_start,
            format!("running vector table lies at {start}; image is for {}", chosen.bootloader.app_start),
        )),
        None if chosen.route.protocol == Protocol::Dfuse => checks.push(open(
            "image starts where the running application does",
            Verdict::NotProvable,
            "neither the chip nor the running firmware tells where its vector table lies",
        )),
        None => {}
    }
    if let Some(size) = running.flash_size {
        let end = known.flash().start.checked_add(size.0);
        checks.push(check(
            "chip's flash is large enough",
            end.is_some_and(|end| layout.written.end() <= end),
            format!("chip says {size}; image ends at {}", layout.written.end()),
        ));
    }
    checks
}

/// Checks against what the bootloader says; pending before it is entered.
pub fn target(known: &Known<'_>, chosen: &Chosen<'_>, layout: &Layout) -> Vec<Check> {
    match (chosen.route.protocol, known.target) {
        (Protocol::Katapult, None) => vec![
            open(
                "Katapult starts the application there",
                Verdict::Pending,
                "Katapult says so in its answer to CONNECT",
            ),
            open("Katapult's MCU is this board's", Verdict::Pending, "Katapult says so in its answer to CONNECT"),
        ],
        (Protocol::Dfuse, None) => vec![
            open("flash can be read, erased and written there", Verdict::Pending, "the bootloader's layout says so"),
            open("chip is not read-protected", Verdict::Pending, "a first read shows it"),
        ],
        (Protocol::Swd, None) => {
            vec![open("chip is this board's, and open", Verdict::Pending, "the debug probe shows it")]
        }
        // Which chip it is, its flash and its protection were looked at before it was halted.
        (Protocol::Swd, Some(target)) => {
            let version = target.info.version.as_deref().unwrap_or("nothing");
            let shut = |sector: &&Sector| !sector.access.write && layout.sectors.contains(&sector.range);
            let shut = target.info.sectors.iter().find(shut);
            let mut checks = vec![
                check("chip is this board's, and open", true, format!("chip says {version}")),
                check(
                    "no sector is write-protected",
                    shut.is_none(),
                    match shut {
                        Some(Sector { range, .. }) => {
                            format!("option bytes protect {range}; kflash leaves them as they are")
                        }
                        None => format!("option bytes protect none of the {} that it takes", layout.sectors.len()),
                    },
                ),
            ];
            checks.extend(no_katapult_overwritten(known, chosen, target));
            checks
        }
        (Protocol::Katapult, Some(target)) => {
            let info = &target.info;
            let mcu = info.mcu.as_deref().unwrap_or("no MCU");
            let start = info.app_start.map_or("no address".to_owned(), |start| start.to_string());
            let wanted = chosen.bootloader.app_start;
            let block = layout.block.0;
            let unit = block.max(known.chip.program_unit.0);
            let whole =
                unit.is_multiple_of(block) && layout.sectors.iter().all(|page| page.size.0.is_multiple_of(unit));
            vec![
                check(
                    "Katapult starts the application there",
                    info.app_start == Some(wanted),
                    format!("Katapult says {start}; image is for {wanted}"),
                ),
                check("Katapult's MCU is this board's", known.chip.is(mcu), format!("Katapult says {mcu}")),
                // The first page is written apart from the rest, which must begin with a block of its own.
                check(
                    "Katapult's blocks fill the flash's pages",
                    whole,
                    format!("Katapult takes blocks of {block} bytes"),
                ),
            ]
        }
        (Protocol::Dfuse, Some(target)) => {
            let allowed = layout.sectors.iter().all(|range| {
                let listed = target.info.sectors.iter().find(|sector| sector.range == *range);
                listed.is_some_and(|sector| sector.access.read && sector.access.erase && sector.access.write)
            });
            let listed: Vec<_> = target.info.sectors.iter().map(|sector| sector.range).collect();
            let own: Vec<_> = known.chip.sectors().collect();
            let shared = listed.len().min(own.len());
            let mut checks = vec![
                check(
                    "flash can be read, erased and written there",
                    allowed && !layout.sectors.is_empty(),
                    format!("bootloader lists {} sectors; image needs {}", listed.len(), layout.sectors.len()),
                ),
                check(
                    "flash geometry is this chip's",
                    shared > 0 && listed[..shared] == own[..shared],
                    format!("first {shared} sectors of the bootloader's layout against {}", known.chip.id),
                ),
                check(
                    "chip is not read-protected",
                    target.head.is_some(),
                    match target.head {
                        Some(_) => "flash was read".into(),
                        None => {
                            "bootloader refuses to read the flash: readout protection is on; lifting it erases the chip"
                                .into()
                        }
                    },
                ),
            ];
            if let Some(usb) = &target.usb {
                let evidence = format!("it shows {}; ST's shows {ST_DFU}", usb.id);
                checks.push(check("bootloader in ROM is ST's", usb.id == ST_DFU, evidence));
            }
            checks.extend(no_katapult_overwritten(known, chosen, target));
            let quirks = known.chip.rom_dfu.as_ref().map_or(&[][..], |rom| &rom.quirks);
            if quirks.contains(&DfuQuirk::LayoutTooLarge) {
                let evidence = "this bootloader is known to list more flash than there is";
                checks.push(open("layout tells the true flash size", Verdict::NotProvable, evidence));
            }
            checks
        }
    }
}

/// Whether an image for the flash's start meets Katapult there.
fn no_katapult_overwritten(known: &Known<'_>, chosen: &Chosen<'_>, target: &Target) -> Option<Check> {
    let head = target.head.as_ref().filter(|_| chosen.bootloader.app_start == known.chip.flash_start)?;
    let katapult = query::resident_in(head, known.chip) == Resident::Katapult;
    let evidence = if katapult {
        "flash begins with Katapult, and the image starts there, too: build it for the start behind Katapult"
    } else {
        "flash does not begin with Katapult"
    };
    Some(check("no Katapult is overwritten", !katapult, evidence.into()))
}

/// What no device and no image can tell.
pub fn not_provable(known: &Known<'_>, chosen: &Chosen<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    if chosen.route.cable == Cable::Usb {
        checks.push(open(
            "image is built for this board's crystal",
            Verdict::NotProvable,
            "the dictionary holds the CPU clock, not the crystal",
        ));
    }
    if chosen.route.protocol == Protocol::Dfuse {
        checks.push(identity_in_dfu(known));
    }
    checks
}

/// Whether the chip in DFU is the one that is meant: a serial number that follows from the chip id proves it; any other
/// proves nothing either way.
fn identity_in_dfu(known: &Known<'_>) -> Check {
    if known.device.mode == Mode::Dfu {
        let evidence =
            format!("chips of a kind look alike in DFU: that it is at {} is all there is", known.device.place);
        return open("chip in DFU is this board's", Verdict::NotProvable, &evidence);
    }
    let name = "chip in DFU is the one that ran Klipper";
    if !matches!(&known.chip.rom_dfu, Some(rom) if rom.serial == DfuSerial::Uid) {
        let evidence = "its DFU serial number is no chip id: the USB port path alone identifies it";
        return open(name, Verdict::NotProvable, evidence);
    }
    let Some(target) = known.target else {
        return open(name, Verdict::Pending, "its DFU serial number may tell");
    };
    let shown = target.usb.as_ref().and_then(|usb| usb.serial.as_deref());
    match (known.running.and_then(|running| running.uid), shown) {
        (Some(uid), Some(shown)) if rom_serial(uid) == shown => {
            check(name, true, format!("its DFU serial number {shown} follows from the chip id that Klipper read"))
        }
        _ => open(
            name,
            Verdict::NotProvable,
            "its DFU serial number does not tell: the USB port path alone identifies it",
        ),
    }
}
