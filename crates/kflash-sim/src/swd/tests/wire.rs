//! The wire, the debug port and the access port.

use super::debugger::Debugger;
use crate::swd::{Options, Port, Refused, Trouble};

const RAM: u32 = 0x2000_0000;

#[test]
fn nothing_is_answered_before_the_switch_and_a_line_reset() {
    let mut it = Debugger::new("stm32f446xe", Options::default());
    it.line_reset();
    assert_eq!(it.0.read(Port::Debug, 0), Err(Refused::Silence), "the line is JTAG after power-on");
    it.0.swj(16, &[0x9e, 0xe7]);
    assert_eq!(it.0.read(Port::Debug, 0), Err(Refused::Silence), "a line reset has to follow");
    it.line_reset();
    assert_eq!(it.0.write(Port::Debug, 4, 0x5000_0000), Err(Refused::Silence), "DPIDR has to be read first");
    assert_eq!(it.0.read(Port::Debug, 0), Ok(0x2ba0_1477));
    assert_eq!(it.0.write(Port::Debug, 4, 0x5000_0000), Ok(()));
    assert_eq!(it.0.read(Port::Debug, 4), Ok(0xf000_0040));
}

#[test]
fn each_part_has_its_ids() {
    let of = |id| {
        let mut it = Debugger::connected(id, Options::default());
        it.select(0xf0);
        let ids = (it.0.read(Port::Debug, 0).unwrap(), it.ap(0xc).unwrap());
        it.select(0);
        (ids, it.get(0xe000_ed00))
    };
    assert_eq!(of("stm32f407xg"), ((0x2ba0_1477, 0x2477_0011), 0x410f_c241));
    assert_eq!(of("stm32f103xe"), ((0x1ba0_1477, 0x1477_0011), 0x411f_c231));
    assert_eq!(of("stm32g0b1xe"), ((0x0bc1_1477, 0x0477_0031), 0x410c_c601));
}

#[test]
fn an_access_port_without_power_faults_until_it_is_cleared() {
    let mut it = Debugger::new("stm32f446xe", Options::default());
    it.0.swj(56, &[0xff; 7]);
    it.0.swj(16, &[0x9e, 0xe7]);
    it.line_reset();
    it.0.read(Port::Debug, 0).unwrap();
    assert_eq!(it.0.read(Port::Access, 0), Err(Refused::Fault));
    it.0.write(Port::Debug, 4, 0x5000_0000).unwrap();
    assert_eq!(it.0.read(Port::Access, 0), Err(Refused::Fault), "the error is sticky");
    assert_eq!(it.0.read(Port::Debug, 4).unwrap() & 0x20, 0x20);
    it.clear();
    assert_eq!(it.0.read(Port::Access, 0), Ok(0));
}

#[test]
fn reads_of_the_access_port_are_posted_and_wait_for_a_write() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.0.write(Port::Access, 4, RAM).unwrap();
    for word in [1, 2, 3] {
        it.0.write(Port::Access, 0xc, word).unwrap();
    }
    it.0.write(Port::Access, 4, RAM).unwrap();
    let reads: Vec<_> = (0..4).map(|_| it.0.read(Port::Access, 0xc)).collect();
    assert_eq!(reads, [Err(Refused::Wait), Ok(0), Ok(1), Ok(2)]);
    assert_eq!(it.0.read(Port::Debug, 0xc), Ok(3));

    it.0.write(Port::Access, 4, RAM).unwrap();
    assert_eq!(it.0.write(Port::Debug, 8, 0), Err(Refused::Wait));
    assert_eq!(it.0.write(Port::Debug, 8, 0), Ok(()));
    it.0.write(Port::Access, 4, RAM).unwrap();
    assert!(it.0.read(Port::Debug, 4).is_ok(), "reads of the debug port never wait");
}

