//! `kflash inspect`: what is in a firmware file.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use kflash::addr::{FlashRange, FlashSize};
use kflash::exit::ExitCode;
use kflash::image::{Format, Image, StartEvidence};
use kflash::klipper::dictionary::{BuiltFor, Dictionary};
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware;
use crate::render;
use crate::sheet::{Sheet, shown};

/// Says what is in a firmware file: format, addresses, what it is built from and for.
///
/// Knows raw binaries, Intel HEX, UF2 and ELF by their content. Klipper and Kalico are told by the data dictionary that
/// every build carries, Katapult by its signature. Nothing is opened but the file.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The firmware file: klipper.bin, klipper.uf2, klipper.elf.hex, klipper.elf, katapult.bin
    pub file: PathBuf,
}

/// An image, with what follows from it.
#[derive(Serialize)]
struct Inspection<'a> {
    file: Cow<'a, str>,
    size: FlashSize,
    range: FlashRange,
    built_for: Option<BuiltFor>,
    #[serde(flatten)]
    image: &'a Image,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    let image = firmware::read(&args.file)?.image;
    if shared.json {
        render::result_json(&Inspection {
            file: args.file.to_string_lossy(),
            size: image.size(),
            range: image.range(),
            built_for: image.dictionary.as_ref().map(Dictionary::built_for),
            image: &image,
        });
    } else {
        render::result(&text(&args.file, &image));
    }
    Ok(ExitCode::Ok)
}

fn text(file: &Path, image: &Image) -> String {
    let mut sheet = Sheet::new(&shown(&file.to_string_lossy()));
    what_it_is(&mut sheet, image);
    sheet.gap();
    where_it_lies(&mut sheet, image);
    sheet.gap();
    sheet.line("format", &format_of(image));
    sheet.line("sha256", &image.sha256);
    sheet.into_text()
}

fn what_it_is(sheet: &mut Sheet, image: &Image) {
    if let Some(dictionary) = &image.dictionary {
        sheet.line("firmware", &format!("{} {}", shown(&dictionary.app), shown(&dictionary.version)));
        sheet.line("mcu", &mcu(dictionary));
        sheet.line("cable", &cable(dictionary.built_for()));
        for (n, pins) in kept_pins(dictionary).iter().enumerate() {
            sheet.line(if n == 0 { "keeps pins" } else { "" }, pins);
        }
        if let Some(pins) = dictionary.config.get("INITIAL_PINS").and_then(serde_json::Value::as_str) {
            sheet.line("sets pins", &shown(pins));
        }
        if !dictionary.build_versions.is_empty() {
            sheet.line("built with", &shown(&dictionary.build_versions));
        }
        let (commands, responses) = (dictionary.commands.len(), dictionary.responses.len());
        sheet.line("dictionary", &format!("{commands} commands, {responses} responses"));
        sheet.line("", &format!("sha256 {}", dictionary.sha256));
    } else if let Some(katapult) = &image.katapult {
        let version = katapult.version.as_deref().map_or_else(|| "of unknown version".to_owned(), shown);
        sheet.line("firmware", &format!("Katapult {version}"));
        sheet.line("mcu", &katapult.mcu.as_deref().map_or_else(|| "not stated".to_owned(), shown));
    } else {
        sheet.line("firmware", "unknown: no Klipper data dictionary in it, and no signature of Katapult");
    }
}

fn where_it_lies(sheet: &mut Sheet, image: &Image) {
    let size = image.size();
    let range = image.range();
    sheet.line("size", &size_of(size));
    match &image.start {
        Some(start) => {
            sheet.line("start", &format!("{}  {}", start.addr, evidence(&start.evidence)));
            if let StartEvidence::DictionaryPointer { others, .. } = &start.evidence
                && !others.is_empty()
            {
                let others: Vec<_> = others.iter().map(ToString::to_string).collect();
                sheet.line("", &format!("less likely: {}", others.join(", ")));
            }
            sheet.line("end", &range.end().to_string());
        }
        None => sheet.line("start", "not in the file: the board's profile tells it"),
    }
    if let [_, _, ..] = image.segments.as_slice() {
        for (n, segment) in image.segments.iter().enumerate().take(MAX_LINES) {
            let name = if n == 0 { "segments" } else { "" };
            sheet.line(name, &format!("{}  {}", segment.range(), size_of(segment.range().size)));
        }
        if image.segments.len() > MAX_LINES {
            sheet.line("", &format!("and {} more", image.segments.len() - MAX_LINES));
        }
    }
    match image.vector_table {
        Some(table) => sheet.line("vector table", &format!("stack {}, reset {}", table.stack_pointer, table.reset)),
        None => sheet.line("vector table", "none of a Cortex-M"),
    }
}

/// Lines listed of a kind; real files need one or two.
const MAX_LINES: usize = 16;

fn format_of(image: &Image) -> String {
    match (image.format, image.uf2_family) {
        (Format::Bin, _) => "raw binary, without addresses".to_owned(),
        (Format::IntelHex, _) => "Intel HEX".to_owned(),
        (Format::Elf, _) => "ELF".to_owned(),
        (Format::Uf2, None) => "UF2, without a family".to_owned(),
        (Format::Uf2, Some(family)) => match family.name() {
            Some(name) => format!("UF2, family {family} ({name})"),
            None => format!("UF2, family {family}"),
        },
    }
}

