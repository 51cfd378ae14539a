//! Images in the form of real builds are told for what they are.

#![expect(clippy::unwrap_used, reason = "tests")]

use kflash::addr::FlashAddr;
use kflash::image::{Format, Image, KatapultStrings, PlaceError, StartEvidence};
use kflash::klipper::dictionary::{BuiltFor, Dictionary};
use kflash_sim::firmware::TestImage;

/// MCUs with the starts that Klipper's Kconfig offers for them.
const STARTS: &[(&str, &[u32])] = &[
    ("stm32f103xe", &[0x0800_0000, 0x0800_0800, 0x0800_2000, 0x0800_7000]),
    ("stm32f446xx", &[0x0800_0000, 0x0800_4000, 0x0800_8000, 0x0801_0000]),
    ("stm32g0b1xx", &[0x0800_0000, 0x0800_2000]),
    ("stm32h723xx", &[0x0800_0000, 0x0802_0000]),
    ("rp2040", &[0x1000_4000]),
];
const SIZES: &[usize] = &[TestImage::MIN_SIZE, 2048, 2049, 5000, 12_288, 16_384, 44_516, 131_072];

#[test]
fn start_and_dictionary_of_every_mcu_and_size() {
    for &(mcu, starts) in STARTS {
        for (&start, &size) in starts.iter().flat_map(|start| SIZES.iter().map(move |size| (start, size))) {
            let made = TestImage::klipper(mcu, start).size(size);
            let image = Image::parse(&made.build()).unwrap();
            let case = format!("{mcu} at {start:#x}, {size} bytes");
            assert_eq!(image.format, Format::Bin, "{case}");
            assert_eq!(image.start.as_ref().map(|start| start.addr), Some(FlashAddr(start)), "{case}");
            assert_eq!(image.range().size.0 as usize, size, "{case}");
            assert_eq!(image.dictionary, Dictionary::from_zlib(&made.dictionary_zlib()).ok(), "{case}");
            assert_eq!(image.dictionary.unwrap().mcu(), Some(mcu), "{case}");
            assert_eq!(image.vector_table.unwrap().stack_pointer.0, made.stack_pointer, "{case}");
        }
    }
}

#[test]
fn the_start_is_shown_with_its_evidence() {
    let built = TestImage::klipper("stm32f446xx", 0x0800_8000).layout();
    let start = Image::parse(&built.bytes).unwrap().start.unwrap();
    let at = built.literal_at.unwrap() as u32;
    assert_eq!(start.evidence, StartEvidence::DictionaryPointer { at, others: vec![FlashAddr(0x0800_9100)] });
    let rp2040 = Image::parse(&TestImage::klipper("rp2040", 0x1000_4000).build()).unwrap();
    assert_eq!(rp2040.start.unwrap().evidence, StartEvidence::ResetHandler { at: 0x58 });
}

#[test]
fn other_seeds_do_not_confuse_the_start() {
    for seed in 0..200 {
        let mut made = TestImage::klipper("stm32g0b1xx", 0x0800_2000);
        made.seed = seed;
        let start = Image::parse(&made.build()).unwrap().start.unwrap();
        assert_eq!(start.addr, FlashAddr(0x0800_2000), "seed {seed}");
    }
}

#[test]
fn cables_and_forks() {
    for built_for in
        [BuiltFor::Usb, BuiltFor::Uart(250_000), BuiltFor::Uart(115_200), BuiltFor::Can, BuiltFor::CanBridge]
    {
        let made = TestImage::kalico("stm32f446xx", 0x0800_8000).built_for(built_for);
        let dictionary = Image::parse(&made.build()).unwrap().dictionary.unwrap();
        assert_eq!(dictionary.built_for(), built_for);
        assert_eq!(dictionary.app, "Kalico");
        assert_eq!(dictionary.version, made.version);
    }
}

#[test]
fn katapult_is_known_by_its_signature_and_strings() {
    let image = Image::parse(&TestImage::katapult("stm32f446xx", 0x0800_0000).build()).unwrap();
    let strings = KatapultStrings { version: Some("v0.0.1-109-g902f335".into()), mcu: Some("stm32f446xx".into()) };
    assert_eq!(image.katapult, Some(strings));
    assert_eq!(image.dictionary, None);
    assert_eq!(image.start.unwrap().addr, FlashAddr(0x0800_0000));
}

#[test]
fn an_image_that_lost_its_dictionary_has_no_start() {
    let built = TestImage::klipper("stm32f446xx", 0x0800_8000).layout();
    let mut bytes = built.bytes;
    bytes[built.dictionary_at.unwrap() + 100] ^= 1;
    let image = Image::parse(&bytes).unwrap();
    assert_eq!((image.dictionary, image.start), (None, None));
    assert!(image.vector_table.is_some());
}

#[test]
fn a_raw_image_can_be_placed_anywhere_and_a_hex_where_it_says() {
    let bytes = TestImage::klipper("stm32f103xe", 0x0800_7000).size(2048).build();
    let image = Image::parse(&bytes).unwrap();
    for start in [0x0800_7000, 0x0800_0000] {
        let placed = image.placed(FlashAddr(start)).unwrap();
        assert_eq!(placed.range().start, FlashAddr(start));
        assert_eq!(placed.bytes(placed.range()), bytes);
    }
    let (start, size) = (FlashAddr(u32::MAX - 2047), 2048);
    assert_eq!(image.placed(start), Err(PlaceError::PastEnd { start, size }));

    let hex = Image::parse(b":020000040800F2\n:01700000414E\n:01701000423D\n:00000001FF").unwrap();
    let (own, asked) = (FlashAddr(0x0800_7000), FlashAddr(0x0800_8000));
    assert_eq!(hex.placed(asked), Err(PlaceError::OtherStart { own, asked }));
    let placed = hex.placed(own).unwrap();
    let mut expected = vec![0xff; 17];
    (expected[0], expected[16]) = (0x41, 0x42);
    assert_eq!(placed.bytes(placed.range()), expected);
}
