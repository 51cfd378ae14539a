//! What must hold of a profile and its chip, beyond their form. Checked once, when they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::BoardError;
use crate::addr::FlashRange;
use crate::board::{BootloaderKind, Cable, Entry, InstalledBootloader, Profile, Route};
use crate::chip::Chip;
use crate::obtain::build::kconfig::is_symbol;
use crate::proto::Protocol;

/// A key and what is wrong with it.
#[derive(Debug)]
pub(super) struct Wrong {
    key: String,
    problem: String,
}

impl Wrong {
    pub(super) fn in_file(self, file: &Path) -> BoardError {
        BoardError::Wrong { file: file.to_owned(), key: self.key, problem: self.problem }
    }
}

type Check = Result<(), Wrong>;

fn wrong(key: impl Into<String>, problem: impl Into<String>) -> Check {
    Err(Wrong { key: key.into(), problem: problem.into() })
}

pub(super) fn chip(chip: &Chip) -> Check {
    id("id", &chip.id)?;
    if chip.mcu.is_empty() {
        wrong("mcu", "names no MCU")?;
    }
    texts("mcu", &chip.mcu)?;
    texts("sources", &chip.sources)?;
    if FlashRange::new(chip.flash_start, chip.flash().size).is_none() {
        wrong("sectors", format!("pass the end of the address space from {}", chip.flash_start))?;
    }
    if chip.ram.is_empty() {
        wrong("ram", "names no range")?;
    }
    for ram in &chip.ram {
        if ram.is_empty() || FlashRange::new(ram.start, ram.size).is_none() {
            wrong("ram", format!("{} bytes at {} is no range", ram.size.0, ram.start))?;
        }
    }
    let smallest = chip.sectors().map(|sector| sector.size.0).min().unwrap_or(0);
    if !chip.program_unit.0.is_power_of_two() || chip.program_unit.0 > smallest {
        wrong("program-unit", format!("{} bytes is no unit of a sector", chip.program_unit.0))?;
    }
    formerly(&chip.kconfig_formerly).or_else(|problem| wrong("kconfig-formerly", problem))?;
    Ok(())
}

pub(super) fn profile(profile: &Profile, chip: &Chip) -> Check {
    id("id", &profile.id.0)?;
    for alias in &profile.aliases {
        id("aliases", alias)?;
    }
    text("name", &profile.name)?;
    for (key, hand) in [
        ("hands.double-reset", &profile.hands.double_reset),
        ("hands.boot0", &profile.hands.boot0),
        ("hands.boot0-undo", &profile.hands.boot0_undo),
        ("hands.swd", &profile.hands.swd),
    ] {
        hand.as_ref().map_or(Ok(()), |hand| text(key, hand))?;
    }
    for warning in &profile.warnings {
        text("warnings.text", &warning.text)?;
        text("warnings.source", &warning.source)?;
    }
    if profile.sources.is_empty() {
        wrong("sources", "a profile states where its facts come from")?;
    }
    for source in &profile.sources {
        text("sources.at", &source.at)?;
        text("sources.states", &source.states)?;
    }
    unique("bootloaders", profile.bootloaders.iter().map(|bootloader| bootloader.id.as_str()))?;
    unique("routes", profile.routes.iter().map(|route| route.id.as_str()))?;
    for bootloader in &profile.bootloaders {
        installed(bootloader, chip)?;
    }
    for one in &profile.routes {
        match profile.bootloader_of(one) {
            Some(bootloader) => route(one, bootloader, profile, chip)?,
            None => wrong(key(one, "bootloader"), format!("no bootloader named {:?} above", one.bootloader))?,
        }
    }
    if profile.uart_bridge.is_some() && profile.routes.iter().all(|route| route.cable != Cable::Uart) {
        wrong("uart-bridge", "stated, but no route takes a UART")?;
    }
    Ok(())
}

fn installed(bootloader: &InstalledBootloader, chip: &Chip) -> Check {
    let key = format!("bootloaders.{}.app-start", bootloader.id);
    let start = bootloader.app_start;
    match chip.sector_at(start) {
        None => wrong(key, format!("{start} is outside the flash of {}, {}", chip.id, chip.flash())),
        Some(sector) if sector.start != start => {
            wrong(key, format!("{start} is inside the sector {sector}, which holds the bootloader's end, too"))
        }
        Some(_) if (bootloader.kind == BootloaderKind::None) != (start == chip.flash_start) => {
            wrong(key, format!("only without a bootloader does an application start at {}", chip.flash_start))
        }
        Some(_) => Ok(()),
    }
}

