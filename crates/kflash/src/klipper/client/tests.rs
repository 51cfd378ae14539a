#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::sync::Mutex;

use super::*;
use crate::link::fake::{Answers, FakeClock, FakeLink, bytes, hex, logged, soon};

type Log = Mutex<Vec<(Duration, String)>>;
type Peer = Box<dyn FnMut(&[u8]) -> Answers + Send>;

const LIMIT: Duration = Duration::from_secs(5);

fn block(sequence: u8, content: &[u8]) -> Vec<u8> {
    frame::encode(sequence, content).unwrap()
}

fn content(numbers: &[i64], data: Option<&[u8]>) -> Vec<u8> {
    let mut content = Vec::new();
    for number in numbers {
        vlq::put(*number, &mut content);
    }
    if let Some(data) = data {
        content.push(data.len() as u8);
        content.extend(data);
    }
    content
}

fn dictionary() -> Vec<u8> {
    let json = r#"{"app":"Klipper","build_versions":"gcc: 12.2","config":{"MCU":"stm32f446xx","CLOCK_FREQ":180000000},
        "commands":{"identify offset=%u count=%c":1,"debug_read order=%c addr=%u":-7,"get_uptime":4,
        "reset":96},
        "responses":{"identify_response offset=%u data=%.*s":0,"debug_result val=%u":97,
        "uptime high=%u clock=%u":-6},"version":"v0.12.0"}"#;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(json.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Firmware in a few lines: one block per write, sequence numbers as the MCU keeps them.
struct Firmware {
    next: u8,
    dictionary: Vec<u8>,
    /// The contents that were taken.
    executed: Vec<Vec<u8>>,
    /// The content of its answer to `get_uptime`.
    uptime: Vec<u8>,
}

impl Firmware {
    fn new(next: u8) -> Self {
        Self { next, dictionary: dictionary(), executed: Vec::new(), uptime: Vec::new() }
    }

    /// Answers and acknowledgement, the answer first, as seen with real firmware.
    fn take(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let mut decoder = frame::Decoder::default();
        decoder.push(data);
        let Some(asked) = decoder.pop() else { return Vec::new() };
        if asked.sequence != self.next {
            return vec![block(self.next, &[])];
        }
        self.next = following(self.next);
        self.executed.push(asked.content.clone());
        let (id, rest) = vlq::take(&asked.content).unwrap();
        let mut out = Vec::new();
        match id {
            1 => {
                let (offset, _) = vlq::take(rest).unwrap();
                let from = (offset as usize).min(self.dictionary.len());
                let to = (from + 40).min(self.dictionary.len());
                let answer = content(&[0, offset], Some(&self.dictionary[from..to]));
                out.push(block(self.next, &answer));
            }
            -7 => {
                let (order, rest) = vlq::take(rest).unwrap();
                let (addr, _) = vlq::take(rest).unwrap();
                assert_eq!((order, addr), (2, 0xE000_ED08));
                // As C sends a %u above 2^31: as the negative number of the same bits.
                out.push(block(self.next, &content(&[97, i64::from(0xFFFF_8000_u32.cast_signed())], None)));
            }
            4 => out.push(block(self.next, &self.uptime)),
            // Resets within the command: no acknowledgement, and the start of a new conversation.
            96 => {
                self.next = 0;
                return vec![bytes("06 10 61 08 f4 7e")];
            }
            _ => {}
        }
        out.push(block(self.next, &[]));
        out
    }
}

/// Everything on the wire a millisecond later, a millisecond apart.
fn spread(blocks: Vec<Vec<u8>>) -> Answers {
    blocks.into_iter().zip(1..).map(|(block, ms)| (Duration::from_millis(ms), Ok(block))).collect()
}

fn connect<'a>(
    clock: &'a FakeClock,
    log: &'a Log,
    device: impl FnMut(&[u8]) -> Answers + Send + 'a,
) -> Result<Client<'a>, KlipperError> {
    Client::connect(Box::new(FakeLink::new(clock, log, device)), clock, LIMIT)
}

#[test]
fn opening_bytes_are_those_of_real_firmware() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let data: Vec<u8> = (0..40).collect();
    let response = block(1, &content(&[0, 0], Some(&data)));
    assert_eq!(hex(&response[..5]), "30 11 00 00 28");
    let mut script = vec![
        ("08 11 01 00 28 42 24 7e", vec![bytes("05 10 9e 81 7e")]),
        ("08 10 01 00 28 5e 9f 7e", vec![response, bytes("05 11 8f 08 7e")]),
        // The late acknowledgement carries the very number that this is sent with: it is no refusal.
        ("08 11 01 28 28", vec![block(2, &content(&[0, 40], Some(&[]))), block(2, &[])]),
    ]
    .into_iter();
    let result = connect(&clock, &log, move |written| {
        let (expected, answers) = script.next().expect("nothing more is sent");
        assert!(hex(written).starts_with(expected), "{written:02x?} is not {expected}");
        spread(answers)
    });
    assert!(matches!(result, Err(KlipperError::Dictionary(_))), "forty bytes of nothing are no dictionary");
    assert_eq!(logged(&log).len(), 3);
}

