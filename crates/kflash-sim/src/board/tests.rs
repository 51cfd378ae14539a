//! A board, driven by bytes as they go over the wire.

#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const MS: Duration = Duration::from_millis(1);

fn octopus(bootloader: &str, start: u32) -> VirtualBoard {
    let (profile, chip) = kflash::boards::find("btt-octopus-v1.1-f446").unwrap();
    let contents = Contents {
        bootloader: bootloader.into(),
        application: Some((start, TestImage::klipper("stm32f446xx", start).build())),
        known: Vec::new(),
        uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
    };
    VirtualBoard::new(&profile, &chip, contents).unwrap()
}

fn ask(board: &mut VirtualBoard, now: &mut Duration, bytes: &[u8]) -> Vec<u8> {
    assert!(board.bulk_out(*now, CDC_OUT, bytes));
    let mut all = Vec::new();
    for _ in 0..10 {
        *now += MS;
        while let Some(bytes) = board.bulk_in(*now, CDC_IN, 64) {
            all.extend(bytes);
        }
    }
    all
}

#[test]
fn klipper_is_identified_as_in_the_recorded_exchange() {
    let mut board = octopus("katapult", 0x0800_8000);
    let mut now = MS;
    board.power(now, true);
    assert_eq!(board.running(), Running::Katapult);
    now += 700 * MS;
    board.advance(now);
    assert_eq!(board.running(), Running::Application { version: "v0.13.0-730-g84104bbbd".into() });
    let device = board.usb().unwrap();
    assert_eq!(device.device[8..12], [0x50, 0x1d, 0x4e, 0x61]);
    assert_eq!(device.strings[1], utf16("stm32f446xx"));
    assert_eq!(device.strings[2], utf16("290034001751333038363536"));
    let starting = board.bulk_in(now, CDC_IN, 64).unwrap();
    assert_eq!(starting[..2], [6, 0x10]);
    let refused = ask(&mut board, &mut now, &[0x08, 0x11, 0x01, 0x00, 0x28, 0x42, 0x24, 0x7e]);
    assert_eq!(refused, [0x05, 0x10, 0x9e, 0x81, 0x7e]);
    let answer = ask(&mut board, &mut now, &[0x08, 0x10, 0x01, 0x00, 0x28, 0x5e, 0x9f, 0x7e]);
    assert_eq!(answer[..5], [0x30, 0x11, 0x00, 0x00, 0x28]);
    assert_eq!(answer[5..7], [0x78, 0xda]);
    assert!(answer.ends_with(&[0x7e, 0x05, 0x11, 0x8f, 0x08, 0x7e]));
}

fn touch(board: &mut VirtualBoard, now: Duration) {
    let setup = |request, value| Setup { request_type: 0x21, request, value, index: 0 };
    board.control(now, setup(0x22, 3), &[], 0);
    board.control(now, setup(0x20, 0), &[0xb0, 0x04, 0, 0, 0, 0, 8], 7);
    board.control(now, setup(0x22, 2), &[], 0);
}

#[test]
fn the_touch_leads_to_katapult_and_complete_back() {
    let mut board = octopus("katapult", 0x0800_8000);
    board.power(MS, true);
    let mut now = 700 * MS;
    board.advance(now);
    touch(&mut board, now);
    now += 200 * MS;
    board.advance(now);
    assert_eq!(board.running(), Running::Katapult);
    assert_eq!(board.usb().unwrap().device[8..12], [0x50, 0x1d, 0x77, 0x61]);
    let connected = ask(&mut board, &mut now, &[0x01, 0x88, 0x11, 0x00, 0xf1, 0x7c, 0x99, 0x03]);
    assert_eq!(connected[2..8], [0xa0, 13, 0x11, 0, 0, 0]);
    assert_eq!(connected[8..20], [0, 1, 1, 0, 0, 0x80, 0, 8, 64, 0, 0, 0]);
    assert_eq!(&connected[20..32], b"stm32f446xx\0");
    assert_eq!(&connected[36..56], b"v0.0.1-109-g902f335\0");
    ask(&mut board, &mut now, &[0x01, 0x88, 0x15, 0x00, 0x91, 0x1b, 0x99, 0x03]);
    now += 250 * MS;
    board.advance(now);
    assert!(matches!(board.running(), Running::Application { .. }));
}

#[test]
fn two_resets_within_half_a_second_stay_in_katapult() {
    for (gap, stays) in [(5, false), (11, true), (400, true), (600, false)] {
        let mut board = octopus("katapult", 0x0800_8000);
        board.power(MS, true);
        board.press_reset(1000 * MS);
        board.press_reset((1000 + gap) * MS);
        board.advance(3000 * MS);
        assert_eq!(board.running() == Running::Katapult, stays, "{gap} ms");
    }
}

#[test]
fn without_a_bootloader_the_touch_leads_to_the_rom() {
    let mut board = octopus("none", 0x0800_0000);
    board.power(MS, true);
    board.advance(700 * MS);
    touch(&mut board, 700 * MS);
    board.advance(1100 * MS);
    assert_eq!(board.running(), Running::Rom);
    assert_eq!(board.usb().unwrap().device[8..14], [0x83, 0x04, 0x11, 0xdf, 0x00, 0x22]);
    board.press_reset(1200 * MS);
    assert!(matches!(board.running(), Running::Application { .. }));
}

#[test]
fn an_image_for_another_address_locks_up() {
    let (profile, chip) = kflash::boards::find("btt-octopus-v1.1-f446").unwrap();
    let image = TestImage::klipper("stm32f446xx", 0x0800_8000).build();
    let contents =
        Contents { bootloader: "none".into(), application: Some((0x0800_0000, image)), ..Contents::default() };
    let mut board = VirtualBoard::new(&profile, &chip, contents).unwrap();
    board.power(MS, true);
    assert_eq!(board.running(), Running::LockedUp);
}
