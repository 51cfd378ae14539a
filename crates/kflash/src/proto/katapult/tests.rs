#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Mutex;

use super::exchange::FILLER;
use super::*;
use crate::link::fake::{Answers, FakeClock, FakeLink, bytes, hex, logged, soon};

type Log = Mutex<Vec<(Duration, String)>>;
type Peer = Box<dyn FnMut(&[u8]) -> Answers + Send>;

const CONNECT: &str = "01 88 11 00 f1 7c 99 03";
const NACK: &str = "01 88 f1 00 68 95 99 03";
const ERROR: &str = "01 88 f2 00 00 bf 99 03";
const START: FlashAddr = FlashAddr(0x0800_2000);

/// An answer, framed by the test's own arithmetic and not by the driver's.
fn answer(code: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x01, 0x88, code, (payload.len() / 4) as u8];
    frame.extend(payload);
    let mut crc = 0xFFFF_u16;
    for byte in &frame[2..] {
        // The form that Klipper's firmware uses for the same polynomial.
        let x = (byte ^ crc as u8) ^ ((byte ^ crc as u8) << 4);
        let x = u16::from(x);
        crc = ((x << 8) | (crc >> 8)) ^ (x >> 4) ^ (x << 3);
    }
    frame.extend([crc as u8, (crc >> 8) as u8, 0x99, 0x03]);
    frame
}

fn ack(command: u8, rest: &[u8]) -> Vec<u8> {
    answer(0xA0, &[&[command, 0, 0, 0], rest].concat())
}

fn hello(protocol: u32, start: u32, block: u32, names: &[u8]) -> Vec<u8> {
    ack(0x11, &[&protocol.to_le_bytes(), &start.to_le_bytes(), &block.to_le_bytes(), names].concat())
}

fn usual_hello() -> Vec<u8> {
    hello(0x0001_0100, START.0, 64, b"stm32f103xe\0\0\0\0\0v0.0.1-110-gb0bf421\0")
}

/// A bootloader in a few lines: 8 KiB from the application's start, and a list of tricks, one for each write.
struct Device {
    flash: Vec<u8>,
    tricks: Vec<(usize, Trick)>,
    writes: usize,
}

#[derive(Clone, Copy)]
enum Trick {
    /// The command never arrives.
    LostCommand,
    /// It is carried out, but nobody hears of it.
    LostAnswer,
    /// It arrives broken.
    Nack,
    /// It is refused.
    Error,
    /// The answer arrives broken in its byte number so.
    Garbled(usize),
    /// The answer comes twice.
    Twice,
    /// The answer to another address comes first.
    Stale,
    /// The link ends.
    Gone,
}

impl Device {
    fn new(tricks: &[(usize, Trick)]) -> Self {
        Self { flash: vec![0xFF; 8192], tricks: tricks.to_vec(), writes: 0 }
    }

    fn take(&mut self, written: &[u8]) -> Answers {
        if written == FILLER {
            // Noise to a Katapult that waits for no rest of a frame.
            return soon(bytes(NACK));
        }
        let trick = self.tricks.iter().find(|(at, _)| *at == self.writes).map(|(_, trick)| *trick);
        self.writes += 1;
        match trick {
            Some(Trick::LostCommand) => return Vec::new(),
            Some(Trick::Nack) => return soon(bytes(NACK)),
            Some(Trick::Error) => return soon(bytes(ERROR)),
            Some(Trick::Gone) => return vec![(Duration::ZERO, Err(LinkError::Gone))],
            _ => {}
        }
        let mut frame = self.carry_out(written);
        match trick {
            Some(Trick::LostAnswer) => return Vec::new(),
            Some(Trick::Garbled(at)) => frame[at] ^= 0x20,
            Some(Trick::Twice) => frame = frame.repeat(2),
            Some(Trick::Stale) => frame = [ack(0x12, &[0xFC, 0xFF, 0, 8]), frame].concat(),
            _ => {}
        }
        soon(frame)
    }

