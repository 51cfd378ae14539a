//! How boards boot, and how their bootloaders are entered, left and lost.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::klipper::dictionary::BuiltFor;
use kflash::link::Setup;
use kflash_sim::board::{Contents, Control, Options, Running, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::katapult::KatapultBuild;

const MS: Duration = Duration::from_millis(1);
const SERIAL_REQUEST: &[u8] = b"\x20\x1c Request Serial Bootloader!! \x7e";
const CONNECT: [u8; 8] = [0x01, 0x88, 0x11, 0x00, 0xf1, 0x7c, 0x99, 0x03];
const ERROR: [u8; 8] = [0x01, 0x88, 0xf2, 0x00, 0x00, 0xbf, 0x99, 0x03];

struct Bench {
    profile: Profile,
    chip: Chip,
    start: u32,
    board: VirtualBoard,
    now: Duration,
}

impl Bench {
    fn new(
        id: &str,
        bootloader: &str,
        application: impl FnOnce(TestImage) -> Option<Vec<u8>>,
        options: Options,
    ) -> Self {
        let (profile, chip) = kflash::boards::find(id).unwrap();
        let start = profile.bootloaders.iter().find(|one| one.id == bootloader).unwrap().app_start.0;
        let image = TestImage::klipper(&chip.mcu[0], start);
        let contents = Contents {
            bootloader: bootloader.into(),
            known: vec![(start, image.build())],
            application: application(image).map(|bytes| (start, bytes)),
            uid: *b"\x2b\x00\x07\x00\x0c\x50\x42\x55\x39\x39\x30\x20",
        };
        let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
        board.power(MS, true);
        board.advance(1000 * MS);
        Self { profile, chip, start, board, now: 1000 * MS }
    }

    fn usual(id: &str, bootloader: &str) -> Self {
        Self::new(id, bootloader, |image| Some(image.build()), Options::default())
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.board.advance(self.now);
    }

    fn power_cycle(&mut self) {
        self.board.power(self.now, false);
        self.wait(100 * MS);
        self.board.power(self.now, true);
        self.wait(1000 * MS);
    }

    fn touch(&mut self) {
        let setup = |request, value| Setup { request_type: 0x21, request, value, index: 0 };
        // SET_LINE_CODING alone, with DTR never raised, is enough.
        self.board.control(self.now, setup(0x20, 0), &[0xb0, 0x04, 0, 0, 0, 0, 8], 7);
        self.wait(1000 * MS);
    }

    fn usb_id(&self) -> Option<[u8; 4]> {
        self.board.usb().map(|device| device.device[8..12].try_into().unwrap())
    }

    /// Everything that comes back within a second on the USB.
    fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        for packet in bytes.chunks(64) {
            assert!(self.board.bulk_out(self.now, 0x02, packet));
        }
        self.wait(1000 * MS);
        self.board.bulk_in(self.now, 0x81, 4096).unwrap_or_default()
    }

    fn send_block(&mut self, address: u32, data: [u8; 64]) -> Vec<u8> {
        let frame = send_block(address, data);
        self.ask(&frame)
    }

    fn runs(&self) -> bool {
        matches!(self.board.running(), Running::Application { .. })
    }
}

/// CRC-16/MCRF4XX, bit by bit.
fn crc(data: &[u8]) -> [u8; 2] {
    let crc = data.iter().fold(0xffff_u16, |crc, &byte| {
        (0..8).fold(crc ^ u16::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x8408 } else { crc >> 1 })
    });
    crc.to_le_bytes()
}

fn send_block(address: u32, data: [u8; 64]) -> Vec<u8> {
    let body = [&[0x12, 17][..], &address.to_le_bytes(), &data].concat();
    [&[0x01, 0x88], &body[..], &crc(&body), &[0x99, 0x03]].concat()
}