#[test]
fn attaches_at_any_sequence_number() {
    for next in 0..16 {
        let (clock, log) = (FakeClock::default(), Log::default());
        let mut firmware = Firmware::new(next);
        let client = connect(&clock, &log, |written| spread(firmware.take(written))).unwrap();
        assert_eq!(client.dictionary().mcu(), Some("stm32f446xx"));
        drop(client);
        let asked = dictionary().len().div_ceil(40) + 1;
        assert_eq!(firmware.executed.len(), asked);
        // One refused block at most, and never a flood.
        assert!(logged(&log).len() <= asked + 2, "{} blocks for {asked} requests", logged(&log).len());
    }
}

#[test]
fn late_acknowledgements_cause_no_resends() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware::new(1);
    // Each acknowledgement arrives with the answer after it.
    let mut held = Vec::new();
    let client = connect(&clock, &log, |written| {
        let mut out = firmware.take(written);
        let late = std::mem::replace(&mut held, out.split_off(1));
        spread([late, out].concat())
    })
    .unwrap();
    drop(client);
    assert_eq!(logged(&log).len(), dictionary().len().div_ceil(40) + 1);
}

#[test]
fn lost_and_garbled_blocks_are_sent_again() {
    // Every third write is lost, every fourth answer garbled, every fifth acknowledgement lost, and noise everywhere.
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware::new(9);
    let mut count = 0;
    let client = connect(&clock, &log, |written| {
        count += 1;
        if count % 3 == 0 {
            return Vec::new();
        }
        let mut out = firmware.take(written);
        if count % 4 == 0 {
            out[0][2] ^= 0x10;
        }
        if count % 5 == 0 {
            out.pop();
        }
        spread([vec![bytes("7e 40 1f 01 88"), bytes("06 10 61 08 f4 7e")], out].concat())
    })
    .unwrap();
    assert_eq!(client.dictionary().version, "v0.12.0");
    drop(client);
    assert!(count < 60, "{count} blocks");
}

#[test]
fn memory_is_read_and_the_chip_reset_once() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware::new(0);
    let mut client = connect(&clock, &log, |written| spread(firmware.take(written))).unwrap();
    assert_eq!(client.debug_read(2, 0xE000_ED08).unwrap(), 0xFFFF_8000);
    client.reset().unwrap();
    drop(client);
    assert_eq!(firmware.executed.iter().filter(|content| **content == content_of_reset()).count(), 1);
    assert_eq!(firmware.next, 0);
}

#[test]
fn the_uptime_is_as_real_firmware_tells_it() {
    // Request and answer of a v0.13.0-730-g84104bbbd that counts at 50 MHz.
    assert_eq!(block(0, &[4]), bytes("06 10 04 3c 5f 7e"));
    let real = bytes("0b 11 7a 01 c8 ff f0 24 15 6b 7e");
    assert_eq!(block(1, &real[2..8]), real);
    for (answer, freq, uptime) in [
        (real[2..8].to_vec(), 50_000_000_u64, Duration::from_nanos(88_961_147_600)),
        (content(&[-6, 0, 90_000_000], None), 180_000_000, Duration::from_millis(500)),
        // As C sends a %u above 2^31: as the negative number of the same bits.
        (content(&[-6, 0, -32_768], None), 180_000_000, Duration::from_nanos(23_860_747_377)),
        (content(&[-6, -1, -1], None), 1, Duration::from_secs(u64::MAX)),
        (content(&[-6, -1, -1], None), u64::MAX, Duration::from_secs(1)),
    ] {
        let (clock, log) = (FakeClock::default(), Log::default());
        let mut firmware = Firmware { uptime: answer, ..Firmware::new(0) };
        let mut client = connect(&clock, &log, |written| spread(firmware.take(written))).unwrap();
        client.dictionary.config.insert("CLOCK_FREQ".into(), freq.into());
        assert_eq!(client.uptime().unwrap(), uptime);
        drop(client);
        assert_eq!(firmware.executed.last(), Some(&vec![4]));
    }
}

#[test]
fn an_uptime_that_breaks_off_is_none() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware { uptime: content(&[-6, 1], None), ..Firmware::new(0) };
    let mut client = connect(&clock, &log, |written| spread(firmware.take(written))).unwrap();
    assert!(matches!(client.uptime(), Err(KlipperError::Stuck { .. })));
}

fn content_of_reset() -> Vec<u8> {
    content(&[96], None)
}