    fn carry_out(&mut self, written: &[u8]) -> Vec<u8> {
        let words = &written[4..written.len() - 4];
        let at = |words: &[u8]| (u32::from_le_bytes(words[..4].try_into().unwrap()) - START.0) as usize;
        match written[2] {
            0x11 => usual_hello(),
            0x12 => {
                assert_eq!(words.len(), 68);
                self.flash[at(words)..][..64].copy_from_slice(&words[4..]);
                ack(0x12, &words[..4])
            }
            0x13 => ack(0x13, &[3, 0, 0, 0]),
            0x14 => ack(0x14, &[words, &self.flash[at(words)..][..64]].concat()),
            0x15 => ack(0x15, &[]),
            other => panic!("{other:#04x} is none of the driver's commands"),
        }
    }
}

fn connect<'a>(
    clock: &'a FakeClock,
    log: &'a Log,
    device: impl FnMut(&[u8]) -> Answers + Send + 'a,
) -> Result<Katapult<'a>, ConnectError> {
    Katapult::connect(Box::new(FakeLink::new(clock, log, device)), clock, false)
}

#[test]
fn the_tests_arithmetic_gives_the_golden_answers() {
    assert_eq!(hex(&answer(0xF1, &[])), NACK);
    assert_eq!(hex(&answer(0xF2, &[])), ERROR);
    assert_eq!(hex(&answer(0x14, &[0x00, 0x20, 0x00, 0x08])), "01 88 14 01 00 20 00 08 5b de 99 03");
}

#[test]
fn connect_tells_what_the_bootloader_is() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let katapult = connect(&clock, &log, |_| soon(usual_hello())).unwrap();
    assert_eq!(logged(&log), [CONNECT]);
    let expected = TargetInfo {
        protocol: Protocol::Katapult,
        version: Some("v0.0.1-110-gb0bf421".into()),
        mcu: Some("stm32f103xe".into()),
        app_start: Some(START),
        block_size: FlashSize(64),
        sectors: Vec::new(),
    };
    assert_eq!(*katapult.info(), expected);
}

#[test]
fn protocol_1_0_has_no_version_and_a_full_word_of_name_needs_no_padding() {
    for (names, mcu, version) in [
        (&b"rp2040\0\0"[..], Some("rp2040"), None),
        (b"lpc1769\0\0\0\0\0v0.0.1\0\0", Some("lpc1769"), Some("v0.0.1")),
        (b"stm32h723xxx\0\0\0\0v1\0\0", Some("stm32h723xxx"), Some("v1")),
        (b"", None, None),
    ] {
        let (clock, log) = (FakeClock::default(), Log::default());
        let katapult = connect(&clock, &log, |_| soon(hello(0x0001_0000, 0x1000_4000, 64, names))).unwrap();
        assert_eq!((katapult.info().mcu.as_deref(), katapult.info().version.as_deref()), (mcu, version));
    }
}

