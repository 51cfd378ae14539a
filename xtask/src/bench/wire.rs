//! Katapult and DfuSe in process and in virtual time: what passes the wire, and how long it takes if the host costs nothing.

use std::time::Duration;

use anyhow::{Context, bail};
use kflash::board::{Cable, Profile, Route};
use kflash::boards;
use kflash::chip::Chip;
use kflash::event::{Event, Phase};
use kflash::flash::{Flasher, Interrupt, Outcome, Request};
use kflash::host::Host;
use kflash::identify::Selector;
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::proto::Protocol;
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::host::{Plug, SimHost};

use super::tally::{Counts, Tally};
use super::{Figure, Report};

/// The rate of both sides of the UART.
pub const BAUD: u32 = 250_000;
/// Start, eight data, stop.
const BITS_PER_BYTE: f64 = 10.0;
/// Katapult's block in every build read.
pub const BLOCK: usize = 64;
/// The board that the UART is measured with.
pub const UART_BOARD: &str = "creality-v4.2.7";

/// What is said of the wire's limit wherever it is used.
pub const LIMIT: &str = "The wire's limit is the time of the bytes that Katapult's protocol must carry, both ways, one frame at a \
time (its device holds one frame and does not read while it writes): per block of 64 bytes SEND_BLOCK (76) with its ACK (16) \
and REQUEST_BLOCK (12) with its answer (80), one EOF (8 + 16), one COMPLETE (8 + 12); at 250000 baud a byte takes 40 us.";

/// What passed in one phase.
#[derive(Clone, Copy, Default)]
struct Passed {
    counts: Counts,
    time: Duration,
}

struct Run {
    /// Making invalid or erasing, and writing.
    write: Passed,
    read_back: Passed,
    start: Passed,
}

impl Run {
    fn time(&self) -> f64 {
        (self.write.time + self.read_back.time + self.start.time).as_secs_f64()
    }
}

pub fn measure() -> anyhow::Result<Report> {
    let mut figures = Vec::new();
    let cases = [
        ("Katapult, UART", UART_BOARD, Protocol::Katapult, Cable::Uart),
        ("Katapult, USB", "btt-octopus-v1.1-f446", Protocol::Katapult, Cable::Usb),
        ("DfuSe", "btt-octopus-v1.1-f446", Protocol::Dfuse, Cable::Usb),
    ];
    let mut size = 0;
    for (name, board, protocol, cable) in cases {
        let (image, run) = flash(board, protocol, cable, Timing::Zero)?;
        size = image.len();
        let kib = image.len() as f64 / 1024.0;
        for (what, passed) in [("write", run.write), ("read back", run.read_back)] {
            figures.push(Figure::new(
                format!("{name}: {what}, bytes on the wire per KiB of image"),
                passed.counts.bytes as f64 / kib,
                "",
            ));
            figures.push(Figure::new(
                format!("{name}: {what}, round trips per KiB of image"),
                passed.counts.round_trips as f64 / kib,
                "",
            ));
        }
        if cable == Cable::Uart {
            let limit = limit(image.len());
            let (_, real) = flash(board, protocol, cable, Timing::Real)?;
            figures.push(
                Figure::new(format!("{name} at {BAUD} baud: write, read back, start"), run.time(), "s")
                    .against("wire's limit", limit)
                    .at_most(1.05),
            );
            figures.push(
                Figure::new(format!("{name} at {BAUD} baud: the same, with the flash's own time"), real.time(), "s")
                    .against("wire's limit", limit),
            );
        }
    }
    let method = format!(
        "An image of {size} bytes, flashed by the library in process on a simulated host in virtual time: the host's own work takes \
none. \"Write\" is all from the first erase on, the block that makes the old application invalid among it. Bytes are those of \
Katapult's frames, and the setup and data stages of DfuSe's control requests; a round trip is an answer that is waited for. \
{LIMIT} The goal is for a flash that takes no time; the row below it has the times of the data sheet (STM32F103), during which \
the wire rests. Not among it: entering, CONNECT, and confirming."
    );
    Ok(Report { title: "The wire (virtual time)", method, figures })
}

