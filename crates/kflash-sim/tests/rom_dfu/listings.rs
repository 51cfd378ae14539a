//! Descriptors and serial numbers as listed from real chips.

use kflash_sim::board::Options;

use crate::client::Client;
use crate::silicon;

/// The fields of a line of CSV; quotes hold commas together.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for char in line.chars() {
        match char {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().unwrap().push(char),
        }
    }
    fields
}

fn text(payload: &[u8]) -> String {
    let units: Vec<u16> = payload.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).unwrap()
}

/// The chip whose ROM a row is about; the other families have no model.
fn chip_of(row: &[String]) -> Option<&'static str> {
    let (family, part) = (&row[0][..], &row[1][..]);
    Some(match family {
        "F042" => "stm32f042x6",
        "F072" => "stm32f072xb",
        "F105/F107" => "stm32f105xc",
        "F401" => "stm32f401xe",
        "F405/F407/F415" => "stm32f407xg",
        "F446" => "stm32f446xe",
        "F72x" => "stm32f722xe",
        "F74x" => "stm32f745xg",
        "G0B1" if part.starts_with("128K") || part == "same" => "stm32g0b1xb",
        "G0B1/G0C1" => "stm32g0b1xe",
        "G474" => "stm32g474xe",
        "H723" => "stm32h723xe",
        "H750" => "stm32h750xb",
        "GD32VF103" => "gd32vf103xb",
        _ => return None,
    })
}

#[test]
fn alternates_are_named_as_listed() {
    let listings = silicon("dfu_listings.csv");
    let mut seen = 0;
    for line in listings.lines().skip(1) {
        let row = fields(line);
        let Some(chip) = chip_of(&row) else { continue };
        let client = Client::new(chip);
        let device = client.board.usb().unwrap();
        if !row[2].is_empty() {
            let revision = u16::from_str_radix(&row[2], 16).unwrap();
            assert_eq!(u16::from_le_bytes([device.device[12], device.device[13]]), revision, "{line}");
        }
        let alternate: usize = row[3].parse().unwrap();
        // iInterface of each alternate: its string.
        let index = device.configuration[9 + alternate * 9 + 8];
        assert_eq!(text(&device.strings[usize::from(index) - 1]), row[4], "{line}");
        let constant = ["FFFFFFFEFFFF", "STM32FxSTM32", "STM32"].contains(&&row[5][..]);
        if constant {
            assert_eq!(text(&device.strings[2]), row[5], "{line}");
        }
        seen += 1;
    }
    assert_eq!(seen, 28);
}

#[test]
fn serials_follow_from_the_unique_id_as_listed() {
    let vectors = silicon("dfu_serial_vectors.csv");
    let mut seen = 0;
    for line in vectors.lines().skip(1) {
        let row = fields(line);
        let words: Option<Vec<u32>> = row[1..4].iter().map(|word| u32::from_str_radix(word, 16).ok()).collect();
        let (Some(words), "F2/F4" | "G0B1") = (words, &row[0][..]) else { continue };
        let uid: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let chip = if row[0] == "G0B1" { "stm32g0b1xb" } else { "stm32f407xg" };
        let client = Client::with(chip, uid.try_into().unwrap(), Options::default());
        assert_eq!(text(&client.board.usb().unwrap().strings[2]), row[4], "{line}");
        seen += 1;
    }
    assert_eq!(seen, 2);
    // A raw descriptor of four ASCII bytes.
    assert_eq!(Client::new("gd32vf103xb").board.usb().unwrap().strings[2], b"3CBJ");
}