#[test]
fn unusable_answers_to_connect_are_refused() {
    for (answer, expected) in [
        (hello(0x0002_0000, START.0, 64, b""), "speaks protocol 2.0.0"),
        (hello(0x0001_0100, START.0, 0, b""), "blocks of 0 bytes"),
        (hello(0x0001_0100, START.0, 62, b""), "blocks of 62 bytes"),
        (hello(0x0001_0100, START.0, 120, b""), "blocks of 120 bytes"),
        (hello(0x0001_0100, START.0, 512, b""), "blocks of 512 bytes"),
        (hello(0x0001_0100, START.0, 64, b"stm32\x1b[2"), "not text"),
        (ack(0x11, &[0, 1, 1, 0]), "has 4 bytes only"),
    ] {
        let (clock, log) = (FakeClock::default(), Log::default());
        let error = connect(&clock, &log, |_| soon(answer.clone())).err().expect(expected);
        assert!(matches!(error, ConnectError::Malformed(_)));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn connect_is_repeated_as_katapults_own_host_does() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let silent = connect(&clock, &log, |_| Vec::new());
    let Err(ConnectError::Silent { after }) = silent else { panic!("nobody was there") };
    assert_eq!(after, Duration::from_millis(5 * 2750));
    let log = log.lock().unwrap().clone();
    let times: Vec<_> = log.iter().filter(|(_, what)| what == CONNECT).map(|(time, _)| time.as_millis()).collect();
    assert_eq!(times, [0, 2750, 5500, 8250, 11000]);
    // Each silence is answered by what completes a frame that was cut off, and the last by Klipper's own question.
    let filler = vec!["00"; FILLER.len()].join(" ");
    let written: Vec<_> = log.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(written[..4], [CONNECT, &filler, CONNECT, &filler]);
    assert_eq!(written[10..], ["7e", "08 10 01 00 28 5e 9f 7e"]);
}

#[test]
fn klipper_is_told_from_silence_and_from_noise() {
    // Klipper refuses broken blocks ...
    let (clock, log) = (FakeClock::default(), Log::default());
    let klipper = connect(&clock, &log, |_| soon(bytes("05 13 ac 1b 7e")));
    assert!(matches!(klipper, Err(ConnectError::Foreign { .. })), "its checksum is wrong");
    let klipper = connect(&clock, &log, |_| soon(bytes("05 11 8f 08 7e")));
    assert!(matches!(klipper, Err(ConnectError::Klipper)));
    // ... or waits for the end of one, and answers only its own question.
    let klipper =
        connect(&clock, &log, |w| if w.ends_with(&[0x7e]) { soon(bytes("05 11 8f 08 7e")) } else { Vec::new() });
    assert!(matches!(klipper, Err(ConnectError::Klipper)));
    let other = connect(&clock, &log, |_| soon(b"ok T:20\n".to_vec()));
    let Err(ConnectError::Foreign { bytes }) = other else { panic!("no Katapult") };
    assert_eq!(bytes, "6f 6b 20 54 3a 32 30 0a 6f 6b 20 54 3a 32 30 0a");
}

#[test]
fn the_last_words_of_klipper_do_not_hide_katapult() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut first = true;
    let katapult = connect(&clock, &log, |_| {
        let last_words = if std::mem::take(&mut first) { bytes("05 11 8f 08 7e") } else { Vec::new() };
        vec![(Duration::ZERO, Ok(last_words)), (Duration::from_millis(300), Ok(usual_hello()))]
    });
    assert!(katapult.is_ok());
}

#[test]
fn priming_comes_first_and_its_answer_is_thrown_away() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let device = |w: &[u8]| soon(if w[2] == 0x90 { bytes(ERROR) } else { usual_hello() });
    let link = Box::new(FakeLink::new(&clock, &log, device));
    assert!(Katapult::connect(link, &clock, true).is_ok());
    assert_eq!(logged(&log), ["01 88 90 00 e5 e9 99 03", CONNECT]);
    assert!(["stm32f103xe", "stm32f072xb", "stm32g0b1xx"].into_iter().all(needs_priming));
    assert!(!["stm32f446xx", "stm32f207xx", "stm32h723xx", "rp2040", "lpc1769", ""].into_iter().any(needs_priming));
}

#[test]
fn blocks_on_the_wire_are_golden_and_nothing_is_slept_between_them() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut device = Device::new(&[]);
    let mut katapult = connect(&clock, &log, |w| device.take(w)).unwrap();
    let mut steps = Vec::new();
    katapult.write(START, &[0xFF; 130], &mut |step| steps.push(step)).unwrap();
    katapult.finish().unwrap();
    let range = FlashRange { start: START, size: FlashSize(130) };
    assert_eq!(katapult.read(range, &mut |step| steps.push(step)).unwrap(), [0xFF; 130]);
    katapult.start(START).unwrap();
    assert_eq!(steps, [64, 64, 2, 64, 64, 2]);
    let first = format!("01 88 12 11 00 20 00 08 {} 07 ea 99 03", ["ff"; 64].join(" "));
    let log = logged(&log);
    assert_eq!(log[1], first);
    assert_eq!(log[4], "01 88 13 00 41 4f 99 03");
    assert_eq!(log[5], "01 88 14 01 00 20 00 08 5b de 99 03");
    assert_eq!(log[8], "01 88 15 00 91 1b 99 03");
    assert_eq!(log.len(), 9);
    assert_eq!(clock.now(), Duration::from_millis(9), "each answer takes the device a millisecond, the host nothing");
}

