#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::board::Profile;
use crate::boards;
use crate::chip::Chip;
use crate::discover::{Device, Mode, Place, Scan, TtyNode, UsbId, UsbIdentity, mode_of};
use crate::exit::ExitCode;

/// The Klipper serial of a G0B1 and the serial of the same chip in ROM DFU, as public logs show them.
const UID: &str = "2B0007000C50425539393020";
const UID_IN_DFU: &str = "203739645542";

fn usb(path: &str, id: &str, manufacturer: &str, mcu: Option<&str>, serial: &str) -> Device {
    let id: UsbId = id.parse().unwrap();
    let number = path.bytes().last().unwrap();
    Device {
        place: Place::Usb(path.parse().unwrap()),
        mode: mode_of(id, Some(manufacturer)),
        usb: Some(UsbIdentity {
            id,
            revision: 0x0200,
            bus: 1,
            number: number.into(),
            manufacturer: Some(manufacturer.into()),
            product: mcu.map(Into::into),
            serial: Some(serial.into()).filter(|_| !serial.is_empty()),
        }),
        tty: Some(TtyNode {
            node: format!("/dev/ttyACM{number}").into(),
            by_id: Some(format!("/dev/serial/by-id/usb-{serial}").into()),
            numbers: None,
        }),
        usbfs: None,
        mcu: mcu.map(Into::into),
    }
}

fn klipper(path: &str, mcu: &str, serial: &str) -> Device {
    usb(path, "1d50:614e", "Klipper", Some(mcu), serial)
}

fn katapult(path: &str, mcu: &str, serial: &str) -> Device {
    usb(path, "1d50:6177", "katapult", Some(mcu), serial)
}

fn dfu(path: &str, serial: &str) -> Device {
    Device { tty: None, ..usb(path, "0483:df11", "STMicroelectronics", None, serial) }
}

fn bridge(path: &str) -> Device {
    usb(path, "1a86:7523", "", None, "")
}

fn tty(path: &str) -> Device {
    Device { place: Place::Tty(path.into()), mode: Mode::Unknown, usb: None, tty: None, usbfs: None, mcu: None }
}

fn board(id: &str) -> (Profile, Chip) {
    boards::find(id).unwrap()
}

/// What `select` does: the place and the certainty, or the name of the error.
fn run(id: &str, devices: &[Device], selectors: &[&str]) -> String {
    let (profile, chip) = board(id);
    let selectors: Vec<Selector> = selectors.iter().map(|text| text.parse().unwrap()).collect();
    let scan = Scan { devices: devices.to_vec(), looked_at: Vec::new() };
    match select(&scan, &selectors, &profile, &chip) {
        Ok((device, certainty)) => format!("{} {certainty:?}", device.place),
        Err(error) => format!("{error:?}").split(' ').next().unwrap().to_owned(),
    }
}

#[test]
fn without_a_selector_only_the_one_that_says_its_mcu_is_proved() {
    let (g0, f446) = ("btt-manta-m8p-v1.1", "btt-octopus-v1.1-f446");
    let cases: &[(&str, &str, Vec<Device>)] = &[
        ("1-1 Proved", f446, vec![klipper("1-1", "stm32f446xx", "A")]),
        ("1-1 Proved", f446, vec![klipper("1-1", "stm32f446xx", "A"), klipper("1-2", "stm32g0b1xx", "B")]),
        ("1-1 Proved", f446, vec![katapult("1-1", "stm32f446xx", "A"), bridge("1-2")]),
        ("NotFound", f446, vec![]),
        ("NotFound", f446, vec![klipper("1-2", "stm32g0b1xx", "B"), bridge("1-3"), tty("/dev/ttyAMA0")]),
        ("Ambiguous", f446, vec![klipper("1-1", "stm32f446xx", "A"), klipper("1-2", "stm32f446xx", "B")]),
        ("Ambiguous", f446, vec![klipper("1-1", "stm32f446xx", "A"), katapult("1-2", "stm32f446xx", "B")]),
        // The board that is meant may be the one that a broken run left in its ROM.
        ("Ambiguous", f446, vec![klipper("1-1", "stm32f446xx", "A"), dfu("1-2", "STM32FxSTM32")]),
        ("Ambiguous", g0, vec![klipper("1-1", "stm32g0b1xx", UID), dfu("1-2", UID_IN_DFU)]),
        // Nor is it known of firmware that does not name its MCU.
        ("Ambiguous", f446, vec![klipper("1-1", "stm32f446xx", "A"), usb("1-2", "1d50:614e", "Klipper", None, "B")]),
        ("NeedsDevice", f446, vec![usb("1-2", "1d50:614e", "Klipper", None, "B")]),
        ("NeedsDevice", f446, vec![dfu("1-2", "STM32FxSTM32")]),
        ("NeedsDevice", "creality-v4.2.7", vec![bridge("1-1")]),
        ("NeedsDevice", "creality-v4.2.7", vec![tty("/dev/ttyAMA0")]),
        ("Ambiguous", "creality-v4.2.7", vec![bridge("1-1"), bridge("1-2")]),
        ("NeedsDevice", "btt-skr-pico", vec![usb("1-1", "2e8a:0003", "Raspberry Pi", None, "E0C9125B0D9B")]),
        // An F103 has no DFU: the STM32 in DFU is another board.
        ("1-1 Proved", "btt-skr-mini-e3-v2", vec![klipper("1-1", "stm32f103xe", "A"), dfu("1-2", "FFFFFFFEFFFF")]),
        ("NotFound", f446, vec![usb("1-1", "1d50:606f", "Klipper", Some("stm32f446xx"), "A")]),
    ];
    for (expected, id, devices) in cases {
        assert_eq!(run(id, devices, &[]), *expected, "{id} {devices:?}");
    }
}

