//! The Katapult and Klipper drivers against the models of a board, on its wires.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::board::Profile;
use kflash::boards;
use kflash::chip::Chip;
use kflash::clock::Clock;
use kflash::klipper::client::Client;
use kflash::klipper::dictionary::{BuiltFor, Dictionary};
use kflash::klipper::request::uart_request;
use kflash::link::{ByteLink, LinkError};
use kflash::proto::katapult::{ConnectError, Katapult, needs_priming};
use kflash::proto::{Bootloader, ProtoError};
use kflash_sim::board::{Contents, Options, Running, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::katapult::KatapultBuild;

const BAUD: u32 = 250_000;
const UART_BOARD: &str = "creality-v4.2.7";
const LIMIT: Duration = Duration::from_secs(1);
/// The model's endpoints.
const CDC_IN: u8 = 0x81;
const CDC_OUT: u8 = 0x02;

/// What happens to the bytes of one operation of a link; the first byte of all has the number 0.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Flip(usize),
    Lose(usize),
    LoseFrom(usize),
}

/// A board with its cable, and a clock that only waiting moves.
struct Bench {
    board: Mutex<VirtualBoard>,
    now: Mutex<Duration>,
    app_start: u32,
    usb: bool,
    /// A fault on the way to the board, and one on the way back, by the number of the byte.
    to_board: Mutex<(usize, Option<Fault>)>,
    to_host: Mutex<(usize, Option<Fault>)>,
}

impl Clock for Bench {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) {
        let mut now = self.now.lock().unwrap();
        *now += duration;
        self.board.lock().unwrap().advance(*now);
    }
}

impl Bench {
    /// A board that runs `application` at its Katapult's application start, or waits in Katapult without one.
    fn new(id: &str, application: Option<&TestImage>, katapult: KatapultBuild) -> Self {
        Self::with(id, application, Options { katapult, ..Options::default() })
    }

    fn with(id: &str, application: Option<&TestImage>, options: Options) -> Self {
        let (profile, chip) = board(id);
        let installed = profile.bootloaders.iter().find(|installed| installed.id == "katapult").unwrap();
        let app_start = installed.app_start.0;
        let usb = !profile.routes.iter().any(|route| route.id == "katapult-uart");
        let contents = Contents {
            bootloader: "katapult".into(),
            application: application.map(|image| (app_start, image.build())),
            ..Contents::default()
        };
        let board = VirtualBoard::with_options(profile, chip, contents, options).unwrap();
        let bench = Self {
            board: Mutex::new(board),
            now: Mutex::default(),
            app_start,
            usb,
            to_board: Mutex::default(),
            to_host: Mutex::default(),
        };
        bench.board.lock().unwrap().power(Duration::ZERO, true);
        bench.sleep(Duration::from_secs(1));
        bench
    }

    fn link(&self) -> Box<dyn ByteLink + '_> {
        Box::new(Cable { bench: self, baud: BAUD })
    }

    fn katapult(&self) -> Katapult<'_> {
        Katapult::connect(self.link(), self, self.usb).unwrap()
    }

    fn range(&self, size: usize) -> FlashRange {
        FlashRange { start: FlashAddr(self.app_start), size: FlashSize(size as u32) }
    }

    /// What the flash holds from the application's start.
    fn flash(&self, size: usize) -> Vec<u8> {
        let board = self.board.lock().unwrap();
        let from = (self.app_start & 0x00FF_FFFF) as usize;
        board.flash()[from..from + size].to_vec()
    }
}

/// The board's UART, or the data endpoints of its USB.
struct Cable<'a> {
    bench: &'a Bench,
    baud: u32,
}

