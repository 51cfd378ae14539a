//! The way to a chip, and everything that can stand in it.

use kflash::boards;
use kflash::proto::swd::{Connect, ProbeSelector, Probes, Swd, SwdError};
use kflash_sim::swd::{Options, Target, Trouble};
use tests::swd_probe::{self, DRIVER, DeskClock};

use crate::bench::{Bench, chip, image};

const FLASH: u32 = 0x0800_0000;

fn refused(bench: &Bench) -> SwdError {
    bench.connect().err().expect("connects")
}

fn choose(selector: Option<&str>) -> Result<Swd, SwdError> {
    let selector: Option<ProbeSelector> = selector.map(|text| text.parse().unwrap());
    Swd::connect(&Connect {
        probes: &Probes::of(vec![&DRIVER]),
        probe: selector.as_ref(),
        chip: &chip("stm32f446xe"),
        definition: boards::swd_definition("stm32f446xe"),
        unlock: false,
        clock: &DeskClock,
    })
}

#[test]
fn no_probe() {
    let bench = Bench::blank("stm32f446xe");
    swd_probe::clear();
    assert_eq!(refused(&bench).to_string(), "no debug probe is plugged in");
    let error = choose(Some("1209:da43:XY")).err().unwrap();
    assert_eq!(error.to_string(), "no debug probe 1209:da43:XY is plugged in");
}

#[test]
fn two_probes_are_told_apart_by_their_serial_number() {
    let bench = Bench::blank("stm32f446xe");
    swd_probe::plug("SIM00002", Target::new(&chip("stm32f446xe"), &[], Options::default()).unwrap());
    let SwdError::SeveralProbes { probes } = refused(&bench) else { panic!("chose one") };
    assert_eq!(probes, ["1209:da43:SIM00001 (simulated probe)", "1209:da43:SIM00002 (simulated probe)"]);
    for selector in ["1209:da43:SIM00002", ":SIM00002"] {
        let before = swd_probe::with(1, |probe| probe.attaches);
        choose(Some(selector)).unwrap();
        assert!(swd_probe::with(1, |probe| probe.attaches) > before);
    }
    assert_eq!(swd_probe::with(0, |probe| probe.attaches), 0, "the other one was not touched");
    assert!(matches!(choose(Some("1209:da43")), Err(SwdError::SeveralProbes { .. })));
    assert!(matches!(choose(Some("1209:da44:SIM00002")), Err(SwdError::NoProbe { .. })));
}

#[test]
fn what_names_no_probe() {
    for text in ["", ":", "1209", "1209:", "1209:da43:", "xyz:da43", "1209:da43x"] {
        let error = text.parse::<ProbeSelector>().unwrap_err();
        assert!(error.to_string().contains("VID:PID:SERIAL"), "{text:?}: {error}");
    }
    let odd = "1209:da43:00:11:22".parse::<ProbeSelector>().unwrap();
    assert_eq!(odd.to_string(), "1209:da43:00:11:22", "a serial number may hold colons");
}

#[test]
fn a_probe_without_permission_is_told_from_none() {
    let bench = Bench::blank("stm32f446xe");
    swd_probe::with(0, |probe| probe.accessible = false);
    let error = refused(&bench);
    assert!(matches!(error, SwdError::Denied { .. }), "{error}");
    assert_eq!(error.to_string(), "permission denied on the debug probe 1209:da43:SIM00001 (simulated probe)");
}

#[test]
fn a_probe_that_something_else_holds() {
    let bench = Bench::blank("stm32f446xe");
    swd_probe::with(0, |probe| probe.held = true);
    let error = refused(&bench);
    assert!(matches!(error, SwdError::CannotOpen { .. }), "{error}");
}

#[test]
fn no_chip_at_the_probe() {
    let bench = Bench::blank("stm32f446xe");
    bench.trouble(Trouble { absent: true, ..Trouble::default() });
    let error = refused(&bench);
    assert_eq!(error.to_string(), "no chip answers at the debug probe 1209:da43:SIM00001 (simulated probe)");
}