#[test]
fn the_empty_flag_is_taken_at_power_on_alone() {
    let mut bench = Bench::new("btt-skr-mini-e3-v3", "none", |_| None, Options::default());
    assert_eq!(bench.board.running(), Running::Rom, "blank at power-on");
    assert_eq!(bench.usb_id(), Some([0x83, 0x04, 0x11, 0xdf]));
    bench.board.press_reset(bench.now);
    bench.wait(1000 * MS);
    assert_eq!(bench.board.running(), Running::Rom, "a reset does not look again");

    let mut bench = Bench::usual("btt-skr-mini-e3-v3", "none");
    assert!(bench.runs());
    bench.touch();
    assert_eq!(bench.board.running(), Running::Rom);
    dfu(&mut bench, 1, 0, &[0x41, 0, 0, 0, 8]);
    bench.board.press_reset(bench.now);
    bench.wait(1000 * MS);
    assert_eq!(bench.board.running(), Running::LockedUp, "blank, but the flag is of the last power-on");
    bench.power_cycle();
    assert_eq!(bench.board.running(), Running::Rom);

    // An F4 has no such check.
    let mut bench = Bench::new("btt-octopus-v1.1-f446", "none", |_| None, Options::default());
    assert_eq!(bench.board.running(), Running::LockedUp);
    bench.board.set_boot0(true);
    bench.board.press_reset(bench.now);
    bench.wait(1000 * MS);
    assert_eq!(bench.board.running(), Running::Rom);
    bench.board.set_boot0(false);
    bench.board.press_reset(bench.now);
    assert_eq!(bench.board.running(), Running::LockedUp);
}

/// A DNLOAD with its two GETSTATUS.
fn dfu(bench: &mut Bench, request: u8, block: u16, data: &[u8]) {
    let setup = |request_type, request, value| Setup { request_type, request, value, index: 0 };
    let status = |bench: &mut Bench| {
        let answer = bench.board.control(bench.now, setup(0xa1, 3, 0), &[], 6);
        bench.wait(500 * MS);
        match answer {
            Control::Done { data, .. } => data[4],
            other => panic!("{other:?}"),
        }
    };
    if status(bench) == 10 {
        bench.board.control(bench.now, setup(0x21, 4, 0), &[], 0);
    }
    let answer = bench.board.control(bench.now, setup(0x21, request, block), data, data.len() as u16);
    assert!(matches!(answer, Control::Done { .. }), "{answer:?}");
    assert_eq!(status(bench), 4);
    assert_eq!(status(bench), 5);
}

#[test]
fn the_rom_leaves_past_a_resident_bootloader() {
    // "Works" after leave, and is dead after the next power-up.
    let mut bench = Bench::usual("btt-octopus-v1.1-f446", "katapult");
    bench.board.set_boot0(true);
    bench.board.press_reset(bench.now);
    bench.wait(1000 * MS);
    let start = 0x0802_0000_u32;
    let image = TestImage::klipper("stm32f446xx", start).version("v1.2.3").build();
    dfu(&mut bench, 1, 0, &[&[0x21][..], &start.to_le_bytes()].concat());
    for (index, block) in image.chunks(2048).enumerate() {
        dfu(&mut bench, 1, index as u16 + 2, block);
    }
    dfu(&mut bench, 1, 0, &[&[0x21][..], &start.to_le_bytes()].concat());
    let setup = |request_type, request, value| Setup { request_type, request, value, index: 0 };
    bench.board.control(bench.now, setup(0x21, 1, 2), &[], 0);
    bench.board.control(bench.now, setup(0xa1, 3, 0), &[], 6);
    bench.wait(1000 * MS);
    assert!(bench.runs());
    bench.board.set_boot0(false);
    bench.power_cycle();
    // Katapult starts what lies at 0x08008000: the old application.
    assert!(bench.runs());
    assert_eq!(bench.board.flash()[0x8000..0x8008], TestImage::klipper("stm32f446xx", 0x0800_8000).build()[..8]);
}

