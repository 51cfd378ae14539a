//! Boards on ptys, as a program on the host sees them.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use kflash::boards;
use kflash_sim::board::{Contents, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::pty::{Cable, Pty};
use kflash_sim::mount::sysfs::Tree;
use kflash_sim::mount::{self, Message, Mount, QUEUE};
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use tempfile::TempDir;

/// A Klipper MCU's answer to `identify` with a sequence number that it does not expect: "I expect 0".
const EXPECT_0: [u8; 5] = [0x05, 0x10, 0x9e, 0x81, 0x7e];
/// `identify(0, 40)` with sequence number 1.
const IDENTIFY_1: [u8; 8] = [0x08, 0x11, 0x01, 0x00, 0x28, 0x42, 0x24, 0x7e];
/// Katapult's `CONNECT`.
const CONNECT: [u8; 8] = [0x01, 0x88, 0x11, 0x00, 0xf1, 0x7c, 0x99, 0x03];

/// A board on a pty under a host root of its own.
struct Bench {
    root: TempDir,
    events: Receiver<String>,
    controls: SyncSender<Message>,
}

impl Bench {
    /// The board with its first bootloader and an application, on the cable that `cable` makes of its profile.
    fn new(board: &str, cable: fn(&kflash::board::Profile) -> Cable) -> Self {
        let (profile, chip) = boards::find(board).unwrap();
        let start = profile.bootloaders[0].app_start.0;
        let cable = cable(&profile);
        let built_for = match cable {
            Cable::Usb => kflash::klipper::dictionary::BuiltFor::Usb,
            Cable::Uart { .. } => kflash::klipper::dictionary::BuiltFor::Uart(250_000),
        };
        let contents = Contents {
            bootloader: profile.bootloaders[0].id.clone(),
            application: Some((start, TestImage::klipper(&chip.mcu[0], start).built_for(built_for).build())),
            uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
            ..Contents::default()
        };
        let root = TempDir::new().unwrap();
        let tree = Tree::new(root.path().into()).unwrap();
        let (tell, events) = channel();
        let (controls, queue) = sync_channel(QUEUE);
        let sender = controls.clone();
        thread::spawn(move || {
            let mut board = VirtualBoard::new(&profile, &chip, contents).unwrap();
            board.power(Duration::ZERO, true);
            let tell = Box::new(move |event: &str| drop(tell.send(event.to_owned())));
            let mut live = Live::new(board, chip, Duration::from_secs(1), "1-1".parse().unwrap(), None, tell);
            mount::serve(&mut live, Mount::Pty(Pty::new(cable, Some(tree), None)), &sender, &queue).unwrap();
        });
        Self { root, events, controls }
    }

    fn wait_for(&self, start: &str) -> String {
        loop {
            let event = self.events.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|_| panic!("no {start:?}"));
            if event.starts_with(start) {
                return event;
            }
        }
    }

    fn control(&self, line: &str) {
        self.controls.send(Message::Control(line.into())).unwrap();
    }

    fn path(&self, below: &str) -> PathBuf {
        self.root.path().join(below)
    }

    fn open(&self, node: &str, baud: u32) -> Tty {
        Tty::open(&self.path("dev").join(node), baud)
    }
}

/// An opened tty.
struct Tty(File);

impl Tty {
    fn open(node: &Path, baud: u32) -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(node);
        let tty = Self(file.unwrap());
        tty.set_baud(baud);
        tty
    }

    fn set_baud(&self, baud: u32) {
        let mut mode = tcgetattr(&self.0).unwrap();
        mode.set_speed(baud).unwrap();
        tcsetattr(&self.0, OptionalActions::Now, &mode).unwrap();
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// What comes until `enough` bytes are there or nothing has come for a while; `None` once the tty is hung up.
    fn read(&mut self, enough: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 512];
        let mut give_up = Instant::now() + Duration::from_millis(500);
        while bytes.len() < enough && Instant::now() < give_up {
            match self.0.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => {
                    bytes.extend_from_slice(&buffer[..length]);
                    give_up = Instant::now() + Duration::from_millis(500);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(_) => return None,
            }
        }
        Some(bytes)
    }
}

fn usb(_: &kflash::board::Profile) -> Cable {
    Cable::Usb
}

fn bridged(profile: &kflash::board::Profile) -> Cable {
    Cable::Uart { bridge: profile.uart_bridge, opening_resets: true }
}

