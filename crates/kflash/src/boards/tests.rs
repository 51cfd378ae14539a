#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::addr::{FlashAddr, FlashRange};
use crate::board::{BootloaderKind, Entry};
use crate::proto::Protocol;

fn octopus() -> String {
    BUILT_IN.get_file("btt-octopus-v1.1-f446.toml").unwrap().contents_utf8().unwrap().to_owned()
}

fn refused(from: &str, to: &str) -> String {
    let text = octopus();
    assert!(text.contains(from), "{from:?} is in the profile");
    let error = profile(Path::new("my.toml"), text.replacen(from, to, 1).as_bytes(), &builtin_chips().unwrap());
    error.unwrap_err().to_string()
}

#[test]
fn built_in_boards_and_chips_are_sound() {
    let boards = builtin().unwrap();
    assert!(boards.len() >= 10);
    let files: BTreeSet<_> =
        BUILT_IN.files().map(|file| file.path().file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(files, boards.iter().map(|(profile, _)| profile.id.0.clone()).collect());
    let mut names = BTreeSet::new();
    for (profile, chip) in &boards {
        for name in profile.aliases.iter().chain([&profile.id.0]) {
            assert!(names.insert(name.clone()), "{name} names two boards");
            let found = find(name).unwrap();
            assert_eq!((&found.0.id, &found.1.id), (&profile.id, &chip.id), "{name}");
        }
    }
    let chips = BUILT_IN.get_dir("chips").unwrap();
    for chip in builtin_chips().unwrap() {
        assert!(chips.get_file(format!("chips/{}.toml", chip.id)).is_some(), "{} is not named after its file", chip.id);
    }
}

#[test]
fn families_and_cables_that_must_be_there() {
    let boards = builtin().unwrap();
    for family in ["stm32f1", "stm32f4", "stm32g0", "stm32h7", "rp2040"] {
        assert!(boards.iter().any(|(_, chip)| chip.id.starts_with(family)), "{family}");
    }
    let uart = boards.iter().filter(|(profile, _)| profile.uart_bridge.is_some());
    assert!(uart.count() >= 2);
    for (profile, chip) in &boards {
        for warned in profile.routes.iter().filter(|route| route.protocol == Protocol::Dfuse) {
            assert!(!profile.warnings.is_empty(), "{} {}: heaters in ROM DFU ({})", profile.id, warned.id, chip.id);
        }
        let crystal = profile.kconfig.keys().any(|symbol| symbol.starts_with("STM32_CLOCK_REF"));
        assert!(!crystal || profile.kconfig.contains_key("LOW_LEVEL_OPTIONS"), "{}: crystal is hidden", profile.id);
    }
}

#[test]
fn facts_of_two_boards() {
    let (octopus, chip) = find("btt-octopus-v1.1-f446").unwrap();
    assert_eq!(octopus.bootloaders[0].app_start, FlashAddr(0x0800_8000));
    assert_eq!((chip.flash().size.0, chip.sectors().count()), (512 << 10, 8));
    let (mini, chip) = find("skr-mini-e3-v3").unwrap();
    assert!(chip.ecc);
    assert!(mini.routes.iter().all(|route| !route.enter.contains(&Entry::Boot0)), "nBOOT_SEL hides the BOOT0 pin");
    let (creality, _) = find("Creality-V4.2.7").unwrap();
    let vendor = creality.bootloaders.iter().find(|one| one.kind == BootloaderKind::Vendor).unwrap();
    assert!(creality.routes.iter().all(|route| route.bootloader != vendor.id));
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest() {
    let error = find("btt-octopus-v1.1-f44").unwrap_err().to_string();
    assert_eq!(error, r#"no board named "btt-octopus-v1.1-f44" (did you mean "btt-octopus-v1.1-f446"?)"#);
    assert_eq!(find("toaster").unwrap_err().to_string(), r#"no board named "toaster""#);
}

#[test]
fn a_form_error_names_file_line_and_key() {
    let unknown = refused("verified =", "verifed =");
    assert!(unknown.starts_with("my.toml:5: unknown field `verifed`, expected one of"), "{unknown}");
    assert!(unknown.ends_with("(did you mean `verified`?)"), "{unknown}");
    let missing = refused("id = \"btt-octopus-v1.1-f446\"\n", "");
    assert_eq!(missing, "my.toml:1: missing field `id`");
    let chip = refused("stm32f446xe", "stm32f446");
    assert_eq!(chip, r#"my.toml: chip: no chip named "stm32f446" (did you mean "stm32f446xe"?)"#);
}

#[test]
fn contradictions_are_refused() {
    let start = |text| refused("app-start = 0x08008000", &format!("app-start = {text}"));
    assert_eq!(
        start("0x08006000"),
        "my.toml: bootloaders.katapult.app-start: 0x08006000 is inside the sector 0x08004000..0x08008000, which holds \
         the bootloader's end, too"
    );
    assert!(start("0x08080000").contains("outside the flash of stm32f446xe, 0x08000000..0x08080000"));
    assert!(start("0x08000000").contains("only without a bootloader"));
    assert!(
        refused("bootloader = \"none\"", "bootloader = \"nothing\"").contains("routes.dfu.bootloader: no bootloader")
    );
    assert!(refused("bootloader = \"none\"", "bootloader = \"katapult\"").contains("leads into Katapult where"));
    assert!(refused("protocol = \"dfuse\"", "protocol = \"katapult\"").contains("boot0 leads into the ROM alone"));
    assert!(refused("boot0 = \"fit", "swd = \"fit").contains("hands.boot0 is missing"));
    assert!(refused("cable = \"usb\"", "cable = \"uart\"").contains("routes.katapult-usb.bootloader-baud: missing"));
    assert!(refused("MACH_STM32F446 =", "STM32_FLASH_START_8000 =").contains("is set twice on this route"));
    assert!(refused("MACH_STM32F446 =", "CONFIG_MACH =").contains("is no symbol"));
    assert!(refused("id = \"dfu\"", "id = \"katapult-dfu\"").contains("routes.id: \"katapult-dfu\" twice"));
    assert!(refused("press RESET\"", "press RESET\\u001b[2J\"").contains("is no line of text"));
    assert!(refused("chip = \"stm32f446xe\"", "chip = \"stm32f103xe\"").contains("has no DFU in ROM"));
}

#[test]
fn former_symbols_are_names_or_beginnings() {
    let text = BUILT_IN.get_file("chips/rp2040.toml").unwrap().contents_utf8().unwrap();
    let refused =
        |to| chip(Path::new("my.toml"), text.replacen("\"RP2040_*\"", to, 1).as_bytes()).unwrap_err().to_string();
    let both = "my.toml: kconfig-formerly: \"RPXXXX_*\" and \"RP2040_USB\": either both end in * or none";
    assert_eq!(refused("\"RP2040_USB\""), both);
    assert_eq!(refused("\"RP*_*\""), "my.toml: kconfig-formerly: \"RP*_*\" is no symbol such as MACH_STM32");
}

#[test]
fn a_profile_file_brings_its_own_chip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    fs::write(&path, octopus().replace("stm32f446xe", "stm32f446xx-mine")).unwrap();
    let wanted = path.to_str().unwrap();
    assert!(matches!(find(wanted), Err(BoardError::NoSuchChip { .. })));
    let chip = BUILT_IN.get_file("chips/stm32f446xe.toml").unwrap().contents_utf8().unwrap();
    fs::create_dir(dir.path().join("chips")).unwrap();
    fs::write(dir.path().join("chips/stm32f446xx-mine.toml"), chip.replace("stm32f446xe", "stm32f446xx-mine")).unwrap();
    assert_eq!(find(wanted).unwrap().1.id, "stm32f446xx-mine");
    fs::write(&path, vec![b'#'; 300 << 10]).unwrap();
    assert!(matches!(find(wanted), Err(BoardError::TooLarge { .. })));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = profile(Path::new("any"), &bytes, &[]);
        let _ = chip(Path::new("any"), &bytes);
    }

    #[test]
    fn no_damaged_profile_panics(at in 0_usize..4000, with in "[\\PC\\n]{0,12}", cut in 0_usize..20) {
        let chips = builtin_chips().unwrap();
        for file in BUILT_IN.files().chain(BUILT_IN.get_dir("chips").unwrap().files()) {
            let mut text = file.contents().to_vec();
            let at = at % text.len();
            text.splice(at..(at + cut).min(text.len()), with.bytes());
            let _ = profile(file.path(), &text, &chips);
            if let Ok(chip) = chip(file.path(), &text) {
                prop_assert_eq!(chip.sectors().last().map(FlashRange::end), Some(chip.flash().end()));
            }
        }
    }

    #[test]
    fn numbers_of_a_chip_never_overflow(start: u32, ram: u32, size: u32, count in 0_u32..70_000, unit: u32) {
        let text = format!(
            "id = \"x\"\nmcu = [\"x\"]\nflash-start = {start}\nsectors = \"{count}*1K\"\n\
             ram = [{{ start = {ram}, size = {size} }}]\nprogram-unit = {unit}\n"
        );
        if let Ok(chip) = chip(Path::new("x"), text.as_bytes()) {
            prop_assert_eq!(chip.flash().size.0, count * 1024);
        }
    }
}
