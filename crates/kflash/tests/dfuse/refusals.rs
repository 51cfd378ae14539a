//! What the driver refuses, and what it says when the device does.

use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::clock::Clock;
use kflash::proto::dfuse::DfuSe;
use kflash::proto::{Bootloader, ProtoError};

use super::chip::{Chip, Kind, Reply, configuration, plug, status, string_descriptor};

const F446: &str = "@Internal Flash  /0x08000000/04*016Kg,01*064Kg,03*128Kg";

type Step = fn(&mut DfuSe, FlashAddr) -> Result<(), ProtoError>;

fn range(start: u32, size: u32) -> FlashRange {
    FlashRange::new(FlashAddr(start), FlashSize(size)).unwrap()
}

fn connect_error(chip: Chip) -> String {
    let (_, clock, link) = plug(chip);
    DfuSe::connect(link, clock.as_ref(), &[]).err().unwrap().to_string()
}

#[test]
fn read_protection_is_named_wherever_it_shows() {
    let protected = [status(0, 0, 4), status(0x0b, 0, 10)];
    let at = FlashAddr(0x0800_8000);
    let erase: Step = |driver, at| driver.erase(FlashRange { start: at, size: FlashSize(0x4000) });
    let write: Step = |driver, at| driver.write(at, &[0; 100], &mut |_| ());
    let read: Step = |driver, at| driver.read(FlashRange { start: at, size: FlashSize(100) }, &mut |_| ()).map(drop);
    for (kind, what, step) in [
        (Kind::Erase, "erase", erase),
        (Kind::Pointer, "write", write),
        (Kind::Data, "write", write),
        (Kind::Pointer, "read", read),
        (Kind::Upload, "read", read),
    ] {
        let mut chip = Chip::new(F446, 2048);
        chip.answer(kind, &protected);
        if kind == Kind::Upload {
            chip.answer(kind, &protected[1..]);
            chip.requests.insert(kind, Reply::Stall);
        }
        let (chip, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
        let error = step(&mut driver, at).unwrap_err();
        assert!(matches!(error, ProtoError::Status { protected: true, .. }), "{kind:?}: {error:?}");
        assert_eq!(error.to_string(), format!("cannot {what} 0x08008000: device is read-protected (errVENDOR)"));
        // What follows an error clears it first.
        driver.finish().unwrap();
        assert_eq!(chip.lock().unwrap().breaches, Vec::<String>::new());
    }
}

#[test]
fn other_status_codes_are_no_protection() {
    let mut chip = Chip::new(F446, 2048);
    chip.answer(Kind::Data, &[status(0, 104, 4), status(0x03, 0, 10)]);
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let error = driver.write(FlashAddr(0x0800_0000), &[0; 5000], &mut |_| ()).unwrap_err();
    assert!(matches!(error, ProtoError::Status { protected: false, .. }));
    assert_eq!(error.to_string(), "cannot write 0x08000000: device cannot write memory (errWRITE)");
}

#[test]
fn a_stalled_download_is_explained_by_the_state() {
    let mut chip = Chip::new(F446, 2048);
    chip.requests.insert(Kind::Data, Reply::Stall);
    chip.answer(Kind::Data, &[status(0x0f, 0, 10)]);
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let error = driver.write(FlashAddr(0x0800_0000), &[0; 100], &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot write 0x08000000: device stalled an unexpected request (errSTALLEDPKT)");
}

#[test]
fn what_the_layout_does_not_allow_is_never_sent() {
    let layout = "@Internal Flash   /0x08000000/02*04Ka,02*04Kg,01*04Ke";
    let (chip, clock, link) = plug(Chip::new(layout, 2048));
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let before = chip.lock().unwrap().transfers;
    let refused = |result: Result<(), ProtoError>, text: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, ProtoError::Unsupported { .. }), "{error:?}");
        assert_eq!(error.to_string(), text);
    };
    let no = |_: u32| panic!("progress");
    refused(
        driver.erase(range(0x0800_2000, 0x2000)),
        "cannot erase 0x08002000: 0x08002000..0x08004000 is not one sector of the device",
    );
    refused(
        driver.erase(range(0x0800_2800, 0x1000)),
        "cannot erase 0x08002800: 0x08002800..0x08003800 is not one sector of the device",
    );
    refused(
        driver.erase(range(0x0800_0000, 0x1000)),
        "cannot erase 0x08000000: device does not allow to erase 0x08000000..0x08001000",
    );
    refused(
        driver.erase(range(0x0800_4000, 0x1000)),
        "cannot erase 0x08004000: device does not allow to erase 0x08004000..0x08005000",
    );
    refused(
        driver.write(FlashAddr(0x0800_1ff0), &[0; 64], &mut { no }),
        "cannot write 0x08001ff0: device does not allow to write 0x08001000..0x08002000",
    );
    refused(
        driver.write(FlashAddr(0x0800_4ff0), &[0; 64], &mut { no }),
        "cannot write 0x08004ff0: device has no flash at 0x08005000",
    );
    refused(
        driver.write(FlashAddr(0xffff_fff0), &[0; 64], &mut { no }),
        "cannot write 0xfffffff0: data passes the end of the address space",
    );
    refused(
        driver.read(range(0x0800_4000, 0x1001), &mut { no }).map(drop),
        "cannot read 0x08004000: device has no flash at 0x08005000",
    );
    refused(driver.start(FlashAddr(0x2000_0000)), "cannot start 0x20000000: device has no flash there");
    assert_eq!(chip.lock().unwrap().transfers, before);
}

