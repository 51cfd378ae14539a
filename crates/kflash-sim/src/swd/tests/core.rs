//! The core: halting, registers, stepping, breakpoints, resets, and what becomes of a chip without code.

use super::chip;
use super::debugger::{AIRCR, DEMCR, DHCSR, Debugger, HALT, RUN, S_HALT, S_LOCKUP, S_RESET_ST, STEP};
use crate::swd::{CoreState, Options, Target, Trouble};

const FLASH: u32 = 0x0800_0000;
const RAM: u32 = 0x2000_0000;
/// `movs r0, #1; lsls r0, r0, #29; movs r1, #0; loop: adds r1, #1; str r1, [r0]; b loop`: counts at the start of the RAM.
const COUNTS: [u16; 6] = [0x2001, 0x0740, 0x2100, 0x3101, 0x6001, 0xe7fc];

/// A chip with a program in its flash.
fn with_program(id: &str, code: &[u16]) -> Debugger {
    let words = [0x2000_1000_u32, FLASH + 9];
    let mut image: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    image.extend(code.iter().flat_map(|half| half.to_le_bytes()));
    Debugger(Target::new(&chip(id), &[(FLASH, image)], Options::default()).unwrap())
}

#[test]
fn a_program_in_flash_runs_from_power_on() {
    for id in ["stm32f103xe", "stm32f446xe", "stm32g0b1xe"] {
        let mut it = with_program(id, &COUNTS);
        assert_eq!(it.0.core(), CoreState::Running);
        it.0.run().unwrap();
        let first = it.0.word(RAM).unwrap();
        it.0.run().unwrap();
        assert!(it.0.word(RAM).unwrap() > first, "{id}");
    }
}

#[test]
fn halting_shows_registers_and_resuming_goes_on() {
    let mut it = with_program("stm32f446xe", &COUNTS);
    it.0.run().unwrap();
    it.connect();
    it.set(DHCSR, HALT);
    assert_eq!(it.get(DHCSR) & S_HALT, S_HALT);
    it.0.run().unwrap();
    let counted = it.get(RAM);
    it.0.run().unwrap();
    assert_eq!(it.get(RAM), counted, "a halted core executes nothing");
    assert_eq!(it.register(0), RAM);
    it.set_register(1, 1000);
    it.set(DHCSR, RUN);
    it.0.run().unwrap();
    assert!(it.get(RAM) > 1000);
}

#[test]
fn a_step_is_one_instruction() {
    let mut it = with_program("stm32g0b1xe", &COUNTS);
    it.connect();
    it.set(DHCSR, HALT);
    assert_eq!(it.register(15), FLASH + 8);
    for pc in [10, 12, 14, 16, 18, 14] {
        it.set(DHCSR, STEP);
        assert_eq!(it.get(DHCSR) & S_HALT, S_HALT);
        assert_eq!(it.register(15), FLASH + pc);
    }
}

#[test]
fn breakpoints_halt_before_their_instruction() {
    for (id, comparator) in [("stm32f446xe", FLASH + 16), ("stm32g0b1xe", FLASH + 16)] {
        let mut it = with_program(id, &COUNTS);
        it.connect();
        it.set(DHCSR, HALT);
        it.set(0xe000_2000, 3);
        it.set(0xe000_2008, 1 << 30 | comparator | 1);
        it.set(DHCSR, RUN);
        it.0.run().unwrap();
        assert_eq!(it.register(15), FLASH + 16, "{id}");
        assert_eq!(it.register(1), 1);
    }
}

#[test]
fn code_in_ram_ends_on_its_bkpt() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.set(DHCSR, HALT);
    // `muls r0, r1; bkpt`
    it.load(RAM, &[0x4348, 0xbe00]);
    it.set_register(0, 6);
    it.set_register(1, 7);
    it.set_register(15, RAM | 1);
    it.set_register(16, 1 << 24);
    it.set(DHCSR, RUN);
    it.0.run().unwrap();
    assert_eq!(it.get(DHCSR) & S_HALT, S_HALT);
    assert_eq!((it.register(0), it.register(15)), (42, RAM + 2));
}

#[test]
fn a_blank_chip_is_locked_up_and_can_be_halted() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.0.run().unwrap();
    assert_eq!(it.get(DHCSR) & (S_LOCKUP | S_HALT), S_LOCKUP);
    it.set(DHCSR, HALT);
    assert_eq!(it.get(DHCSR) & (S_LOCKUP | S_HALT), S_HALT);
}

