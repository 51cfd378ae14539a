use super::*;
use crate::image::uf2::decode;

const RP2040: u32 = 0xe48b_ff56;

/// A block with `change` applied to its first eight words: magics, flags, address, size, number, count, family.
fn block(addr: u32, number: u32, count: u32, payload: &[u8], change: impl Fn(&mut [u32; 8])) -> Vec<u8> {
    let mut header = [0x0a32_4655, 0x9e5d_5157, 0x2000, addr, payload.len() as u32, number, count, RP2040];
    change(&mut header);
    let mut block: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    block.extend(payload);
    block.resize(508, 0);
    block.extend(0x0ab1_6f30u32.to_le_bytes());
    block
}

fn encode(segments: &[Segment], payload: usize) -> Vec<Vec<u8>> {
    let pieces: Vec<(u32, &[u8])> = segments
        .iter()
        .flat_map(|segment| {
            let starts = (segment.addr.0..).step_by(payload);
            starts.zip(segment.data.chunks(payload))
        })
        .collect();
    let count = pieces.len() as u32;
    pieces.iter().zip(0..).map(|(&(addr, data), number)| block(addr, number, count, data, |_| {})).collect()
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(segments in segments(), payload in 1usize..=476, first: prop::sample::Index) {
        let mut blocks = encode(&segments, payload);
        let first = first.index(blocks.len());
        blocks.rotate_left(first);
        let file = blocks.concat();
        prop_assert_eq!(decode(&file), Ok((segments.clone(), Some(Uf2Family(RP2040)))));
        let image = Image::parse(&file).unwrap();
        prop_assert_eq!(image.format, Format::Uf2);
        prop_assert_eq!(image.start, Some(Start { addr: segments[0].addr, evidence: StartEvidence::Container }));
        prop_assert_eq!(image.segments, segments);
    }

    #[test]
    fn a_missing_block_is_named(segments in segments(), lost: prop::sample::Index) {
        let mut blocks = encode(&segments, 64);
        let count = blocks.len() as u32;
        prop_assume!(count > 1);
        let lost = lost.index(blocks.len());
        blocks.remove(lost);
        prop_assert_eq!(decode(&blocks.concat()), Err(Uf2Error::Missing { missing: 1, count, first: lost as u32 }));
    }

    #[test]
    fn a_block_given_twice_is_named(segments in segments(), twice: prop::sample::Index) {
        let mut blocks = encode(&segments, 64);
        let twice = twice.index(blocks.len());
        blocks.push(blocks[twice].clone());
        prop_assert_eq!(decode(&blocks.concat()), Err(Uf2Error::Twice(twice as u32)));
    }

    #[test]
    fn a_file_cut_short_is_noticed(segments in segments(), cut: prop::sample::Index) {
        let file = encode(&segments, 256).concat();
        let cut = cut.index(file.len());
        prop_assert!(decode(&file[..cut]).is_err());
    }
}

#[test]
fn blocks_for_other_memory_are_left_out() {
    let blocks =
        [block(0x1000_0000, 0, 2, FIRMWARE, |_| {}), block(0x2000_0000, 1, 2, FIRMWARE, |header| header[2] |= 1)];
    let (segments, _) = decode(&blocks.concat()).unwrap();
    assert_eq!(segments, [Segment { addr: FlashAddr(0x1000_0000), data: FIRMWARE.to_vec() }]);
}

#[test]
fn a_file_without_a_family() {
    let file = block(0x2000, 0, 1, FIRMWARE, |header| header[2] = 0);
    assert_eq!(decode(&file).unwrap().1, None);
}

#[test]
fn each_damage_is_named() {
    let two = |change: fn(&mut [u32; 8])| {
        let good = block(0x1000_0000, 0, 2, FIRMWARE, |_| {});
        decode(&[good, block(0x1000_0100, 1, 2, FIRMWARE, change)].concat()).unwrap_err()
    };
    assert_eq!(two(|header| header[0] ^= 1), Uf2Error::Magic(1));
    assert_eq!(two(|header| header[1] ^= 1), Uf2Error::Magic(1));
    assert_eq!(two(|header| header[2] |= 0x1000), Uf2Error::Container(1));
    assert_eq!(two(|header| header[4] = 477), Uf2Error::Payload { block: 1, size: 477 });
    assert_eq!(two(|header| header[4] = 0), Uf2Error::Payload { block: 1, size: 0 });
    assert_eq!(two(|header| header[5] = 2), Uf2Error::Number { block: 1, number: 2, count: 2 });
    assert_eq!(two(|header| header[6] = 3), Uf2Error::Count { block: 1, found: 3, expected: 2 });
    assert_eq!(two(|header| header[7] += 3), Uf2Error::Families { block: 1 });
    assert_eq!(two(|header| header[3] -= 0x100), Uf2Error::Layout(LayoutError::Overlap(FlashAddr(0x1000_0000))));
    assert_eq!(
        two(|header| header[3] = u32::MAX - 2),
        Uf2Error::Layout(LayoutError::PastEnd { addr: FlashAddr(u32::MAX - 2), size: FIRMWARE.len() })
    );
    let mut file = block(0, 0, 1, FIRMWARE, |_| {});
    file[511] ^= 1;
    assert_eq!(decode(&file), Err(Uf2Error::Magic(0)));
}

#[test]
fn a_count_of_four_thousand_million_blocks_costs_nothing() {
    let file = block(0, u32::MAX - 1, u32::MAX, FIRMWARE, |_| {});
    assert_eq!(decode(&file), Err(Uf2Error::Missing { missing: u32::MAX - 1, count: u32::MAX, first: 0 }));
}