#[test]
fn an_upload_that_ends_early_is_an_error() {
    let mut chip = Chip::new(F446, 2048);
    chip.configuration = configuration(1, 2048);
    let (chip, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    chip.lock().unwrap().upload_most = Some(100);
    let error = driver.read(range(0x0800_0000, 4096), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read 0x08000000: device sent 100 bytes of 2048");
}

#[test]
fn a_device_that_cannot_upload_is_not_asked_to() {
    let mut chip = Chip::new(F446, 2048);
    let attributes = chip.configuration.len() - 7;
    chip.configuration[attributes] = 0x09;
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let error = driver.read(range(0x0800_0000, 4096), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "cannot read 0x08000000: device cannot upload");
}

#[test]
fn the_first_of_three_alternates_of_one_name_is_taken() {
    let mut chip = Chip::new("", 1024);
    chip.configuration = configuration(3, 1024);
    for string in 4..7 {
        chip.strings.insert(string, string_descriptor("@Internal Flash   /0x08000000/64*02Kg"));
    }
    let (chip, clock, link) = plug(chip);
    let driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    assert_eq!(chip.lock().unwrap().alternate, Some(0));
    assert_eq!(driver.info().sectors.len(), 64);
}

#[test]
fn the_alternate_is_found_by_its_name() {
    let mut chip = Chip::new("@Option Bytes  /0x1FFFC000/01*016 e", 2048);
    chip.configuration = configuration(2, 2048);
    chip.strings.insert(5, string_descriptor(F446));
    let (chip, clock, link) = plug(chip);
    DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    assert_eq!(chip.lock().unwrap().alternate, Some(1));
}

#[test]
fn a_single_alternate_need_not_be_selected() {
    let mut chip = Chip::new(F446, 2048);
    chip.requests.insert(Kind::Open, Reply::Stall);
    let (_, clock, link) = plug(chip);
    DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
}

#[test]
fn devices_that_are_no_dfuse_bootloader_are_named() {
    let mut chip = Chip::new(F446, 2048);
    chip.configuration.clear();
    assert_eq!(connect_error(chip), "cannot open the DFU bootloader: device has no interface in DFU mode");
    for size in [0, 100, 4128, 65535] {
        let text = format!("cannot open the DFU bootloader: wTransferSize is {size}");
        assert_eq!(connect_error(Chip::new(F446, size)), text);
    }
    let text = "cannot open the DFU bootloader: no alternate is named Internal Flash, only [\"Smoothie\\u{1b}\"]";
    assert_eq!(connect_error(Chip::new("Smoothie\u{1b}", 2048)), text);
    let text = "cannot open the DFU bootloader: \"@Internal Flash\" is no memory layout: it lists no sectors";
    assert_eq!(connect_error(Chip::new("@Internal Flash", 2048)), text);
    let mut chip = Chip::new(F446, 2048);
    chip.strings.clear();
    assert_eq!(
        connect_error(chip),
        "cannot open the DFU bootloader: no alternate is named Internal Flash, only [\"\"]"
    );
}

#[test]
fn states_without_a_way_out_are_named() {
    for (state, text) in [
        (0, "device runs its application (appIDLE)"),
        (1, "device runs its application (appDETACH)"),
        (8, "device waits for a reset (dfuMANIFEST-WAIT-RESET)"),
    ] {
        let mut chip = Chip::new(F446, 2048);
        chip.answer(Kind::Open, &[status(0, 0, state)]);
        assert_eq!(connect_error(chip), format!("cannot open the DFU bootloader: {text}"));
    }
    let mut chip = Chip::new(F446, 2048);
    chip.answer(Kind::Open, &[status(3, 0, 10)]);
    chip.answer(Kind::Clear, &[status(3, 0, 10)]);
    assert_eq!(connect_error(chip), "cannot open the DFU bootloader: device cannot write memory (errWRITE)");
}

#[test]
fn states_with_a_way_out_lead_to_idle() {
    for state in [3, 4, 5, 6, 7, 9, 10] {
        let mut chip = Chip::new(F446, 2048);
        chip.answer(Kind::Open, &[status(0, 10, state), status(0, 0, if state < 5 { 5 } else { 2 })]);
        if matches!(state, 5 | 9 | 10) {
            chip.answer(Kind::Open, &[status(0, 10, state)]);
        }
        let (chip, clock, link) = plug(chip);
        DfuSe::connect(link, clock.as_ref(), &[]).unwrap_or_else(|error| panic!("{state}: {error}"));
        assert_eq!(chip.lock().unwrap().breaches, Vec::<String>::new());
    }
}

#[test]
fn a_busy_device_is_not_waited_for_without_end() {
    // Zero poll time-outs a hundred times; 4.6 hours once; an hour each time.
    for (poll, most) in [(0, 6), (0x00ff_ffff, 46), (3_600_000, 46)] {
        let mut chip = Chip::new(F446, 2048);
        chip.answer(Kind::Erase, &[status(0, poll, 4)]);
        let (chip, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
        let before = chip.lock().unwrap().transfers;
        let error = driver.erase(range(0x0800_0000, 0x4000)).unwrap_err();
        assert!(matches!(error, ProtoError::Stuck { .. }), "{error}");
        assert!(clock.now() < Duration::from_secs(most), "{poll}: {:?}", clock.now());
        assert!(chip.lock().unwrap().transfers - before <= 102);
    }
}

#[test]
fn every_way_to_leave_is_a_success() {
    let leaves: [(&[Reply], Option<Reply>); 8] = [
        (&[status(0, 1, 7)], None),
        (&[status(0, 1, 8)], None),
        (&[status(0, 104, 4), status(0, 0, 7)], None),
        (&[Reply::Stall], None),
        (&[Reply::Gone], None),
        (&[Reply::TimedOut], None),
        (&[], Some(Reply::Gone)),
        (&[], Some(Reply::TimedOut)),
    ];
    for (answers, request) in leaves {
        let mut chip = Chip::new(F446, 2048);
        chip.answer(Kind::Leave, answers);
        chip.requests.extend(request.map(|reply| (Kind::Leave, reply)));
        let (chip, clock, link) = plug(chip);
        let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
        driver.start(FlashAddr(0x0800_8000)).unwrap_or_else(|error| panic!("{answers:?} {request:?}: {error}"));
        assert_eq!(chip.lock().unwrap().pointers, [0x0800_8000]);
        assert_eq!(chip.lock().unwrap().breaches, Vec::<String>::new());
    }
}

#[test]
fn a_refusal_to_leave_is_an_error() {
    let mut chip = Chip::new(F446, 2048);
    chip.requests.insert(Kind::Leave, Reply::Stall);
    chip.answer(Kind::Leave, &[status(0x08, 0, 10)]);
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let error = driver.start(FlashAddr(0x0800_8000)).unwrap_err();
    assert_eq!(error.to_string(), "cannot start 0x08008000: address is out of range (errADDRESS)");
    // A device that is lost before the leave did not leave.
    let mut chip = Chip::new(F446, 2048);
    chip.answer(Kind::Pointer, &[Reply::Gone]);
    let (_, clock, link) = plug(chip);
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    assert_eq!(
        driver.start(FlashAddr(0x0800_8000)).unwrap_err().to_string(),
        "cannot start 0x08008000: device is gone"
    );
}

#[test]
fn the_last_block_is_filled_up_to_a_program_unit() {
    let (chip, clock, link) = plug(Chip::new(F446, 2048));
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let mut steps = Vec::new();
    driver.write(FlashAddr(0x0800_8000), &[0x55; 2048 + 33], &mut |bytes| steps.push(bytes)).unwrap();
    let chip = chip.lock().unwrap();
    assert_eq!(steps, [2048, 33]);
    assert_eq!(chip.memory.len(), 2048 + 64);
    assert_eq!(chip.bytes(0x0800_8000 + 2048, 64), [vec![0x55; 33], vec![0xff; 31]].concat());
    assert_eq!(chip.count(Kind::Pointer), 1);
}

#[test]
fn block_numbers_do_not_wrap() {
    let (chip, clock, link) = plug(Chip::new("@Internal Flash  /0x08000000/32*128Kg", 32));
    let mut driver = DfuSe::connect(link, clock.as_ref(), &[]).unwrap();
    let data: Vec<u8> = (0..65_535_u32 * 32).map(|at| (at / 32) as u8).collect();
    driver.write(FlashAddr(0x0800_0000), &data, &mut |_| ()).unwrap();
    assert_eq!(driver.read(range(0x0800_0000, data.len() as u32), &mut |_| ()).unwrap(), data);
    let chip = chip.lock().unwrap();
    let second = 0x0800_0000 + 65_534 * 32;
    assert_eq!(chip.pointers, [0x0800_0000, second, 0x0800_0000, second]);
    assert_eq!(chip.breaches, Vec::<String>::new());
}
