//! `kflash boards`: the boards that kflash knows.

use kflash::board::{Cable, Entry, InstalledBootloader, Profile, Route, Verified};
use kflash::boards::{self, BoardError};
use kflash::chip::Chip;
use kflash::exit::ExitCode;
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::render;
use crate::sheet::Sheet;

/// Lists the boards that kflash knows, or says all that it knows of one
///
/// A board that is missing takes one file and no code: copy the profile that comes nearest from boards/ in the source,
/// change it, and give its path wherever a board is named.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A board by id or alias, or the path of a profile file: is checked, and shown with routes, firmware settings,
    /// what hands do, warnings and sources
    pub board: Option<String>,
}

/// A board with its chip.
#[derive(Serialize)]
struct Known<'a> {
    #[serde(flatten)]
    profile: &'a Profile,
    chip_data: &'a Chip,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    if let Some(name) = &args.board {
        let (profile, chip) = boards::find(name).map_err(|error| {
            let hint =
                matches!(error, BoardError::NoSuchBoard { .. }).then(|| "`kflash boards` lists them all".to_owned());
            Failure { hint, ..Failure::usage(error.to_string()) }
        })?;
        if shared.json {
            render::result_json(&Known { profile: &profile, chip_data: &chip });
        } else {
            render::result(&one(&profile, &chip));
        }
        return Ok(ExitCode::Ok);
    }
    let known = boards::builtin().map_err(|error| Failure::new(ExitCode::Internal, error.to_string()))?;
    if shared.json {
        let all: Vec<_> = known.iter().map(|(profile, chip)| Known { profile, chip_data: chip }).collect();
        render::result_json(&all);
    } else {
        render::result(&list(&known));
        render::note("\n`kflash boards ID` says all about one.");
    }
    Ok(ExitCode::Ok)
}

fn list(known: &[(Profile, Chip)]) -> String {
    let rows = known.iter().map(|(profile, chip)| {
        let mut cables: Vec<_> = profile.routes.iter().map(|route| cable(route.cable)).collect();
        cables.dedup();
        [profile.id.to_string(), chip.mcu.join(", "), cables.join(", "), profile.name.clone()]
    });
    let rows: Vec<_> = std::iter::once(["BOARD", "MCU", "CABLE", "NAME"].map(str::to_owned)).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let lines = rows.iter().map(|[id, mcu, cable, name]| {
        format!("{id:<a$}  {mcu:<b$}  {cable:<c$}  {name}\n", a = widths[0], b = widths[1], c = widths[2])
    });
    lines.collect()
}

fn one(profile: &Profile, chip: &Chip) -> String {
    let mut sheet = Sheet::new(&format!("{}  {}", profile.id, profile.name));
    if !profile.aliases.is_empty() {
        sheet.line("also", &profile.aliases.join(", "));
    }
    sheet.line("chip", &format!("{}, {} of flash from {}", chip.id, chip.flash().size, chip.flash_start));
    sheet.line("verified", verified(profile.verified));
    if let Some(bridge) = profile.uart_bridge {
        let resets = if profile.opening_resets { ", opening it may reset the board" } else { "" };
        sheet.line("UART bridge", &format!("{bridge}{resets}"));
    }
    for bootloader in &profile.bootloaders {
        sheet.gap();
        installed(&mut sheet, profile, bootloader);
    }
    sheet.gap();
    let hands = &profile.hands;
    for (name, hand) in [
        ("double reset", &hands.double_reset),
        ("BOOT0", &hands.boot0),
        ("then", &hands.boot0_undo),
        ("SWD", &hands.swd),
    ] {
        sheet.lines(name, hand);
    }
    sheet.lines("warning", profile.warnings.iter().map(|warning| &warning.text));
    sheet.gap();
    sheet.lines("sources", profile.sources.iter().map(|source| format!("{}: {}", source.at, source.states)));
    sheet.into_text()
}

fn installed(sheet: &mut Sheet, profile: &Profile, bootloader: &InstalledBootloader) {
    sheet.line("bootloader", &format!("{}, the application starts at {}", bootloader.id, bootloader.app_start));
    let mut routes = profile.routes.iter().filter(|route| route.bootloader == bootloader.id).peekable();
    if routes.peek().is_none() {
        sheet.line("route", "none yet");
    }
    for route in routes {
        let enter: Vec<_> = route.enter.iter().map(|entry| entered(*entry)).collect();
        sheet.line("route", &format!("{} over {}, entered by {}", route.id, at_speed(route), enter.join(" or ")));
        let settings = profile.kconfig.iter().chain(&bootloader.kconfig).chain(&route.kconfig);
        let settings: Vec<_> = settings.map(|(symbol, value)| format!("{symbol}={value}")).collect();
        sheet.lines("  built with", settings.chunks(3).map(|line| line.join(" ")));
    }
}

fn at_speed(route: &Route) -> String {
    let cable = cable(route.cable);
    route.bootloader_baud.map_or_else(|| cable.to_owned(), |baud| format!("{cable} at {baud} baud"))
}

fn cable(cable: Cable) -> &'static str {
    match cable {
        Cable::Usb => "USB",
        Cable::Uart => "UART",
    }
}

fn entered(entry: Entry) -> &'static str {
    match entry {
        Entry::Touch1200 => "the running firmware (1200 baud)",
        Entry::UartRequest => "the running firmware (UART request)",
        Entry::DoubleReset => "a double reset",
        Entry::Boot0 => "BOOT0",
    }
}

fn verified(verified: Verified) -> &'static str {
    match verified {
        Verified::Hardware => "on the board itself",
        Verified::Docs => "from documents, and on a simulated board; never on the board itself",
        Verified::Simulated => "on a simulated board only",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn the_list_is_aligned() {
        let known = [boards::find("creality-v4.2.7").unwrap(), boards::find("btt-skr-pico").unwrap()];
        assert_eq!(
            list(&known),
            "\
BOARD            MCU          CABLE  NAME
creality-v4.2.7  stm32f103xe  UART   Creality v4.2.7 (STM32F103)
btt-skr-pico     rp2040       USB    BigTreeTech SKR Pico v1.0 with Katapult (RP2040)
"
        );
    }

    #[test]
    fn one_board_with_all_that_is_known() {
        let (profile, chip) = boards::find("creality-v4.2.7").unwrap();
        assert_eq!(
            one(&profile, &chip),
            "\
creality-v4.2.7  Creality v4.2.7 (STM32F103)
  also          creality-427, ender-3-v2-4.2.7
  chip          stm32f103xe, 512 KiB of flash from 0x08000000
  verified      from documents, and on a simulated board; never on the board itself
  UART bridge   1a86:7523, opening it may reset the board

  bootloader    katapult, the application starts at 0x08002000
  route         katapult-uart over UART at 250000 baud, entered by the running firmware (UART request) or a double reset
    built with  MACH_STM32=y MACH_STM32F103=y STM32_FLASH_START_2000=y
                STM32_SERIAL_USART1=y

  bootloader    vendor, the application starts at 0x08007000
  route         none yet

  double reset  reset the board twice within half a second, by its reset button or the NRST pin of its SWD header

  sources       Klipper config/generic-creality-v4.2.7.cfg@84104bbb: STM32F103 behind a 28 KiB bootloader, serial on \
             USART1, reached through a CH340; the vendor bootloader takes a .bin of a new name from an SD card
                Katapult src/stm32/Kconfig@902f335: 8 KiB is Katapult's default on an F103
                Katapult src/Kconfig@902f335: 250000 baud is the default
"
        );
    }
}
