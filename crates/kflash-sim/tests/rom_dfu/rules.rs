//! What the bootloader refuses, and what it accepts without doing it.

use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash_sim::board::{Control, Options, Running};
use kflash_sim::dfu_variant::{DfuVariant, Leave};
use kflash_sim::flash::Timing;

use crate::client::{Client, ERASE, SET_POINTER, chip, is_done};

const STALLED: [u32; 3] = [15, 0, 10];
const IDLE: [u32; 3] = [0, 0, 2];
const START: u32 = 0x0800_0000;

fn g0(options: Options) -> Client {
    let mut client = Client::with("stm32g0b1xe", [1; 12], options);
    client.settle_idle();
    client
}

#[test]
fn transfers_that_no_chip_takes_are_stalled() {
    for (block, length) in [(2, 1025), (1, 64), (0, 3)] {
        let mut client = g0(Options::default());
        assert_eq!(client.download(block, &vec![0x33; length]), Control::Stall, "block {block}, {length} bytes");
        assert_eq!(client.status(), Some(STALLED));
        assert!(is_done(&client.clear_status()));
        assert_eq!(client.status(), Some(IDLE));
    }
    let mut client = g0(Options::default());
    assert_eq!(client.upload(2, 1025), Control::Stall);
    let mut client = g0(Options::default());
    assert_eq!(client.upload(1, 64), Control::Stall);
    let mut client = g0(Options::default());
    assert_eq!(client.download(2, &[]), Control::Stall, "a zero-length DNLOAD in dfuIDLE");
    // New ROMs stall CLRSTATUS outside of dfuERROR.
    let mut client = g0(Options::default());
    assert_eq!(client.clear_status(), Control::Stall);
    assert_eq!(client.status(), Some(IDLE));
}

#[test]
fn a_download_needs_its_status_and_an_upload_an_abort() {
    let mut client = g0(Options::default());
    client.command(SET_POINTER, START);
    assert_eq!(client.download(2, &[0; 8]), Control::Stall, "the pointer was not set yet");
    let mut client = g0(Options::default());
    client.run(SET_POINTER, START);
    assert_eq!(client.upload(2, 64), Control::Stall, "dfuDNLOAD-IDLE");
    let mut client = g0(Options::default());
    client.run(SET_POINTER, START);
    assert!(is_done(&client.abort()));
    assert_eq!(client.upload(2, 64), Control::Done { data: vec![0xff; 64], held: Duration::ZERO });
    assert_eq!(client.status().unwrap()[2], 9);
    assert!(is_done(&client.abort()));
    assert_eq!(client.status(), Some(IDLE));
}

#[test]
fn an_upload_ends_short_at_the_end_of_the_memory() {
    let mut client = g0(Options::default());
    client.run(SET_POINTER, START + 512 * 1024 - 100);
    client.abort();
    let Control::Done { data, .. } = client.upload(2, 1024) else { panic!("no answer") };
    assert_eq!(data.len(), 100);
    assert_eq!(client.status(), Some(IDLE));
}

#[test]
fn addresses_outside_of_the_memory_are_refused() {
    let mut client = g0(Options::default());
    assert_eq!(client.run(SET_POINTER, START + 512 * 1024), [8, 0, 10]);
    let mut old = Client::new("stm32f446xe");
    old.settle_idle();
    assert_eq!(old.run(ERASE, 0x0900_0000), [1, 0, 10]);
}

#[test]
fn ecc_units_are_programmed_once_even_with_ff() {
    let mut client = g0(Options::default());
    client.run(ERASE, START);
    client.run(SET_POINTER, START);
    assert_eq!(client.write(2, &[0xff; 64])[0], 0);
    assert_ne!(client.write(2, &[0x5a; 64])[0], 0);
    assert_eq!(client.board.violations().len(), 1);
    assert_eq!(client.board.flash()[0], 0xff);
    client.clear_status();
    assert_eq!(client.run(ERASE, START)[0], 0);
    client.run(SET_POINTER, START);
    assert_eq!(client.write(2, &[0x5a; 64])[0], 0);
    assert_eq!(client.board.flash()[..64], [0x5a; 64]);

    // An H7 writes, and reading the unit faults.
    let mut client = Client::with("stm32h723xe", [1; 12], Options::default());
    client.settle_idle();
    client.run(SET_POINTER, START);
    client.write(2, &[0xff; 64]);
    client.write(2, &[0x5a; 64]);
    client.abort();
    assert_eq!(client.upload(2, 64), Control::Stall);

    // An F4 only ever clears bits.
    let mut client = Client::new("stm32f446xe");
    client.settle_idle();
    client.run(SET_POINTER, START);
    client.write(2, &[0xf0; 64]);
    assert_eq!(client.write(2, &[0x3c; 64])[0], 0);
    assert_eq!(client.board.flash()[..64], [0x30; 64]);
}

