//! The recorded host of a real F042 session against the model: the model gives the chip's answers.

use std::time::Duration;

use kflash::link::Setup;
use kflash_sim::board::{Control, Running};
use serde::Deserialize;

use crate::client::Client;
use crate::silicon;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Transfer {
    #[serde(rename = "t_us")]
    t_us: u64,
    addr: u8,
    #[serde(rename = "bmRequestType")]
    request_type: String,
    #[serde(rename = "bRequest")]
    request: String,
    #[serde(rename = "wValue")]
    value: u16,
    #[serde(rename = "wIndex")]
    index: u16,
    #[serde(rename = "wLength")]
    length: u16,
    len: usize,
    stall: bool,
    data: Option<String>,
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn the_recorded_host_gets_the_chips_answers() {
    let session = silicon("stm32f042_rom_dfu_session.jsonl");
    let transfers = session.lines().filter(|line| !line.contains("\"event\""));
    let transfers: Vec<Transfer> = transfers.map(|line| serde_json::from_str(line).unwrap()).collect();
    // Address 28 is the ROM; 29 is the application that it started.
    let rom: Vec<&Transfer> = transfers.iter().filter(|transfer| transfer.addr == 28).collect();
    assert_eq!(rom.len(), 125, "the whole session");

    let mut client = Client::new("stm32f042x6");
    let mut filler = 0x5a_u8;
    for transfer in &rom {
        let now = Duration::from_secs(1) + Duration::from_micros(transfer.t_us);
        let request_type = u8::from_str_radix(&transfer.request_type, 16).unwrap();
        let setup = Setup {
            request_type,
            request: u8::from_str_radix(&transfer.request, 16).unwrap(),
            value: transfer.value,
            index: transfer.index,
        };
        let incoming = request_type & 0x80 != 0;
        // Of the longer data blocks only the hash was kept: others take their place.
        let data = transfer.data.as_deref().map_or_else(
            || {
                filler = filler.wrapping_mul(3).wrapping_add(1);
                vec![filler; transfer.len]
            },
            bytes,
        );
        let answer = client.board.control(now, setup, if incoming { &[] } else { &data }, transfer.length);
        assert!(!transfer.stall);
        match answer {
            Control::Done { data: answered, held } => {
                assert!(held < Duration::from_millis(1), "an F042 holds nothing: {held:?} at {}", transfer.t_us);
                assert_eq!(answered, if incoming { data } else { Vec::new() }, "at {} us", transfer.t_us);
            }
            other => panic!("{other:?} at {} us", transfer.t_us),
        }
    }
    let left = Duration::from_secs(1) + Duration::from_micros(rom.last().unwrap().t_us);
    client.board.advance(left + Duration::from_micros(25));
    assert!(client.board.usb().is_none(), "D+ drops 20 us after the last GETSTATUS");
    // What took the place of the application is none.
    assert_eq!(client.board.running(), Running::LockedUp);
    assert_eq!(client.board.violations(), [""; 0]);
}
