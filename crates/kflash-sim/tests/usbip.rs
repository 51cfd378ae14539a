//! The USB/IP server, spoken to in plain bytes.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use kflash::boards;
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::dfu_variant::{DfuVariant, Holds};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::usbip::server::Server;
use kflash_sim::mount::{self, Message, Mount, QUEUE};

const UID: [u8; 12] = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
const STALLED: i32 = -32;
const UNLINKED: i32 = -104;
/// `identify(0, 40)` with a sequence number that a fresh Klipper MCU refuses, and the end of its answer.
const IDENTIFY_1: [u8; 8] = [0x08, 0x11, 0x01, 0x00, 0x28, 0x42, 0x24, 0x7e];
const EXPECT_0: [u8; 5] = [0x05, 0x10, 0x9e, 0x81, 0x7e];

struct Bench {
    address: SocketAddr,
    controls: SyncSender<Message>,
    events: Receiver<String>,
}

impl Bench {
    /// An Octopus without a resident bootloader that runs Klipper, or sits in ROM DFU.
    fn new(boot0: bool, options: Options) -> Self {
        let (profile, chip) = boards::find("btt-octopus-v1.1-f446").unwrap();
        let contents = Contents {
            bootloader: "none".into(),
            application: Some((0x0800_0000, TestImage::klipper("stm32f446xx", 0x0800_0000).build())),
            uid: UID,
            ..Contents::default()
        };
        let (tell, events) = channel();
        let (controls, queue) = sync_channel(QUEUE);
        let server = Server::listen("127.0.0.1:0".parse().unwrap(), &controls).unwrap();
        let bench = Self { address: server.address(), controls: controls.clone(), events };
        thread::spawn(move || {
            let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
            board.set_boot0(boot0);
            board.power(Duration::ZERO, true);
            let tell = Box::new(move |event: &str| drop(tell.send(event.to_owned())));
            let mut live = Live::new(board, chip, Duration::from_secs(1), "1-1".parse().unwrap(), None, tell);
            mount::serve(&mut live, Mount::Usbip(server), &controls, &queue).unwrap();
        });
        bench.wait_for("enumerated");
        bench
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

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// The answer to OP_REQ_DEVLIST.
    fn list(&self) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(&[0x01, 0x11, 0x80, 0x05, 0, 0, 0, 0]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// The stream after OP_REQ_IMPORT, and the answer's status.
    fn import(&self, busid: &str) -> (TcpStream, u32) {
        let mut stream = self.connect();
        let mut request = vec![0x01, 0x11, 0x80, 0x03, 0, 0, 0, 0];
        request.extend(busid.as_bytes());
        request.resize(8 + 32, 0);
        stream.write_all(&request).unwrap();
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer[..4], [0x01, 0x11, 0x00, 0x03]);
        (stream, word(&answer, 1))
    }

    fn attach(&self) -> Host {
        let (mut stream, status) = self.import("1-1");
        assert_eq!(status, 0);
        let mut device = [0; 312];
        stream.read_exact(&mut device).unwrap();
        assert_eq!(device[256..260], *b"1-1\0");
        let [bus, number] = [word(&device, 72), word(&device, 73)];
        Host { stream, devid: bus << 16 | number }
    }
}

fn word(bytes: &[u8], index: usize) -> u32 {
    u32::from_be_bytes(bytes[index * 4..index * 4 + 4].try_into().unwrap())
}

/// A host that the device is attached to.
struct Host {
    stream: TcpStream,
    devid: u32,
}

/// An answer: RET_SUBMIT is 3, RET_UNLINK is 4.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    command: u32,
    seqnum: u32,
    status: i32,
    data: Vec<u8>,
}

impl Host {
    fn send(&mut self, words: [u32; 10], setup: [u8; 8], data: &[u8]) {
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        bytes.extend(setup);
        bytes.extend(data);
        self.stream.write_all(&bytes).unwrap();
    }

    fn submit_in(&mut self, seqnum: u32, endpoint: u32, length: u32, setup: [u8; 8]) {
        self.send([1, seqnum, self.devid, 1, endpoint, 0, length, 0, u32::MAX, 0], setup, &[]);
    }

