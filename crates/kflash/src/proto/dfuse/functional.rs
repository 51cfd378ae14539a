//! Where DFU is in a configuration: its interface, its alternates and the functional descriptor (DFU 1.1 §4.1.3).

use crate::link::descriptor::interfaces;

/// Class, subclass and protocol of an interface in DFU mode (DFU 1.1 §4.2.3).
const DFU_MODE: [u8; 3] = [0xfe, 0x01, 0x02];
/// `bDescriptorType` of the functional descriptor. A HID descriptor has the same number: it counts only behind a DFU
/// interface.
const FUNCTIONAL: u8 = 0x21;

/// The DFU interface of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DfuInterface {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// Each alternate setting with the index of its name, in ascending order.
    pub alternates: Vec<(u8, u8)>,
    /// `wTransferSize`: bytes of a full block.
    pub transfer_size: u16,
    /// `bitCanUpload`: memory can be read.
    pub can_upload: bool,
}

/// Finds the DFU interface in a whole configuration descriptor.
///
/// The functional descriptor is taken from there and never asked for on its own: the ROM of the STM32C5 does not answer
/// that.
pub fn dfu_interface(configuration: &[u8]) -> Result<DfuInterface, &'static str> {
    let all = interfaces(configuration);
    let number = all.iter().find(|one| one.class == DFU_MODE).ok_or("device has no interface in DFU mode")?.number;
    let settings = || all.iter().filter(|one| one.class == DFU_MODE && one.number == number);
    // 9 bytes, or the 7 of DFU 1.0, which has no bcdDFUVersion.
    let functional = settings()
        .flat_map(|one| &one.others)
        .find_map(|other| match **other {
            [_, FUNCTIONAL, attributes, _, _, low, high, ..] => Some((attributes, u16::from_le_bytes([low, high]))),
            _ => None,
        })
        .ok_or("device has no DFU functional descriptor")?;
    let mut alternates: Vec<_> = settings().map(|one| (one.alternate, one.string)).collect();
    alternates.sort_unstable();
    alternates.dedup_by_key(|&mut (alternate, _)| alternate);
    Ok(DfuInterface { number, alternates, transfer_size: functional.1, can_upload: functional.0 & 2 != 0 })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn configuration(functional: &[u8]) -> Vec<u8> {
        let mut bytes = vec![9, 2, 0, 0, 1, 1, 0, 0xc0, 50];
        for (alternate, string) in [(0, 4), (1, 5), (2, 6)] {
            bytes.extend([9, 4, 0, alternate, 0, 0xfe, 1, 2, string]);
        }
        bytes.extend(functional);
        bytes
    }

    #[test]
    fn functional_descriptor_behind_the_last_alternate() {
        let found = dfu_interface(&configuration(&[9, 0x21, 0x0b, 0xff, 0, 0, 8, 0x1a, 1])).unwrap();
        assert_eq!(found.transfer_size, 2048);
        assert_eq!(found.alternates, [(0, 4), (1, 5), (2, 6)]);
        assert!(found.can_upload);
        let short = dfu_interface(&configuration(&[7, 0x21, 0x09, 0xff, 0, 0, 4])).unwrap();
        assert_eq!((short.transfer_size, short.can_upload), (1024, false));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(dfu_interface(&configuration(&[])), Err("device has no DFU functional descriptor"));
        assert_eq!(
            dfu_interface(&configuration(&[6, 0x21, 0, 0, 0, 0])),
            Err("device has no DFU functional descriptor")
        );
        // A HID interface with its own 0x21.
        let hid = [9, 4, 0, 0, 0, 3, 0, 0, 0, 9, 0x21, 0x11, 1, 0, 1, 0x22, 0x40, 0];
        assert_eq!(dfu_interface(&hid), Err("device has no interface in DFU mode"));
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_without_panic(
            head in proptest::collection::vec(any::<u8>(), 0..30),
            tail in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let _ = dfu_interface(&[head, configuration(&[]), tail].concat());
        }
    }
}
