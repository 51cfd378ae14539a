//! `--simulate`: a virtual board in place of the host's, for the very same stages.

use std::time::Duration;

use kflash::addr::FlashAddr;
use kflash::board::{Cable, InstalledBootloader, Route};
use kflash::chip::Chip;
use kflash::discover::{ParseUsbError, UsbPath};
use kflash::exit::ExitCode;
use kflash::host::Host as _;
use kflash::identify::Selector;
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::obtain::Obtained;
use kflash_sim::board::{Contents, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::host::{Plug, SimHost};

use crate::failure::Failure;
use crate::target::Board;

/// The version that the virtual board runs at first.
const OLDER: &str = "v0.12.0-439-g1fe54bd5";
/// The rate of the virtual board's running firmware on a UART, Klipper's default.
const BAUD: u32 = 250_000;
/// Where the virtual board is plugged in.
const PORT: &str = "1-1";
/// Until it runs.
const BOOT: Duration = Duration::from_secs(1);
/// The unique id of the virtual board's chip.
const UID: [u8; 12] = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";

/// A virtual board on a host of its own, and the new firmware for it.
pub struct Rehearsal {
    /// The host.
    pub host: SimHost,
    /// The firmware.
    pub image: Image,
    /// What names the board's device.
    pub selectors: Vec<Selector>,
}

/// A virtual board that runs an older Klipper, with `bootloader` installed and flashed by the route of this id, where they
/// are named; without `firmware`, a test image is the new one.
pub fn rehearse(
    board: &Board,
    named: Option<&str>,
    bootloader: Option<&str>,
    firmware: Option<Obtained>,
) -> Result<Rehearsal, Failure> {
    let Board { profile, chip, .. } = board;
    let given = firmware.map(|firmware| firmware.image);
    let start = given.as_ref().and_then(|image| image.start.as_ref()).map(|start| start.addr);
    let route = route(board, named, bootloader, start)?;
    let installed = profile
        .bootloader_of(route)
        .ok_or_else(|| Failure::usage(format!("{}: route {} names no bootloader", profile.id, route.id)))?;
    let older = test_image(chip, installed, route.cable).version(OLDER).build();
    let image = match given {
        Some(image) => image,
        None => Image::parse(&test_image(chip, installed, route.cable).build())
            .map_err(|error| Failure::usage(format!("no test image for {}: {error}", profile.id)))?,
    };
    // The chip can execute the new firmware only if it is told what that is.
    let known = image.placed(installed.app_start).ok();
    let known = known.map(|placed| (placed.range().start.0, placed.bytes(placed.range())));
    let contents = Contents {
        bootloader: installed.id.clone(),
        application: Some((installed.app_start.0, older)),
        known: known.into_iter().collect(),
        uid: UID,
    };
    let board = VirtualBoard::new(profile, chip, contents)
        .map_err(|error| Failure::usage(format!("no virtual {}: {error}", profile.id)))?;
    let port: UsbPath =
        PORT.parse().map_err(|error: ParseUsbError| Failure::new(ExitCode::Internal, error.to_string()))?;
    // What is behind a USB-UART bridge cannot be seen, so that a person has to name it.
    let selectors = match route.cable {
        Cable::Usb => Vec::new(),
        Cable::Uart => vec![Selector::UsbPath(port.clone())],
    };
    let host = SimHost::paced(1.0);
    host.plug_in(Plug::of(profile, route.cable, port), board, profile.opening_resets);
    host.clock().sleep(BOOT);
    Ok(Rehearsal { host, image, selectors })
}

/// The way that a virtual board is flashed: with this id and bootloader, where they are named; else the first for an
/// application that starts there.
pub fn route<'a>(
    Board { profile, .. }: &'a Board,
    named: Option<&str>,
    bootloader: Option<&str>,
    start: Option<FlashAddr>,
) -> Result<&'a Route, Failure> {
    let fits = |route: &&Route| {
        let installed = profile.bootloader_of(route);
        named.is_none_or(|id| route.id == id)
            && match bootloader {
                Some(id) => installed.is_some_and(|installed| installed.id == id),
                None => named.is_some() || start.is_none_or(|start| installed.is_some_and(|it| it.app_start == start)),
            }
    };
    // An image for no bootloader of the board is refused by the plan, as it would be on the board.
    let first = if named.or(bootloader).is_none() { profile.routes.first() } else { None };
    profile.routes.iter().find(fits).or(first).ok_or_else(|| {
        let routes: Vec<_> =
            profile.routes.iter().map(|route| format!("{} ({})", route.id, route.bootloader)).collect();
        let asked = [named.map(|id| format!("route {id:?}")), bootloader.map(|id| format!("bootloader {id:?}"))];
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        let hint = format!("its routes, each with the bootloader that it presumes: {}", routes.join(", "));
        Failure { hint: Some(hint), ..Failure::usage(format!("{} has no {}", profile.id, asked.join(" with "))) }
    })
}

fn test_image(chip: &Chip, installed: &InstalledBootloader, cable: Cable) -> TestImage {
    let mcu = chip.mcu.first().map_or("", String::as_str);
    let built_for = match cable {
        Cable::Usb => BuiltFor::Usb,
        Cable::Uart => BuiltFor::Uart(BAUD),
    };
    TestImage::klipper(mcu, installed.app_start.0).built_for(built_for)
}
