//! USB descriptors (USB 2.0 §9.5 and §9.6), read from bytes that a device made up: no field is trusted.

use std::time::Duration;

use super::{LinkError, Setup, UsbLink};

/// Descriptors come from the device's memory: a second is plenty, five is what hosts commonly allow.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `bDescriptorType` of an interface.
const INTERFACE: u8 = 0x04;
/// `bDescriptorType` of an endpoint.
const ENDPOINT: u8 = 0x05;

/// One alternate setting of an interface, with what follows it in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface<'a> {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bAlternateSetting`.
    pub alternate: u8,
    /// `bInterfaceClass`, `bInterfaceSubClass`, `bInterfaceProtocol`.
    pub class: [u8; 3],
    /// `iInterface`; 0 is no string.
    pub string: u8,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Class-specific descriptors, whole: length and type come first.
    pub others: Vec<&'a [u8]>,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `bEndpointAddress`; bit 7 is set for IN.
    pub address: u8,
    /// `bmAttributes`; the low two bits are the transfer type.
    pub attributes: u8,
    /// `wMaxPacketSize`, without the bits of high-bandwidth endpoints.
    pub max_packet: u16,
}

impl Endpoint {
    /// Whether this is a bulk endpoint from the device.
    pub fn is_bulk_in(self) -> bool {
        self.attributes & 3 == 2 && self.address & 0x80 != 0
    }

    /// Whether this is a bulk endpoint to the device.
    pub fn is_bulk_out(self) -> bool {
        self.attributes & 3 == 2 && self.address & 0x80 == 0
    }
}

/// The descriptors in `bytes` one after the other; ends at the first whose length is impossible.
fn descriptors(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(*bytes.first()?);
        if length < 2 || length > bytes.len() {
            return None;
        }
        let (one, rest) = bytes.split_at(length);
        bytes = rest;
        Some(one)
    })
}

/// The alternate settings in a whole configuration descriptor, in its order.
pub fn interfaces(configuration: &[u8]) -> Vec<Interface<'_>> {
    let mut found: Vec<Interface> = Vec::new();
    for descriptor in descriptors(configuration) {
        match (descriptor[1], descriptor, found.last_mut()) {
            (INTERFACE, &[_, _, number, alternate, _, class, subclass, protocol, string, ..], _) => {
                found.push(Interface {
                    number,
                    alternate,
                    class: [class, subclass, protocol],
                    string,
                    endpoints: Vec::new(),
                    others: Vec::new(),
                });
            }
            (ENDPOINT, &[_, _, address, attributes, low, high, ..], Some(interface)) => {
                let max_packet = u16::from_le_bytes([low, high]) & 0x7ff;
                interface.endpoints.push(Endpoint { address, attributes, max_packet });
            }
            (_, _, Some(interface)) => interface.others.push(descriptor),
            (_, _, None) => {}
        }
    }
    found
}

/// Reads the strings with these indices, in the device's first language; `None` for index 0, and where the device has none.
pub fn read_strings<const N: usize>(
    link: &mut dyn UsbLink,
    indices: [u8; N],
) -> Result<[Option<String>; N], LinkError> {
    let mut strings = [const { None }; N];
    if indices.iter().all(|&index| index == 0) {
        return Ok(strings);
    }
    // String 0 lists languages (USB 2.0 §9.6.7); a device without the list is asked in English.
    let language = match read_string_descriptor(link, 0, 0)?.as_deref() {
        Some(&[low, high, ..]) => u16::from_le_bytes([low, high]),
        _ => 0x0409,
    };
    for (string, index) in strings.iter_mut().zip(indices) {
        if index != 0 {
            *string = read_string_descriptor(link, index, language)?.map(|payload| decode_string(&payload));
        }
    }
    Ok(strings)
}