#[test]
fn reset_is_caught_only_with_debug_enabled() {
    let mut it = with_program("stm32f446xe", &COUNTS);
    it.connect();
    it.set(DEMCR, 1);
    it.0.set_reset(false).unwrap();
    assert_eq!(it.get(DHCSR) & S_RESET_ST, S_RESET_ST);
    assert_eq!(it.get(DHCSR) & S_RESET_ST, S_RESET_ST, "for as long as the line is low");
    it.0.set_reset(true).unwrap();
    assert_eq!(it.0.core(), CoreState::Running, "C_DEBUGEN was not set");
    it.set(DHCSR, RUN);
    it.0.set_reset(false).unwrap();
    it.0.set_reset(true).unwrap();
    assert_eq!(it.0.core(), CoreState::Halted);
    assert_eq!(it.register(15), FLASH + 8);
    assert_eq!(it.get(DHCSR) & S_RESET_ST, S_RESET_ST);
    assert_eq!(it.get(DHCSR) & S_RESET_ST, 0, "reading clears it");
}

#[test]
fn a_system_reset_spares_debug_registers_and_ram() {
    let mut it = with_program("stm32f446xe", &COUNTS);
    it.connect();
    it.set(DHCSR, HALT);
    it.set(DEMCR, 1);
    it.set(RAM + 0x100, 0x1234_5678);
    it.set(0x4002_0000, 5);
    it.set(AIRCR, 0x05fa_0004);
    assert_eq!((it.get(DEMCR), it.get(RAM + 0x100)), (1, 0x1234_5678));
    assert_eq!(it.get(0x4002_0000), 0, "a peripheral is as after power-on");
    assert_eq!(it.0.core(), CoreState::Halted);
}

#[test]
fn a_line_held_low_by_something_else_keeps_the_core_in_reset() {
    let mut it = with_program("stm32f446xe", &COUNTS);
    it.0.set_trouble(Trouble { held_in_reset: true, ..Trouble::default() }).unwrap();
    it.connect();
    it.set(DHCSR, HALT);
    it.0.set_reset(false).unwrap();
    it.0.set_reset(true).unwrap();
    assert!(!it.0.reset_is_high());
    assert_eq!(it.get(DHCSR) & (S_RESET_ST | S_HALT), S_RESET_ST);
    it.0.set_trouble(Trouble::default()).unwrap();
    assert_eq!(it.0.core(), CoreState::Running);
}

#[test]
fn faults_lock_up_or_are_caught() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    let mut run = |code: &[u16], demcr| {
        it.set(DHCSR, HALT);
        it.load(RAM, code);
        it.set_register(0, 0x9000_0000);
        it.set_register(15, RAM);
        it.set_register(16, 1 << 24);
        it.set(DEMCR, demcr);
        it.set(DHCSR, RUN);
        it.0.run().unwrap();
        it.get(DHCSR) & (S_LOCKUP | S_HALT)
    };
    // `ldr r1, [r0]`, where nothing lies; an undefined instruction.
    assert_eq!(run(&[0x6801, 0xbe00], 0), S_LOCKUP);
    assert_eq!(run(&[0x6801, 0xbe00], 0x7f0), S_HALT);
    assert_eq!(run(&[0xde00, 0xbe00], 0), S_LOCKUP);
}

#[test]
fn sleeping_code_can_be_halted() {
    // `wfi; b .-2`
    let mut it = with_program("stm32f446xe", &[0xbf30, 0xe7fd]);
    it.0.run().unwrap();
    assert_eq!(it.0.core(), CoreState::Sleeping);
    it.connect();
    it.set(DHCSR, HALT);
    assert_eq!(it.0.core(), CoreState::Halted);
}

#[test]
fn power_off_and_on_starts_anew() {
    let mut it = with_program("stm32f446xe", &COUNTS);
    it.connect();
    it.set(DHCSR, HALT);
    it.0.power(false).unwrap();
    assert!(it.0.read(crate::swd::Port::Debug, 0).is_err());
    it.0.power(true).unwrap();
    assert_eq!(it.0.core(), CoreState::Running);
    it.connect();
    assert_eq!(it.get(DHCSR) & 1, 0, "C_DEBUGEN is gone");
}
