//! Every sequence of answers in `dfu_status_sequences.jsonl`, under a whole flash by the driver.

use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::chip::DfuQuirk;
use kflash::clock::Clock;
use kflash::proto::dfuse::DfuSe;
use kflash::proto::{Bootloader, ProtoError};
use serde_json::Value;

use super::chip::{Chip, Kind, Reply, held, plug, status};

/// A flash of 3000 bytes into one sector at `start`, read back and started.
fn flash(driver: &mut DfuSe, start: u32, sector: u32) -> Result<Vec<u8>, ProtoError> {
    let start = FlashAddr(start);
    let data: Vec<u8> = (0..3000_u32).map(|at| (at * 13) as u8).collect();
    for at in (start.0..start.0 + 3000).step_by(sector as usize) {
        driver.erase(FlashRange::new(FlashAddr(at), FlashSize(sector)).unwrap())?;
    }
    driver.write(start, &data, &mut |_| ())?;
    driver.finish()?;
    let read = driver.read(FlashRange::new(start, FlashSize(3000)).unwrap(), &mut |_| ())?;
    assert_eq!(read, data);
    driver.start(start)?;
    Ok(data)
}

/// What the notes of a row say of the time for which an answer is held, in milliseconds.
fn hold(family: &str, after: &str, index: usize) -> u64 {
    match (family, after, index) {
        ("F745", "41 addr (32K sector)", 1) => 250,
        ("H743 rev V", "41 addr, sectors 0..7 (128K)", 0) => 900,
        ("H743 rev V", "41 addr, sectors 8..15", 0) => 16,
        _ => 0,
    }
}

fn replies(row: &Value, family: &str, after: &str) -> Vec<Reply> {
    let reply = |(index, one): (usize, &Value)| match one {
        Value::String(stall) if stall == "STALL" => Reply::Stall,
        Value::Array(three) => {
            let number = |at: usize| three[at].as_u64().unwrap_or(0) as u32;
            held(number(0) as u8, number(1), number(2) as u8, hold(family, after, index))
        }
        other => panic!("{other}"),
    };
    row["replies"].as_array().unwrap().iter().enumerate().map(reply).collect()
}

#[test]
fn every_recorded_sequence_ends_in_a_whole_flash() {
    let rows = include_str!("../../../../tests/data/silicon/dfu_status_sequences.jsonl").lines();
    let mut seen = 0;
    for line in rows {
        let row: Value = serde_json::from_str(line).unwrap();
        let (family, after) = (row["family"].as_str().unwrap(), row["after"].as_str().unwrap());
        let mut replies = replies(&row, family, after);
        let (layout, transfer_size, sector) = match family {
            "F042" => ("@Internal Flash  /0x08000000/032*0001Kg", 2048, 1024),
            "F469" => ("@Internal Flash  /0x08000000/04*016Kg,01*064Kg,07*128Kg", 2048, 16384),
            "F745" => ("@Internal Flash  /0x08000000/04*032Kg,01*128Kg,03*256Kg", 2048, 32768),
            "H743 rev V" | "H743" => ("@Internal Flash   /0x08000000/16*128Kg", 1024, 131_072),
            "G0B1" => ("@Internal Flash   /0x08000000/64*02Kg", 1024, 2048),
            "GD32VF103" => ("@Internal Flash  /0x08000000/512*002Kg", 2048, 2048),
            other => panic!("{other}"),
        };
        let mut chip = Chip::new(layout, transfer_size);
        let mut start = 0x0800_0000;
        let mut quirks = vec![];
        let kind = match after {
            "open" => Kind::Open,
            "ABORT from DNLOAD-IDLE" => Kind::Abort,
            "21 addr" => Kind::Pointer,
            "erase / set pointer" => {
                chip.answer(Kind::Erase, &replies);
                Kind::Pointer
            }
            "DNLOAD length 0 (leave)" => Kind::Leave,
            after if after.starts_with("21 app") => {
                replies.push(Reply::Gone);
                Kind::Leave
            }
            after if after.starts_with("data") => {
                // The row of the GD32 ends at the first answer.
                if replies.len() == 1 {
                    replies.push(status(0, 0, 5));
                }
                Kind::Data
            }
            "41 addr, sectors 8..15" => {
                start = 0x0810_0000;
                quirks.push(DfuQuirk::EndlessBusy);
                chip.answers.insert(Kind::Clear, [vec![status(14, 1000, 10)], vec![status(0, 0, 2)]].into());
                Kind::Erase
            }
            after if after.starts_with("41 addr") => Kind::Erase,
            // The chip of these tests takes any download while it is busy for a breach: here a run was killed in the
            // middle of an erase, and the next one has to wait.
            "any DNLOAD while DNBUSY" => {
                replies = vec![held(0, 1000, 4, 0), held(0, 1000, 4, 20), status(0, 0, 5)];
                Kind::Open
            }
            other => panic!("{other}"),
        };
        let count = replies.len();
        chip.answer(kind, &replies);
        let (chip, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &quirks).unwrap();
        let data = flash(&mut driver, start, sector).unwrap_or_else(|error| panic!("{line}: {error}"));
        let chip = chip.lock().unwrap();
        assert_eq!(chip.breaches, Vec::<String>::new(), "{line}");
        assert_eq!(chip.bytes(start, data.len()), data, "{line}");
        assert!(chip.count(kind) > 0, "{line}");
        assert!(clock.now() < Duration::from_secs(5), "{line}: {:?}", clock.now());
        assert!(count > 0);
        seen += 1;
    }
    assert_eq!(seen, 16);
}