/// `bytes` with the fault in them, if it falls into them.
fn pass(wire: &Mutex<(usize, Option<Fault>)>, bytes: &[u8]) -> Vec<u8> {
    let mut wire = wire.lock().unwrap();
    let (first, fault) = *wire;
    wire.0 += bytes.len();
    let numbered = bytes.iter().zip(first..);
    numbered
        .filter_map(|(&byte, number)| match fault {
            Some(Fault::Flip(at)) if at == number => Some(byte ^ 0x04),
            Some(Fault::Lose(at)) if at == number => None,
            // A burst of silence; what comes later passes again.
            Some(Fault::LoseFrom(at)) if (at..at + 20).contains(&number) => None,
            _ => Some(byte),
        })
        .collect()
}

impl ByteLink for Cable<'_> {
    fn read(&mut self, buf: &mut [u8], timeout: Duration) -> Result<usize, LinkError> {
        let end = self.bench.now() + timeout;
        loop {
            let now = self.bench.now();
            let next = {
                let mut board = self.bench.board.lock().unwrap();
                let bytes = if self.bench.usb {
                    board.bulk_in(now, CDC_IN, buf.len().min(64)).unwrap_or_default()
                } else {
                    board.uart_read(now, self.baud)
                };
                let bytes = pass(&self.bench.to_host, &bytes);
                if !bytes.is_empty() {
                    buf[..bytes.len()].copy_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                board.next_event()
            };
            if now >= end {
                return Ok(0);
            }
            self.bench.sleep(next.map_or(end, |next| next.min(end)).saturating_sub(now));
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<(), LinkError> {
        let data = pass(&self.bench.to_board, data);
        let mut board = self.bench.board.lock().unwrap();
        let now = self.bench.now();
        if self.bench.usb {
            return if board.bulk_out(now, CDC_OUT, &data) { Ok(()) } else { Err(LinkError::Gone) };
        }
        board.uart_write(now, self.baud, &data);
        Ok(())
    }

    fn set_baud(&mut self, baud: u32) -> Result<(), LinkError> {
        self.baud = baud;
        Ok(())
    }

    fn set_dtr(&mut self, _on: bool) -> Result<(), LinkError> {
        Err(LinkError::Unsupported { what: "DTR" })
    }
}

/// The profile and chip of a board; the files are read once.
fn board(id: &str) -> &'static (Profile, Chip) {
    static BOARDS: OnceLock<Vec<(Profile, Chip)>> = OnceLock::new();
    let boards = BOARDS.get_or_init(|| boards::builtin().unwrap());
    boards.iter().find(|(profile, _)| profile.id.0 == id).unwrap()
}

fn klipper(id: &str) -> TestImage {
    let (profile, chip) = board(id);
    let installed = profile.bootloaders.iter().find(|installed| installed.id == "katapult").unwrap();
    TestImage::klipper(&chip.mcu[0], installed.app_start.0)
}

fn some_bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 253) as u8).collect()
}

