use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write as _;

use super::*;

/// Starts of formats, so that random bytes get past the first check.
const STARTS: &[&[u8]] = &[b"", b":", b"UF2\nWQ]\x9e", b"\x7fELF\x01\x01\x01", b"\x78\xda", b"{", b"S0"];

fn deflate(data: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), level);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn largest_file_of(pattern: &[u8]) -> Vec<u8> {
    let mut file: Vec<u8> = pattern.iter().copied().cycle().take(MAX_FILE).collect();
    file[0] ^= 0x80;
    file
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        start in prop::sample::select(STARTS), bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        if let Ok(image) = Image::parse(&[start, &bytes].concat()) {
            check_promises(&image);
        }
    }

    /// Bytes that look like vector tables, addresses and zlib headers.
    #[test]
    fn no_words_make_it_panic(words in prop::collection::vec(likely_word(), 4..500)) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        if let Ok(image) = Image::parse(&bytes) {
            check_promises(&image);
        }
    }
}

fn likely_word() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0x0800_0000u32..0x0800_1000,
        0x2000_0000u32..0x2000_1000,
        Just(0x2000_5000),
        Just(0x0800_0101),
        Just(0xda78_b672),
        Just(u32::from_le_bytes(*b"CanB")),
        Just(u32::from_le_bytes(*b"oot!")),
        0u32..0x200,
    ]
}

/// What the fields of an image promise.
fn check_promises(image: &Image) {
    assert!(!image.segments.is_empty());
    assert!(image.segments.iter().all(|segment| !segment.data.is_empty()));
    assert!(image.segments.windows(2).all(|pair| pair[0].range().end() < pair[1].addr));
    if let Some(start) = &image.start {
        assert_eq!(start.addr, image.segments[0].addr);
    }
    match image.placed(image.range().start) {
        Ok(placed) => {
            for segment in &image.segments {
                assert_eq!(placed.bytes(segment.range()), segment.data);
            }
        }
        Err(error) => assert!(matches!(error, PlaceError::TooFarApart(_)), "{error}"),
    }
}

#[test]
fn a_file_of_nothing_but_zlib_headers_ends_soon() {
    assert_eq!(Image::parse(&largest_file_of(b"\x78\xda")), Err(ImageError::Dictionary(SearchError::TooMuchWork)));
}

#[test]
fn a_file_of_bombs_ends_soon() {
    let mut json = b"{\"app\":\"".to_vec();
    json.resize(10 << 20, b'A');
    let file = largest_file_of(&deflate(&json, Compression::best()));
    let result = Image::parse(&file);
    assert_eq!(result, Err(ImageError::Dictionary(SearchError::TooMuchWork)));
}

#[test]
fn a_file_of_empty_deflate_blocks_ends_soon() {
    // Stored blocks of length zero: input without output.
    let mut stream = b"\x78\x01".to_vec();
    stream.extend(b"\0\0\0\xff\xff".repeat(1000));
    let result = Image::parse(&largest_file_of(&stream));
    assert!(matches!(result, Ok(_) | Err(ImageError::Dictionary(SearchError::TooMuchWork))), "{result:?}");
}

#[test]
fn one_bomb_in_an_image_is_no_dictionary() {
    let mut json = b"{\"app\":\"".to_vec();
    json.resize(100 << 20, b'A');
    let file = [FIRMWARE, &deflate(&json, Compression::best()), FIRMWARE].concat();
    assert_eq!(Image::parse(&file).unwrap().dictionary, None);
}

#[test]
fn two_different_dictionaries_are_refused_and_two_equal_ones_are_not() {
    let dictionary = |version: &str| {
        let json = format!(r#"{{"version":"{version}","config":{{}},"commands":{{}}}}"#);
        deflate(json.as_bytes(), Compression::best())
    };
    let different = [FIRMWARE, &dictionary("v1"), &dictionary("v2")].concat();
    assert_eq!(
        Image::parse(&different).unwrap_err().to_string(),
        r#"it holds two different data dictionaries, "v1" and "v2""#
    );
    let equal = [FIRMWARE, &dictionary("v1"), &dictionary("v1")].concat();
    assert_eq!(Image::parse(&equal).unwrap().dictionary.unwrap().version, "v1");
}

#[test]
fn an_intact_stream_with_a_malformed_dictionary_is_refused() {
    let json = br#"{"version":1,"config":{},"commands":{}}"#;
    let file = [FIRMWARE, &deflate(json, Compression::best())].concat();
    let error = Image::parse(&file).unwrap_err();
    assert!(error.to_string().starts_with("the data dictionary is malformed: invalid type: integer"), "{error}");
}
