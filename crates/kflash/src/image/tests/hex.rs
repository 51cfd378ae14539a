use super::*;
use crate::image::hex::decode;

fn record(kind: u8, offset: u16, data: &[u8]) -> String {
    let mut bytes = vec![data.len() as u8];
    bytes.extend(offset.to_be_bytes());
    bytes.push(kind);
    bytes.extend(data);
    let sum = bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    bytes.push((0x100 - sum % 0x100) as u8);
    bytes.iter().fold(":".to_owned(), |digits, byte| format!("{digits}{byte:02X}"))
}

/// Intel HEX with `width` bytes a record, each line before which the upper half of the address changes preceded by a
/// record of type 04.
fn encode(segments: &[Segment], width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut upper = 0;
    for segment in segments {
        let mut addr = segment.addr.0;
        let mut data = segment.data.as_slice();
        while !data.is_empty() {
            if addr >> 16 != upper {
                upper = addr >> 16;
                lines.push(record(4, 0, &(upper as u16).to_be_bytes()));
            }
            let to_boundary = 0x1_0000 - (addr & 0xffff) as usize;
            let (now, rest) = data.split_at(data.len().min(width).min(to_boundary));
            lines.push(record(0, addr as u16, now));
            addr += now.len() as u32;
            data = rest;
        }
    }
    lines.push(record(1, 0, &[]));
    lines
}

fn problem(text: &str) -> RecordProblem {
    match decode(text.as_bytes()) {
        Err(HexError::Record { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(segments in segments(), width in 1usize..=255, crlf: bool) {
        let text = encode(&segments, width).join(if crlf { "\r\n" } else { "\n" });
        prop_assert_eq!(decode(text.as_bytes()), Ok(segments.clone()));
        let image = Image::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(image.format, Format::IntelHex);
        prop_assert_eq!(image.start, Some(Start { addr: segments[0].addr, evidence: StartEvidence::Container }));
        prop_assert_eq!(image.segments, segments);
    }

    #[test]
    fn records_may_come_in_any_order(data in prop::collection::vec(any::<u8>(), 32..400), seed: prop::sample::Index) {
        let segments = vec![Segment { addr: FlashAddr(0x100), data }];
        let mut lines = encode(&segments, 16);
        let end = lines.pop().unwrap();
        let middle = seed.index(lines.len());
        lines.rotate_left(middle);
        lines.push(end);
        prop_assert_eq!(decode(lines.join("\n").as_bytes()), Ok(segments));
    }

    /// One wrong character is noticed, whichever it is.
    #[test]
    fn no_single_wrong_digit_passes(segments in segments(), place: prop::sample::Index, digit in "[0-9A-F]") {
        let text = encode(&segments, 32).join("\n");
        let digits: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_ascii_hexdigit()).map(|(at, _)| at).collect();
        let at = digits[place.index(digits.len())];
        prop_assume!(text[at..=at] != digit);
        let mut damaged = text;
        damaged.replace_range(at..=at, &digit);
        prop_assert!(decode(damaged.as_bytes()).is_err());
    }

    #[test]
    fn a_text_cut_short_is_noticed(segments in segments(), cut: prop::sample::Index) {
        let text = encode(&segments, 32).join("\n");
        prop_assert!(decode(&text.as_bytes()[..cut.index(text.len())]).is_err());
    }
}

#[test]
fn the_example_of_every_description() {
    let text = ":10010000214601360121470136007EFE09D2190140\n:00000001FF\n";
    let data = [0x21, 0x46, 0x01, 0x36, 0x01, 0x21, 0x47, 0x01, 0x36, 0x00, 0x7e, 0xfe, 0x09, 0xd2, 0x19, 0x01];
    assert_eq!(decode(text.as_bytes()), Ok(vec![Segment { addr: FlashAddr(0x100), data: data.into() }]));
}

#[test]
fn addresses_of_each_kind() {
    // Type 02: paragraph 0x1234 and offset 0x0010 are 0x12350.
    let text = [record(2, 0, &[0x12, 0x34]), record(0, 0x10, &[1, 2]), record(1, 0, &[])].join("\n");
    assert_eq!(decode(text.as_bytes()).unwrap()[0].addr, FlashAddr(0x1_2350));
    // Type 04 data may run on into the next 64 KiB; start addresses are skipped.
    let text = [
        record(5, 0, &[8, 0, 0x81, 1]),
        record(3, 0, &[0, 0, 0, 1]),
        record(4, 0, &[8, 0]),
        record(0, 0xffff, &[1, 2]),
        record(1, 0, &[]),
    ];
    let segments = decode(text.join("\n").as_bytes()).unwrap();
    assert_eq!(segments, [Segment { addr: FlashAddr(0x0800_ffff), data: vec![1, 2] }]);
}

#[test]
fn each_damage_is_named() {
    let end = record(1, 0, &[]);
    assert_eq!(problem("100000"), RecordProblem::NoColon);
    assert_eq!(problem(":0000000"), RecordProblem::NotHex);
    assert_eq!(problem(":0000zz01FF"), RecordProblem::NotHex);
    assert_eq!(problem(":00"), RecordProblem::Length { stated: 0, found: 0 });
    assert_eq!(problem(":0300000001FC"), RecordProblem::Length { stated: 3, found: 1 });
    assert_eq!(problem(":00000001FE"), RecordProblem::Checksum { found: 0xfe, expected: 0xff });
    assert_eq!(problem(&record(6, 0, &[])), RecordProblem::Type(6));
    assert_eq!(problem(&record(4, 0, &[1])), RecordProblem::TypeLength { kind: 4, length: 1 });
    assert_eq!(problem(&record(1, 0, &[1])), RecordProblem::TypeLength { kind: 1, length: 1 });
    assert_eq!(problem(&[record(2, 0, &[0, 0]), record(0, 0xffff, &[1, 2])].join("\n")), RecordProblem::Wraps);
    assert_eq!(problem(&[end.clone(), record(0, 0, &[1])].join("\n")), RecordProblem::AfterEnd);
    assert_eq!(decode(record(0, 0, &[1]).as_bytes()), Err(HexError::NoEnd(1)));
    assert_eq!(decode(end.as_bytes()), Err(HexError::Layout(LayoutError::Nothing)));
    let overlap = [record(0, 4, &[1, 2]), record(0, 0, &[1; 5]), end.clone()].join("\n");
    assert_eq!(decode(overlap.as_bytes()), Err(HexError::Layout(LayoutError::Overlap(FlashAddr(4)))));
    let past = [record(4, 0, &[0xff; 2]), record(0, 0xffff, &[1, 2]), end].join("\n");
    let error = LayoutError::PastEnd { addr: FlashAddr(u32::MAX), size: 2 };
    assert_eq!(decode(past.as_bytes()), Err(HexError::Layout(error)));
}

#[test]
fn an_error_names_its_line() {
    let error = Image::parse(b":0100000001FE\r\n\r\n:00000001FE\r\n").unwrap_err();
    assert_eq!(error.to_string(), "not intact Intel HEX: line 3: checksum 0xfe where 0xff is right");
}