#[test]
fn katapult_has_to_be_there_whole() {
    let mut bench = Bench::usual("btt-octopus-v1.1-f446", "katapult");
    bench.board.set_boot0(true);
    bench.board.press_reset(bench.now);
    bench.wait(1000 * MS);
    dfu(&mut bench, 1, 0, &[0x41, 0, 0, 0, 8]);
    bench.board.set_boot0(false);
    bench.power_cycle();
    assert_eq!(bench.board.running(), Running::LockedUp);
}

#[test]
fn a_damaged_copy_locks_up_and_an_unknown_image_runs() {
    let damaged = |mut image: Vec<u8>| {
        image[9000] ^= 1;
        Some(image)
    };
    let mut bench = Bench::new("btt-octopus-v1.1-f446", "katapult", |image| damaged(image.build()), Options::default());
    assert_eq!(bench.board.running(), Running::LockedUp);
    bench.board.press_reset(bench.now);
    bench.board.press_reset(bench.now + 100 * MS);
    bench.now += 200 * MS;
    assert_eq!(bench.board.running(), Running::Katapult, "the way back is a double reset");

    let unknown = |image: TestImage| Some(image.version("v1.2.3").build());
    assert!(Bench::new("btt-octopus-v1.1-f446", "katapult", unknown, Options::default()).runs());
    let other_chip = |_| Some(TestImage::klipper("stm32f407xx", 0x0800_8000).build());
    let bench = Bench::new("btt-octopus-v1.1-f446", "katapult", other_chip, Options::default());
    assert_eq!(bench.board.running(), Running::LockedUp);
}

#[test]
fn katapult_stays_without_an_application() {
    for word in [0, 0xff] {
        let bench = Bench::new(
            "btt-octopus-v1.1-f446",
            "katapult",
            |image| {
                let mut bytes = image.build();
                bytes[..4].fill(word);
                Some(bytes)
            },
            Options::default(),
        );
        assert_eq!(bench.board.running(), Running::Katapult);
        assert_eq!(bench.usb_id(), Some([0x50, 0x1d, 0x77, 0x61]));
    }
}

#[test]
fn katapult_refuses_what_lies_outside_and_what_is_not_blank() {
    let mut bench = Bench::usual("btt-octopus-v1.1-f446", "katapult");
    bench.touch();
    let start = bench.start;
    assert_eq!(bench.send_block(start - 64, [0; 64]), ERROR, "below the application");
    assert_eq!(bench.send_block(0x0808_0000, [0; 64]), ERROR, "behind the flash");
    assert_eq!(bench.send_block(start + 32, [0; 64]), ERROR, "off a block");
    assert_eq!(bench.send_block(start + 128, [0; 64]), ERROR, "not blank");
    let short = [&[0x12, 2][..], &start.to_le_bytes(), &[0; 4]].concat();
    assert_eq!(bench.ask(&[&[0x01, 0x88], &short[..], &crc(&short), &[0x99, 0x03]].concat()), ERROR, "short");
    let unknown = [0x90, 0];
    assert_eq!(bench.ask(&[&[0x01, 0x88], &unknown[..], &crc(&unknown), &[0x99, 0x03]].concat()), ERROR);
    let mut broken = CONNECT;
    broken[4] ^= 1;
    assert_eq!(bench.ask(&broken), [0x01, 0x88, 0xf1, 0x00, 0x68, 0x95, 0x99, 0x03]);
    // The first block of a page erases it, once.
    assert_eq!(bench.send_block(start, [0; 64])[2], 0xa0);
    assert_eq!(bench.board.flash()[0x8040..0xc000], vec![0xff; 0x3fc0]);
    assert_eq!(bench.send_block(start + 128, [7; 64])[2], 0xa0);
    assert_eq!(bench.send_block(start + 128, [7; 64])[2], 0xa0, "sent again");
    assert_eq!(bench.send_block(start + 128, [8; 64]), ERROR);
    assert_eq!(bench.send_block(start, [0; 64])[2], 0xa0, "the page is not blank: it is erased once more");
    assert_eq!(bench.board.flash()[0x8040..0xc000], vec![0xff; 0x3fc0]);
    assert_eq!(bench.board.violations(), [""; 0]);
}