fn uart(_: &kflash::board::Profile) -> Cable {
    Cable::Uart { bridge: None, opening_resets: false }
}

#[test]
fn klipper_answers_on_its_tty() {
    let bench = Bench::new("btt-octopus-v1.1-f446", usb);
    bench.wait_for("tty");
    let mut tty = bench.open("ttyACM0", 250_000);
    tty.write(&IDENTIFY_1);
    let answer = tty.read(usize::MAX).unwrap();
    assert!(answer.ends_with(&EXPECT_0), "{answer:02x?}");
}

#[test]
fn a_touch_is_felt_and_the_board_comes_back_as_another_device() {
    let bench = Bench::new("btt-octopus-v1.1-f446", usb);
    let first = bench.wait_for("tty");
    let number = || fs::read_to_string(bench.path("sys/bus/usb/devices/1-1/devnum")).unwrap();
    let before = number();
    // Opening and closing alone is no touch.
    drop(bench.open("ttyACM0", 250_000));
    let mut other = bench.open("ttyACM0", 250_000);
    other.write(&IDENTIFY_1);
    assert!(!other.read(5).unwrap().is_empty());

    bench.control("tty ttyACM7");
    bench.wait_for("done tty");
    other.set_baud(1200);
    drop(other);
    bench.wait_for("running katapult");
    let tty = bench.wait_for("tty");
    assert!(
        tty.ends_with(
            "node=/dev/ttyACM7 by-id=/dev/serial/by-id/usb-katapult_stm32f446xx_290034001751333038363536-if00"
        ),
        "{tty}"
    );
    assert!(!bench.path("dev/ttyACM0").is_symlink());
    assert_ne!(number(), before);
    // Another name is another number.
    assert_ne!(tty.split(' ').nth(1), first.split(' ').nth(1));
    let mut katapult = bench.open("ttyACM7", 250_000);
    katapult.write(&CONNECT);
    assert_eq!(katapult.read(4).unwrap()[..3], [0x01, 0x88, 0xa0]);
}

#[test]
fn even_the_shortest_touch_is_felt() {
    let bench = Bench::new("btt-octopus-v1.1-f446", usb);
    bench.wait_for("tty");
    drop(bench.open("ttyACM0", 1200));
    bench.wait_for("running katapult");
}

#[test]
fn a_tty_of_a_board_that_left_is_hung_up() {
    let bench = Bench::new("btt-octopus-v1.1-f446", usb);
    bench.wait_for("tty");
    let mut tty = bench.open("ttyACM0", 250_000);
    bench.control("unplug");
    bench.wait_for("gone");
    assert_eq!(tty.read(1), None);
    assert!(!bench.path("sys/bus/usb/devices/1-1").exists());
    bench.control("plug 1-2");
    bench.wait_for("tty");
    assert!(bench.path("sys/bus/usb/devices/1-2/idVendor").exists());
}

#[test]
fn a_uart_garbles_what_is_sent_at_another_speed() {
    let bench = Bench::new("creality-v4.2.7", uart);
    bench.wait_for("tty");
    let mut tty = bench.open("ttyS0", 115_200);
    tty.write(&IDENTIFY_1);
    assert!(!tty.read(5).unwrap().ends_with(&EXPECT_0));
    tty.set_baud(250_000);
    tty.write(&[0x7e]);
    tty.write(&IDENTIFY_1);
    assert!(tty.read(usize::MAX).unwrap().ends_with(&EXPECT_0));
}

#[test]
fn opening_the_port_resets_a_board_with_dtr_on_its_reset() {
    let bench = Bench::new("creality-v4.2.7", bridged);
    let tty = bench.wait_for("tty");
    assert!(tty.ends_with(" node=/dev/ttyUSB0 by-id=/dev/serial/by-id/usb-1a86_USB_Serial-if00-port0"), "{tty}");
    bench.control("power off");
    bench.wait_for("running off");
    // The bridge is fed by the cable, not by the printer.
    assert!(bench.path("dev/ttyUSB0").is_symlink());
    bench.control("power on");
    bench.wait_for("running application");
    bench.control("boot0 on");
    bench.wait_for("done boot0 on");
    let _tty = bench.open("ttyUSB0", 250_000);
    bench.wait_for("running rom");
}
