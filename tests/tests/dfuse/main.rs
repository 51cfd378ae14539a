//! The DfuSe driver flashes the model of ST's bootloader, in each of the ways that chips differ.

#![expect(clippy::unwrap_used, reason = "tests")]

mod board_link;

use std::time::Duration;

use board_link::Bench;
use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::boards;
use kflash::chip::{Chip, DfuQuirk};
use kflash::clock::Clock;
use kflash::proto::dfuse::DfuSe;
use kflash::proto::{Bootloader, ProtoError};
use kflash_sim::board::{Contents, Options, Running, VirtualBoard};
use kflash_sim::dfu_variant::{DfuVariant, Holds, Leave, Protection};
use kflash_sim::firmware::TestImage;

const UID: [u8; 12] = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
const START: u32 = 0x0800_0000;

fn chip(id: &str) -> Chip {
    boards::builtin_chips().unwrap().into_iter().find(|chip| chip.id == id).unwrap()
}

fn image(chip: &Chip) -> Vec<u8> {
    let stack_pointer = chip.ram[0].end().0;
    TestImage { stack_pointer, ..TestImage::klipper(&chip.mcu[0], START) }.size(20_001).build()
}

/// A board with this chip and nothing in its flash, in its ROM bootloader.
fn bench(chip: &Chip, options: Options) -> Bench {
    let (profile, _) = boards::find("btt-octopus-v1.1-f446").unwrap();
    let contents =
        Contents { bootloader: "none".into(), application: None, known: vec![(START, image(chip))], uid: UID };
    let mut board = VirtualBoard::with_options(&profile, chip, contents, options).unwrap();
    board.set_boot0(true);
    let bench = Bench::new(board);
    assert_eq!(bench.with(|board, _| board.running()), Running::Rom);
    bench
}

fn connect<'a>(bench: &'a Bench, chip: &Chip) -> DfuSe<'a> {
    DfuSe::connect(Box::new(bench.link()), bench, &chip.rom_dfu.as_ref().unwrap().quirks).unwrap()
}

/// Erases, writes and reads back `data`.
fn write(driver: &mut DfuSe, start: u32, data: &[u8]) -> Result<(), ProtoError> {
    let range = FlashRange::new(FlashAddr(start), FlashSize(data.len() as u32)).unwrap();
    let sectors: Vec<_> = driver.info().sectors.iter().map(|sector| sector.range).collect();
    for sector in sectors.into_iter().filter(|sector| sector.overlaps(range)) {
        driver.erase(sector)?;
    }
    driver.write(range.start, data, &mut |_| ())?;
    driver.finish()?;
    assert!(driver.read(range, &mut |_| ())? == data, "read back other bytes");
    Ok(())
}

fn runs(bench: &Bench) -> bool {
    bench.with(|board, now| {
        *now += Duration::from_secs(2);
        board.advance(*now);
        matches!(board.running(), Running::Application { .. })
    })
}

/// A whole flash; gives the time that it took.
fn flash(chip: &Chip, options: Options) -> Duration {
    let bench = bench(chip, options);
    let before = bench.now();
    let mut driver = connect(&bench, chip);
    let image = image(chip);
    write(&mut driver, START, &image).unwrap();
    driver.start(FlashAddr(START)).unwrap();
    let took = bench.now().saturating_sub(before);
    assert!(runs(&bench), "{}", chip.id);
    bench.with(|board, _| {
        assert_eq!(board.violations(), <[String; 0]>::default());
        assert!(board.flash()[..image.len()] == image);
    });
    took
}

#[test]
fn every_chip_with_a_rom_bootloader_is_flashed() {
    let mut flashed = 0;
    for chip in boards::builtin_chips().unwrap() {
        if chip.rom_dfu.is_some() {
            flash(&chip, Options::default());
            flashed += 1;
        }
    }
    assert!(flashed >= 7, "{flashed}");
}

#[test]
fn every_way_of_holding_polling_and_leaving_is_flashed() {
    let chip = chip("stm32f446xe");
    let usual = DfuVariant::of(&chip, &UID).unwrap();
    let leaves = [Leave::Manifest(104), Leave::Stall, Leave::Vanish, Leave::VanishAtDownload];
    for holds in [Holds::Nothing, Holds::First, Holds::Second] {
        for leave in leaves {
            for (transfer_size, needless, polls) in [(2048, true, 0), (1024, false, 40)] {
                let variant = DfuVariant {
                    holds,
                    leave,
                    transfer_size,
                    starts_in_error: needless,
                    stalls_needless_clear: needless,
                    erase_polls: [100, polls],
                    data_polls: [0, polls],
                    ..usual.clone()
                };
                flash(&chip, Options { dfu: Some(variant), ..Options::default() });
            }
        }
    }
}

#[test]
fn a_chip_that_names_itself_as_gd32_does_is_flashed() {
    let chip = chip("stm32f446xe");
    let mut variant = DfuVariant::of(&chip, &UID).unwrap();
    variant.id = (0x28e9, 0x0189);
    variant.serial = b"3CBJ".to_vec();
    flash(&chip, Options { dfu: Some(variant), ..Options::default() });
}

