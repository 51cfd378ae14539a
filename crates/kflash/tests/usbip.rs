//! The USB/IP client against servers that a test speaks for, byte by byte.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kflash::discover::UsbId;
use kflash::link::usbip::{UsbipLink, list};
use kflash::link::{LinkError, Setup, UsbLink};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(5);
const STATUS: Setup = Setup { request_type: 0xa1, request: 3, value: 0, index: 0 };

/// A server on a port of its own for one connection.
fn serve(script: impl FnOnce(TcpStream) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    (server, std::thread::spawn(move || script(listener.accept().unwrap().0)))
}

fn take<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn field(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn device(busid: &str, interfaces: u8) -> Vec<u8> {
    let mut bytes = vec![0; 312];
    bytes[..8].copy_from_slice(b"/sys/1-1");
    bytes[256..256 + busid.len()].copy_from_slice(busid.as_bytes());
    bytes[291] = 1; // busnum
    bytes[295] = 2; // devnum
    bytes[299] = 2; // full speed
    bytes[300..306].copy_from_slice(&[0x04, 0x83, 0xdf, 0x11, 0x22, 0x00]);
    bytes[309..312].copy_from_slice(&[1, 1, interfaces]);
    bytes
}

fn answer(sequence: u32, status: i32, length: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = [3, sequence, 0, 0, 0, status.cast_unsigned(), length, 0, u32::MAX, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_be_bytes())
        .collect();
    bytes.extend(data);
    bytes
}

const DEVICE: [u8; 18] = [18, 1, 0, 1, 0, 0, 0, 64, 0x83, 0x04, 0x11, 0xdf, 0x00, 0x22, 1, 2, 3, 1];
const CONFIGURATION: [u8; 18] = [9, 2, 18, 0, 1, 7, 0, 0xc0, 50, 9, 4, 0, 0, 0, 0xfe, 1, 2, 4];

/// Exports one device and answers what a client asks before its first own request.
fn import(stream: &mut TcpStream) {
    let request: [u8; 40] = take(stream);
    assert_eq!(request[..12], [0x01, 0x11, 0x80, 0x03, 0, 0, 0, 0, b'1', b'-', b'1', 0]);
    stream.write_all(&[0x01, 0x11, 0, 3, 0, 0, 0, 0]).unwrap();
    stream.write_all(&device("1-1", 1)).unwrap();
    for (setup, data) in [
        ([0x80, 6, 0, 1, 0, 0, 18, 0], &DEVICE[..]),
        ([0x80, 6, 0, 2, 0, 0, 9, 0], &CONFIGURATION[..9]),
        ([0x80, 6, 0, 2, 0, 0, 18, 0], &CONFIGURATION),
        ([0x00, 9, 7, 0, 0, 0, 0, 0], &[]),
    ] {
        let request: [u8; 48] = take(stream);
        assert_eq!(field(&request, 8), 0x0001_0002);
        assert_eq!(request[40..], setup);
        stream.write_all(&answer(field(&request, 4), 0, data.len() as u32, data)).unwrap();
    }
}

/// An imported device, whose server does what `script` says from then on.
fn imported(script: impl FnOnce(TcpStream) + Send + 'static) -> (UsbipLink, JoinHandle<()>) {
    let (server, thread) = serve(|mut stream| {
        import(&mut stream);
        script(stream);
    });
    (UsbipLink::open(&server, "1-1").unwrap(), thread)
}

#[test]
fn a_device_is_listed_and_imported() {
    let (server, thread) = serve(|mut stream| {
        assert_eq!(take::<8>(&mut stream), [0x01, 0x11, 0x80, 0x05, 0, 0, 0, 0]);
        stream.write_all(&[0x01, 0x11, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2]).unwrap();
        stream.write_all(&device("1-1", 2)).unwrap();
        stream.write_all(&[0xfe, 1, 2, 0, 3, 0, 0, 0]).unwrap();
        stream.write_all(&device("1-1.4", 0)).unwrap();
    });
    let devices = list(&server).unwrap();
    thread.join().unwrap();
    assert_eq!(devices.len(), 2);
    assert_eq!((devices[0].busid.as_str(), devices[1].busid.as_str()), ("1-1", "1-1.4"));
    assert_eq!((devices[0].id, devices[0].revision), (UsbId::new(0x0483, 0xdf11), 0x2200));
    assert_eq!(devices[0].interfaces, [[0xfe, 1, 2], [3, 0, 0]]);

    let (link, thread) = imported(drop);
    thread.join().unwrap();
    assert_eq!(link.device_descriptor(), DEVICE);
    assert_eq!(link.configuration_descriptor(), CONFIGURATION);
}

#[test]
fn requests_carry_their_data_and_their_errors() {
    let (mut link, thread) = imported(|mut stream| {
        let request: [u8; 48] = take(&mut stream);
        assert_eq!([field(&request, 0), field(&request, 12), field(&request, 16)], [1, 1, 0]);
        assert_eq!((field(&request, 24), &request[40..]), (6, &[0xa1, 3, 0, 0, 0, 0, 6, 0][..]));
        // In three pieces.
        let bytes = answer(field(&request, 4), 0, 6, &[1, 2, 3, 4, 5, 6]);
        for piece in [&bytes[..10], &bytes[10..50], &bytes[50..]] {
            stream.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        let request: [u8; 51] = take(&mut stream);
        assert_eq!([field(&request, 12), field(&request, 16), field(&request, 24)], [0, 1, 3]);
        assert_eq!(request[48..], *b"abc");
        stream.write_all(&answer(field(&request, 4), 0, 3, &[])).unwrap();
        for (errno, length) in [(-32, 0), (-108, 0), (-71, 3)] {
            let request: [u8; 48] = take(&mut stream);
            stream.write_all(&answer(field(&request, 4), errno, length, &vec![0; length as usize])).unwrap();
        }
    });
    assert_eq!(link.control_in(STATUS, 6, LONG).unwrap(), [1, 2, 3, 4, 5, 6]);
    link.bulk_out(0x01, b"abc", LONG).unwrap();
    assert!(matches!(link.control_in(STATUS, 6, LONG), Err(LinkError::Stall)));
    assert!(matches!(link.control_in(STATUS, 6, LONG), Err(LinkError::Gone)));
    let error = link.control_in(STATUS, 6, LONG).unwrap_err();
    assert!(matches!(&error, LinkError::Io { source, .. } if source.raw_os_error() == Some(71)), "{error}");
    thread.join().unwrap();
}

#[test]
fn a_request_whose_time_is_up_is_taken_back() {
    let (mut link, thread) = imported(|mut stream| {
        for _ in 0..2 {
            let submitted: [u8; 48] = take(&mut stream);
            let unlink: [u8; 48] = take(&mut stream);
            assert_eq!(
                [field(&unlink, 0), field(&unlink, 8), field(&unlink, 20)],
                [2, 0x0001_0002, field(&submitted, 4)]
            );
            let mut reply = answer(field(&unlink, 4), -104, 0, &[]);
            reply[3] = 4;
            stream.write_all(&reply).unwrap();
        }
        let request: [u8; 48] = take(&mut stream);
        stream.write_all(&answer(field(&request, 4), 0, 1, b"z")).unwrap();
    });
    assert!(matches!(link.control_in(STATUS, 6, SHORT), Err(LinkError::TimedOut(SHORT))));
    assert_eq!(link.bulk_in(0x81, 64, SHORT).unwrap(), b"");
    assert_eq!(link.bulk_in(0x81, 64, LONG).unwrap(), b"z");
    thread.join().unwrap();
}

#[test]
fn bytes_that_come_while_a_request_is_taken_back_are_not_lost() {
    let (mut link, thread) = imported(|mut stream| {
        let submitted: [u8; 48] = take(&mut stream);
        let unlink: [u8; 48] = take(&mut stream);
        stream.write_all(&answer(field(&submitted, 4), 0, 5, b"hello")).unwrap();
        let mut reply = answer(field(&unlink, 4), 0, 0, &[]);
        reply[3] = 4;
        stream.write_all(&reply).unwrap();
    });
    assert_eq!(link.bulk_in(0x81, 64, SHORT).unwrap(), b"hello");
    thread.join().unwrap();
}

#[test]
fn half_an_answer_at_the_time_out_is_kept() {
    let (mut link, thread) = imported(|mut stream| {
        let submitted: [u8; 48] = take(&mut stream);
        let bytes = answer(field(&submitted, 4), 0, 5, b"hello");
        stream.write_all(&bytes[..50]).unwrap();
        let unlink: [u8; 48] = take(&mut stream);
        stream.write_all(&bytes[50..]).unwrap();
        let mut reply = answer(field(&unlink, 4), 0, 0, &[]);
        reply[3] = 4;
        stream.write_all(&reply).unwrap();
    });
    assert_eq!(link.bulk_in(0x81, 64, SHORT).unwrap(), b"hello");
    thread.join().unwrap();
}

#[test]
fn nonsense_ends_the_connection() {
    type Script = fn(u32) -> Vec<u8>;
    let scripts: [(Script, &str); 4] = [
        (|sequence| answer(sequence, 0, 7, &[0; 7]), "7 bytes in answer to a request for 6"),
        (|sequence| answer(sequence, 0, u32::MAX, &[]), "4294967295 bytes in answer to a request for 6"),
        (|sequence| answer(sequence + 1, 0, 0, &[]), "an answer to no question"),
        (|_| vec![0x55; 48], "answer of the unknown kind 0x55555555"),
    ];
    for (script, text) in scripts {
        let (mut link, thread) = imported(move |mut stream| {
            let request: [u8; 48] = take(&mut stream);
            stream.write_all(&script(field(&request, 4))).unwrap();
        });
        let error = link.control_in(STATUS, 6, LONG).unwrap_err();
        assert!(matches!(&error, LinkError::Malformed(what) if what.ends_with(text)), "{error}");
        assert!(matches!(link.control_in(STATUS, 6, LONG), Err(LinkError::Gone)));
        thread.join().unwrap();
    }
}

#[test]
fn a_server_that_hangs_up_is_a_device_that_left() {
    let (mut link, thread) = imported(drop);
    thread.join().unwrap();
    assert!(matches!(link.control_in(STATUS, 6, LONG), Err(LinkError::Gone)));
    assert!(matches!(link.control_out(STATUS, &[], LONG), Err(LinkError::Gone)));
}

#[test]
fn a_server_that_falls_silent_does_not_hang_the_client() {
    let (mut link, thread) = imported(|mut stream| {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        // The request, and the one to take it back.
        assert_eq!(rest.len(), 96);
    });
    let before = Instant::now();
    assert!(link.control_in(STATUS, 6, SHORT).is_err());
    assert!(before.elapsed() < Duration::from_secs(6));
    assert!(matches!(link.control_in(STATUS, 6, LONG), Err(LinkError::Gone)));
    drop(link);
    thread.join().unwrap();
}

#[test]
fn servers_that_refuse_or_lie_are_named() {
    let cases: [(Vec<u8>, &str); 5] = [
        (vec![0x01, 0x11, 0, 3, 0, 0, 0, 4], "device is gone"),
        (vec![0x01, 0x11, 0, 3, 0, 0, 0, 9], "server refuses with status 9"),
        (vec![0x01, 0x06, 0, 3, 0, 0, 0, 0], "USB/IP version 0x0106 is not 0x0111"),
        (b"HTTP/1.1 400 Bad Request".to_vec(), "USB/IP version 0x4854 is not 0x0111"),
        ([vec![0x01, 0x11, 0, 3, 0, 0, 0, 0], device("1-2", 1)].concat(), "is not the device at 1-1 any more"),
    ];
    for (bytes, text) in cases {
        let (server, thread) = serve(move |mut stream| {
            take::<40>(&mut stream);
            stream.write_all(&bytes).unwrap();
        });
        let error = UsbipLink::open(&server, "1-1").err().unwrap().to_string();
        assert!(error.contains(text), "{error}");
        thread.join().unwrap();
    }
    let (server, thread) = serve(|mut stream| {
        take::<8>(&mut stream);
        stream.write_all(&[0x01, 0x11, 0, 5, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
    });
    let error = list(&server).unwrap_err().to_string();
    assert!(error.ends_with("claims to export 4294967295 devices"), "{error}");
    thread.join().unwrap();
}

/// A server that says "in use" to the first `refusals` clients.
fn reluctant(refusals: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(refusals) {
            let mut stream = stream.unwrap();
            take::<40>(&mut stream);
            stream.write_all(&[0x01, 0x11, 0, 3, 0, 0, 0, 1]).unwrap();
        }
        import(&mut listener.accept().unwrap().0);
    });
    server
}

#[test]
fn a_device_that_is_just_being_given_back_is_waited_for() {
    UsbipLink::open(&reluctant(3), "1-1").unwrap();
    let server = reluctant(1000);
    let error = UsbipLink::open(&server, "1-1").err().unwrap();
    assert_eq!(error.to_string(), format!("usbip://{server}/1-1 is in use"));
}

#[test]
fn a_bus_id_that_does_not_fit_is_refused_before_connecting() {
    for busid in ["", "1 1", "1\n1", &"1".repeat(40)] {
        let error = UsbipLink::open("192.0.2.1:1", busid).err().unwrap();
        assert!(matches!(error, LinkError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = list(&free).unwrap_err();
    assert!(matches!(&error, LinkError::Io { node, .. } if *node == free), "{error}");
}