/// The payload of a string descriptor, without length and type.
fn read_string_descriptor(link: &mut dyn UsbLink, index: u8, language: u16) -> Result<Option<Vec<u8>>, LinkError> {
    let setup = Setup { request_type: 0x80, request: 0x06, value: 0x0300 | u16::from(index), index: language };
    match link.control_in(setup, 255, TIMEOUT) {
        Ok(bytes) => Ok(match bytes.as_slice() {
            [length, 0x03, payload @ ..] => {
                let length = usize::from(*length).saturating_sub(2).min(payload.len());
                Some(payload[..length].to_vec())
            }
            _ => None,
        }),
        Err(LinkError::Stall) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The text of a string descriptor's payload.
///
/// It should be UTF-16; GD32 sends plain ASCII (`06 03 33 43 42 4a` is `3CBJ`). UTF-16 of western text has a zero in each
/// pair, so a payload of printable ASCII alone is taken as ASCII.
pub fn decode_string(payload: &[u8]) -> String {
    if !payload.is_empty() && payload.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return payload.iter().map(|&byte| char::from(byte)).collect();
    }
    let units: Vec<u16> = payload.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The configuration of the application in the F042 recording: one DFU run-time interface and CDC.
    #[test]
    fn endpoints_and_class_descriptors_belong_to_their_alternate() {
        let configuration = [
            9, 2, 58, 0, 2, 1, 0, 0x80, 50, // configuration
            9, 4, 0, 0, 1, 2, 2, 1, 4, // CDC communication
            5, 0x24, 0, 0x10, 1, // header functional descriptor
            7, 5, 0x82, 3, 8, 0, 255, // interrupt IN
            9, 4, 1, 0, 2, 10, 0, 0, 0, // CDC data
            7, 5, 0x81, 2, 64, 0, 0, // bulk IN
            7, 5, 0x01, 2, 64, 0, 0, // bulk OUT
        ];
        let found = interfaces(&configuration);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].class, [2, 2, 1]);
        assert_eq!(found[0].string, 4);
        assert_eq!(found[0].others, [&[5, 0x24, 0, 0x10, 1][..]]);
        assert!(!found[0].endpoints[0].is_bulk_in());
        assert_eq!((found[1].number, found[1].alternate), (1, 0));
        assert!(found[1].endpoints[0].is_bulk_in());
        assert!(found[1].endpoints[1].is_bulk_out());
    }

    #[test]
    fn strings_are_utf16_or_the_raw_ascii_of_gd32() {
        assert_eq!(decode_string(b"F\0F\0E\0"), "FFE");
        assert_eq!(decode_string(&[0x33, 0x43, 0x42, 0x4a]), "3CBJ");
        assert_eq!(decode_string(&[0x00, 0xd8, 0x41, 0x00]), "\u{fffd}A");
        assert_eq!(decode_string(&[0x41]), "A");
        assert_eq!(decode_string(&[]), "");
    }

    proptest! {
        #[test]
        fn any_configuration_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let found = interfaces(&bytes);
            prop_assert!(found.len() <= bytes.len() / 9);
        }

        /// Bytes that look like descriptors reach deeper than random ones.
        #[test]
        fn no_descriptor_reaches_beyond_the_bytes(
            parts in proptest::collection::vec((2_u8..12, prop_oneof![Just(4_u8), Just(5), Just(0x21), any::<u8>()]), 0..40),
            cut in 0_usize..8,
        ) {
            let mut bytes: Vec<u8> = parts
                .iter()
                .flat_map(|&(length, kind)| [vec![length, kind], vec![0x81; usize::from(length) - 2]].concat())
                .collect();
            bytes.truncate(bytes.len().saturating_sub(cut));
            let total: usize = interfaces(&bytes).iter().flat_map(|one| &one.others).map(|other| other.len()).sum();
            prop_assert!(total <= bytes.len());
        }

        #[test]
        fn any_string_decodes(payload in proptest::collection::vec(any::<u8>(), 0..254)) {
            prop_assert!(decode_string(&payload).chars().count() <= payload.len());
        }
    }
}