fn evidence(evidence: &StartEvidence) -> String {
    match evidence {
        StartEvidence::Container => "as the file says".to_owned(),
        StartEvidence::DictionaryPointer { at, .. } => {
            format!("the literal at offset {at:#x} then points to the dictionary")
        }
        StartEvidence::ResetHandler { at } => {
            format!("the reset handler at offset {at:#x} is then where its vector points")
        }
        StartEvidence::KatapultSignature { at } => {
            format!("the signature at offset {at:#x} then lies before the reset handler")
        }
        StartEvidence::Profile => "as the board's profile says".to_owned(),
    }
}

fn mcu(dictionary: &Dictionary) -> String {
    let mcu = dictionary.mcu().map_or_else(|| "not stated".to_owned(), shown);
    match dictionary.clock_freq() {
        Some(hz) if hz % 1_000_000 == 0 => format!("{mcu}, {} MHz", hz / 1_000_000),
        Some(hz) => format!("{mcu}, {hz} Hz"),
        None => mcu,
    }
}

fn cable(built_for: BuiltFor) -> String {
    match built_for {
        BuiltFor::Usb => "USB".to_owned(),
        BuiltFor::Uart(baud) => format!("UART at {baud} baud"),
        BuiltFor::Can => "CAN bus".to_owned(),
        BuiltFor::CanBridge => "USB, as a bridge to a CAN bus".to_owned(),
    }
}

/// The pins that the firmware keeps for itself.
fn kept_pins(dictionary: &Dictionary) -> Vec<String> {
    let kept = dictionary.config.iter().filter_map(|(name, pins)| {
        let (purpose, pins) = (name.strip_prefix("RESERVE_PINS_")?, pins.as_str()?);
        Some(format!("{} for {}", shown(pins), shown(purpose)))
    });
    kept.take(MAX_LINES).collect()
}

fn size_of(size: FlashSize) -> String {
    if size.0 < 1024 {
        return format!("{} bytes", size.0);
    }
    format!("{} bytes ({:.1} KiB)", size.0, f64::from(size.0) / 1024.0)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use kflash_sim::firmware::TestImage;

    use super::*;

    /// What is shown, without the digests.
    fn sheet(bytes: &[u8]) -> String {
        let text = text(Path::new("klipper.bin"), &Image::parse(bytes).unwrap());
        text.lines().filter(|line| !line.contains("sha256")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn klipper_for_a_uart() {
        let image = TestImage::klipper("stm32f103xe", 0x0800_7000).size(39_988).built_for(BuiltFor::Uart(250_000));
        assert_eq!(
            sheet(&image.build()),
            "\
klipper.bin
  firmware      Klipper v0.13.0-730-g84104bbbd
  mcu           stm32f103xe, 72 MHz
  cable         UART at 250000 baud
  keeps pins    PA10,PA9 for serial
  built with    gcc: (15:12.2.rel1-1) 12.2.1 20221205 binutils: (2.40-2+18+b1) 2.40
  dictionary    71 commands, 9 responses

  size          39988 bytes (39.1 KiB)
  start         0x08007000  the literal at offset 0x2498 then points to the dictionary
                less likely: 0x08008100
  end           0x08010c34
  vector table  stack 0x20005000, reset 0x0800d4bd

  format        raw binary, without addresses"
        );
    }

    #[test]
    fn katapult() {
        assert_eq!(
            sheet(&TestImage::katapult("stm32g0b1xx", 0x0800_0000).build()),
            "\
klipper.bin
  firmware      Katapult v0.0.1-109-g902f335
  mcu           stm32g0b1xx

  size          5148 bytes (5.0 KiB)
  start         0x08000000  the signature at offset 0x58 then lies before the reset handler
  end           0x0800141c
  vector table  stack 0x20023ff8, reset 0x08000061

  format        raw binary, without addresses"
        );
    }

    #[test]
    fn a_file_that_says_nothing_of_itself() {
        assert_eq!(
            sheet(&[1, 0, 2, 0]),
            "\
klipper.bin
  firmware      unknown: no Klipper data dictionary in it, and no signature of Katapult

  size          4 bytes
  start         not in the file: the board's profile tells it
  vector table  none of a Cortex-M

  format        raw binary, without addresses"
        );
    }

    #[test]
    fn strings_in_a_file_cannot_steer_the_terminal() {
        let mut image = TestImage::klipper("stm32f446xx", 0x0800_8000).version("v1\u{1b}[2J\r\n\u{202e}");
        image.app = "K".repeat(5000);
        let sheet = sheet(&image.build());
        assert!(sheet.contains(r" v1\u{1b}[2J\r\n\u{202e}"), "{sheet}");
        assert!(sheet.contains("KKK… v1"), "{sheet}");
        assert!(sheet.lines().all(|line| line.chars().count() < 250), "{sheet}");
    }

    #[test]
    fn json_says_what_the_text_says() {
        let image = Image::parse(&TestImage::kalico("stm32f446xx", 0x0800_8000).build()).unwrap();
        let inspection = Inspection {
            file: "klipper.bin".into(),
            size: image.size(),
            range: image.range(),
            built_for: image.dictionary.as_ref().map(Dictionary::built_for),
            image: &image,
        };
        let json = serde_json::to_value(&inspection).unwrap();
        assert_eq!(json["format"], "bin");
        assert_eq!(json["start"]["addr"], "0x08008000");
        assert_eq!(json["size"], 40_776);
        assert_eq!(json["segments"][0]["size"], 40_776);
        assert_eq!(json["dictionary"]["app"], "Kalico");
        assert_eq!(json["built_for"], "usb");
        assert_eq!(json["vector_table"]["stack_pointer"], "0x20020000");
    }
}
