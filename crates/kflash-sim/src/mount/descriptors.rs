//! What a host reads out of a device's descriptors (USB 2.0 §9.6).

use kflash::discover::UsbId;

use crate::board::UsbDescriptors;

/// A device as its descriptors present it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `idVendor` and `idProduct`.
    pub id: UsbId,
    /// `bcdDevice`.
    pub revision: u16,
    /// `bDeviceClass`, `bDeviceSubClass`, `bDeviceProtocol`.
    pub class: [u8; 3],
    /// `bNumConfigurations`.
    pub configurations: u8,
    /// `bConfigurationValue` of the first configuration.
    pub configuration: u8,
    /// `iManufacturer`.
    pub manufacturer: Option<String>,
    /// `iProduct`.
    pub product: Option<String>,
    /// `iSerialNumber`.
    pub serial: Option<String>,
    /// The interfaces in their first alternate setting.
    pub interfaces: Vec<Interface>,
}

/// An interface in its first alternate setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `bInterfaceNumber`.
    pub number: u8,
    /// `bInterfaceClass`, `bInterfaceSubClass`, `bInterfaceProtocol`.
    pub class: [u8; 3],
    /// `bEndpointAddress` and `bmAttributes` of each endpoint.
    pub endpoints: Vec<(u8, u8)>,
}

/// `bInterfaceClass` of the interface that carries a CDC device's requests, and of the one that carries its bytes.
const CDC_CONTROL: u8 = 0x02;
const CDC_DATA: u8 = 0x0a;
const BULK: u8 = 2;

impl Identity {
    /// Reads the descriptors; `None` where they are too short to be any.
    pub fn of(descriptors: &UsbDescriptors) -> Option<Self> {
        let device: &[u8; 18] = descriptors.device.as_slice().try_into().ok()?;
        let string = |index: u8| {
            let payload = descriptors.strings.get(usize::from(index).checked_sub(1)?)?;
            let units: Vec<u16> = payload.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            Some(String::from_utf16_lossy(&units))
        };
        Some(Self {
            id: UsbId::new(u16::from_le_bytes([device[8], device[9]]), u16::from_le_bytes([device[10], device[11]])),
            revision: u16::from_le_bytes([device[12], device[13]]),
            class: [device[4], device[5], device[6]],
            configurations: device[17],
            configuration: *descriptors.configuration.get(5)?,
            manufacturer: string(device[14]),
            product: string(device[15]),
            serial: string(device[16]),
            interfaces: interfaces(&descriptors.configuration),
        })
    }

    /// The interface that takes a CDC device's class requests, its bulk OUT and its bulk IN endpoint.
    pub fn cdc(&self) -> Option<(u8, u8, u8)> {
        let control = self.interfaces.iter().find(|interface| interface.class[0] == CDC_CONTROL)?;
        let data = self.interfaces.iter().find(|interface| interface.class[0] == CDC_DATA)?;
        let bulk = |direction_in: bool| {
            let endpoint = |&&(address, kind): &&(u8, u8)| kind & 3 == BULK && (address & 0x80 != 0) == direction_in;
            data.endpoints.iter().find(endpoint).map(|&(address, _)| address)
        };
        Some((control.number, bulk(false)?, bulk(true)?))
    }
}

/// The interfaces of a configuration in their first alternate setting.
fn interfaces(configuration: &[u8]) -> Vec<Interface> {
    let mut interfaces: Vec<Interface> = Vec::new();
    let mut first_setting = false;
    let mut rest = configuration;
    while let [length @ 2..=u8::MAX, ..] = *rest {
        let Some((descriptor, after)) = rest.split_at_checked(usize::from(length)) else { break };
        rest = after;
        match *descriptor {
            [_, 4, number, alternate, _, class, subclass, protocol, ..] => {
                first_setting = alternate == 0;
                if first_setting {
                    interfaces.push(Interface { number, class: [class, subclass, protocol], endpoints: Vec::new() });
                }
            }
            [_, 5, address, attributes, ..] if first_setting => {
                if let Some(interface) = interfaces.last_mut() {
                    interface.endpoints.push((address, attributes));
                }
            }
            _ => {}
        }
    }
    interfaces
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    /// The descriptors that a Klipper MCU shows (`lsusb -v` of an F446).
    fn klipper() -> UsbDescriptors {
        let configuration = [
            [9, 2, 67, 0, 2, 1, 0, 0xc0, 50].as_slice(),
            &[9, 4, 0, 0, 1, 2, 2, 1, 0],
            &[5, 0x24, 0, 0x10, 1],
            &[5, 0x24, 1, 0, 1],
            &[4, 0x24, 2, 6],
            &[5, 0x24, 6, 0, 1],
            &[7, 5, 0x81, 3, 8, 0, 255],
            &[9, 4, 1, 0, 2, 10, 0, 0, 0],
            &[7, 5, 0x02, 2, 64, 0, 0],
            &[7, 5, 0x83, 2, 64, 0, 0],
        ];
        UsbDescriptors {
            device: vec![18, 1, 0, 2, 2, 0, 0, 64, 0x50, 0x1d, 0x4e, 0x61, 0, 1, 1, 2, 3, 1],
            configuration: configuration.concat(),
            strings: vec![utf16("Klipper"), utf16("stm32f446xx"), utf16("290034001751333038363536")],
            enumeration: 1,
        }
    }

    #[test]
    fn a_cdc_device_is_read() {
        let identity = Identity::of(&klipper()).unwrap();
        assert_eq!(identity.id, UsbId::new(0x1d50, 0x614e));
        assert_eq!(identity.revision, 0x0100);
        assert_eq!(identity.product.as_deref(), Some("stm32f446xx"));
        assert_eq!(identity.serial.as_deref(), Some("290034001751333038363536"));
        assert_eq!(identity.interfaces.len(), 2);
        assert_eq!(identity.cdc(), Some((0, 0x02, 0x83)));
    }

    #[test]
    fn further_alternate_settings_are_no_interfaces() {
        let mut dfu = klipper();
        dfu.configuration = [
            [9, 2, 45, 0, 1, 1, 0, 0xc0, 50].as_slice(),
            &[9, 4, 0, 0, 0, 0xfe, 1, 2, 4],
            &[9, 4, 0, 1, 0, 0xfe, 1, 2, 5],
            &[9, 4, 0, 2, 0, 0xfe, 1, 2, 6],
            &[9, 0x21, 0x0b, 0xff, 0, 0, 8, 0x1a, 1],
        ]
        .concat();
        let identity = Identity::of(&dfu).unwrap();
        assert_eq!(identity.interfaces.len(), 1);
        assert_eq!(identity.interfaces[0].class, [0xfe, 1, 2]);
        assert_eq!(identity.cdc(), None);
    }

    #[test]
    fn truncated_descriptors_end_the_reading() {
        let mut cut = klipper();
        for length in (0..cut.configuration.len()).rev() {
            cut.configuration.truncate(length);
            assert_eq!(Identity::of(&cut).is_some(), length > 5);
        }
        cut.device.truncate(17);
        assert_eq!(Identity::of(&cut), None);
    }
}
