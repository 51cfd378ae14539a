//! What goes wrong on the wires, in the probe and in the flash.

use kflash::boards;
use kflash::link::LinkError;
use kflash::proto::ProtoError;
use kflash_sim::swd::{Options, Trouble};
use tests::swd_probe::{self, Cut, When};

use crate::bench::{Bench, Failure, chip, image};

const FLASH: u32 = 0x0800_0000;

/// A board with old firmware, and how flashing it fails with `trouble` from the first write on.
fn flashed_with(id: &str, trouble: Trouble) -> (Bench, Result<(), Failure>) {
    let old = image(&chip(id), FLASH, 4000, 7);
    let mut bench = Bench::new(id, &[(FLASH, old)], Options::default());
    if trouble.flash_stuck {
        boards::swd_definition(id).unwrap().clone_into(&mut bench.definition);
    }
    let firmware = image(&bench.chip, FLASH, 4000, 1);
    let mut swd = bench.connect().unwrap();
    bench.trouble(trouble);
    let result = bench.write(&mut swd, FLASH, &firmware);
    drop(swd);
    bench.trouble(Trouble::default());
    (bench, result)
}

fn flashes_again(bench: &Bench) {
    let firmware = image(&bench.chip, FLASH, 4000, 1);
    bench.flash(FLASH, &firmware).unwrap();
    assert!(bench.holds(FLASH, firmware.len()) == firmware);
    assert!(bench.counts());
}

#[test]
fn a_few_waits_are_waited_out() {
    let (bench, result) = flashed_with("stm32f446xe", Trouble { waits: 60, ..Trouble::default() });
    result.unwrap();
    assert_eq!(bench.violations(), [""; 0]);
}

#[test]
fn a_storm_of_waits_fails_and_passes() {
    let (bench, result) = flashed_with("stm32f446xe", Trouble { waits: u64::MAX, ..Trouble::default() });
    let error = result.unwrap_err().to_string();
    assert!(error.ends_with("the chip answers WAIT without end"), "{error}");
    flashes_again(&bench);
}

#[test]
fn a_storm_of_faults_fails_and_passes() {
    let (bench, result) = flashed_with("stm32f446xe", Trouble { faults: u64::MAX, ..Trouble::default() });
    let error = result.unwrap_err().to_string();
    assert!(error.ends_with("the chip answers FAULT: the access failed on its bus"), "{error}");
    flashes_again(&bench);
}

#[test]
fn a_flash_that_never_gets_done() {
    let (bench, result) = flashed_with("stm32g0b1xe", Trouble { flash_stuck: true, ..Trouble::default() });
    let error = result.unwrap_err();
    assert!(matches!(error, Failure::Proto(ProtoError::Stuck { .. })), "{error}");
    flashes_again(&bench);
}

#[test]
fn wires_that_come_off() {
    let (bench, result) = flashed_with("stm32f446xe", Trouble { absent: true, ..Trouble::default() });
    let error = result.unwrap_err();
    assert!(matches!(error, Failure::Proto(ProtoError::Link { .. })), "{error}");
    assert!(error.to_string().ends_with("the chip does not answer any more"), "{error}");
    flashes_again(&bench);
}

fn cut_while_writing(cut: Cut) -> (Bench, Failure) {
    let old = image(&chip("stm32f446xe"), FLASH, 4000, 7);
    let bench = Bench::new("stm32f446xe", &[(FLASH, old)], Options::default());
    let firmware = image(&bench.chip, FLASH, 4000, 1);
    let mut swd = bench.connect().unwrap();
    swd_probe::with(0, |probe| probe.cut = Some((probe.from_now(When::Transfer(2000)), cut)));
    let error = bench.write(&mut swd, FLASH, &firmware).unwrap_err();
    drop(swd);
    swd_probe::with(0, |probe| probe.cut = None);
    (bench, error)
}

#[test]
fn a_probe_that_is_unplugged() {
    let (bench, error) = cut_while_writing(Cut::Probe);
    assert!(matches!(error, Failure::Proto(ProtoError::Link { source: LinkError::Gone, .. })), "{error}");
    flashes_again(&bench);
}

#[test]
fn a_probe_that_stops_answering() {
    let (bench, error) = cut_while_writing(Cut::Mute);
    assert!(matches!(error, Failure::Proto(ProtoError::Link { source: LinkError::TimedOut(_), .. })), "{error}");
    flashes_again(&bench);
}

#[test]
fn a_board_that_loses_its_supply() {
    let (bench, error) = cut_while_writing(Cut::Power);
    assert!(matches!(error, Failure::Proto(ProtoError::Link { .. })), "{error}");
    swd_probe::with(0, |probe| probe.target.power(true).unwrap());
    flashes_again(&bench);
}
