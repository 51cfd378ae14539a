use super::*;

const ARM: u16 = 40;
const EXECUTABLE: u16 = 2;

/// A 32-bit little-endian ELF of LOAD segments: physical address, data, bytes in memory beyond the data.
fn encode(machine: u16, kind: u16, loads: &[(u32, &[u8], u32)]) -> Vec<u8> {
    let data_at = 52 + 32 * loads.len() as u32;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(kind.to_le_bytes());
    file.extend(machine.to_le_bytes());
    // Version, entry, program headers, section headers, flags.
    file.extend([1u32, 0x0800_8001, 52, 0, 0x0500_0200].iter().flat_map(|word| word.to_le_bytes()));
    file.extend([52u16, 32, loads.len() as u16, 40, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    let mut at = data_at;
    for (n, (addr, data, more)) in loads.iter().enumerate() {
        let size = data.len() as u32;
        // Virtual addresses lie in RAM, so that taking them by mistake is seen.
        let words = [1, at, 0x2000_0000 + 0x1_0000 * n as u32, *addr, size, size + more, 5, 4];
        file.extend(words.iter().flat_map(|word: &u32| word.to_le_bytes()));
        at += size;
    }
    for (_, data, _) in loads {
        file.extend(*data);
    }
    file
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(segments in segments()) {
        let loads: Vec<_> = segments.iter().rev().map(|segment| (segment.addr.0, segment.data.as_slice(), 0)).collect();
        let image = Image::parse(&encode(ARM, EXECUTABLE, &loads)).unwrap();
        prop_assert_eq!(image.format, Format::Elf);
        prop_assert_eq!(image.segments, segments);
    }

    #[test]
    fn a_damaged_file_never_panics(segments in segments(), damage in prop::collection::vec((0usize..200, any::<u8>()), 1..8)) {
        let loads: Vec<_> = segments.iter().map(|segment| (segment.addr.0, segment.data.as_slice(), 0)).collect();
        let mut file = encode(ARM, EXECUTABLE, &loads);
        for (at, byte) in damage {
            if let Some(old) = file.get_mut(at) {
                *old = byte;
            }
        }
        let _ = Image::parse(&file);
    }
}

#[test]
fn text_and_data_follow_each_other_in_flash() {
    // As in a Klipper build: .text, .data behind it in flash, .bss and .stack without data.
    let loads: [(u32, &[u8], u32); 3] =
        [(0x0800_8000, &[1; 100], 0), (0x0800_8064, &[2; 20], 700), (0x0802_8000, &[], 512)];
    let image = Image::parse(&encode(ARM, EXECUTABLE, &loads)).unwrap();
    assert_eq!(image.segments.len(), 1);
    assert_eq!(image.range().to_string(), "0x08008000..0x08008078");
}

#[test]
fn placed_it_is_the_bin_that_objcopy_makes_of_it() {
    // As in a Klipper build whose .text is no multiple of four bytes: .data is aligned behind it.
    let loads: [(u32, &[u8], u32); 2] = [(0x0800_8000, &[1; 98], 0), (0x0800_8064, &[2; 20], 700)];
    let image = Image::parse(&encode(ARM, EXECUTABLE, &loads)).unwrap();
    let placed = image.placed(FlashAddr(0x0800_8000)).unwrap();
    assert_eq!(placed.bytes(placed.range()), [&[1; 98][..], &[0; 2], &[2; 20]].concat());
}

#[test]
fn what_is_no_firmware() {
    let error = |file: &[u8]| Image::parse(file).unwrap_err().to_string();
    let load: [(u32, &[u8], u32); 1] = [(0x0800_8000, FIRMWARE, 0)];
    assert_eq!(
        error(&encode(3, EXECUTABLE, &load)),
        "not an ELF file of firmware: it is for processor type 3, not for ARM or AVR"
    );
    assert_eq!(
        error(&encode(ARM, 1, &load)),
        "not an ELF file of firmware: it is not linked: an object file or a library"
    );
    assert_eq!(error(&encode(ARM, EXECUTABLE, &[])), "not an ELF file of firmware: it holds no data");
    let whole = encode(ARM, EXECUTABLE, &load);
    assert_eq!(error(&whole[..whole.len() - 1]), "not an ELF file of firmware: segment 0 lies outside the file");
    let mut wide = whole;
    wide[4] = 2;
    assert_eq!(
        error(&wide),
        "not an ELF file of firmware: it is a 64-bit program, not firmware for a micro-controller"
    );
}

#[test]
fn a_thousand_segments_of_the_same_bytes_are_too_much() {
    let data = vec![1; 64 * 1024];
    let mut loads: Vec<(u32, &[u8], u32)> = (0..1000).map(|n| (n << 16, [].as_slice(), 0)).collect();
    loads.push((0, &data, 0));
    let mut file = encode(ARM, EXECUTABLE, &loads);
    // Every header points to the same 64 KiB.
    let at = (file.len() - data.len()) as u32;
    for n in 0..1000 {
        let header = 52 + 32 * n;
        file[header + 4..header + 8].copy_from_slice(&at.to_le_bytes());
        file[header + 16..header + 20].copy_from_slice(&(data.len() as u32).to_le_bytes());
    }
    assert_eq!(Image::parse(&file), Err(ImageError::Elf(ElfError::Layout(LayoutError::TooMuch))));
}
