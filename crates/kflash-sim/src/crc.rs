//! CRC-16/MCRF4XX: reflected polynomial 0x8408, initial value 0xffff, no final xor. Klipper and Katapult share it.

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x8408 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

/// The checksum of `data`.
pub(crate) fn mcrf4xx(data: &[u8]) -> u16 {
    data.iter().fold(0xffff, |crc, &byte| (crc >> 8) ^ TABLE[usize::from((crc as u8) ^ byte)])
}

/// The checksum that the RP2040's boot ROM wants over the second stage: CRC-32/MPEG-2 (RP2040 datasheet §2.8.1.3.1).
pub(crate) fn rp2040_stage2(data: &[u8]) -> u32 {
    data.iter().fold(0xffff_ffff, |mut crc, &byte| {
        crc ^= u32::from(byte) << 24;
        for _ in 0..8 {
            crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { (crc << 1) ^ 0x04c1_1db7 };
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_check_values() {
        assert_eq!(mcrf4xx(b"123456789"), 0x6f91);
        assert_eq!(rp2040_stage2(b"123456789"), 0x0376_e6e7);
    }
}