    fn submit_out(&mut self, seqnum: u32, endpoint: u32, setup: [u8; 8], data: &[u8]) {
        self.send([1, seqnum, self.devid, 0, endpoint, 0, data.len() as u32, 0, u32::MAX, 0], setup, data);
    }

    fn unlink(&mut self, seqnum: u32, victim: u32) {
        self.send([2, seqnum, self.devid, 0, 0, victim, 0, 0, 0, 0], [0; 8], &[]);
    }

    /// The next answer; its data is taken to be that of an IN transfer where `reads` says so.
    fn answer(&mut self, reads: bool) -> Answer {
        let mut header = [0; 48];
        self.stream.read_exact(&mut header).unwrap();
        let mut data = vec![0; if reads { word(&header, 6) as usize } else { 0 }];
        self.stream.read_exact(&mut data).unwrap();
        Answer { command: word(&header, 0), seqnum: word(&header, 1), status: word(&header, 5).cast_signed(), data }
    }

    fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let silent = matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent
    }

    fn is_closed(&mut self) -> bool {
        // A closed connection with unread bytes on the other end is reset.
        self.stream.read(&mut [0]).map_or(true, |length| length == 0)
    }
}

fn submitted(seqnum: u32, status: i32, data: &[u8]) -> Answer {
    Answer { command: 3, seqnum, status, data: data.to_vec() }
}

fn unlinked(seqnum: u32, status: i32) -> Answer {
    Answer { command: 4, seqnum, status, data: Vec::new() }
}