#[test]
fn ok_is_no_proof_of_a_write() {
    let range = FlashRange::new(FlashAddr(START), FlashSize(2048)).unwrap();
    let mut client = g0(Options { write_protected: vec![range], ..Options::default() });
    client.run(SET_POINTER, START);
    assert_eq!(client.write(2, &[0x5a; 64])[0], 0);
    assert_eq!(client.board.flash()[..64], [0xff; 64]);

    let mut client = g0(Options { read_protected: true, ..Options::default() });
    assert_eq!(client.run(SET_POINTER, START)[0], 0);
    assert_eq!(client.write(2, &[0x5a; 64])[0], 0);
    assert_eq!(client.board.flash()[..64], [0xff; 64]);
    client.abort();
    assert_eq!(client.upload(2, 64), Control::Stall);
    assert_eq!(client.status().unwrap()[0], 11, "errVENDOR");

    let mut old = Client::with("stm32f407xg", [1; 12], Options { read_protected: true, ..Options::default() });
    old.settle_idle();
    assert_eq!(old.run(SET_POINTER, START), [11, 0, 10]);
}

#[test]
fn the_ways_to_leave() {
    for (leave, answer) in [
        (Leave::Manifest(1), Some([0, 1, 7])),
        (Leave::Stall, None),
        (Leave::Vanish, None),
        (Leave::VanishAtDownload, None),
    ] {
        let mut variant = DfuVariant::of(&chip("stm32f446xe"), &[0; 12]).unwrap();
        variant.leave = leave;
        let mut client = Client::with("stm32f446xe", [0; 12], Options { dfu: Some(variant), ..Options::default() });
        client.settle_idle();
        client.run(SET_POINTER, START);
        assert!(is_done(&client.download(2, &[])));
        if leave == Leave::VanishAtDownload {
            client.now += Duration::from_millis(1);
        }
        assert_eq!(client.status(), answer, "{leave:?}");
        client.board.advance(client.now + Duration::from_secs(1));
        assert!(client.board.usb().is_none());
        assert_eq!(client.board.running(), Running::LockedUp, "blank flash was started");
    }
}

#[test]
fn a_power_cut_takes_the_half_done_erase_along() {
    for (timing, half) in [(Timing::Real, true), (Timing::Zero, false)] {
        let options = Options { timing, ..Options::default() };
        let mut client = Client::with("stm32h743xi", [1; 12], options);
        client.settle_idle();
        client.run(SET_POINTER, START + 0x1_f000);
        client.write(2, &[0x00; 1024]);
        client.command(ERASE, START);
        let at = client.now;
        client.status();
        client.board.power(at + Duration::from_millis(100), false);
        let end = &client.board.flash()[0x1_f000..0x1_f400];
        assert_eq!(end.iter().any(|&byte| byte != 0xff), half, "{timing:?}");
    }
}

#[test]
fn a_flash_that_takes_no_time_needs_no_waiting() {
    let variant = DfuVariant::of(&chip("stm32f446xe"), &[0; 12]).unwrap().at_once();
    let options = Options { timing: Timing::Zero, dfu: Some(variant), ..Options::default() };
    let mut client = Client::with("stm32f446xe", [0; 12], options);
    client.settle_idle();
    let began = client.now;
    assert_eq!(client.run(ERASE, START), [0, 0, 5]);
    assert_eq!(client.run(SET_POINTER, START), [0, 0, 5]);
    assert_eq!(client.write(2, &[0x5a; 2048]), [0, 0, 5]);
    assert_eq!(client.now, began);
    assert_eq!(client.board.flash()[..2048], [0x5a; 2048]);
}