#[test]
fn a_uart_board_goes_from_klipper_through_katapult_to_klipper_at_three_speeds() {
    let old = klipper(UART_BOARD).built_for(BuiltFor::Uart(115_200));
    let new = klipper(UART_BOARD).built_for(BuiltFor::Uart(500_000)).version("v0.13.0-900-g00000000");
    let bench = Bench::new(UART_BOARD, Some(&old), KatapultBuild::default());
    let mut link = bench.link();

    link.set_baud(BAUD).unwrap();
    assert!(Client::connect(Box::new(&mut *link), &bench, LIMIT).is_err(), "this is not its speed");
    link.set_baud(115_200).unwrap();
    let mut client = Client::connect(Box::new(&mut *link), &bench, LIMIT).unwrap();
    assert_eq!(*client.dictionary(), Dictionary::from_zlib(&old.dictionary_zlib()).unwrap());
    // VTOR, and the two words that it points to, in the three widths.
    assert_eq!(client.debug_read(2, 0xE000_ED08).unwrap(), bench.app_start);
    let head = old.build();
    assert_eq!(client.debug_read(2, bench.app_start + 4).unwrap().to_le_bytes(), head[4..8]);
    assert_eq!(client.debug_read(1, bench.app_start + 4).unwrap().to_le_bytes()[..2], head[4..6]);
    assert_eq!(client.debug_read(0, bench.app_start + 5).unwrap(), u32::from(head[5]));
    drop(client);
    assert!(matches!(Katapult::connect(Box::new(&mut *link), &bench, false), Err(ConnectError::Klipper)));

    uart_request(&mut *link, &bench).unwrap();
    assert_eq!(bench.board.lock().unwrap().running(), Running::Katapult);
    assert!(Client::connect(Box::new(&mut *link), &bench, LIMIT).is_err());
    link.set_baud(BAUD).unwrap();
    let mut katapult = Katapult::connect(link, &bench, false).unwrap();
    let image = new.build();
    let info = katapult.info().clone();
    assert_eq!((info.app_start, info.mcu.as_deref()), (Some(FlashAddr(bench.app_start)), Some("stm32f103xe")));
    assert_eq!(info.version, KatapultBuild::default().version);
    // The order that can be cut anywhere: the first block to zeros, all pages but the first, the first.
    let start = FlashAddr(bench.app_start);
    katapult.write(start, &[0; 64], &mut |_| {}).unwrap();
    katapult.write(FlashAddr(start.0 + 2048), &image[2048..], &mut |_| {}).unwrap();
    katapult.write(start, &image[..2048], &mut |_| {}).unwrap();
    katapult.finish().unwrap();
    assert_eq!(katapult.read(bench.range(image.len()), &mut |_| {}).unwrap(), image);
    katapult.start(start).unwrap();
    let mut link = katapult.into_link();
    bench.sleep(Duration::from_secs(1));
    assert_eq!(bench.board.lock().unwrap().violations(), &[] as &[String]);

    link.set_baud(500_000).unwrap();
    let mut client = Client::connect(link, &bench, LIMIT).unwrap();
    assert_eq!(client.dictionary().version, "v0.13.0-900-g00000000");
    // The reset leads through Katapult, which falls silent for half a second and then starts the application again.
    client.reset().unwrap();
    bench.sleep(Duration::from_secs(1));
    let client = Client::connect(client.into_link(), &bench, LIMIT).unwrap();
    assert_eq!(client.dictionary().version, "v0.13.0-900-g00000000");
}

#[test]
fn every_katapult_on_usb_is_written_and_read_in_every_block_size() {
    for id in [
        "btt-octopus-v1.1-f446",
        "btt-skr-mini-e3-v3",
        "btt-skr-mini-e3-v2",
        "btt-octopus-pro-v1.1-h723",
        "btt-skr-pico",
    ] {
        let (_, chip) = board(id);
        for block_size in [16, 32, 64].into_iter().filter(|size| size % chip.program_unit.0 == 0) {
            let bench = Bench::new(id, None, KatapultBuild { block_size, ..KatapultBuild::default() });
            let image = klipper(id).build();
            let mut katapult = Katapult::connect(bench.link(), &bench, needs_priming(&chip.mcu[0])).unwrap();
            assert_eq!(katapult.info().block_size, FlashSize(block_size));
            let mut written = 0;
            katapult.write(FlashAddr(bench.app_start), &image, &mut |step| written += step).unwrap();
            katapult.finish().unwrap();
            let mut read = 0;
            assert_eq!(katapult.read(bench.range(image.len()), &mut |step| read += step).unwrap(), image, "{id}");
            assert_eq!((written as usize, read as usize), (image.len(), image.len()));
            assert_eq!(bench.board.lock().unwrap().violations(), &[] as &[String], "{id}");
            katapult.start(FlashAddr(bench.app_start)).unwrap();
            bench.sleep(Duration::from_secs(2));
            let running = bench.board.lock().unwrap().running();
            assert!(matches!(running, Running::Application { .. }), "{id}: {running:?}");
        }
    }
}

#[test]
fn blocks_that_fit_no_frame_are_refused() {
    for block_size in [128, 256, 512] {
        let bench = Bench::new(UART_BOARD, None, KatapultBuild { block_size, ..KatapultBuild::default() });
        let refused = Katapult::connect(bench.link(), &bench, false);
        assert!(matches!(refused, Err(ConnectError::Malformed(_))));
    }
}

