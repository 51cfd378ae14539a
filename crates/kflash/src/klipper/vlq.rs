//! Integers and byte strings as Klipper's messages carry them (Klipper `docs/Protocol.md`, "Variable Length Quantities").
//!
//! Seven bits to a byte, the most significant first, bit 7 set on all but the last. A first byte whose bits 5 and 6 are
//! both set starts a negative number.

/// The most bytes that one integer takes.
const MAX_BYTES: usize = 5;

/// Appends `value`, which is an `i32` or a `u32`, in as few bytes as hold it.
pub fn put(value: i64, out: &mut Vec<u8>) {
    // One byte reaches from -32 to 95, and each further byte shifts both ends by seven bits.
    let more = (1..MAX_BYTES).rev().filter(|n| !(-(32_i64 << (7 * (n - 1)))..96_i64 << (7 * (n - 1))).contains(&value));
    for n in more {
        out.push((value >> (7 * n)) as u8 & 0x7F | 0x80);
    }
    out.push(value as u8 & 0x7F);
}

/// Takes an integer off the front of `bytes` and returns it with what follows; `None` where the bytes end inside it or
/// it is longer than five bytes. A 32-bit value sent as `%u` may come as negative: keep the low 32 bits.
pub fn take(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let length = bytes.iter().take(MAX_BYTES).position(|byte| byte & 0x80 == 0)? + 1;
    let (number, rest) = bytes.split_at(length);
    let sign = if number[0] & 0x60 == 0x60 { -1 } else { 0 };
    let value = number.iter().fold(sign, |value: i64, byte| value << 7 | i64::from(byte & 0x7F));
    Some((value, rest))
}

/// Takes a byte string (`%*s`) off the front of `bytes`: one byte of length, then that many bytes.
pub fn take_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put(value, &mut out);
        out
    }

    #[test]
    fn golden() {
        let vectors: [(i64, &[u8]); 6] = [
            (95, &[0x5f]),
            (96, &[0x80, 0x60]),
            (-32, &[0x60]),
            (-33, &[0xff, 0x5f]),
            (12288, &[0x80, 0xe0, 0x00]),
            (0xffff_ffff, &[0x8f, 0xff, 0xff, 0xff, 0x7f]),
        ];
        for (value, bytes) in vectors {
            assert_eq!(encoded(value), bytes, "{value}");
            assert_eq!(take(bytes), Some((value, &[][..])), "{bytes:02x?}");
        }
    }

    #[test]
    fn lengths_change_where_the_ranges_end() {
        for (low, high, length) in
            [(-32, 95, 1), (-4096, 12287, 2), (-524_288, 1_572_863, 3), (-67_108_864, 201_326_591, 4)]
        {
            assert_eq!([low, high].map(|value| encoded(value).len()), [length; 2]);
            assert_eq!([low - 1, high + 1].map(|value| encoded(value).len()), [length + 1; 2]);
        }
    }

    #[test]
    fn short_and_overlong_are_refused() {
        assert_eq!(take(&[]), None);
        assert_eq!(take(&[0x80, 0xff]), None);
        assert_eq!(take(&[0x81, 0x80, 0x80, 0x80, 0x80, 0x00]), None);
        assert_eq!(take_bytes(&[3, 1, 2]), None);
        assert_eq!(take_bytes(&[2, 1, 2, 9]), Some((&[1, 2][..], &[9][..])));
    }

    proptest! {
        #[test]
        fn round_trip(value in i64::from(i32::MIN)..=i64::from(u32::MAX), tail: Vec<u8>) {
            let mut bytes = encoded(value);
            prop_assert!(bytes.len() <= MAX_BYTES);
            bytes.extend(&tail);
            prop_assert_eq!(take(&bytes), Some((value, &tail[..])));
        }
    }
}
