#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use kflash::addr::FlashAddr;
use kflash::discover::{TtyNode, UsbIdentity};
use kflash::host::Holder;
use kflash::klipper::dictionary::BuiltFor;

use super::*;

fn usb(path: &str, id: &str, mode: Mode, strings: [Option<&str>; 3]) -> Device {
    let [manufacturer, product, serial] = strings.map(|text| text.map(str::to_owned));
    Device {
        place: Place::Usb(path.parse().unwrap()),
        mode,
        mcu: product.clone().filter(|_| mode != Mode::Dfu),
        usb: Some(UsbIdentity {
            id: id.parse().unwrap(),
            revision: 0x0100,
            bus: 1,
            number: 5,
            manufacturer,
            product,
            serial,
        }),
        tty: None,
        usbfs: Some("/dev/bus/usb/001/005".into()),
    }
}

fn found(device: Device) -> Found {
    let candidates = candidates(&device, &boards::builtin().unwrap());
    Found { device, candidates, holders: Holders::Seen { processes: vec![], complete: true }, answer: None }
}

fn shown(boards: Vec<Found>, others: usize) -> String {
    text::of(&Detection {
        boards,
        probes: vec![],
        others,
        looked_at: vec!["/sys/bus/usb/devices".into(), "/dev/serial/by-id".into()],
    })
}