#[test]
fn poll_time_outs_after_the_work_cost_nothing() {
    // The F042 repeats its poll time-out in dfuDNLOAD-IDLE, 72 ms for each block.
    let chip = chip("stm32f042x6");
    let took = flash(&chip, Options::default());
    let blocks = 20_001_u32.div_ceil(2048);
    let (erases, pointers) = (20, 4);
    assert!(took < Duration::from_millis((erases * 40 + (blocks + pointers) * 72 + 100).into()), "{took:?}");
}

#[test]
fn the_second_bank_of_an_h743_is_written_in_spite_of_its_endless_busy() {
    let chip = chip("stm32h743xi");
    let bench = bench(&chip, Options::default());
    let mut driver = connect(&bench, &chip);
    // From the last sector of the first bank into the second.
    write(&mut driver, 0x080f_0000, &vec![0x5a; 0x2_0000]).unwrap();
    driver.start(FlashAddr(START)).unwrap();
    bench.with(|board, _| {
        assert!(board.flash()[0xf_0000..0x11_0000].iter().all(|byte| *byte == 0x5a));
    });
}

#[test]
fn without_its_quirk_the_endless_busy_is_an_error_and_the_next_run_knows_the_way() {
    let chip = chip("stm32h743xi");
    let bench = bench(&chip, Options::default());
    let mut driver = DfuSe::connect(Box::new(bench.link()), &bench, &[]).unwrap();
    let error = write(&mut driver, 0x0810_0000, &[1; 64]).unwrap_err();
    assert!(matches!(error, ProtoError::Stuck { .. }), "{error}");
    let mut driver = DfuSe::connect(Box::new(bench.link()), &bench, &[DfuQuirk::EndlessBusy]).unwrap();
    write(&mut driver, START, &image(&chip)).unwrap();
}

#[test]
fn a_read_protected_chip_is_told_from_a_broken_one() {
    let chip = chip("stm32f446xe");
    for protection in [Protection::Refuses, Protection::Silent] {
        let dfu = DfuVariant { protection, ..DfuVariant::of(&chip, &UID).unwrap() };
        let bench = bench(&chip, Options { dfu: Some(dfu), read_protected: true, ..Options::default() });
        let mut driver = connect(&bench, &chip);
        let error = write(&mut driver, START, &image(&chip)).unwrap_err();
        assert!(matches!(error, ProtoError::Status { protected: true, .. }), "{error}");
        // A chip that keeps it to itself is found out by reading back.
        let doing = if protection == Protection::Refuses { "erase" } else { "read" };
        assert_eq!(error.to_string(), format!("cannot {doing} 0x08000000: device is read-protected (errVENDOR)"));
        assert!(bench.with(|board, _| board.flash().iter().all(|byte| *byte == 0xff)));
    }
}

#[test]
fn reading_back_finds_what_a_write_protected_sector_swallowed() {
    let chip = chip("stm32g0b1xe");
    let range = FlashRange::new(FlashAddr(START), FlashSize(2048)).unwrap();
    let bench = bench(&chip, Options { write_protected: vec![range], ..Options::default() });
    let mut driver = connect(&bench, &chip);
    driver.erase(range).unwrap();
    driver.write(range.start, &[0x11; 2048], &mut |_| ()).unwrap();
    driver.finish().unwrap();
    assert_eq!(driver.read(range, &mut |_| ()).unwrap(), [0xff; 2048]);
}

#[test]
fn a_layout_that_claims_too_much_is_found_out_by_reading_back() {
    let chip = chip("stm32h723xe");
    let bench = bench(&chip, Options::default());
    let mut driver = connect(&bench, &chip);
    let beyond = driver.info().sectors.last().unwrap().range;
    assert!(beyond.start >= chip.flash().end(), "the layout is no larger than the flash");
    driver.erase(beyond).unwrap();
    driver.write(beyond.start, &[0x11; 64], &mut |_| ()).unwrap();
    driver.finish().unwrap();
    let read = driver.read(FlashRange { size: FlashSize(64), ..beyond }, &mut |_| ());
    assert!(read.is_err() || read.unwrap() != [0x11; 64]);
}

#[test]
fn a_run_that_was_cut_anywhere_is_taken_up_by_the_next() {
    for id in ["stm32f446xe", "stm32g0b1xe"] {
        let chip = chip(id);
        let image = image(&chip);
        let mut cut = 0;
        loop {
            let bench = bench(&chip, Options::default());
            let mut link = bench.link();
            link.requests_left = cut;
            let quirks = &chip.rom_dfu.as_ref().unwrap().quirks;
            let result =
                DfuSe::connect(Box::new(link), &bench, quirks).and_then(|mut driver| write(&mut driver, START, &image));
            if result.is_ok() {
                break;
            }
            // The board was not reset: its bootloader is as the cut left it.
            let mut driver = connect(&bench, &chip);
            write(&mut driver, START, &image).unwrap_or_else(|error| panic!("{id}, cut at {cut}: {error}"));
            driver.start(FlashAddr(START)).unwrap();
            assert!(runs(&bench), "{id}, cut at {cut}");
            cut += 1;
        }
        assert!(cut > 60, "{id}: {cut}");
    }
}
