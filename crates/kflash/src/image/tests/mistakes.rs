use super::*;

fn mistake(bytes: &[u8]) -> Mistake {
    match Image::parse(bytes) {
        Err(ImageError::Mistake(mistake)) => mistake,
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_that_people_pass() {
    let dictionary = br#"{"app":"Klipper","commands":{"identify offset=%u count=%c":1}}"#;
    assert_eq!(mistake(dictionary), Mistake::Dictionary);
    assert_eq!(mistake(b"{\"mcu\": \"stm32\"}\n"), Mistake::Json);
    assert_eq!(mistake(b"# CONFIG_LOW_LEVEL_OPTIONS is not set\nCONFIG_MACH_STM32=y\n"), Mistake::Config);
    assert_eq!(mistake(b"#\n# a comment first\nCONFIG_MACH_STM32=y\n"), Mistake::Config);
    assert_eq!(mistake(b"\n<!DOCTYPE html><html>"), Mistake::WebPage);
    assert_eq!(mistake(b"<HTML>"), Mistake::WebPage);
    assert_eq!(mistake(b"S00F000068656C6C6F202020202000003C\n"), Mistake::SRecord);
    assert_eq!(mistake("[stepper_x]\nstep_pin: PE2 # \u{b0}\n".as_bytes()), Mistake::Text);
    assert_eq!(mistake(b"\x1f\x8b\x08\0\0\0\0\0"), Mistake::Compressed);
    assert_eq!(mistake(b"PK\x03\x04\x14\0"), Mistake::Compressed);
    assert_eq!(mistake(b"DfuSe\x01\0\0\0\0\x01"), Mistake::DfuSe);
    assert_eq!(mistake(&[0xff; 4096]), Mistake::Constant(0xff));
    assert_eq!(mistake(&[0; 1]), Mistake::Constant(0));
    assert_eq!(Image::parse(&[]), Err(ImageError::Empty));
}

#[test]
fn the_largest_file_and_one_byte_more() {
    let mut bytes = vec![0xff; MAX_FILE];
    bytes[0] = 0;
    assert_eq!(Image::parse(&bytes).unwrap().size(), FlashSize(16 << 20));
    bytes.push(0);
    assert_eq!(Image::parse(&bytes), Err(ImageError::TooLarge));
}

#[test]
fn bytes_that_say_nothing_of_themselves_are_an_image_without_a_start() {
    let image = Image::parse(FIRMWARE).unwrap();
    assert_eq!(image.format, Format::Bin);
    assert_eq!((image.start, image.vector_table), (None, None));
}