#[test]
fn every_trouble_on_the_way_is_overcome() {
    use Trick::{Garbled, LostAnswer, LostCommand, Nack, Stale, Twice};
    let data: Vec<u8> = (0..1000).map(|i| (i * 7 % 251) as u8).collect();
    let tricks = (0..24).map(Garbled).chain([LostCommand, LostAnswer, Nack, Stale, Twice]);
    for (index, trick) in tricks.enumerate() {
        // At CONNECT, at the first block, at a middle one, at EOF, at a block read.
        for at in [0, 1, 6, 17, 20] {
            let trick = if let Garbled(byte) = trick { Garbled(byte % if at == 17 { 12 } else { 16 }) } else { trick };
            let (clock, log) = (FakeClock::default(), Log::default());
            let mut device = Device::new(&[(at, trick)]);
            let mut katapult = connect(&clock, &log, |w| device.take(w)).unwrap();
            katapult.write(START, &data, &mut |_| {}).unwrap();
            katapult.finish().unwrap();
            let range = FlashRange { start: START, size: FlashSize(1000) };
            assert_eq!(katapult.read(range, &mut |_| {}).unwrap(), data, "trick {index} at {at}");
            drop(katapult);
            assert_eq!(device.flash[..1000], data, "trick {index} at {at}");
            assert!(device.writes <= 36, "trick {index} at {at}: {} writes", device.writes);
            assert!(clock.now() < Duration::from_secs(7), "trick {index} at {at}: {:?}", clock.now());
        }
    }
}

#[test]
fn a_refused_block_is_not_sent_again() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut device = Device::new(&[(2, Trick::Error)]);
    let mut katapult = connect(&clock, &log, |w| device.take(w)).unwrap();
    let error = katapult.write(START, &[1; 256], &mut |_| {}).unwrap_err();
    assert!(matches!(error, ProtoError::Status { protected: false, .. }));
    assert_eq!(error.to_string(), "cannot write 0x08002040: refused by Katapult (ERROR)");
    drop(katapult);
    assert_eq!(device.writes, 3);
}

#[test]
fn a_refused_retransmission_of_a_written_block_counts_as_written() {
    for (tricks, good) in [
        ([(1, Trick::LostAnswer), (2, Trick::Error)], true),
        ([(1, Trick::Garbled(9)), (2, Trick::Error)], true),
        ([(1, Trick::LostCommand), (2, Trick::Error)], false),
    ] {
        let (clock, log) = (FakeClock::default(), Log::default());
        let mut device = Device::new(&tricks);
        let mut katapult = connect(&clock, &log, |w| device.take(w)).unwrap();
        let result = katapult.write(START, &[1; 64], &mut |_| {});
        assert_eq!(result.is_ok(), good, "{result:?}");
    }
}

#[test]
fn silence_ends_in_an_error_after_three_rounds_of_three() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut connected = false;
    let mut katapult =
        connect(
            &clock,
            &log,
            |_| {
                if std::mem::replace(&mut connected, true) { Vec::new() } else { soon(usual_hello()) }
            },
        )
        .unwrap();
    let error = katapult.write(START, &[1; 64], &mut |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "cannot write 0x08002000: not done after 51 s");
    assert_eq!(logged(&log).len(), 1 + 9);
}