#[test]
fn selectors_find_and_must_agree() {
    let g0 = "btt-manta-m8p-v1.1";
    let two = vec![klipper("1-1", "stm32g0b1xx", UID), klipper("1-2", "stm32g0b1xx", "B")];
    let same = vec![klipper("1-1", "stm32g0b1xx", "12345"), klipper("1-2", "stm32g0b1xx", "12345")];
    let moved = vec![klipper("1-3", "stm32g0b1xx", UID), dfu("1-1", "203739645543")];
    let in_dfu = vec![dfu("1-1", "0"), dfu("1-2", UID_IN_DFU)];
    let by_id = format!("/dev/serial/by-id/usb-{UID}");
    let cases: &[(&str, &[Device], &[&str])] = &[
        ("1-1 Pinned", &two, &["1-1"]),
        ("1-1 Pinned", &two, &[UID]),
        ("1-1 Pinned", &two, &["1-1", UID]),
        ("1-1 Pinned", &two, &["/dev/ttyACM49"]),
        ("1-1 Pinned", &two, &[&by_id]),
        // What is not visible now does not matter.
        ("1-1 Pinned", &two, &["1-9", UID]),
        ("1-1 Pinned", &two, &["/dev/ttyACM0", "1-1"]),
        ("NotFound", &two, &["1-9"]),
        ("NotFound", &two, &["C", "/dev/ttyS0"]),
        ("Disagree", &two, &["1-2", UID]),
        ("Disagree", &two, &["1-1", "B"]),
        // The port shows a serial, and it is another one.
        ("Disagree", &two, &["1-2", "C"]),
        ("Ambiguous", &same, &["12345"]),
        ("1-2 Pinned", &same, &["12345", "1-2"]),
        // Moved to another port while a stranger took the old one.
        ("Disagree", &moved, &["1-1", UID]),
        // In ROM DFU: by its port, or by the serial that follows from the one that Klipper shows.
        ("1-1 Pinned", &in_dfu, &["1-1"]),
        ("1-2 Pinned", &in_dfu, &[UID]),
        ("1-2 Pinned", &in_dfu, &["1-2", UID]),
        ("Disagree", &in_dfu, &["1-1", UID]),
        // A serial in DFU that does not follow from it contradicts nothing.
        ("1-1 Pinned", &in_dfu[..1], &["1-1", UID]),
        ("1-1 Pinned", &in_dfu[..1], &["1-1", "my-printer"]),
    ];
    for (expected, devices, selectors) in cases {
        assert_eq!(run(g0, devices, selectors), *expected, "{selectors:?} {devices:?}");
    }
    // On an F446 the ROM's serial is a constant, so that no UID leads to it.
    assert_eq!(run("btt-octopus-v1.1-f446", &in_dfu, &[UID]), "NotFound");
    assert_eq!(run("creality-v4.2.7", &[bridge("1-1"), tty("/dev/ttyAMA0")], &["/dev/ttyAMA0"]), "/dev/ttyAMA0 Pinned");
}