#[test]
fn an_old_katapult_tells_no_version() {
    let bench = Bench::new(UART_BOARD, None, KatapultBuild { version: None, ..KatapultBuild::default() });
    let katapult = bench.katapult();
    assert_eq!((katapult.info().version.as_deref(), katapult.info().mcu.as_deref()), (None, Some("stm32f103xe")));
}

#[test]
fn a_first_packet_that_gets_stuck_is_survived_without_priming() {
    let bench = Bench::new("btt-skr-mini-e3-v3", None, KatapultBuild::default());
    let mut katapult = Katapult::connect(bench.link(), &bench, false).unwrap();
    let data = some_bytes(4096);
    katapult.write(FlashAddr(bench.app_start), &data, &mut |_| {}).unwrap();
    assert_eq!(bench.flash(4096), data);
}

#[test]
fn an_occupied_sector_that_katapult_does_not_erase_is_an_error_at_once() {
    let id = "btt-octopus-pro-v1.1-h723";
    let bench = Bench::new(id, Some(&klipper(id)), KatapultBuild { erases: false, ..KatapultBuild::default() });
    let before = bench.flash(4096);
    bench.board.lock().unwrap().press_reset(bench.now());
    bench.sleep(Duration::from_millis(100));
    let now = bench.now();
    bench.board.lock().unwrap().press_reset(now);
    bench.sleep(Duration::from_secs(1));
    let mut katapult = bench.katapult();
    let start = bench.now();
    let error = katapult.write(FlashAddr(bench.app_start), &[0; 64], &mut |_| {}).unwrap_err();
    assert!(matches!(error, ProtoError::Status { .. }), "{error}");
    assert!(bench.now() < start + Duration::from_millis(10), "it is not tried again");
    assert_eq!(bench.flash(4096), before);
}

#[test]
fn a_board_that_runs_nothing_is_silent_or_gone() {
    let bench = Bench::new(UART_BOARD, None, KatapultBuild::default());
    bench.board.lock().unwrap().power(bench.now(), false);
    assert!(matches!(Katapult::connect(bench.link(), &bench, false), Err(ConnectError::Silent { .. })));
    let bench = Bench::new("btt-octopus-v1.1-f446", None, KatapultBuild::default());
    bench.board.lock().unwrap().power(bench.now(), false);
    assert!(matches!(Katapult::connect(bench.link(), &bench, true), Err(ConnectError::Link(LinkError::Gone))));
}

/// Connects, writes over an older application, ends and reads back; returns the bytes that passed to and from the board.
fn run(bench: &Bench, data: &[u8]) -> (usize, usize) {
    let mut katapult = bench.katapult();
    katapult.write(FlashAddr(bench.app_start), data, &mut |_| {}).unwrap();
    katapult.finish().unwrap();
    assert_eq!(katapult.read(bench.range(data.len()), &mut |_| {}).unwrap(), data);
    (bench.to_board.lock().unwrap().0, bench.to_host.lock().unwrap().0)
}

#[test]
fn a_byte_flipped_or_lost_anywhere_changes_nothing() {
    let data = some_bytes(200);
    for id in [UART_BOARD, "btt-skr-pico"] {
        let (sent, received) = run(&Bench::new(id, None, KatapultBuild::default()), &data);
        let faults = |count| (0..count).flat_map(|at| [Fault::Flip(at), Fault::Lose(at), Fault::LoseFrom(at)]);
        let cases =
            faults(sent).map(|fault| (Some(fault), None)).chain(faults(received).map(|fault| (None, Some(fault))));
        let mut count = 0;
        for (to_board, to_host) in cases {
            let bench = Bench::new(id, None, KatapultBuild::default());
            bench.to_board.lock().unwrap().1 = to_board;
            bench.to_host.lock().unwrap().1 = to_host;
            let start = bench.now();
            run(&bench, &data);
            assert_eq!(bench.flash(200), data, "{id} {to_board:?} {to_host:?}");
            assert_eq!(bench.board.lock().unwrap().violations(), &[] as &[String], "{id} {to_board:?} {to_host:?}");
            let took = bench.now().saturating_sub(start);
            assert!(took < Duration::from_secs(15), "{id} {to_board:?} {to_host:?}: {took:?}");
            count += 1;
        }
        assert!(count > 2000, "{count} cases");
    }
}