#[test]
fn tar_wraps_within_its_adder() {
    for (id, wraps_at) in [("stm32f446xe", 0x1000), ("stm32g0b1xe", 0x400)] {
        let mut it = Debugger::connected(id, Options::default());
        it.0.write(Port::Access, 4, RAM + wraps_at - 4).unwrap();
        it.ap(0xc).unwrap();
        assert_eq!(it.ap(4), Ok(RAM), "{id}");
    }
}

#[test]
fn bytes_lie_in_their_lanes_and_are_packed() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.set(RAM, 0x4433_2211);
    it.size(0);
    it.0.write(Port::Access, 4, RAM + 1).unwrap();
    assert_eq!(it.ap(0xc), Ok(0x2200));
    assert_eq!(it.ap(0xc), Ok(0x0033_0000));
    it.0.write(Port::Access, 0, 0x2300_0020).unwrap();
    it.0.write(Port::Access, 4, RAM).unwrap();
    assert_eq!(it.ap(0xc), Ok(0x4433_2211));
    assert_eq!(it.ap(4), Ok(RAM + 4));

    let mut small = Debugger::connected("stm32g0b1xe", Options::default());
    small.0.write(Port::Access, 0, 0x2300_0020).unwrap();
    assert_eq!(small.ap(0), Ok(0x2300_0040), "a Cortex-M0+ has no packed transfers");
}

#[test]
fn an_address_where_nothing_lies_faults_once() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    assert_eq!(it.try_get(0x9000_0000), Err(Refused::Fault));
    assert!(!it.try_set(0x9000_0000, 1));
    assert_eq!(it.try_get(RAM + 1), Err(Refused::Fault), "a word lies on a multiple of four");
    it.set(RAM, 7);
    assert_eq!(it.get(RAM), 7);
}

#[test]
fn other_access_ports_read_zero() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.select(0x0100_00f0);
    assert_eq!(it.ap(0xc), Ok(0));
}

#[test]
fn the_rom_table_leads_to_the_core() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.select(0xf0);
    let base = it.ap(8).unwrap();
    it.select(0);
    assert_eq!(base, 0xe00f_f003);
    let entry = it.get(base & !0xfff);
    assert_eq!((base & !0xfff).wrapping_add(entry & !0xfff), 0xe000_e000);
    assert_eq!(it.get(0xe004_2000), 0x1000_6421);

    let mut small = Debugger::connected("stm32g0b1xe", Options::default());
    let entry = small.get(0xf000_0000);
    assert_eq!(0xf000_0000_u32.wrapping_add(entry & !0xfff), 0xe00f_f000);
    assert_eq!(small.get(0x4001_5800), 0x1000_6467);
}

#[test]
fn trouble_lasts_as_long_as_it_was_asked_for() {
    let mut it = Debugger::connected("stm32f446xe", Options::default());
    it.0.set_trouble(Trouble { waits: 2, ..Trouble::default() }).unwrap();
    it.0.read(Port::Debug, 4).unwrap();
    assert_eq!(it.0.read(Port::Access, 0), Err(Refused::Wait));
    assert_eq!(it.0.read(Port::Access, 0), Err(Refused::Wait));
    assert!(it.0.read(Port::Access, 0).is_ok());
    it.0.set_trouble(Trouble { faults: 1, ..Trouble::default() }).unwrap();
    assert_eq!(it.0.read(Port::Access, 0), Err(Refused::Fault));
    it.clear();
    assert!(it.0.read(Port::Access, 0).is_ok());
    it.0.set_trouble(Trouble { absent: true, ..Trouble::default() }).unwrap();
    assert_eq!(it.0.read(Port::Debug, 0), Err(Refused::Silence));
    it.0.set_trouble(Trouble::default()).unwrap();
    assert_eq!(it.0.read(Port::Debug, 0), Err(Refused::Silence), "the line is out of step");
    it.line_reset();
    assert!(it.0.read(Port::Debug, 0).is_ok());
}
