//! The checksum of Klipper's and Katapult's frames.

/// CRC-16/MCRF4XX: the reflected polynomial 0x1021, starting from `ffff`, no final exclusive-or.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x8408 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::crc16;

    #[test]
    fn check_value_of_the_catalogue() {
        assert_eq!(crc16(b"123456789"), 0x6F91);
        assert_eq!(crc16(b""), 0xFFFF);
    }
}
