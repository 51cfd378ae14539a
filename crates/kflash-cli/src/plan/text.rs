//! A plan as a page of text.

use std::fmt::Write;

use kflash::board::{Entry, Profile, Route};
use kflash::chip::Chip;
use kflash::event::{Check, Verdict};
use kflash::flash::Request;
use kflash::identify;
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::plan::{Op, Plan, PlannedOp};

use crate::hands;
use crate::picture::picture;
use crate::render::line::{bytes, verdict_word};
use crate::sheet::shown;

/// Columns that text is wrapped to.
const WIDTH: usize = 100;

/// The page.
pub fn page(plan: &Plan, request: &Request) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "Plan for {} ({})\n", request.profile.name, request.profile.id);
    entry(&mut text, "device", &identify::describe(&plan.device));
    entry(&mut text, "route", &route(&plan.route, &request.profile));
    entry(&mut text, "firmware", &firmware(&request.image));
    if plan.already_current {
        entry(&mut text, "now", "this very firmware runs already: without --force nothing would be written");
    }
    for warning in &plan.warnings {
        entry(&mut text, "warning", &format!("{} [{}]", warning.text, warning.source));
    }
    let _ = writeln!(text, "\nFlash of the {}, {}", chip_name(&request.chip), request.chip.flash().size);
    text.push_str(&picture(&plan.regions));
    operations(&mut text, &plan.operations);
    ways_back(&mut text, plan, &request.profile);
    checks(&mut text, "Checks", &plan.checks, |verdict| matches!(verdict, Verdict::Agrees | Verdict::Disagrees));
    checks(&mut text, "To be checked in the bootloader", &plan.checks, |verdict| verdict == Verdict::Pending);
    checks(&mut text, "Not provable", &plan.checks, |verdict| verdict == Verdict::NotProvable);
    text
}

fn route(route: &Route, profile: &Profile) -> String {
    let enter: Vec<_> = route.enter.iter().map(|&entry| enter(entry)).collect();
    let behind = match profile.bootloader_of(route) {
        Some(installed) if installed.kind != kflash::board::BootloaderKind::None => {
            format!(", application behind the installed bootloader at {}", installed.app_start)
        }
        _ => String::new(),
    };
    let (protocol, cable) = (route.protocol.name(), route.cable.name());
    format!("{}: {protocol} over {cable}, entered by {}{behind}", route.id, enter.join(", else "))
}

fn enter(entry: Entry) -> &'static str {
    match entry {
        Entry::Touch1200 => "a 1200-baud touch",
        Entry::UartRequest => "a request to Klipper",
        Entry::DoubleReset => "a double reset by hand",
        Entry::Boot0 => "BOOT0 by hand",
    }
}

fn firmware(image: &Image) -> String {
    let size: u64 = image.segments.iter().map(|segment| segment.data.len() as u64).sum();
    let mut text = match &image.dictionary {
        Some(dictionary) => format!("{} {}", shown(&dictionary.app), shown(&dictionary.version)),
        None => "firmware without a dictionary".into(),
    };
    let _ = write!(text, ", {}", bytes(size));
    if let Some(start) = &image.start {
        let _ = write!(text, " at {}", start.addr);
    }
    if let Some(dictionary) = &image.dictionary {
        if let Some(mcu) = dictionary.mcu() {
            let _ = write!(text, ", for {}", shown(mcu));
        }
        match dictionary.built_for() {
            BuiltFor::Usb => text.push_str(" over USB"),
            BuiltFor::Uart(baud) => drop(write!(text, " over a UART at {baud} baud")),
            BuiltFor::Can => text.push_str(" over CAN"),
            BuiltFor::CanBridge => text.push_str(" as a USB-CAN bridge"),
        }
    }
    let _ = write!(text, "; sha256 {}", image.sha256.get(..16).unwrap_or(&image.sha256));
    text
}

fn chip_name(chip: &Chip) -> String {
    chip.id.clone()
}