#[test]
fn a_board_that_runs_klipper() {
    let mut board =
        found(usb("1-1.4", "1d50:614e", Mode::Klipper, [Some("Klipper"), Some("stm32f446xx"), Some("36002C001151")]));
    board.device.tty = Some(TtyNode {
        node: "/dev/ttyACM0".into(),
        by_id: Some("/dev/serial/by-id/usb-Klipper_stm32f446xx_36002C001151-if00".into()),
        numbers: Some((166, 0)),
    });
    board.holders = Holders::Seen { processes: vec![Holder { pid: 812, name: "klippy".into() }], complete: false };
    board.answer = Some(Answer::Klipper {
        app: "Klipper".into(),
        version: "v0.12.0-439-g1fe54bd5".into(),
        mcu: Some("stm32f446xx".into()),
        built_for: BuiltFor::Usb,
        dictionary_sha256: "00".into(),
    });
    assert_eq!(
        shown(vec![board], 2),
        "\
1-1.4  Klipper on stm32f446xx
  serial        36002C001151
  usb           1d50:614e  Klipper stm32f446xx
  nodes         /dev/ttyACM0
                /dev/serial/by-id/usb-Klipper_stm32f446xx_36002C001151-if00
                /dev/bus/usb/001/005
  runs          Klipper v0.12.0-439-g1fe54bd5 on stm32f446xx, built for USB
  held by       klippy (pid 812)
  may be        btt-octopus-v1.1-f446
                fysetc-spider
                ldo-leviathan-v1.2
    because     Klipper says that it runs on stm32f446xx
  config        device = [\"1-1.4\", \"36002C001151\"]

2 other USB devices are no boards
"
    );
}

#[test]
fn bootloaders_and_a_bridge() {
    let dfu = found(usb("1-2", "0483:df11", Mode::Dfu, [None, Some("STM32  BOOTLOADER"), Some("STM32FxSTM32")]));
    let mut katapult =
        found(usb("1-3", "1d50:6177", Mode::Katapult, [Some("katapult"), Some("rp2040"), Some("E6\u{1b}[2J")]));
    katapult.answer = Some(Answer::Katapult {
        version: Some("v0.0.1-109-g902f335".into()),
        mcu: Some("rp2040".into()),
        app_start: Some(FlashAddr(0x1000_4000)),
    });
    let mut bridge = found(usb("1-4", "1a86:7523", Mode::UartBridge, [None, None, None]));
    bridge.holders = Holders::Unknown;
    bridge.answer =
        Some(query::ask(&SystemHost::new("/none"), &bridge.device, &Holders::Unknown, Query::Harmless, false));
    assert_eq!(
        shown(vec![dfu, katapult, bridge], 0),
        "\
1-2  DFU bootloader
  serial        STM32FxSTM32
  usb           0483:df11  STM32  BOOTLOADER
  nodes         /dev/bus/usb/001/005
  held by       nobody
  may be        btt-octopus-v1.1-f446
                fysetc-spider
                ldo-leviathan-v1.2
    because     the serial STM32FxSTM32 is that of every stm32f446xe in its ROM bootloader
  may be        btt-ebb36-v1.2
                btt-manta-m8p-v1.1
                btt-manta-m8p-v2.0
                btt-octopus-pro-v1.1-h723
                btt-skr-2-f407
                btt-skr-mini-e3-v3
    because     nothing speaks against it
  config        device = [\"1-2\"]
  warning       on some boards heaters switch on while the chip sits in its ROM bootloader

1-3  Katapult on rp2040
  serial        E6\\u{1b}[2J
  usb           1d50:6177  katapult rp2040
  nodes         /dev/bus/usb/001/005
  runs          Katapult v0.0.1-109-g902f335 on rp2040, starts applications at 0x10004000
  held by       nobody
  may be        btt-skr-pico
    because     Katapult says that it runs on rp2040
  config        device = [\"1-3\"]

1-4  USB-UART bridge
  usb           1a86:7523
  nodes         /dev/bus/usb/001/005
  runs          not asked: it has no tty
  held by       unknown
  may be        creality-v4.2.7
                mks-robin-e3
    because     its USB-UART bridge is 1a86:7523
  config        device = [\"1-4\"]
"
    );
}

#[test]
fn an_empty_host_says_where_it_looked() {
    assert_eq!(
        shown(vec![], 1),
        "\
no boards found
  looked at /sys/bus/usb/devices
  looked at /dev/serial/by-id
1 other USB device is no board
"
    );
    let host = SystemHost::new("/nonexistent");
    let detection = detect(&host, &[], Some(Query::All)).unwrap_or_else(|failure| panic!("{failure:?}"));
    assert!(detection.boards.is_empty());
    assert_eq!(detection.looked_at[0], Path::new("/nonexistent/sys/bus/usb/devices"));
}

#[test]
fn a_port_is_not_opened_behind_anyones_back() {
    let host = SystemHost::new("/nonexistent");
    let mut board = usb("1-1", "1d50:614e", Mode::Klipper, [None; 3]);
    let held = Holders::Seen { processes: vec![Holder { pid: 1, name: "klippy".into() }], complete: true };
    let not_asked = |answer| matches!(answer, Answer::NotAsked { .. });
    assert!(not_asked(query::ask(&host, &board, &held, Query::All, true)));
    assert!(!not_asked(query::ask(&host, &board, &Holders::Unknown, Query::Harmless, false)));
    board.mode = Mode::UartBridge;
    board.tty = Some(TtyNode { node: "/dev/ttyUSB0".into(), by_id: None, numbers: None });
    assert!(not_asked(query::ask(&host, &board, &Holders::Unknown, Query::Harmless, false)));
    assert!(!not_asked(query::ask(&host, &board, &Holders::Unknown, Query::All, false)));
    assert!(!not_asked(query::ask(&host, &board, &Holders::Unknown, Query::Harmless, true)));
}

#[test]
fn opening_is_harmless_where_every_board_that_it_may_be_says_so() {
    let mut known = boards::builtin().unwrap();
    let bridge = usb("1-4", "1a86:7523", Mode::UartBridge, [None; 3]);
    let behind = candidates(&bridge, &known);
    assert!(behind.len() > 1);
    assert!(!harmless(&behind, &known));
    let quiet = |known: &mut Vec<(Profile, Chip)>, board: &Candidate| {
        let (profile, _) = known.iter_mut().find(|(profile, _)| profile.id == board.board).unwrap();
        profile.opening_resets = false;
    };
    quiet(&mut known, &behind[0]);
    assert!(!harmless(&behind, &known));
    for board in &behind {
        quiet(&mut known, board);
    }
    assert!(harmless(&behind, &known));
    assert!(!harmless(&[], &known));
}