#[test]
fn a_link_that_ends_is_an_error_except_at_the_start_of_the_application() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut device = Device::new(&[(1, Trick::Gone), (2, Trick::Gone)]);
    let mut katapult = connect(&clock, &log, |w| device.take(w)).unwrap();
    let error = katapult.write(START, &[1; 64], &mut |_| {}).unwrap_err();
    assert!(matches!(error, ProtoError::Link { source: LinkError::Gone, .. }));
    katapult.start(START).unwrap();
}

#[test]
fn starting_takes_klipper_and_silence_for_a_start_but_no_refusal() {
    for (reply, good) in [(soon(bytes("05 10 9e 81 7e")), true), (Vec::new(), true), (soon(bytes(ERROR)), false)] {
        let (clock, log) = (FakeClock::default(), Log::default());
        let mut replies = Some(reply);
        let device = |w: &[u8]| {
            if w[2] == 0x11 { soon(usual_hello()) } else { replies.take().unwrap_or_default() }
        };
        let mut katapult = connect(&clock, &log, device).unwrap();
        assert_eq!(katapult.start(START).is_ok(), good);
    }
}

#[test]
fn what_katapult_cannot_do_is_not_sent() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut katapult = connect(&clock, &log, |_| soon(usual_hello())).unwrap();
    let nothing = &mut |_| panic!("nothing was done");
    for addr in [0x0800_1FC0, 0x0800_2020, 0xFFFF_FFC0] {
        let error = katapult.write(FlashAddr(addr), &[0; 128], nothing).unwrap_err();
        assert!(matches!(error, ProtoError::Unsupported { .. }), "{error}");
    }
    assert!(matches!(katapult.start(FlashAddr(0x0800_4000)), Err(ProtoError::Unsupported { .. })));
    katapult.erase(FlashRange { start: START, size: FlashSize(1024) }).unwrap();
    assert_eq!(logged(&log), [CONNECT]);
}

#[test]
fn ranges_that_lie_across_blocks_are_cut_out() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut device = Device::new(&[]);
    for (at, byte) in device.flash.iter_mut().enumerate() {
        *byte = (at % 251) as u8;
    }
    let flash = device.flash.clone();
    let mut katapult = connect(&clock, &log, |w| device.take(w)).unwrap();
    for (from, size) in [(0, 0), (0, 1), (63, 2), (10, 20), (64, 64), (100, 1000)] {
        let range = FlashRange { start: FlashAddr(START.0 + from as u32), size: FlashSize(size as u32) };
        let mut steps = 0;
        assert_eq!(katapult.read(range, &mut |step| steps += step).unwrap(), flash[from..from + size]);
        assert_eq!(steps, size as u32);
    }
}

#[test]
fn hostile_peers_end_in_an_error() {
    let nacks = bytes(NACK).repeat(3);
    let mut wrong_address = usual_hello();
    wrong_address.extend(ack(0x12, &[0xFF; 4]));
    let peers: [(&str, Peer); 5] = [
        ("not done after 51 s", Box::new(move |_| soon(nacks.clone()))),
        ("not done after 51 s", Box::new(|_| soon(ack(0x12, &[0xFF; 4])))),
        ("names no address", Box::new(|_| soon(ack(0x12, &[])))),
        ("without an answer", Box::new(|_| vec![(Duration::ZERO, Ok(vec![0x00; 1 << 20]))])),
        ("without an answer", Box::new(|_| vec![(Duration::ZERO, Ok(answer(0xF3, &[]).repeat(20_000)))])),
    ];
    for (expected, mut peer) in peers {
        let (clock, log) = (FakeClock::default(), Log::default());
        let mut katapult = connect(&clock, &log, |w| if w[2] == 0x11 { soon(usual_hello()) } else { peer(w) }).unwrap();
        let error = katapult.write(START, &[1; 64], &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} is not {expected:?}");
        assert!(clock.now() < Duration::from_secs(60));
    }
}
