//! The tables of `tests/data/silicon`: every layout parses, every serial number follows the rule.

use kflash::proto::dfuse::layout::Layout;
use kflash::proto::dfuse::rom_serial;

/// Fields of a line of CSV; quotes may hold commas.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().unwrap().push(other),
        }
    }
    fields
}

#[test]
fn every_listed_layout_parses() {
    let rows = include_str!("../../../../tests/data/silicon/dfu_listings.csv").lines().skip(1);
    let mut sizes = Vec::new();
    for row in rows {
        let row = fields(row);
        let layout = Layout::parse(&row[4]).unwrap_or_else(|error| panic!("{row:?}: {error}"));
        if row[3] == "0" {
            assert_eq!(layout.name, "Internal Flash", "{row:?}");
            let bytes: u32 = layout.sectors.iter().map(|sector| sector.range.size.0).sum();
            assert!(layout.sectors.iter().all(|sector| sector.access.read));
            sizes.push((row[0].clone(), bytes / 1024));
        }
    }
    assert_eq!(sizes.len(), 21);
    for (family, kib) in [("F042", 32), ("F446", 512), ("L0", 192), ("H723", 1024), ("H750", 2048), ("AT32F437", 4032)]
    {
        assert!(sizes.contains(&(family.into(), kib)), "{family}: {sizes:?}");
    }
}

#[test]
fn every_serial_that_is_derived_follows_the_rule() {
    let rows = include_str!("../../../../tests/data/silicon/dfu_serial_vectors.csv").lines().skip(1);
    let mut checked = 0;
    for row in rows {
        let row = fields(row);
        let words: Vec<u32> = row[1..4].iter().flat_map(|word| u32::from_str_radix(word, 16)).collect();
        // Families without a unique id in the table show a constant; of the F3 no serial number was ever printed.
        let ([a, b, c], false) = (&words[..], row[4].is_empty()) else { continue };
        assert_eq!(rom_serial([*a, *b, *c]), row[4], "{row:?}");
        checked += 1;
    }
    assert_eq!(checked, 3);
}