#[test]
fn a_first_block_of_ff_makes_ecc_flash_refuse_the_next() {
    let mut bench = Bench::usual("btt-skr-mini-e3-v3", "katapult");
    bench.touch();
    let prime = [0x01, 0x88, 0x90, 0x00, 0xe5, 0xe9, 0x99, 0x03];
    assert_eq!(bench.ask(&prime), [0; 0], "the first packet waits for the second");
    let start = bench.start;
    assert_eq!(bench.send_block(start, [0xff; 64])[..3], ERROR[..3], "the answer to the first packet comes first");
    assert_eq!(bench.send_block(start, [0x5a; 64]), ERROR);
    assert_eq!(bench.board.violations().len(), 1);

    let mut bench = Bench::usual("btt-skr-mini-e3-v3", "katapult");
    bench.touch();
    bench.ask(&prime);
    bench.send_block(start, [0; 64]);
    assert_eq!(bench.send_block(start, [0x5a; 64])[2], 0xa0);
    assert_eq!(bench.board.violations(), [""; 0]);
}

#[test]
fn katapult_of_before_1_1_tells_no_version_and_other_block_sizes() {
    let katapult = KatapultBuild { version: None, block_size: 32, ..KatapultBuild::default() };
    let options = Options { katapult, ..Options::default() };
    let mut bench = Bench::new("btt-octopus-v1.1-f446", "katapult", |image| Some(image.build()), options);
    bench.touch();
    let answer = bench.ask(&CONNECT);
    assert_eq!(answer[3], 7);
    assert_eq!(answer[8..20], [0, 0, 1, 0, 0, 0x80, 0, 8, 32, 0, 0, 0]);
    assert_eq!(&answer[20..32], b"stm32f446xx\0");
}

#[test]
fn a_vendors_bootloader_starts_what_looks_like_an_application() {
    assert!(Bench::usual("btt-octopus-v1.1-f446", "vendor").runs());
    let bench = Bench::new("btt-octopus-v1.1-f446", "vendor", |_| None, Options::default());
    assert_eq!(bench.board.running(), Running::LockedUp);
    // There is no Katapult to be asked for, so the touch leads to the ROM.
    let mut bench = Bench::usual("btt-octopus-v1.1-f446", "vendor");
    bench.touch();
    assert_eq!(bench.board.running(), Running::Rom);
}

#[test]
fn an_rp2040_goes_to_bootsel_by_button_and_without_a_second_stage() {
    let mut bench = Bench::usual("btt-skr-pico", "katapult");
    assert!(bench.runs());
    assert_eq!(bench.profile.chip, bench.chip.id);
    bench.board.set_boot0(true);
    bench.power_cycle();
    assert_eq!(bench.board.running(), Running::Rom);
    assert_eq!(bench.usb_id(), Some([0x8a, 0x2e, 0x03, 0x00]));
    bench.board.set_boot0(false);
    bench.power_cycle();
    assert!(bench.runs());
    bench.touch();
    assert_eq!(bench.board.running(), Running::Katapult);
    // The block is acknowledged before it is written.
    let start = bench.start;
    let before = bench.board.flash()[0x4000..0x4040].to_vec();
    assert_eq!(bench.send_block(start, [0; 64])[2], 0xa0);
    assert_eq!(bench.board.flash()[0x4000..0x4040], before);
    let eof = [0x01, 0x88, 0x13, 0x00, 0x41, 0x4f, 0x99, 0x03];
    assert_eq!(bench.ask(&eof)[2], 0xa0);
    assert_eq!(bench.board.flash()[0x4000..0x4040], [0; 64]);
    assert_eq!(bench.board.flash()[0x4040..0x5000], vec![0xff; 0xfc0]);
}

fn uart_bench() -> Bench {
    let uart = |image: TestImage| Some(image.built_for(BuiltFor::Uart(250_000)).build());
    let bench = Bench::new("creality-v4.2.7", "katapult", uart, Options::default());
    assert!(bench.runs());
    bench
}

