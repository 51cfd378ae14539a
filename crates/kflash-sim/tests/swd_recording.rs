//! The model against recordings of a real STM32F429ZI on an ST-LINK/V2 (sigrok-dumps, swd/stlinkv2_win_utility, public
//! domain): the same transfers have to be acknowledged alike, and identities, option bytes and the core's states have to
//! be the same.
//!
//! A recording is a line for each transfer: `r` or `w`, debug or access port, address, then the data, or the answer that
//! was not OK. What flash and RAM held is left out (`?`): it is somebody's firmware, and the loader of ST's tool. So the
//! loader does not run here, and what it did to the flash is not compared.
#![cfg(feature = "swd")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use kflash::boards;
use kflash_sim::swd::{Options, Port, Refused, Target};

const F429: &str = r#"
id = "stm32f429xi"
mcu = ["stm32f429xx"]
flash-start = 0x08000000
sectors = "4*16K,1*64K,7*128K,4*16K,1*64K,7*128K"
ram = [{ start = 0x20000000, size = 0x30000 }]
program-unit = 4
flash-size-register = 0x1FFF7A22
uid-register = 0x1FFF7A10
sources = ["RM0090"]
"#;

/// `ldr r0, [pc, #4]; adds r1, #1; str r1, [r0]; b .-4`, so that the core has something to do.
const PROGRAM: [u8; 20] = [
    0x00, 0x10, 0x00, 0x20, 0x09, 0x00, 0x00, 0x08, 0x01, 0x48, 0x01, 0x31, 0x01, 0x60, 0xfc, 0xe7, 0x00, 0x20, 0x00,
    0x20,
];

