//! Flashing a healthy chip.

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::proto::{Bootloader as _, Protocol};
use kflash_sim::swd::{CoreState, Options};
use tests::swd_probe;

use crate::bench::{Bench, image};

const FLASH: u32 = 0x0800_0000;
const CHIPS: [&str; 6] = ["stm32f103xc", "stm32f103xe", "stm32f407xg", "stm32f446xe", "stm32g0b1xb", "stm32g0b1xe"];

#[test]
fn every_chip_is_flashed_and_runs() {
    for id in CHIPS {
        let bench = Bench::blank(id);
        let firmware = image(&bench.chip, FLASH, 40_000, 1);
        bench.flash(FLASH, &firmware).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert!(bench.holds(FLASH, firmware.len()) == firmware, "{id}");
        assert!(bench.counts(), "{id}: the firmware does not run");
        assert_eq!(bench.violations(), [""; 0], "{id}");
    }
}

#[test]
fn the_first_time_out_under_reset_is_survived() {
    let bench = Bench::blank("stm32f446xe");
    bench.connect().unwrap();
    // One look, one that timed out, one that did not.
    assert_eq!(swd_probe::with(0, |probe| probe.attaches), 3);
    bench.connect().unwrap();
    assert_eq!(swd_probe::with(0, |probe| probe.attaches), 5, "C_DEBUGEN is set by now");
}

#[test]
fn what_lies_before_and_behind_in_the_same_sectors_stays() {
    for (id, start) in [("stm32f446xe", 0x1400), ("stm32f103xe", 0x0c00), ("stm32g0b1xe", 0x0c00)] {
        let old = image(&crate::bench::chip(id), FLASH, 0x9000, 7);
        let bench = Bench::new(id, &[(FLASH, old.clone())], Options::default());
        // Neither its start nor its end lies on a page.
        let firmware = image(&bench.chip, FLASH + start, 5000, 1);
        bench.flash(FLASH + start, &firmware).unwrap_or_else(|error| panic!("{id}: {error}"));
        let mut expected = old;
        expected[start as usize..start as usize + 5000].copy_from_slice(&firmware);
        assert!(bench.holds(FLASH, 0x9000) == expected, "{id}");
        assert_eq!(bench.violations(), [""; 0], "{id}");
    }
}

#[test]
fn an_application_is_flashed_behind_its_bootloader() {
    let bootloader = image(&crate::bench::chip("stm32f446xe"), FLASH, 0x5000, 3);
    let old = image(&crate::bench::chip("stm32f446xe"), FLASH + 0x8000, 60_000, 4);
    let contents = [(FLASH, bootloader.clone()), (FLASH + 0x8000, old)];
    let bench = Bench::new("stm32f446xe", &contents, Options::default());
    let firmware = image(&bench.chip, FLASH + 0x8000, 44_516, 5);
    bench.flash(FLASH + 0x8000, &firmware).unwrap();
    assert!(bench.holds(FLASH, bootloader.len()) == bootloader);
    assert!(bench.holds(FLASH + 0x8000, firmware.len()) == firmware);
}

#[test]
fn the_second_bank_is_flashed() {
    let bench = Bench::blank("stm32g0b1xe");
    let start = FLASH + 0x4_0000 - 0x800;
    let firmware = image(&bench.chip, start, 0x1800, 1);
    let mut swd = bench.connect().unwrap();
    bench.write(&mut swd, start, &firmware).unwrap();
    assert!(bench.holds(start, firmware.len()) == firmware);
}

#[test]
fn the_whole_flash_is_read_and_nothing_is_changed() {
    let old = image(&crate::bench::chip("stm32f103xe"), FLASH, 0x8_0000, 7);
    let bench = Bench::new("stm32f103xe", &[(FLASH, old.clone())], Options::default());
    let mut steps = 0;
    let mut swd = bench.connect().unwrap();
    let read = swd.read(bench.chip.flash(), &mut |bytes| steps += bytes).unwrap();
    assert!(read == old);
    assert_eq!(steps, 0x8_0000);
    swd.start(FlashAddr(FLASH)).unwrap();
    drop(swd);
    assert!(bench.counts());
    assert!(bench.holds(FLASH, old.len()) == old);
}