#[test]
fn the_endless_busy_of_the_h743_is_left_by_two_clears_after_two_seconds() {
    let mut chip = Chip::new("@Internal Flash   /0x08000000/16*128Kg", 1024);
    chip.answer(Kind::Erase, &[status(0, 1000, 4)]);
    chip.answers.insert(Kind::Clear, [vec![status(14, 1000, 10)], vec![status(0, 0, 2)]].into());
    let (chip, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[DfuQuirk::EndlessBusy]).unwrap();
    driver.erase(FlashRange::new(FlashAddr(0x0810_0000), FlashSize(0x2_0000)).unwrap()).unwrap();
    assert_eq!(chip.lock().unwrap().count(Kind::Clear), 2);
    assert_eq!(clock.now(), Duration::from_secs(2));

    // The quirk is about the second bank alone.
    let error = driver.erase(FlashRange::new(FlashAddr(0x0800_0000), FlashSize(0x2_0000)).unwrap()).unwrap_err();
    assert!(matches!(error, ProtoError::Stuck { .. }), "{error}");
}

#[test]
fn a_run_that_was_killed_in_the_endless_busy_is_taken_up_again() {
    let mut chip = Chip::new("@Internal Flash   /0x08000000/16*128Kg", 1024);
    chip.answer(Kind::Open, &[status(0, 1000, 4)]);
    chip.answers.insert(Kind::Clear, [vec![status(14, 1000, 10)], vec![status(0, 0, 2)]].into());
    let (chip, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[DfuQuirk::EndlessBusy]).unwrap();
    flash(&mut driver, 0x0800_0000, 0x2_0000).unwrap();
    assert_eq!(chip.lock().unwrap().breaches, Vec::<String>::new());
}

#[test]
fn an_endless_busy_without_the_quirk_ends_in_an_error() {
    let mut chip = Chip::new("@Internal Flash   /0x08000000/16*128Kg", 1024);
    chip.answer(Kind::Erase, &[status(0, 1000, 4)]);
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let error = driver.erase(FlashRange::new(FlashAddr(0x0810_0000), FlashSize(0x2_0000)).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "cannot erase 0x08100000: not done after 40 s");
}

#[test]
fn an_answer_that_is_held_for_almost_twenty_seconds_is_waited_for() {
    for (first, second) in [(19_900, 0), (0, 19_900)] {
        let mut chip = Chip::new("@Internal Flash  /0x08000000/04*032Kg,01*128Kg,03*256Kg", 2048);
        chip.answer(Kind::Erase, &[held(0, 100, 4, first), held(0, 0, 5, second)]);
        let (_, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
        driver.erase(FlashRange::new(FlashAddr(0x0804_0000), FlashSize(0x4_0000)).unwrap()).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(20));
    }
}

#[test]
fn three_stalled_polls_are_forgiven_and_a_fourth_is_not() {
    for (stalls, forgiven) in [(3, true), (4, false)] {
        let mut answers = vec![status(0, 50, 4)];
        answers.extend([Reply::Stall].repeat(stalls));
        answers.push(status(0, 0, 5));
        let mut chip = Chip::new("@Internal Flash  /0x08000000/032*0001Kg", 2048);
        chip.answer(Kind::Erase, &answers);
        let (_, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
        let result = driver.erase(FlashRange::new(FlashAddr(0x0800_0000), FlashSize(1024)).unwrap());
        assert_eq!(result.is_ok(), forgiven);
        // The last time named is waited for again each time.
        assert_eq!(clock.now(), Duration::from_millis(200));
    }
}

#[test]
fn a_device_that_names_no_time_is_asked_again_at_once_and_then_later_and_later() {
    let (_, clock, link) = plug(Chip::new("@Internal Flash  /0x08000000/032*0001Kg", 2048));
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    flash(&mut driver, 0x0800_0000, 1024).unwrap();
    assert_eq!(clock.now(), Duration::ZERO);

    for (busy, finished) in [(100, true), (101, false)] {
        let mut chip = Chip::new("@Internal Flash  /0x08000000/032*0001Kg", 2048);
        chip.answer(Kind::Erase, &[vec![status(0, 0, 4); busy], vec![status(0, 0, 5)]].concat());
        let (_, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
        let result = driver.erase(FlashRange::new(FlashAddr(0x0800_0000), FlashSize(1024)).unwrap());
        assert_eq!(result.is_ok(), finished);
        assert_eq!(clock.now(), Duration::from_millis(4950));
    }
}
