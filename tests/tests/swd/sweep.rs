//! The cable pulled at every USB transfer of the first and the last sector and at 100 sampled transfers on the wires of
//! all; then once more, to success.

use std::ops::Range;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::proto::Bootloader as _;
use kflash_sim::swd::Options;
use tests::swd_probe::{self, Cut, When};

use crate::bench::{Bench, Failure, chip, image};

const FLASH: u32 = 0x0800_0000;
const START: u32 = FLASH + 0x1000;
const SECTOR: u32 = 2048;
/// Three sectors, the last one not full.
const SIZE: usize = 2 * SECTOR as usize + 700;
const LAST: u32 = 2;

fn commands() -> u64 {
    swd_probe::with(0, |probe| probe.commands)
}

/// The commands to the probe in one flash that belong to its first and its last sector, counted from its first erase; and
/// all transfers on the wires.
fn measure(bench: &Bench, firmware: &[u8]) -> (Vec<Range<u64>>, u64) {
    let mut swd = bench.connect().unwrap();
    let begin = commands();
    let transfers = swd_probe::with(0, |probe| probe.transfers);
    let mut windows = Vec::new();
    for sector in 0..=LAST {
        let before = commands() - begin;
        swd.erase(FlashRange { start: FlashAddr(START + sector * SECTOR), size: FlashSize(SECTOR) }).unwrap();
        if sector == 0 || sector == LAST {
            windows.push(before..commands() - begin);
        }
    }
    let mut before = commands() - begin;
    let mut written = 1024;
    swd.write(FlashAddr(START + 1024), &firmware[1024..], &mut |bytes| {
        let now = commands() - begin;
        if !(SECTOR..LAST * SECTOR).contains(&written) {
            windows.push(before..now);
        }
        before = now;
        written += bytes;
    })
    .unwrap();
    let before = commands() - begin;
    swd.write(FlashAddr(START), &firmware[..1024], &mut |_| ()).unwrap();
    windows.push(before..commands() - begin);
    swd.finish().unwrap();
    let range = FlashRange { start: FlashAddr(START), size: FlashSize(SIZE as u32) };
    assert!(swd.read(range, &mut |_| ()).unwrap() == firmware);
    swd.start(FlashAddr(START)).unwrap();
    (windows, swd_probe::with(0, |probe| probe.transfers) - transfers)
}

fn sweep(id: &str, kinds: &[Cut]) {
    let before = image(&chip(id), FLASH, 0x1000, 3);
    let after = image(&chip(id), FLASH, 0x1000, 4);
    let contents = [(FLASH, before.clone()), (FLASH + 0x4000, after.clone())];
    let bench = Bench::new(id, &contents, Options::default());
    let images = [1, 2].map(|seed| image(&bench.chip, START, SIZE, seed));
    let (windows, all) = measure(&bench, &images[0]);
    let mut cuts: Vec<When> = windows.into_iter().flatten().map(When::Command).collect();
    assert!(cuts.len() > 200, "{} cuts", cuts.len());
    cuts.extend((0..100).map(|index| When::Transfer(all * index / 100)));

    let mut turns = images.iter().cycle().skip(1);
    let mut failed = 0;
    for (index, at) in cuts.iter().enumerate() {
        let kind = kinds[index % kinds.len()];
        let firmware = turns.next().unwrap();
        bench.debug();
        let mut swd = bench.connect().unwrap_or_else(|error| panic!("{id} before {at:?}: {error}"));
        swd_probe::with(0, |probe| probe.cut = Some((probe.from_now(*at), kind)));
        let result = bench.write(&mut swd, START, firmware);
        drop(swd);
        swd_probe::with(0, |probe| {
            probe.cut = None;
            probe.target.power(true).unwrap();
        });
        match result {
            Err(Failure::Differs) => panic!("{id}: {kind:?} at {at:?}: it took the flash for written"),
            Err(_) => failed += 1,
            // Cut while nothing but the read-back or nothing at all was left.
            Ok(()) => assert!(bench.holds(START, SIZE) == *firmware, "{id}: {kind:?} at {at:?}"),
        }
        bench.debug();
        bench.flash(START, firmware).unwrap_or_else(|error| panic!("{id}: after {kind:?} at {at:?}: {error}"));
        assert!(bench.holds(START, SIZE) == *firmware, "{id}: after {kind:?} at {at:?}");
        assert!(bench.holds(FLASH, 0x1000) == before && bench.holds(FLASH + 0x4000, 0x1000) == after);
        assert_eq!(bench.violations(), [""; 0], "{id}: {kind:?} at {at:?}");
    }
    assert!(failed > cuts.len() * 9 / 10, "{failed} of {} cuts were seen", cuts.len());
}

#[test]
fn an_f1_in_the_middle_of_anything() {
    sweep("stm32f103xe", &[Cut::Probe, Cut::Wires, Cut::Probe, Cut::Power]);
}

#[test]
fn a_g0_in_the_middle_of_anything() {
    sweep("stm32g0b1xe", &[Cut::Power, Cut::Probe, Cut::Wires, Cut::Wires]);
}