fn route(route: &Route, bootloader: &InstalledBootloader, profile: &Profile, chip: &Chip) -> Check {
    match route.protocol {
        Protocol::Katapult if bootloader.kind != BootloaderKind::Katapult => {
            wrong(key(route, "protocol"), format!("katapult, but {:?} is no Katapult", bootloader.id))?;
        }
        Protocol::Dfuse if chip.rom_dfu.is_none() => {
            wrong(key(route, "protocol"), format!("dfuse, but {} has no DFU in ROM", chip.id))?;
        }
        Protocol::Dfuse if route.cable != Cable::Usb => wrong(key(route, "cable"), "dfuse takes USB")?,
        Protocol::Swd => wrong(key(route, "protocol"), "swd is no route of a board: a debug probe reaches every one")?,
        Protocol::Katapult | Protocol::Dfuse => {}
    }
    match (route.cable, route.bootloader_baud) {
        (Cable::Uart, None) => wrong(key(route, "bootloader-baud"), "missing: a UART has a speed")?,
        (Cable::Uart, Some(0)) => wrong(key(route, "bootloader-baud"), "0 is no speed")?,
        (Cable::Usb, Some(_)) => wrong(key(route, "bootloader-baud"), "stated, but USB has no speed")?,
        _ => {}
    }
    if route.enter.is_empty() {
        wrong(key(route, "enter"), "no way into the bootloader")?;
    }
    for entry in &route.enter {
        if let Some(problem) = entry_problem(*entry, route, bootloader, profile) {
            wrong(key(route, "enter"), problem)?;
        }
    }
    let tables = [&profile.kconfig, &bootloader.kconfig, &route.kconfig];
    kconfig(&tables).or_else(|problem| wrong(key(route, "kconfig"), problem))
}

/// Where an entry leads : Klipper's request goes to Katapult where it is installed, else to the ROM.
fn entry_problem(
    entry: Entry,
    route: &Route,
    bootloader: &InstalledBootloader,
    profile: &Profile,
) -> Option<&'static str> {
    let katapult = bootloader.kind == BootloaderKind::Katapult;
    match entry {
        Entry::Touch1200 if route.cable != Cable::Usb => Some("touch1200 takes USB"),
        Entry::Touch1200 if katapult != (route.protocol == Protocol::Katapult) => {
            Some("touch1200 leads into Katapult where it is installed")
        }
        Entry::UartRequest if route.cable != Cable::Uart => Some("uart-request takes a UART"),
        Entry::DoubleReset if route.protocol != Protocol::Katapult => Some("double-reset leads into Katapult alone"),
        Entry::DoubleReset if profile.hands.double_reset.is_none() => {
            Some("double-reset, but hands.double-reset is missing")
        }
        Entry::Boot0 if route.protocol != Protocol::Dfuse => Some("boot0 leads into the ROM alone"),
        Entry::Boot0 if profile.hands.boot0.is_none() => Some("boot0, but hands.boot0 is missing"),
        _ => None,
    }
}

fn kconfig(tables: &[&BTreeMap<String, String>]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, value) in tables.iter().copied().flatten() {
        symbol(name, value)?;
        if !seen.insert(name) {
            return Err(format!("{name} is set twice on this route"));
        }
    }
    Ok(())
}

/// Names on both sides, or beginnings of names on both.
fn formerly(table: &BTreeMap<String, String>) -> Result<(), String> {
    for (now, then) in table {
        if now.ends_with('*') != then.ends_with('*') {
            return Err(format!("{now:?} and {then:?}: either both end in * or none"));
        }
        for name in [now, then] {
            if !is_symbol(name.strip_suffix('*').unwrap_or(name)) {
                return Err(no_symbol(name));
            }
        }
    }
    Ok(())
}

fn no_symbol(name: &str) -> String {
    format!("{name:?} is no symbol such as MACH_STM32")
}

/// Whether a Kconfig symbol (without `CONFIG_`) and its value are such.
pub(crate) fn symbol(symbol: &str, value: &str) -> Result<(), String> {
    if !is_symbol(symbol) {
        return Err(no_symbol(symbol));
    }
    if value.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        return Err(format!("{symbol}: {value:?} is no value"));
    }
    Ok(())
}

fn key(route: &Route, key: &str) -> String {
    format!("routes.{}.{key}", route.id)
}

fn unique<'a>(key: &str, ids: impl Iterator<Item = &'a str>) -> Check {
    let mut seen = BTreeSet::new();
    for one in ids {
        id(&format!("{key}.id"), one)?;
        if !seen.insert(one) {
            wrong(format!("{key}.id"), format!("{one:?} twice"))?;
        }
    }
    if seen.is_empty() { wrong(key, "none") } else { Ok(()) }
}

/// Whether `text` can name a file, an option's value and a key in JSON without quoting.
pub(crate) fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    text.len() <= 64 && text.bytes().all(plain) && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

fn id(key: &str, text: &str) -> Check {
    if is_id(text) {
        Ok(())
    } else {
        wrong(key, format!("{text:?} is no id: lower-case letters, digits, dots and dashes"))
    }
}

/// Texts are shown on terminals: no control characters.
fn text(key: &str, text: &str) -> Check {
    if text.is_empty() || text.chars().any(char::is_control) {
        wrong(key, format!("{text:?} is no line of text"))
    } else {
        Ok(())
    }
}

fn texts(key: &str, all: &[String]) -> Check {
    all.iter().try_for_each(|one| text(key, one))
}