#[test]
fn identify_survives_a_byte_flipped_or_lost_anywhere() {
    let image = klipper(UART_BOARD).size(TestImage::MIN_SIZE).built_for(BuiltFor::Uart(BAUD));
    let expected = Dictionary::from_zlib(&image.dictionary_zlib()).unwrap();
    let whole = Bench::new(UART_BOARD, Some(&image), KatapultBuild::default());
    Client::connect(whole.link(), &whole, LIMIT).unwrap();
    let (sent, received) = (whole.to_board.lock().unwrap().0, whole.to_host.lock().unwrap().0);
    let faults = |count| (0..count).flat_map(|at| [Fault::Flip(at), Fault::Lose(at), Fault::LoseFrom(at)]);
    let cases = faults(sent).map(|fault| (Some(fault), None)).chain(faults(received).map(|fault| (None, Some(fault))));
    for (to_board, to_host) in cases {
        let bench = Bench::new(UART_BOARD, Some(&image), KatapultBuild::default());
        bench.to_board.lock().unwrap().1 = to_board;
        bench.to_host.lock().unwrap().1 = to_host;
        let client = Client::connect(bench.link(), &bench, LIMIT);
        let client = client.unwrap_or_else(|error| panic!("{to_board:?} {to_host:?}: {error}"));
        assert_eq!(*client.dictionary(), expected, "{to_board:?} {to_host:?}");
        let sent_now = bench.to_board.lock().unwrap().0;
        assert!(sent_now < sent + 200, "{to_board:?} {to_host:?}: {sent_now} bytes instead of {sent}");
    }
}

#[test]
fn writing_over_a_uart_takes_what_the_wire_takes() {
    let bench = Bench::with(UART_BOARD, None, Options { timing: Timing::Zero, ..Options::default() });
    let image = klipper(UART_BOARD).build();
    let mut katapult = bench.katapult();
    let passed = || bench.to_board.lock().unwrap().0 + bench.to_host.lock().unwrap().0;
    let (start, before) = (bench.now(), passed());
    katapult.write(FlashAddr(bench.app_start), &image, &mut |_| {}).unwrap();
    katapult.finish().unwrap();
    katapult.read(bench.range(image.len()), &mut |_| {}).unwrap();
    let wire = Duration::from_secs(1) * 10 * (passed() - before) as u32 / BAUD;
    let took = bench.now().saturating_sub(start);
    assert!(took.as_secs_f64() <= 1.05 * wire.as_secs_f64(), "{took:?} where the wire takes {wire:?}");
    // Nothing but the frames of each block: 76 and 16 bytes to write it, 12 and 80 to read it.
    assert_eq!(passed() - before, image.len().div_ceil(64) * (76 + 16 + 12 + 80) + 8 + 16);
}

#[test]
fn a_record_holds_what_passed() {
    use kflash::link::trace::Tracer;
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let bench = Arc::new(Bench::new("btt-octopus-v1.1-f446", None, KatapultBuild::default()));
    let out = Arc::new(Mutex::default());
    let clock: Arc<dyn Clock> = bench.clone();
    let tracer = Tracer::new(Box::new(Shared(Arc::clone(&out))), clock);
    Katapult::connect(tracer.serial(bench.link(), "/dev/ttyACM0"), &*bench, false).unwrap();
    tracer.finish().unwrap();
    let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
    assert!(text.starts_with("    0.000000 /dev/ttyACM0 > 01 88 11 00 f1 7c 99 03 |.....|..|\n"), "{text}");
    assert!(text.contains(" < 01 88 a0 0d 11 00 00 00 "), "{text}");
}
