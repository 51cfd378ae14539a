//! Every sequence of `dfu_status_sequences.jsonl`, as a variant of the model.

use std::time::Duration;

use kflash_sim::board::Control;
use serde::Deserialize;
use serde_json::Value;

use crate::client::{Client, ERASE, SET_POINTER, is_done};
use crate::silicon;

#[derive(Deserialize)]
struct Row {
    family: String,
    after: String,
    replies: Vec<Value>,
}

const APP: u32 = 0x0800_2000;

#[test]
fn every_recorded_sequence_comes_from_the_model() {
    let rows = silicon("dfu_status_sequences.jsonl");
    let mut count = 0;
    for row in rows.lines() {
        let row: Row = serde_json::from_str(row).unwrap();
        count += 1;
        let chip = match &row.family[..4] {
            "F042" => "stm32f042x6",
            "F469" => "stm32f469xi",
            "F745" => "stm32f745xg",
            "H743" => "stm32h743xi",
            "G0B1" => "stm32g0b1xe",
            "GD32" => "gd32vf103xb",
            other => panic!("no chip of family {other}"),
        };
        let mut client = Client::new(chip);
        let name = format!("{}: {}", row.family, row.after);
        if row.after == "open" {
            check(&mut client, &row, &name);
            client.settle_idle();
            continue;
        }
        client.settle_idle();
        let upper_bank = row.after.contains("8..15");
        match &row.after[..] {
            after if after.starts_with("41") => {
                client.command(ERASE, if upper_bank { 0x0810_0000 } else { 0x0800_0000 });
            }
            "21 addr" => client.command(SET_POINTER, APP),
            "erase / set pointer" => {
                client.command(ERASE, APP);
                assert_eq!(client.settle(), [0, 0, 5], "{name}");
                client.command(SET_POINTER, APP);
            }
            after if after.starts_with("data") => {
                client.run(ERASE, APP);
                client.run(SET_POINTER, APP);
                assert!(is_done(&client.download(2, &[0x5a; 404])));
            }
            "ABORT from DNLOAD-IDLE" => {
                client.run(SET_POINTER, APP);
                assert!(is_done(&client.abort()));
            }
            "any DNLOAD while DNBUSY" => {
                client.command(ERASE, 0x0810_0000);
                assert_eq!(client.status().unwrap()[2], 4);
                assert_eq!(client.download(0, &[0x21, 0, 0, 0, 8]), Control::Stall, "{name}");
                assert_eq!(row.replies, ["STALL"]);
                continue;
            }
            after if after.contains("length 0") => {
                client.run(SET_POINTER, APP);
                assert!(is_done(&client.download(2, &[])));
            }
            other => panic!("{other}: no way to bring this about"),
        }
        let took = check(&mut client, &row, &name);
        if row.family.starts_with("F745") {
            let whole = Duration::from_millis(100) + took[1];
            assert!((300..400).contains(&whole.as_millis()), "{name}: {whole:?}");
        }
        if row.family == "H743 rev V" && !upper_bank {
            assert!((850..950).contains(&took[0].as_millis()), "{name}: {took:?}");
        }
        if upper_bank {
            assert!(took[0] < Duration::from_millis(20));
            assert!(is_done(&client.clear_status()));
            assert_eq!(client.status().unwrap(), [14, 0, 10], "{name}");
            assert!(is_done(&client.clear_status()));
            assert_eq!(client.status().unwrap(), [0, 0, 2], "{name}");
        }
        if row.after.contains("length 0") {
            client.now += Duration::from_millis(1);
            client.board.advance(client.now);
            assert!(client.board.usb().is_none(), "{name}: it leaves");
        }
    }
    assert_eq!(count, 16);
}

/// Compares the replies to GETSTATUS, one after the other; how long each was held.
fn check(client: &mut Client, row: &Row, name: &str) -> Vec<Duration> {
    let mut took = Vec::new();
    for expected in &row.replies {
        let before = client.now;
        let seen = client.status();
        took.push(client.now.saturating_sub(before));
        match expected.as_array().map(Vec::as_slice) {
            None => assert_eq!((expected.as_str(), seen), (Some("STALL"), None), "{name}"),
            Some(expected) => {
                let seen = seen.unwrap_or_else(|| panic!("{name}: no answer"));
                for (expected, seen) in expected.iter().zip(seen) {
                    // "..." stands for any.
                    assert!(expected.as_u64().is_none_or(|expected| expected == u64::from(seen)), "{name}: {seen:?}");
                }
                client.now += Duration::from_millis(seen[1].into());
            }
        }
    }
    took
}