/// The operations; those of one kind on adjoining ranges are one line.
fn operations(text: &mut String, operations: &[PlannedOp]) {
    let _ = writeln!(text, "\nOperations");
    let mut at = 0;
    while let Some(first) = operations.get(at) {
        let run = operations[at..].windows(2).take_while(|pair| follows(pair[0].op, pair[1].op)).count();
        let last = &operations[at + run];
        let numbers = if run == 0 { format!("{}", at + 1) } else { format!("{}-{}", at + 1, at + run + 1) };
        let _ = writeln!(text, "  {numbers:<9} {}", operation(first.op, last.op, run + 1));
        at += run + 1;
    }
}

fn follows(first: Op, second: Op) -> bool {
    match (first, second) {
        (Op::Erase { sector: a }, Op::Erase { sector: b }) => a.end() == b.start,
        (Op::Write { range: a }, Op::Write { range: b }) | (Op::ReadBack { range: a }, Op::ReadBack { range: b }) => {
            a.end() == b.start
        }
        _ => false,
    }
}

fn operation(first: Op, last: Op, count: usize) -> String {
    let to = |start: kflash::addr::FlashAddr, end: kflash::addr::FlashAddr| {
        format!("{start}..{end}  {}", bytes(u64::from(end.0.saturating_sub(start.0))))
    };
    match (first, last) {
        (Op::Erase { sector: a }, Op::Erase { sector: b }) => {
            let sectors = if count == 1 { "1 sector".into() } else { format!("{count} sectors") };
            format!("erase      {}, {sectors}", to(a.start, b.end()))
        }
        (Op::Write { range: a }, Op::Write { range: b }) => format!("write      {}", to(a.start, b.end())),
        (Op::ReadBack { range: a }, Op::ReadBack { range: b }) => {
            format!("read back  {}, compared with the file", to(a.start, b.end()))
        }
        (Op::Invalidate { block }, _) => {
            format!("invalidate {}, zeros: the bootloader no longer starts it", to(block.start, block.end()))
        }
        (Op::Start { addr }, _) => format!("start      {addr}"),
        _ => "finish     what the bootloader still holds is written".into(),
    }
}

/// For each stretch of operations, the way back after a cut.
fn ways_back(text: &mut String, plan: &Plan, profile: &Profile) {
    let _ = writeln!(text, "\nIf cable and power are lost meanwhile");
    let mut at = 0;
    while let Some(first) = plan.operations.get(at) {
        let run = plan.operations[at..].iter().take_while(|op| op.way_back == first.way_back).count();
        let numbers = if run == 1 { format!("in {}", at + 1) } else { format!("in {}-{}", at + 1, at + run) };
        let then =
            format!("{}: {}, then run kflash again", first.way_back, hands::way_back(first.way_back, &profile.hands));
        entry(text, &numbers, &then);
        at += run;
    }
}

fn checks(text: &mut String, title: &str, checks: &[Check], shown: impl Fn(Verdict) -> bool) {
    let shown: Vec<_> = checks.iter().filter(|check| shown(check.verdict)).collect();
    if shown.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}");
    for check in shown {
        let word = match check.verdict {
            Verdict::Agrees | Verdict::Disagrees => verdict_word(check.verdict),
            Verdict::Pending | Verdict::NotProvable => "",
        };
        entry(text, word, &format!("{}: {}", check.name, check.evidence));
    }
}

