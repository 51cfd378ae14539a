//! Read and write protection.

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::proto::swd::SwdError;
use kflash_sim::swd::Options;

use crate::bench::{Bench, chip, image};

const FLASH: u32 = 0x0800_0000;
const CHIPS: [(&str, &str); 3] =
    [("stm32f103xe", "FLASH_OBR"), ("stm32f446xe", "FLASH_OPTCR"), ("stm32g0b1xe", "FLASH_OPTR")];

fn locked(id: &str) -> (Bench, Vec<u8>) {
    let old = image(&chip(id), FLASH, 4000, 7);
    let bench = Bench::new(id, &[(FLASH, old.clone())], Options { read_protected: true, ..Options::default() });
    (bench, old)
}

#[test]
fn a_read_protected_chip_is_refused_and_not_touched() {
    for (id, register) in CHIPS {
        let (bench, old) = locked(id);
        let error = bench.connect().err().unwrap();
        let SwdError::Protected { register: said, can_be_lifted, .. } = &error else { panic!("{id}: {error}") };
        assert!(said.starts_with(register), "{id}: {error}");
        assert!(can_be_lifted);
        assert!(bench.holds(FLASH, old.len()) == old, "{id}");
        assert!(bench.counts(), "{id}: it was not even reset");
    }
}

#[test]
fn lifting_the_protection_erases_the_chip_and_lets_it_be_flashed() {
    for (id, _) in CHIPS {
        let (mut bench, _) = locked(id);
        bench.unlock = true;
        drop(bench.connect().unwrap_or_else(|error| panic!("{id}: {error}")));
        assert!(bench.holds(FLASH, 4000) == [0xff; 4000], "{id}");
        bench.unlock = false;
        let firmware = image(&bench.chip, FLASH, 4000, 1);
        bench.flash(FLASH, &firmware).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert!(bench.counts(), "{id}");
        assert_eq!(bench.violations(), [""; 0], "{id}");
    }
}

#[test]
fn asking_to_unlock_an_open_chip_changes_nothing() {
    for (id, _) in CHIPS {
        let old = image(&chip(id), FLASH, 4000, 7);
        let mut bench = Bench::new(id, &[(FLASH, old.clone())], Options::default());
        bench.unlock = true;
        drop(bench.connect().unwrap());
        assert!(bench.holds(FLASH, old.len()) == old, "{id}");
    }
}

#[test]
fn a_write_protected_sector_fails_the_flash() {
    for (id, size) in [("stm32f103xe", 4096), ("stm32f446xe", 0x4000), ("stm32g0b1xe", 2048)] {
        let old = image(&chip(id), FLASH, 0x5000, 7);
        let protected = FlashRange { start: FlashAddr(FLASH), size: FlashSize(size) };
        let options = Options { write_protected: vec![protected], ..Options::default() };
        let bench = Bench::new(id, &[(FLASH, old.clone())], options);
        let firmware = image(&bench.chip, FLASH, 0x1000, 1);
        let error = bench.flash(FLASH, &firmware).unwrap_err().to_string();
        assert!(error.contains("flash controller refused it"), "{id}: {error}");
        assert!(bench.holds(FLASH, size as usize) == old[..size as usize], "{id}");
    }
}