#[test]
fn the_chip_and_its_sectors_are_told() {
    let bench = Bench::blank("stm32f446xe");
    let swd = bench.connect().unwrap();
    let info = swd.info();
    assert_eq!((info.protocol, info.block_size), (Protocol::Swd, FlashSize(1024)));
    assert_eq!(info.version.as_deref(), Some("DBGMCU_IDCODE 10006421"));
    let sizes: Vec<u32> = info.sectors.iter().map(|sector| sector.range.size.0 / 1024).collect();
    assert_eq!(sizes, [16, 16, 16, 16, 64, 128, 128, 128]);
}

#[test]
fn the_bytes_of_each_step_add_up() {
    let bench = Bench::blank("stm32f103xe");
    let firmware = image(&bench.chip, FLASH, 3000, 1);
    let mut swd = bench.connect().unwrap();
    for sector in 0..2 {
        swd.erase(FlashRange { start: FlashAddr(FLASH + sector * 2048), size: FlashSize(2048) }).unwrap();
    }
    let mut steps = Vec::new();
    swd.write(FlashAddr(FLASH), &firmware, &mut |bytes| steps.push(bytes)).unwrap();
    assert_eq!(steps.iter().sum::<u32>(), 3000);
    assert!(steps.len() > 1);
}

#[test]
fn a_started_chip_is_as_if_no_probe_had_been_there() {
    let bench = Bench::blank("stm32f446xe");
    bench.flash(FLASH, &image(&bench.chip, FLASH, 4000, 1)).unwrap();
    swd_probe::with(0, |probe| {
        assert_eq!(probe.target.core(), CoreState::Running);
        assert!(!probe.target.is_debugged());
    });
}

#[test]
fn what_was_not_started_stays_halted() {
    let old = image(&crate::bench::chip("stm32f446xe"), FLASH, 4000, 7);
    let bench = Bench::new("stm32f446xe", &[(FLASH, old)], Options::default());
    assert!(bench.counts());
    let mut swd = bench.connect().unwrap();
    swd.erase(FlashRange { start: FlashAddr(FLASH), size: FlashSize(0x4000) }).unwrap();
    drop(swd);
    assert_eq!(bench.core(), CoreState::Halted);
}

#[test]
fn a_start_without_a_program_is_told() {
    let bench = Bench::blank("stm32f446xe");
    let error = bench.connect().unwrap().start(FlashAddr(FLASH)).unwrap_err();
    assert!(error.to_string().contains("locks up"), "{error}");
}

#[test]
fn sleeping_firmware_is_no_obstacle() {
    let chip = crate::bench::chip("stm32f446xe");
    let mut old = image(&chip, FLASH, 4000, 7);
    // `wfi; b .-2`
    old[0x100..0x104].copy_from_slice(&[0x30, 0xbf, 0xfd, 0xe7]);
    let bench = Bench::new("stm32f446xe", &[(FLASH, old)], Options::default());
    swd_probe::with(0, |probe| probe.target.run().unwrap());
    assert_eq!(bench.core(), CoreState::Sleeping);
    bench.flash(FLASH, &image(&chip, FLASH, 4000, 1)).unwrap();
    assert!(bench.counts());
}

#[test]
fn a_sector_that_the_chip_does_not_have_is_not_touched() {
    let bench = Bench::blank("stm32f446xe");
    let mut swd = bench.connect().unwrap();
    let error = swd.erase(FlashRange { start: FlashAddr(FLASH), size: FlashSize(0x8000) }).unwrap_err();
    assert!(error.to_string().contains("no sector"), "{error}");
    let past = FlashAddr(FLASH + 512 * 1024);
    let error = swd.write(past, &[0; 16], &mut |_| ()).unwrap_err();
    assert!(error.to_string().starts_with("cannot write 0x08080000"), "{error}");
}
