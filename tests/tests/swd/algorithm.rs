//! That the chip really runs the flash algorithm: one wrong instruction in it has to fail the flash.

use crate::bench::{Bench, chip, image};
use kflash_sim::swd::Options;

const FLASH: u32 = 0x0800_0000;

/// Chip, offset in its algorithm's code, the half-word there, what replaces it, and what that does.
const FLIPPED: [(&str, usize, u16, u16, &str); 8] = [
    ("stm32f446xe", 0xf6, 0x6004, 0x6804, "reads the flash instead of writing it"),
    ("stm32f446xe", 0x118, 0x1d00, 0x1d40, "writes four bytes too far"),
    ("stm32f446xe", 0xac, 0x6108, 0x6908, "never sets STRT"),
    ("stm32f446xe", 0x24, 0x6041, 0x6841, "leaves out the second key"),
    ("stm32f103xe", 0xd6, 0x8018, 0x8818, "reads the flash instead of writing it"),
    ("stm32f103xe", 0x8e, 0x6141, 0x6941, "does not tell which page to erase"),
    ("stm32g0b1xe", 0x178, 0x6044, 0x6004, "writes the second word over the first"),
    ("stm32g0b1xe", 0x140, 0x6150, 0x6950, "never sets STRT"),
];

#[test]
fn one_flipped_instruction_fails_the_flash() {
    for (id, at, half, flipped, what) in FLIPPED {
        let old = image(&chip(id), FLASH, 0x3000, 7);
        let mut bench = Bench::new(id, &[(FLASH, old)], Options::default());
        let firmware = image(&bench.chip, FLASH, 0x3000, 1);
        bench.with_code(at, half);
        bench.flash(FLASH, &firmware).unwrap_or_else(|error| panic!("{id} {at:#x} is no {half:#x}: {error}"));
        let old = image(&bench.chip, FLASH, 0x3000, 8);
        bench.with_code(at, flipped);
        let failed = bench.flash(FLASH, &old);
        assert!(failed.is_err(), "{id}: {what}, and the flash succeeds");
    }
}

#[test]
fn code_that_crashes_is_told() {
    let mut bench = Bench::blank("stm32f446xe");
    // An undefined instruction where the erase begins.
    bench.with_code(0x88, 0xde00);
    let error = bench.flash(FLASH, &image(&bench.chip, FLASH, 4000, 1)).unwrap_err().to_string();
    assert!(error.starts_with("cannot erase 0x08000000: the flash algorithm ended with 0x8000000"), "{error}");
}