#[test]
fn firmware_that_took_the_pins_is_caught_before_it_runs() {
    // SKR mini E3 v2.0: Klipper drives PA14, which is SWCLK.
    let old = image(&chip("stm32f103xc"), FLASH, 4000, 7);
    let bench = Bench::new("stm32f103xc", &[(FLASH, old)], Options::default());
    bench.trouble(Trouble { takes_pins: true, ..Trouble::default() });
    assert!(bench.counts());
    let firmware = image(&bench.chip, FLASH, 4000, 1);
    bench.flash(FLASH, &firmware).unwrap();
    assert!(bench.holds(FLASH, firmware.len()) == firmware);
    assert!(bench.counts(), "it does not run");
}

#[test]
fn a_chip_held_in_reset() {
    let bench = Bench::blank("stm32f446xe");
    bench.trouble(Trouble { held_in_reset: true, ..Trouble::default() });
    let error = refused(&bench);
    assert!(matches!(error, SwdError::HeldInReset { .. }), "{error}");
    bench.trouble(Trouble::default());
    bench.connect().unwrap();
}

#[test]
fn another_chip_is_refused_and_goes_on_running() {
    let old = image(&chip("stm32f407xg"), FLASH, 4000, 7);
    let mut bench = Bench::new("stm32f407xg", &[(FLASH, old.clone())], Options::default());
    bench.chip = chip("stm32f446xe");
    bench.definition = boards::swd_definition("stm32f446xe").unwrap().to_owned();
    let error = refused(&bench);
    assert_eq!(
        error.to_string(),
        "stm32f446xe is expected, but the chip's DEV_ID is 0x413 and not 0x421 (DBGMCU_IDCODE reads 0x10076413)"
    );
    assert!(bench.counts(), "it was not even reset");
}

#[test]
fn a_chip_with_less_flash_is_another_one() {
    let mut bench = Bench::blank("stm32f103xc");
    bench.chip = chip("stm32f103xe");
    bench.definition = boards::swd_definition("stm32f103xe").unwrap().to_owned();
    assert_eq!(
        refused(&bench).to_string(),
        "stm32f103xe is expected, but the chip has 256 KiB of flash and not 512 KiB"
    );
}

#[test]
fn an_mcu_without_a_target_definition() {
    let bench = Bench::blank("stm32f446xe");
    let connect = Connect {
        probes: &Probes::of(vec![&DRIVER]),
        probe: None,
        chip: &chip("rp2040"),
        definition: boards::swd_definition("rp2040"),
        unlock: false,
        clock: &DeskClock,
    };
    let error = Swd::connect(&connect).err().unwrap();
    assert_eq!(error.to_string(), "kflash has no SWD target definition for rp2040");
    drop(bench);
    assert_eq!(swd_probe::with(0, |probe| probe.attaches), 0);
}

#[test]
fn a_definition_that_is_none_or_anothers() {
    let mut bench = Bench::blank("stm32f446xe");
    let good = bench.definition.clone();
    let f407 = boards::swd_definition("stm32f407xg").unwrap().to_owned();
    let cases = [
        (String::new(), ""),
        ("name: [".into(), ""),
        (f407, "its flash is not the 0x08000000..0x08080000 of stm32f446xe"),
        (good.replace("size: 0x10000", "size: 0x20000"), "its sectors are not those of stm32f446xe"),
        (good.replace("page_size: 0x400", "page_size: 0x300"), "a page of 768 bytes is no part of a sector"),
    ];
    for (definition, problem) in cases {
        bench.definition = definition;
        let error = refused(&bench);
        assert!(matches!(error, SwdError::BadDefinition { .. }), "{error}");
        assert!(error.to_string().ends_with(problem), "{error}");
    }
}

#[test]
fn every_chip_that_names_a_debug_port_has_its_definition() {
    let mut told = 0;
    for chip in boards::builtin_chips().unwrap() {
        let definition = boards::swd_definition(&chip.id);
        assert_eq!(chip.swd.is_some(), definition.is_some(), "{}", chip.id);
        told += usize::from(definition.is_some());
    }
    assert!(told >= 6);
}
