//! The USB serial number of ST's ROM bootloaders.

/// The serial number that the ROM derives from the 96-bit unique id, given as three little-endian words: `%08X%04X` of
/// word 0 + word 2 and the upper half of word 1.
///
/// It holds on F2, F4 (not the F446) and G0; others show a constant: [`crate::chip::DfuSerial`] says which.
pub fn rom_serial(uid: [u32; 3]) -> String {
    format!("{:08X}{:04X}", uid[0].wrapping_add(uid[2]), uid[1] >> 16)
}