fn recording(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

/// How a replay went.
#[derive(Debug, Default)]
struct Outcome {
    transfers: usize,
    waits: usize,
    /// Data that was compared.
    compared: usize,
    /// Answers that are not the recorded ones, in words.
    answers: Vec<String>,
    /// Data that is not the recorded one: where it came from, recorded, modelled.
    data: BTreeSet<(String, u32, u32)>,
}

/// A debugger's session before the recorded one: the chip was looked at, and DBGMCU_APB1_FZ set.
fn connected(dhcsr: u32, recording: &str) -> String {
    let mut before =
        String::from("line-reset\njtag-to-swd\nline-reset\nrd0 2ba01477\nwd4 50000000\nwd8 0\nwa0 23000002\n");
    for (addr, value) in [(0xe004_2008_u32, 0x1000), (0xe000_edf0, dhcsr)] {
        writeln!(before, "wa4 {addr:08x}\nwac {value:08x}\nrd4 f0000040").unwrap();
    }
    before + "wa4 e000edf0\nrac WAIT\nrac ?\nrdc ?\nrecorded\n" + recording
}

/// Replays the host's side on a chip that runs a program.
fn replay(recording: &str) -> Outcome {
    let chip = boards::chip(Path::new("stm32f429xi.toml"), F429.as_bytes()).unwrap();
    let mut target = Target::new(&chip, &[(0x0800_0000, PROGRAM.to_vec())], Options::default()).unwrap();
    let mut outcome = Outcome::default();
    // What the next result of an access port's read is: where it comes from, and which of its bits were asked for.
    let (mut select, mut csw, mut tar) = (0, 0x2300_0002_u32, 0);
    let mut posted = (String::from("before any read"), 0);
    for (number, line) in recording.lines().enumerate() {
        target.run().unwrap();
        match line {
            "line-reset" => {
                target.swj(56, &[0xff; 7]);
                target.swj(2, &[0]);
                continue;
            }
            "jtag-to-swd" => {
                target.swj(16, &[0x9e, 0xe7]);
                continue;
            }
            "recorded" => {
                posted = ("before any read".into(), 0);
                continue;
            }
            _ => {}
        }
        let (transfer, recorded) = line.split_once(' ').unwrap();
        let (kind, addr) = transfer.split_at(2);
        let addr = u8::from_str_radix(addr, 16).unwrap();
        let port = if kind.ends_with('d') { Port::Debug } else { Port::Access };
        let value = u32::from_str_radix(recorded, 16).ok();
        let read = kind.starts_with('r');
        let answer =
            if read { target.read(port, addr) } else { target.write(port, addr, value.unwrap_or(0)).map(|()| 0) };
        outcome.transfers += 1;
        let expected = match recorded {
            "WAIT" => Err(Refused::Wait),
            "FAULT" => Err(Refused::Fault),
            _ => Ok(()),
        };
        outcome.waits += usize::from(expected == Err(Refused::Wait));
        if answer.map(|_| ()) != expected {
            outcome.answers.push(format!("line {}: {line}: {answer:?}", number + 1));
            continue;
        }
        let Ok(answer) = answer else { continue };
        if !read {
            match (port, addr) {
                (Port::Debug, 8) => select = value.unwrap_or(0),
                (Port::Access, 0) if select & 0xf0 == 0 => csw = value.unwrap_or(0),
                (Port::Access, 4) if select & 0xf0 == 0 => tar = value.unwrap_or(0),
                _ => {}
            }
            continue;
        }
        let register = (select & 0xf0) as u8 | addr;
        let from = match register {
            0x0c => (format!("{tar:08x}"), lanes(csw, tar)),
            0x10..=0x1c => (format!("{:08x}", tar & !0xf | u32::from(register & 0xc)), u32::MAX),
            _ => (format!("ap {register:02x}"), u32::MAX),
        };
        let (from, mask) = match (port, addr) {
            (Port::Access, _) => std::mem::replace(&mut posted, from),
            (Port::Debug, 0xc) => posted.clone(),
            (Port::Debug, _) => (format!("dp {addr:x}"), u32::MAX),
        };
        if let Some(value) = value {
            outcome.compared += 1;
            if (value ^ answer) & mask != 0 {
                outcome.data.insert((from, value, answer));
            }
        }
    }
    outcome
}

/// The bits of a word in which an access brings its data: the others keep what the bus held before.
fn lanes(csw: u32, tar: u32) -> u32 {
    match csw & 7 {
        0 => 0xff << (8 * (tar & 3)),
        1 => 0xffff << (8 * (tar & 2)),
        _ => u32::MAX,
    }
}

/// What is not alike, but for reads of `except`.
fn unlike(outcome: &Outcome, except: &[&str]) -> Vec<(String, u32, u32)> {
    outcome.data.iter().filter(|(from, ..)| !except.contains(&from.as_str())).cloned().collect()
}

/// The system memory, which is not modelled.
const SYSTEM_MEMORY: [&str; 3] = ["1fff7a24", "1fff7a25", "1fff7bf0"];

#[test]
fn connecting() {
    let bytes = include_bytes!("../../../tests/data/silicon/stm32f429_swd_connect.txt.gz");
    let outcome = replay(&connected(0xa05f_0001, &recording(bytes)));
    assert_eq!(outcome.answers, [""; 0]);
    assert_eq!(unlike(&outcome, &SYSTEM_MEMORY), []);
    assert!(outcome.transfers > 11_148 && outcome.waits > 1_266 && outcome.compared > 110, "{outcome:?}");
}

#[test]
fn reading_the_option_bytes() {
    let bytes = include_bytes!("../../../tests/data/silicon/stm32f429_swd_option_bytes.txt.gz");
    let outcome = replay(&connected(0xa05f_0003, &recording(bytes)));
    assert_eq!(outcome.answers, [""; 0]);
    assert_eq!(unlike(&outcome, &SYSTEM_MEMORY), []);
    assert!(outcome.transfers > 1_632 && outcome.waits > 408 && outcome.compared > 400, "{outcome:?}");
}

#[test]
fn programming() {
    let bytes = include_bytes!("../../../tests/data/silicon/stm32f429_swd_program.txt.gz");
    let outcome = replay(&connected(0xa05f_0001, &recording(bytes)));
    assert_eq!(outcome.answers, [""; 0]);
    assert!(outcome.transfers > 11_315 && outcome.waits > 1_706, "{outcome:?}");
    // The core's state and registers are what the loader made of them.
    let of_the_loader = ["e000edf0", "e000edf8"];
    assert_eq!(unlike(&outcome, &[&SYSTEM_MEMORY[..], &of_the_loader].concat()), []);
}