/// The seconds that an image of so many bytes takes at least.
pub fn limit(size: usize) -> f64 {
    let (frame, word) = (8, 4);
    let acknowledged = frame + word;
    let send_block = (frame + word + BLOCK) + (acknowledged + word);
    let request_block = (frame + word) + (acknowledged + word + BLOCK);
    let end = frame + (acknowledged + word);
    let complete = frame + acknowledged;
    let bytes = size.div_ceil(BLOCK) * (send_block + request_block) + end + complete;
    bytes as f64 * BITS_PER_BYTE / f64::from(BAUD)
}

/// The firmware that is written to a board behind a bootloader that starts it at `start`.
pub fn image(chip: &Chip, start: u32, cable: Cable) -> anyhow::Result<TestImage> {
    let mcu = chip.mcu.first().context("the chip has no name")?;
    let built_for = if cable == Cable::Usb { BuiltFor::Usb } else { BuiltFor::Uart(BAUD) };
    Ok(TestImage::klipper(mcu, start).built_for(built_for).version("v0.13.0-999-gfeedbeef"))
}

/// The route of a board through a protocol and a cable, and where its bootloader starts the application.
pub fn route(profile: &Profile, protocol: Protocol, cable: Cable) -> anyhow::Result<(&Route, u32)> {
    let mut routes = profile.routes.iter().filter(|route| route.protocol == protocol && route.cable == cable);
    // Through ROM DFU, the one that writes at the start of the flash.
    let route = routes
        .clone()
        .find(|route| protocol != Protocol::Dfuse || route.bootloader == "none")
        .or_else(|| routes.next())
        .with_context(|| format!("{} has no such route", profile.id))?;
    let bootloader = profile.bootloader_of(route).context("the route names no bootloader")?;
    Ok((route, bootloader.app_start.0))
}

/// Flashes a board from one version of Klipper to another; the image, and what passed.
fn flash(board: &str, protocol: Protocol, cable: Cable, timing: Timing) -> anyhow::Result<(Vec<u8>, Run)> {
    let (profile, chip) = boards::find(board)?;
    let (route, start) = route(&profile, protocol, cable)?;
    let new = image(&chip, start, cable)?;
    let bytes = new.build();
    let contents = Contents {
        bootloader: route.bootloader.clone(),
        application: Some((start, new.version("v0.12.0-1-g01d").build())),
        known: vec![(start, bytes.clone())],
        uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
    };
    let options = Options { timing, katapult_cable: Some(cable), ..Options::default() };
    let virtual_board = VirtualBoard::with_options(&profile, &chip, contents, options).map_err(anyhow::Error::msg)?;
    let host = SimHost::new();
    host.plug_in(Plug::of(&profile, cable, "1-1".parse()?), virtual_board, profile.opening_resets);
    host.clock().sleep(Duration::from_secs(2));

    let host = Tally::new(host);
    let mut marks: Vec<(Phase, Duration, Counts)> = Vec::new();
    let request = Request {
        image: Image::parse(&bytes)?,
        selectors: vec![Selector::UsbPath("1-1".parse()?)],
        force: false,
        profile,
        chip,
    };
    let interrupt = Interrupt::default();
    let report = Flasher { host: &host, interrupt: &interrupt, hands: false }.flash(&request, &mut |event| {
        if let Event::Phase { phase, .. } = event {
            marks.push((phase, host.clock().now(), host.counts()));
        }
    })?;
    if report.outcome != Outcome::Flashed {
        bail!("{board} was not flashed: {:?}", report.outcome);
    }
    let mut run = Run { write: Passed::default(), read_back: Passed::default(), start: Passed::default() };
    for (begin, end) in marks.iter().zip(&marks[1..]) {
        let passed = match begin.0 {
            Phase::Erase | Phase::Write => &mut run.write,
            Phase::ReadBack => &mut run.read_back,
            Phase::Start => &mut run.start,
            Phase::Fetch | Phase::Look | Phase::Enter | Phase::Confirm => continue,
        };
        let counts = end.2 - begin.2;
        passed.counts.bytes += counts.bytes;
        passed.counts.round_trips += counts.round_trips;
        passed.time += end.1.saturating_sub(begin.1);
    }
    Ok((bytes, run))
}
