//! The recorded session of a real STM32F042: its own answers and times, under the driver.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::clock::Clock;
use kflash::proto::dfuse::DfuSe;
use kflash::proto::{Bootloader, ProtoError};
use serde_json::Value;

use super::chip::{Chip, Kind, Reply, plug};

/// The recording, taken apart.
struct Recording {
    /// Answers to `DFU_GETSTATUS` after each request of a kind, in the order of the recording.
    answers: BTreeMap<Kind, VecDeque<Vec<Reply>>>,
    strings: BTreeMap<u8, Vec<u8>>,
    erased: BTreeSet<u32>,
    /// Address and length of each data block.
    blocks: Vec<(u32, usize)>,
    started: u32,
    duration: Duration,
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn recording() -> Recording {
    let text = include_str!("../../../../tests/data/silicon/stm32f042_rom_dfu_session.jsonl");
    let transfers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut all = Recording {
        answers: BTreeMap::new(),
        strings: BTreeMap::new(),
        erased: BTreeSet::new(),
        blocks: Vec::new(),
        started: 0,
        duration: Duration::ZERO,
    };
    let (mut kind, mut pointer) = (Kind::Open, 0);
    // Address 28 is the bootloader; what follows is the application.
    let rom: Vec<_> = transfers.iter().filter(|one| one["addr"] == 28).collect();
    let number = |one: &Value, name: &str| one[name].as_u64().unwrap();
    all.duration = Duration::from_micros(number(rom[rom.len() - 1], "t_us") - number(rom[0], "t_us"));
    for one in rom {
        let data = one["data"].as_str().map(hex).unwrap_or_default();
        let address = || u32::from_le_bytes([data[1], data[2], data[3], data[4]]);
        let length = number(one, "len") as usize;
        let request = (one["bmRequestType"].as_str().unwrap(), one["bRequest"].as_str().unwrap());
        kind = match (request, number(one, "wValue"), length) {
            (("80", "06"), index, _) => {
                all.strings.insert(index.to_le_bytes()[0], data);
                continue;
            }
            (("a1", "03"), ..) => {
                let hold = Duration::from_micros(number(one, "dur_us"));
                let poll = u32::from_le_bytes([data[1], data[2], data[3], 0]);
                let reply = Reply::Status(data[0], poll, data[4], hold);
                all.answers.get_mut(&kind).unwrap().back_mut().unwrap().push(reply);
                continue;
            }
            (("01", "0b"), ..) => Kind::Open,
            (("21", "04"), ..) => Kind::Clear,
            (("21", "06"), ..) => Kind::Abort,
            (("21", "01"), 0, 5) if data[0] == 0x21 => {
                pointer = address();
                Kind::Pointer
            }
            (("21", "01"), 0, 5) => {
                all.erased.insert(address());
                Kind::Erase
            }
            (("21", "01"), 2, 0) => {
                all.started = pointer;
                Kind::Leave
            }
            (("21", "01"), 2, length) => {
                all.blocks.push((pointer, length));
                Kind::Data
            }
            other => panic!("{other:?}"),
        };
        all.answers.entry(kind).or_default().push_back(Vec::new());
    }
    all
}

#[test]
fn the_driver_flashes_the_recorded_f042() {
    let recording = recording();
    // What dfu-util wrote: two files, the second is the application.
    let total = |from: u32, to: u32| -> usize {
        recording.blocks.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, length)| length).sum()
    };
    let files = [(0x0800_0000, total(0x0800_0000, 0x0800_2000)), (0x0800_2000, total(0x0800_2000, 0x0801_0000))];
    assert_eq!(files, [(0x0800_0000, 6548), (0x0800_2000, 9188)]);
    assert_eq!(recording.started, 0x0800_2000);

    let mut chip = Chip::new("", 2048);
    chip.strings = recording.strings.clone();
    chip.answers.extend(recording.answers.clone());
    // The last answer came 20 us before the device left the bus.
    chip.answers.get_mut(&Kind::Leave).unwrap()[0].push(Reply::Gone);
    let (chip, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    // It sat in dfuERROR with errFIRMWARE, and was cleared once.
    assert_eq!(chip.lock().unwrap().count(Kind::Clear), 1);
    assert_eq!(driver.info().version.as_deref(), Some("bcdDevice 22.00"));
    assert_eq!(driver.info().block_size, FlashSize(2048));
    let sectors: Vec<FlashRange> = driver.info().sectors.iter().map(|sector| sector.range).collect();
    assert_eq!(sectors.len(), 32);

    for (start, length) in files {
        let data: Vec<u8> = (0..length).map(|at| (at * 7 + at / 256) as u8).collect();
        let range = FlashRange::new(FlashAddr(start), FlashSize(length as u32)).unwrap();
        for sector in sectors.iter().filter(|sector| sector.overlaps(range)) {
            driver.erase(*sector).unwrap();
        }
        let mut done = 0;
        driver.write(range.start, &data, &mut |bytes| done += bytes).unwrap();
        assert_eq!(done as usize, length);
        assert_eq!(chip.lock().unwrap().bytes(start, length), data);
    }
    driver.finish().unwrap();
    driver.start(FlashAddr(recording.started)).unwrap();

    let chip = chip.lock().unwrap();
    assert_eq!(chip.breaches, Vec::<String>::new());
    assert_eq!(chip.erased.iter().copied().collect::<BTreeSet<_>>(), recording.erased);
    assert_eq!(chip.pointers.last(), Some(&recording.started));
    // dfu-util sets the pointer for each block and sleeps on the poll time-out of dfuDNLOAD-IDLE.
    assert!(clock.now() < recording.duration / 2, "{:?} of {:?}", clock.now(), recording.duration);
}

#[test]
fn a_chip_that_leaves_before_it_is_told_to_is_a_failure() {
    let mut chip = Chip::new("@Internal Flash  /0x08000000/032*0001Kg", 2048);
    chip.answer(Kind::Data, &[Reply::Gone]);
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let error = driver.write(FlashAddr(0x0800_0000), &[0; 64], &mut |_| ()).unwrap_err();
    assert!(matches!(error, ProtoError::Link { .. }));
    assert_eq!(error.to_string(), "cannot write 0x08000000: device is gone");
}
