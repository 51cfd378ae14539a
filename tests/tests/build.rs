//! Firmware built with the real compilers, from `tests/firmware-tree` or, with `KFLASH_TEST_KLIPPER=DIR`, from a real tree.

use kflash::obtain::build::{Firmware, Outcome, Source};
use tests::firmware_tree::{FirmwareTree, order, order_of};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const PICO: &str = "btt-skr-pico";
const CREALITY: &str = "creality-v4.2.7";

fn well(outcome: &Outcome) -> &Firmware {
    outcome.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_kind_of_image_is_built_and_proves_itself() {
    let tree = FirmwareTree::new();
    let orders = [
        order(OCTOPUS, None),
        order(CREALITY, None),
        order(PICO, None),
        order_of(
            "rp2040",
            0x1000_0000,
            "usb",
            &["MACH_RPXXXX", "MACH_RP2040", "RPXXXX_USB", "RPXXXX_FLASH_START_0100"],
        ),
        order_of("atmega2560", 0, "uart", &["MACH_AVR", "MACH_atmega2560", "AVR_SERIAL_UART0"]),
    ];
    let (outcomes, _) = tree.build("cache", &orders);
    let names: Vec<_> = outcomes.iter().map(|outcome| well(outcome).entry.provenance.image.name.as_str()).collect();
    assert_eq!(names, ["klipper.bin", "klipper.bin", "klipper.bin", "klipper.uf2", "klipper.elf.hex"]);
    for firmware in outcomes.iter().map(well) {
        assert!(matches!(firmware.source, Source::Built { .. }));
    }
}