#[test]
fn errors_say_what_to_choose_from_and_how_a_run_ends() {
    let (profile, chip) = board("btt-octopus-v1.1-f446");
    let devices = vec![klipper("1-1", "stm32f446xx", "A\u{1b}[2J"), dfu("1-2.4", "STM32FxSTM32")];
    let scan = Scan { devices, looked_at: Vec::new() };
    let error = select(&scan, &[], &profile, &chip).unwrap_err();
    assert_eq!(error.to_string(), "2 devices could be btt-octopus-v1.1-f446");
    assert_eq!(
        error.devices(),
        [
            "1-1: Klipper on stm32f446xx, serial A\\u{1b}[2J, /dev/ttyACM49",
            "1-2.4: DFU bootloader, serial STM32FxSTM32"
        ]
    );
    assert_eq!(error.exit(), ExitCode::Refused);
    let missing = select(&scan, &["1-9".parse().unwrap(), "X".parse().unwrap()], &profile, &chip).unwrap_err();
    assert_eq!((missing.to_string().as_str(), missing.exit()), ("no device found for 1-9 and X", ExitCode::NotFound));
    assert_eq!(missing.devices().len(), 2);
}

#[test]
fn candidates_are_what_nothing_contradicts() {
    let boards = boards::builtin().unwrap();
    let names = |device: &Device| -> Vec<String> {
        candidates(device, &boards).into_iter().map(|candidate| candidate.board.0).collect()
    };
    assert_eq!(
        names(&klipper("1-1", "stm32f446xx", "A")),
        ["btt-octopus-v1.1-f446", "fysetc-spider", "ldo-leviathan-v1.2"]
    );
    assert_eq!(names(&katapult("1-1", "rp2040", "A")), ["btt-skr-pico"]);
    assert_eq!(names(&bridge("1-1")), ["creality-v4.2.7", "mks-robin-e3"]);
    assert_eq!(names(&usb("1-1", "2e8a:000f", "Raspberry Pi", None, "0")), [""; 0]);
    // The constant serial puts its own chip's boards first, and excludes no other.
    let in_dfu = candidates(&dfu("1-1", "STM32FxSTM32"), &boards);
    assert_eq!(in_dfu[0].board.0, "btt-octopus-v1.1-f446");
    assert_eq!(in_dfu[0].evidence, ["the serial STM32FxSTM32 is that of every stm32f446xe in its ROM bootloader"]);
    assert!(in_dfu.iter().any(|candidate| candidate.board.0 == "btt-ebb36-v1.2" && candidate.evidence.is_empty()));
    assert!(in_dfu.iter().all(|candidate| candidate.certainty == Certainty::Possible));
    assert_eq!(names(&usb("1-1", "28e9:0189", "GDMicroelectronics", None, "3CBJ")), [""; 0]);
}

#[test]
fn what_a_person_writes_after_device() {
    let parsed = |text: &str| text.parse::<Selector>();
    assert_eq!(parsed("1-1.4").unwrap(), Selector::UsbPath("1-1.4".parse().unwrap()));
    assert_eq!(parsed(UID).unwrap(), Selector::Serial(UID.into()));
    assert_eq!(parsed("/dev/ttyUSB0").unwrap(), Selector::Tty("/dev/ttyUSB0".into()));
    assert_eq!(parsed("tcp://printer.local:7000").unwrap(), Selector::Tcp("printer.local:7000".into()));
    assert_eq!(parsed("tcp://[::1]:7000").unwrap(), Selector::Tcp("[::1]:7000".into()));
    let usbip = |server: &str| Selector::Usbip { server: server.into(), busid: "1-1.2".into() };
    assert_eq!(parsed("usbip://pi:3241/1-1.2").unwrap(), usbip("pi:3241"));
    assert_eq!(parsed("usbip://pi/1-1.2").unwrap(), usbip("pi:3240"));
    assert_eq!(parsed("usbip://[fe80::1]/1-1.2").unwrap(), usbip("[fe80::1]:3240"));
    assert_eq!(
        parsed("0483:df11").unwrap_err().to_string(),
        "0483:df11 is the id of a kind of device, not of one: name its port path, serial number or tty"
    );
    for wrong in [
        "",
        "/",
        "tcp://host",
        "tcp://:1",
        "tcp://h:0",
        "tcp://h:99999",
        "tcp://a b:1",
        "usbip://h",
        "usbip://h/",
        "usbip://h/../x",
        "x/y",
    ] {
        assert!(parsed(wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_text_panics_and_what_parses_is_written_as_it_was_read(text in "(tcp://|usbip://|/dev/)?\\PC{0,24}") {
        if let Ok(selector) = text.parse::<Selector>() {
            let written = selector.to_string();
            if written == text || matches!(selector, Selector::Tcp(_) | Selector::Usbip { .. }) {
                prop_assert_eq!(written.parse::<Selector>().unwrap(), selector);
            }
        }
    }

    #[test]
    fn no_serial_panics(serial in "\\PC{0,26}", shown in "[0-9A-F]{12}") {
        let _ = run("btt-manta-m8p-v1.1", &[dfu("1-1", &shown)], &["1-1", &format!("x{}", serial.replace('/', ""))]);
    }
}