#[test]
fn the_serial_request_has_to_stand_alone() {
    for (bytes, enters) in [
        (SERIAL_REQUEST.to_vec(), true),
        ([b"\x7e", SERIAL_REQUEST].concat(), true),
        ([b"abcdef", SERIAL_REQUEST].concat(), false),
        (SERIAL_REQUEST[..31].to_vec(), false),
    ] {
        let mut bench = uart_bench();
        bench.board.uart_write(bench.now, 250_000, &bytes);
        bench.wait(1000 * MS);
        assert_eq!(bench.board.running() == Running::Katapult, enters, "{bytes:?}");
    }
}

#[test]
fn the_wrong_speed_is_garbage() {
    let mut bench = uart_bench();
    bench.board.uart_read(bench.now, 250_000);
    bench.board.uart_write(bench.now, 115_200, SERIAL_REQUEST);
    bench.wait(1000 * MS);
    assert!(bench.runs());
    let identify = [0x08, 0x10, 0x01, 0x00, 0x28, 0x5e, 0x9f, 0x7e];
    bench.board.uart_write(bench.now, 250_000, &[b"\x7e", &identify[..]].concat());
    bench.wait(1000 * MS);
    let answer = bench.board.uart_read(bench.now, 250_000);
    assert!(answer.windows(3).any(|bytes| bytes == [0x30, 0x11, 0x00]), "{answer:x?}");
    bench.board.uart_write(bench.now, 250_000, &[0x08, 0x11, 0x01, 0x00, 0x28, 0x42, 0x24, 0x7e]);
    bench.wait(1000 * MS);
    let answer = bench.board.uart_read(bench.now, 57_600);
    assert!(!answer.is_empty() && !answer.windows(2).any(|bytes| bytes == [0x30, 0x12]), "{answer:x?}");
}

#[test]
fn klipper_reads_registers_and_flash_and_resets() {
    let mut bench = Bench::usual("btt-octopus-v1.1-f446", "katapult");
    bench.board.bulk_in(bench.now, 0x81, 64);
    let mut sequence = 0_u8;
    let mut command = |bench: &mut Bench, content: &[u8]| {
        let mut block = vec![content.len() as u8 + 5, 0x10 | sequence];
        block.extend_from_slice(content);
        let crc = crc(&block);
        block.extend([crc[1], crc[0], 0x7e]);
        sequence += 1;
        bench.ask(&block)
    };
    // debug_read is command 12 of this dictionary, and its answer response 129: 81 01.
    let vtor = command(&mut bench, &[12, 2, 0x8e, 0x80, 0x83, 0xda, 0x08]);
    assert_eq!(vtor[2..8], [0x81, 0x01, 0xc0, 0x82, 0x80, 0x00], "0x08008000");
    let size = command(&mut bench, &[12, 1, 0x81, 0xff, 0xfd, 0xf4, 0x22]);
    assert_eq!(size[2..6], [0x81, 0x01, 0x84, 0x00], "512 KiB");
    let uid = command(&mut bench, &[12, 0, 0x81, 0xff, 0xfd, 0xf4, 0x10]);
    assert_eq!(uid[2..5], [0x81, 0x01, 0x2b]);
    // `reset` is command -8.
    command(&mut bench, &[0x78]);
    assert!(bench.runs(), "Katapult waited half a second and started it again");
    assert_eq!(bench.board.usb().unwrap().enumeration, 2);
    // Nowhere: the fault ends in the watchdog.
    let mut block = vec![12, 0x10, 12, 2, 0x8c, 0x80, 0x80, 0x80, 0x00];
    let sum = crc(&block);
    block.extend([sum[1], sum[0], 0x7e]);
    assert_eq!(block.len(), 12);
    bench.board.bulk_in(bench.now, 0x81, 64);
    assert_eq!(bench.ask(&block), [0; 0]);
    assert_eq!(bench.board.usb().map(|device| device.enumeration), None);
    bench.wait(1000 * MS);
    assert_eq!(bench.board.usb().unwrap().enumeration, 3);
}