#[test]
fn a_refused_reset_is_sent_again() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware::new(0);
    let mut garble = 1;
    let mut client = connect(&clock, &log, |written| {
        // The MCU answers a garbled block with what it expects.
        if written[2..] == block(written[1], &content_of_reset())[2..] && garble > 0 {
            garble -= 1;
            return soon(block(firmware.next, &[]));
        }
        spread(firmware.take(written))
    })
    .unwrap();
    client.reset().unwrap();
    drop(client);
    assert_eq!(firmware.executed.last(), Some(&content_of_reset()));
}

#[test]
fn a_device_that_leaves_at_reset_was_reset() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware::new(0);
    let mut client = connect(&clock, &log, |written| {
        if firmware.take(written).concat() == bytes("06 10 61 08 f4 7e") {
            return vec![(Duration::from_millis(5), Err(LinkError::Gone))];
        }
        firmware.next = firmware.next.wrapping_sub(1) & 15;
        spread(firmware.take(written))
    })
    .unwrap();
    client.reset().unwrap();
}

#[test]
fn silence_noise_and_a_dead_link_are_told_apart() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let silent = connect(&clock, &log, |_| Vec::new());
    assert!(matches!(silent, Err(KlipperError::Silent { after: LIMIT })));
    assert_eq!(clock.now(), LIMIT);

    let katapult = connect(&clock, &log, |_| soon(bytes("01 88 f1 00 68 95 99 03")));
    let Err(KlipperError::NotKlipper { bytes: first }) = katapult else { panic!("no Klipper") };
    assert!(first.starts_with("01 88 f1 00 68 95 99 03"), "{first}");

    let gone = connect(&clock, &log, |_| vec![(Duration::ZERO, Err(LinkError::Gone))]);
    assert!(matches!(gone, Err(KlipperError::Link(LinkError::Gone))));
}

#[test]
fn firmware_without_the_command_says_so() {
    let (clock, log) = (FakeClock::default(), Log::default());
    let mut firmware = Firmware::new(0);
    let mut client = connect(&clock, &log, |written| spread(firmware.take(written))).unwrap();
    for freq in [Some(0), None] {
        client.dictionary.config.remove("CLOCK_FREQ");
        client.dictionary.config.extend(freq.map(|freq| ("CLOCK_FREQ".into(), freq.into())));
        assert!(matches!(client.uptime(), Err(KlipperError::Missing { format: "CLOCK_FREQ" })));
    }
    client.dictionary.config.insert("CLOCK_FREQ".into(), 1.into());
    client.dictionary.commands.clear();
    assert!(matches!(client.uptime(), Err(KlipperError::Missing { format: "get_uptime" })));
    assert!(matches!(client.debug_read(2, 0), Err(KlipperError::Missing { .. })));
    assert!(matches!(client.reset(), Err(KlipperError::Missing { format: "reset" })));
}

/// Peers that answer for ever: each ends in an error, in bounded time and memory.
#[test]
fn hostile_peers_end_in_an_error() {
    let identify = |written: &[u8]| vlq::take(&written[3..]).unwrap().0;
    let mut turn = 0_u8;
    let peers: Vec<(&str, Peer)> = vec![
        ("does not end within 65536 bytes", {
            Box::new(move |w| soon(block((w[1] + 1) & 15, &content(&[0, identify(w)], Some(&[0x55; 40])))))
        }),
        ("does not end within 40 s", {
            Box::new(move |w| {
                let answer = block((w[1] + 1) & 15, &content(&[0, identify(w)], Some(&[0x55])));
                vec![(Duration::from_millis(20), Ok(answer))]
            })
        }),
        ("no answer within", Box::new(move |w| soon(block((w[1] + 1) & 15, &content(&[0, 7], Some(&[1; 40])))))),
        ("41 bytes came", {
            Box::new(move |w| soon(block((w[1] + 1) & 15, &content(&[0, identify(w)], Some(&[0; 41])))))
        }),
        ("another sequence number each time", {
            Box::new(move |_| {
                turn = (turn + 5) & 15;
                soon(block(turn, &[]))
            })
        }),
        ("bytes came without an answer", Box::new(|_| vec![(Duration::ZERO, Ok(block(3, b"\x61").repeat(20_000)))])),
        ("not Klipper", Box::new(|_| vec![(Duration::ZERO, Ok(vec![0x40; 1 << 20]))])),
        // A response that ends inside its own fields is none.
        ("no answer within", Box::new(|w| soon(block((w[1] + 1) & 15, &[0, 0x80])))),
    ];
    for (expected, device) in peers {
        let (clock, log) = (FakeClock::default(), Log::default());
        let error = connect(&clock, &log, device).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{error:?} is not {expected:?}");
        assert!(clock.now() < Duration::from_secs(60), "{expected} took {:?}", clock.now());
        assert!(logged(&log).len() < 3000, "{expected}: {} blocks", logged(&log).len());
    }
}