/// A word and its text, wrapped and indented.
pub fn entry(text: &mut String, word: &str, said: &str) {
    let mut line = format!("  {word:<9} ");
    let indent = 12;
    let mut used = indent;
    for (i, part) in said.split_whitespace().enumerate() {
        let width = part.chars().count();
        if i > 0 && used + 1 + width > WIDTH {
            let _ = writeln!(text, "{}", line.trim_end());
            line = " ".repeat(indent);
            used = indent;
        } else if i > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(part);
        used += width;
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use kflash::addr::{FlashAddr, FlashRange, FlashSize};
    use kflash::board::BootloaderKind;
    use kflash::boards;
    use kflash::discover::{Device, Mode, Place, TtyNode, UsbId, UsbIdentity};
    use kflash::plan::{Fate, Region, WayBack};
    use kflash_sim::firmware::TestImage;

    use super::*;

    fn range(start: u32, size: u32) -> FlashRange {
        FlashRange { start: FlashAddr(start), size: FlashSize(size) }
    }

    fn request() -> Request {
        let (profile, chip) = boards::find("btt-octopus-v1.1-f446").unwrap();
        let firmware = TestImage::klipper("stm32f446xx", 0x0800_8000).version("v0.13.0-730-g84104bbbd").size(42368);
        let image = Image::parse(&firmware.build()).unwrap();
        Request { profile, chip, image, selectors: Vec::new(), force: false }
    }

    fn plan(request: &Request) -> Plan {
        let op = |op, way_back| PlannedOp { op, way_back };
        let region = |start, size, name: &str, fate| Region { range: range(start, size), name: name.into(), fate };
        let check =
            |name: &str, verdict, evidence: &str| Check { name: name.into(), verdict, evidence: evidence.into() };
        Plan {
            board: request.profile.id.0.clone(),
            device: Device {
                place: Place::Usb("1-1.4".parse().unwrap()),
                mode: Mode::Klipper,
                usb: Some(UsbIdentity {
                    id: UsbId::new(0x1d50, 0x614e),
                    revision: 0x100,
                    bus: 1,
                    number: 5,
                    manufacturer: Some("Klipper".into()),
                    product: Some("stm32f446xx".into()),
                    serial: Some("1A0042000A51".into()),
                }),
                tty: Some(TtyNode { node: "/dev/ttyACM0".into(), by_id: None, numbers: None }),
                usbfs: None,
                mcu: None,
            },
            route: request.profile.routes[0].clone(),
            app_start: FlashAddr(0x0800_8000),
            operations: vec![
                op(Op::Invalidate { block: range(0x0800_8000, 64) }, WayBack::Cable),
                op(Op::Erase { sector: range(0x0800_8000, 0x4000) }, WayBack::Cable),
                op(Op::Erase { sector: range(0x0800_c000, 0x4000) }, WayBack::Cable),
                op(Op::Write { range: range(0x0800_c000, 0x6580) }, WayBack::Cable),
                op(Op::Write { range: range(0x0800_8000, 0x4000) }, WayBack::DoubleReset),
                op(Op::Finish, WayBack::DoubleReset),
                op(Op::ReadBack { range: range(0x0800_8000, 0xa580) }, WayBack::DoubleReset),
                op(Op::Start { addr: FlashAddr(0x0800_8000) }, WayBack::Cable),
            ],
            regions: vec![
                region(0x0800_0000, 0x8000, "Katapult", Fate::Kept),
                region(0x0800_8000, 0xa580, "application", Fate::Written),
                region(0x0801_2580, 0x6_da80, "free", Fate::Kept),
            ],
            checks: vec![
                check(
                    "MCU of the image is the board's",
                    Verdict::Agrees,
                    "dictionary says stm32f446xx; profile says stm32f446xx",
                ),
                check(
                    "start of the application",
                    Verdict::Pending,
                    "Katapult's CONNECT says where it starts the application",
                ),
                check("crystal", Verdict::NotProvable, "the dictionary does not name it"),
            ],
            warnings: Vec::new(),
            already_current: false,
            bootloader: BootloaderKind::Katapult,
            image: request.image.placed(FlashAddr(0x0800_8000)).unwrap(),
        }
    }

    #[test]
    fn a_plan_is_a_page() {
        let request = request();
        snapbox::assert_data_eq!(page(&plan(&request), &request), snapbox::file!["text.golden"]);
    }

    #[test]
    fn lines_stay_within_the_width_whatever_is_said() {
        let request = request();
        let mut plan = plan(&request);
        plan.checks[0].evidence = "word ".repeat(100);
        plan.checks[1].evidence = "x".repeat(300);
        let page = page(&plan, &request);
        assert!(page.lines().filter(|line| !line.contains("xxx")).all(|line| line.chars().count() <= WIDTH), "{page}");
    }
}