#[test]
fn the_board_is_listed_and_can_be_attached_once() {
    let bench = Bench::new(false, Options::default());
    let list = bench.list();
    assert_eq!(list[..12], [0x01, 0x11, 0x00, 0x05, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(list[312..316], [0x1d, 0x50, 0x61, 0x4e]);
    assert_eq!(bench.import("1-2").1, 4, "there is no such device");
    let host = bench.attach();
    assert_eq!(bench.import("1-1").1, 2, "it is attached already");
    drop(host);
    bench.wait_for("detached");
    bench.attach();
}

#[test]
fn an_in_urb_waits_until_the_device_has_something_to_say() {
    let bench = Bench::new(false, Options::default());
    let mut host = bench.attach();
    host.submit_in(1, 1, 512, [0; 8]);
    let mut said = host.answer(true).data;
    // What the firmware says at its start.
    assert_eq!(said.last(), Some(&0x7e));
    host.submit_in(2, 1, 512, [0; 8]);
    assert!(host.is_silent());
    host.submit_out(3, 2, [0; 8], &IDENTIFY_1);
    assert_eq!(host.answer(false), submitted(3, 0, &[]));
    said = host.answer(true).data;
    assert_eq!(said, EXPECT_0);
}

#[test]
fn a_pending_urb_can_be_taken_back_and_a_finished_one_not() {
    let bench = Bench::new(false, Options::default());
    let mut host = bench.attach();
    // The notification endpoint never says anything.
    host.submit_in(1, 3, 8, [0; 8]);
    assert!(host.is_silent());
    host.unlink(2, 1);
    assert_eq!(host.answer(false), unlinked(2, UNLINKED));
    host.unlink(3, 1);
    assert_eq!(host.answer(false), unlinked(3, 0));
}

#[test]
fn a_stalled_request_fails_with_epipe() {
    let bench = Bench::new(false, Options::default());
    let mut host = bench.attach();
    host.submit_in(1, 0, 255, [0x80, 6, 0, 9, 0, 0, 255, 0]);
    assert_eq!(host.answer(true), submitted(1, STALLED, &[]));
    host.submit_out(2, 5, [0; 8], &[1, 2, 3]);
    assert_eq!(host.answer(false), submitted(2, STALLED, &[]));
    // And the device goes on.
    host.submit_in(3, 0, 18, [0x80, 6, 0, 1, 0, 0, 18, 0]);
    assert_eq!(host.answer(true).data[8..12], [0x50, 0x1d, 0x4e, 0x61]);
    // SET_ADDRESS is the bus's business.
    host.submit_out(4, 0, [0, 5, 9, 0, 0, 0, 0, 0], &[]);
    assert_eq!(host.answer(false), submitted(4, 0, &[]));
}

#[test]
fn a_held_answer_keeps_what_follows_waiting_until_it_is_taken_back() {
    let (_, chip) = boards::find("btt-octopus-v1.1-f446").unwrap();
    let dfu = DfuVariant { holds: Holds::First, ..DfuVariant::of(&chip, &UID).unwrap() };
    let bench = Bench::new(true, Options { dfu: Some(dfu), ..Options::default() });
    let mut host = bench.attach();
    let get_status = [0xa1, 3, 0, 0, 0, 0, 6, 0];
    host.submit_out(1, 0, [0x21, 4, 0, 0, 0, 0, 0, 0], &[]);
    assert_eq!(host.answer(false), submitted(1, 0, &[]));
    // Erase the sector of 64 KiB, which takes most of a second.
    let erase = [0x41, 0x00, 0x00, 0x01, 0x08];
    host.submit_out(2, 0, [0x21, 1, 0, 0, 0, 0, 5, 0], &erase);
    assert_eq!(host.answer(false), submitted(2, 0, &[]));
    let sent = Instant::now();
    host.submit_in(3, 0, 6, get_status);
    host.submit_in(4, 0, 1, [0xa1, 5, 0, 0, 0, 0, 1, 0]);
    assert!(host.is_silent());
    let first = host.answer(true);
    assert!(sent.elapsed() > Duration::from_millis(300), "{:?}", sent.elapsed());
    assert_eq!((first.seqnum, first.status, first.data[4]), (3, 0, 4));
    assert_eq!(host.answer(true), submitted(4, 0, &[4]));
    host.submit_in(5, 0, 6, get_status);
    assert_eq!(host.answer(true).data[4], 5);

    host.submit_out(6, 0, [0x21, 1, 0, 0, 0, 0, 5, 0], &erase);
    assert_eq!(host.answer(false), submitted(6, 0, &[]));
    host.submit_in(7, 0, 6, get_status);
    assert!(host.is_silent());
    host.unlink(8, 7);
    assert_eq!(host.answer(false), unlinked(8, UNLINKED));
    // The device serves the next request, and the erase goes on.
    host.submit_in(9, 0, 1, [0xa1, 5, 0, 0, 0, 0, 1, 0]);
    assert_eq!(host.answer(true), submitted(9, 0, &[4]));
}

#[test]
fn a_board_that_re_enumerates_hangs_up_and_comes_back_as_another_device() {
    let bench = Bench::new(false, Options::default());
    let mut host = bench.attach();
    host.submit_in(1, 3, 8, [0; 8]);
    bench.control("boot0 on");
    bench.control("reset");
    bench.wait_for("gone");
    assert!(host.is_closed());
    assert_eq!(bench.list(), [0x01, 0x11, 0x00, 0x05, 0, 0, 0, 0, 0, 0, 0, 0], "it is off the bus");
    bench.wait_for("enumerated");
    assert_eq!(bench.list()[312..316], [0x04, 0x83, 0xdf, 0x11]);
    assert_ne!(bench.attach().devid, host.devid);

    bench.control("unplug");
    bench.wait_for("gone");
    bench.control("plug 1-4");
    bench.wait_for("enumerated");
    assert_eq!(bench.import("1-1").1, 4);
    assert_eq!(bench.import("1-4").1, 0);
}

#[test]
fn a_peer_that_breaks_the_protocol_is_hung_up_on_and_another_can_attach() {
    let bench = Bench::new(false, Options::default());
    let wrong: [fn(&mut Host); 4] = [
        |host| host.send([9, 1, host.devid, 0, 0, 0, 0, 0, 0, 0], [0; 8], &[]),
        |host| host.send([1, 1, host.devid ^ 1, 1, 0, 0, 18, 0, 0, 0], [0x80, 6, 0, 1, 0, 0, 18, 0], &[]),
        |host| host.send([1, 1, host.devid, 0, 2, 0, u32::MAX, 0, 0, 0], [0; 8], &[]),
        |host| (0..300).for_each(|seqnum| host.submit_in(seqnum, 3, 8, [0; 8])),
    ];
    for break_protocol in wrong {
        let mut host = bench.attach();
        break_protocol(&mut host);
        assert!(host.is_closed());
        bench.wait_for("detached");
    }
    let mut stream = bench.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(stream.read(&mut [0]).map_or(true, |length| length == 0));
    bench.attach();
}
