//! What was detected, for a person.

use kflash::discover::{Device, Mode, Place};
use kflash::host::Holders;
use kflash::identify::{Candidate, Selector};
use kflash::klipper::dictionary::BuiltFor;

use super::query::Answer;
use super::{Detection, Found};
use crate::sheet::{Sheet, shown};

/// Boards listed for one reason; with more, their number says enough.
const MOST_LISTED: usize = 6;

pub(super) fn of(detection: &Detection) -> String {
    let probes: Vec<_> = detection.probes.iter().map(crate::probe::text).collect();
    let boards = boards(detection);
    if probes.is_empty() { boards } else { format!("{boards}\n{}", probes.join("\n")) }
}

fn boards(detection: &Detection) -> String {
    if detection.boards.is_empty() {
        let looked_at =
            detection.looked_at.iter().map(|path| format!("  looked at {}\n", shown(&path.to_string_lossy())));
        return format!("no boards found\n{}{}", looked_at.collect::<String>(), others(detection));
    }
    let boards: Vec<_> = detection.boards.iter().map(board).collect();
    let others = others(detection);
    format!("{}{}{others}", boards.join("\n"), if others.is_empty() { "" } else { "\n" })
}

fn others(detection: &Detection) -> String {
    match detection.others {
        0 => String::new(),
        1 => "1 other USB device is no board\n".to_owned(),
        others => format!("{others} other USB devices are no boards\n"),
    }
}

fn board(found: &Found) -> String {
    let device = &found.device;
    let on = device.mcu.as_ref().map(|mcu| format!(" on {mcu}")).unwrap_or_default();
    let place = shown(&device.place.to_string());
    let mut sheet = Sheet::new(&format!("{place}  {}{on}", mode(device.mode, &device.place)));
    if let Some(usb) = &device.usb {
        sheet.lines("serial", usb.serial.as_deref().map(shown));
        let names: Vec<_> = [&usb.manufacturer, &usb.product].into_iter().flatten().map(|name| shown(name)).collect();
        let names = if names.is_empty() { String::new() } else { format!("  {}", names.join(" ")) };
        sheet.line("usb", &format!("{}{names}", usb.id));
    }
    let tty = device.tty.as_ref().filter(|tty| device.place != Place::Tty(tty.node.clone()));
    let tty = tty.into_iter().flat_map(|tty| [Some(&tty.node), tty.by_id.as_ref()]);
    let nodes = tty.chain([device.usbfs.as_ref()]).flatten();
    sheet.lines("nodes", nodes.map(|node| shown(&node.to_string_lossy())));
    if let Some(answer) = &found.answer {
        sheet.line("runs", &runs(answer));
    }
    sheet.line("held by", &held_by(&found.holders));
    for group in found.candidates.chunk_by(|one, other| one.evidence == other.evidence) {
        candidates(&mut sheet, group);
    }
    sheet.lines("config", configured(device));
    if device.mode == Mode::Dfu {
        sheet.line("warning", "on some boards heaters switch on while the chip sits in its ROM bootloader");
    }
    sheet.into_text()
}

/// The line that names it in a configuration: by its port and, where that will be the same in its bootloader and in its
/// firmware, by its serial number.
fn configured(device: &Device) -> Option<String> {
    let place: Selector = device.place.to_string().parse().ok()?;
    let lasting = matches!(device.mode, Mode::Klipper | Mode::Katapult);
    let serial = device.usb.as_ref().filter(|_| lasting).and_then(|usb| usb.serial.as_ref());
    let serial = serial.and_then(|serial| serial.parse::<Selector>().ok());
    let serial = serial.filter(|selector| matches!(selector, Selector::Serial(_)));
    // What would have to be escaped is not offered.
    let plain = |text: &String| text.chars().all(|c| (c.is_ascii_graphic() || c == ' ') && c != '"' && c != '\\');
    let selectors = [Some(place), serial].into_iter().flatten().map(|it| it.to_string()).filter(plain);
    let selectors: Vec<_> = selectors.map(|it| format!("\"{it}\"")).collect();
    (!selectors.is_empty()).then(|| format!("device = [{}]", selectors.join(", ")))
}

fn mode(mode: Mode, place: &Place) -> &'static str {
    match mode {
        Mode::Klipper => "Klipper",
        Mode::KlipperCanBridge => "Klipper as USB-CAN bridge (not supported yet)",
        Mode::Katapult => "Katapult",
        Mode::Dfu => "DFU bootloader",
        Mode::UartBridge => "USB-UART bridge",
        Mode::Rp2Boot => "RP2 boot ROM (not supported yet)",
        Mode::Unknown if matches!(place, Place::Tcp(_)) => "byte stream",
        Mode::Unknown if matches!(place, Place::Tty(_)) => "tty",
        Mode::Unknown => "unknown",
    }
}

fn candidates(sheet: &mut Sheet, group: &[Candidate]) {
    let because = group.first().map(|candidate| candidate.evidence.as_slice()).unwrap_or_default();
    if group.len() > MOST_LISTED {
        sheet.line("may be", &format!("any of {} boards", group.len()));
    } else {
        sheet.lines("may be", group.iter().map(|candidate| candidate.board.to_string()));
    }
    match because {
        [] => sheet.line("  because", "nothing speaks against it"),
        because => sheet.lines("  because", because.iter().map(|line| shown(line))),
    }
}

fn held_by(holders: &Holders) -> String {
    match holders {
        Holders::Unknown => "unknown".to_owned(),
        Holders::Seen { processes, complete } => {
            let names: Vec<_> =
                processes.iter().map(|holder| format!("{} (pid {})", shown(&holder.name), holder.pid)).collect();
            match (names.is_empty(), complete) {
                (true, true) => "nobody".to_owned(),
                (true, false) => "nobody that this user can see".to_owned(),
                (false, _) => names.join(", "),
            }
        }
    }
}

fn runs(answer: &Answer) -> String {
    match answer {
        Answer::Klipper { app, version, mcu, built_for, .. } => {
            let mcu = mcu.as_ref().map(|mcu| format!(" on {}", shown(mcu))).unwrap_or_default();
            let cable = match built_for {
                BuiltFor::Usb => "USB".to_owned(),
                BuiltFor::Uart(baud) => format!("a UART at {baud} baud"),
                BuiltFor::Can => "CAN".to_owned(),
                BuiltFor::CanBridge => "USB as a CAN bridge".to_owned(),
            };
            format!("{} {}{mcu}, built for {cable}", shown(app), shown(version))
        }
        Answer::Katapult { version, mcu, app_start } => {
            let version = version.as_ref().map(|version| format!(" {}", shown(version))).unwrap_or_default();
            let mcu = mcu.as_ref().map(|mcu| format!(" on {}", shown(mcu))).unwrap_or_default();
            let start = app_start.map(|start| format!(", starts applications at {start}")).unwrap_or_default();
            format!("Katapult{version}{mcu}{start}")
        }
        Answer::Unknown { error } => format!("unknown: {}", shown(error)),
        Answer::NotAsked { why } => format!("not asked: {why}"),
    }
}
