//! Messages of USB/IP 1.1.1 (`Documentation/usb/usbip_protocol.rst` of the Linux kernel). All numbers are big-endian.

use crate::discover::UsbId;
use crate::link::Setup;

const VERSION: u16 = 0x0111;
const REQUEST_LIST: u16 = 0x8005;
const REQUEST_IMPORT: u16 = 0x8003;
pub const REPLY_LIST: u16 = 0x0005;
pub const REPLY_IMPORT: u16 = 0x0003;

const SUBMIT: u32 = 1;
const UNLINK: u32 = 2;
const SUBMITTED: u32 = 3;
const UNLINKED: u32 = 4;

/// Bytes of the head of an operation: version, code, status.
pub const OPERATION_LENGTH: usize = 8;
/// Bytes of a device in the list and in the answer to an import.
pub const DEVICE_LENGTH: usize = 312;
/// Bytes of an interface in the list.
pub const INTERFACE_LENGTH: usize = 4;
/// Bytes of the head of a request or an answer.
pub const HEADER_LENGTH: usize = 48;

const PATH_LENGTH: usize = 256;
const BUSID_LENGTH: usize = 32;

/// A device that a server exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Its bus id on the server, such as `1-1`: printable ASCII without spaces.
    pub busid: String,
    /// Bus number on the server.
    pub bus: u32,
    /// Device number on the server.
    pub number: u32,
    /// Vendor and product.
    pub id: UsbId,
    /// `bcdDevice`.
    pub revision: u16,
    /// Class, subclass and protocol of the device.
    pub class: [u8; 3],
    /// Class, subclass and protocol of each interface; empty in the answer to an import.
    pub interfaces: Vec<[u8; 3]>,
    /// `bNumInterfaces`.
    pub(super) interface_count: u8,
}

/// A request to a device, `USBIP_CMD_SUBMIT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    pub sequence: u32,
    pub device_id: u32,
    endpoint: u8,
    setup: [u8; 8],
    /// What goes to the device; `None` for a request that reads.
    out: Option<&'a [u8]>,
    /// Most bytes that may come from the device.
    pub in_length: usize,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// `USBIP_RET_SUBMIT`: the status is a negated errno; `length` bytes follow where the request reads.
    Submitted { sequence: u32, status: i32, length: u32 },
    /// `USBIP_RET_UNLINK`.
    Unlinked { sequence: u32 },
}

pub fn list_request() -> Vec<u8> {
    [&VERSION.to_be_bytes()[..], &REQUEST_LIST.to_be_bytes(), &[0; 4]].concat()
}

/// `None` where `busid` does not fit its field with the zero that closes it.
pub fn import_request(busid: &str) -> Option<Vec<u8>> {
    if !is_busid(busid) || busid.len() >= BUSID_LENGTH {
        return None;
    }
    let mut bytes = [&VERSION.to_be_bytes()[..], &REQUEST_IMPORT.to_be_bytes(), &[0; 4], busid.as_bytes()].concat();
    bytes.resize(OPERATION_LENGTH + BUSID_LENGTH, 0);
    Some(bytes)
}

fn is_busid(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The status in the head of an answer of the kind `code`.
pub fn decode_operation(head: &[u8], code: u16) -> Result<u32, String> {
    match *head {
        [v1, v0, c1, c0, s3, s2, s1, s0] => {
            let (version, got) = (u16::from_be_bytes([v1, v0]), u16::from_be_bytes([c1, c0]));
            if version != VERSION {
                return Err(format!("USB/IP version {version:#06x} is not {VERSION:#06x}"));
            }
            if got != code {
                return Err(format!("answer {got:#06x} instead of {code:#06x}"));
            }
            Ok(u32::from_be_bytes([s3, s2, s1, s0]))
        }
        _ => Err("answer is too short".into()),
    }
}

impl Exported {
    /// Decodes the 312 bytes of a device.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let bytes: &[u8; DEVICE_LENGTH] = bytes.try_into().map_err(|_| "device is too short")?;
        let (busid, fields) = bytes[PATH_LENGTH..].split_at(BUSID_LENGTH);
        let length = busid.iter().position(|&byte| byte == 0).unwrap_or(BUSID_LENGTH);
        let busid = str::from_utf8(&busid[..length])
            .ok()
            .filter(|text| is_busid(text))
            .ok_or_else(|| format!("bus id {:?} is not printable", busid[..length].escape_ascii().to_string()))?;
        Ok(Self {
            busid: busid.to_owned(),
            bus: word(fields, 0),
            number: word(fields, 4),
            id: UsbId::new(half(fields, 12), half(fields, 14)),
            revision: half(fields, 16),
            class: [fields[18], fields[19], fields[20]],
            interfaces: Vec::new(),
            interface_count: fields[23],
        })
    }
}

impl<'a> Command<'a> {
    pub fn control_in(setup: Setup, length: u16) -> Self {
        Self::new(0, setup_bytes(setup, length), None, length.into())
    }

    pub fn control_out(setup: Setup, length: u16, data: &'a [u8]) -> Self {
        Self::new(0, setup_bytes(setup, length), Some(data), 0)
    }

    pub fn bulk_in(endpoint: u8, length: usize) -> Self {
        Self::new(endpoint & 0x0f, [0; 8], None, length)
    }

    pub fn bulk_out(endpoint: u8, data: &'a [u8]) -> Self {
        Self::new(endpoint & 0x0f, [0; 8], Some(data), 0)
    }

    fn new(endpoint: u8, setup: [u8; 8], out: Option<&'a [u8]>, in_length: usize) -> Self {
        Self { sequence: 0, device_id: 0, endpoint, setup, out, in_length }
    }

    pub fn encode(&self) -> Vec<u8> {
        // URB_DIR_IN is the one flag that says anything here.
        let (direction, flags) = if self.out.is_some() { (0, 0) } else { (1, 0x0200) };
        let length = self.out.map_or(self.in_length, <[u8]>::len) as u32;
        let fields = [
            SUBMIT,
            self.sequence,
            self.device_id,
            direction,
            u32::from(self.endpoint),
            flags,
            length,
            0,        // start_frame
            u32::MAX, // number_of_packets: not isochronous
            0,        // interval
        ];
        let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
        bytes.extend(self.setup);
        bytes.extend(self.out.unwrap_or_default());
        bytes
    }
}

/// `USBIP_CMD_UNLINK`: takes back the request `submitted`.
pub fn encode_unlink(sequence: u32, device_id: u32, submitted: u32) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [UNLINK, sequence, device_id, 0, 0, submitted].iter().flat_map(|field| field.to_be_bytes()).collect();
    bytes.resize(HEADER_LENGTH, 0);
    bytes
}

/// The setup packet (USB 2.0 §9.3): little-endian inside the big-endian message.
fn setup_bytes(setup: Setup, length: u16) -> [u8; 8] {
    let ([v0, v1], [i0, i1], [l0, l1]) = (setup.value.to_le_bytes(), setup.index.to_le_bytes(), length.to_le_bytes());
    [setup.request_type, setup.request, v0, v1, i0, i1, l0, l1]
}

/// Decodes the 48 bytes at the head of an answer.
pub fn decode_head(bytes: &[u8]) -> Result<Head, String> {
    if bytes.len() != HEADER_LENGTH {
        return Err("answer is too short".into());
    }
    let sequence = word(bytes, 4);
    match word(bytes, 0) {
        SUBMITTED => Ok(Head::Submitted { sequence, status: word(bytes, 20).cast_signed(), length: word(bytes, 24) }),
        UNLINKED => Ok(Head::Unlinked { sequence }),
        other => Err(format!("answer of the unknown kind {other:#010x}")),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    /// As captured from the wire in `usbip_protocol.rst`, but for `start_frame`, `number_of_packets` and `interval`,
    /// which say nothing outside interrupt and isochronous transfers and follow the text above the capture.
    #[test]
    fn requests_as_in_the_kernels_document() {
        let mut command = Command::bulk_in(0x81, 0x40);
        (command.sequence, command.device_id) = (0xd05, 0x0001_000f);
        assert_eq!(command.encode(), words(&[1, 0xd05, 0x0001_000f, 1, 1, 0x200, 0x40, 0, 0xffff_ffff, 0, 0, 0]));
        let mut command = Command::bulk_out(0x01, &[0xff, 0xff, 0xff, 0xff]);
        (command.sequence, command.device_id) = (0xd06, 0x0001_000f);
        assert_eq!(command.encode(), words(&[1, 0xd06, 0x0001_000f, 0, 1, 0, 4, 0, 0xffff_ffff, 0, 0, 0, 0xffff_ffff]));
        assert_eq!(encode_unlink(7, 0x0001_000f, 6), words(&[2, 7, 0x0001_000f, 0, 0, 6, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn a_setup_packet_is_little_endian() {
        let setup = Setup { request_type: 0x80, request: 0x06, value: 0x0304, index: 0x0409 };
        let bytes = Command::control_in(setup, 255).encode();
        assert_eq!(bytes[40..], [0x80, 0x06, 0x04, 0x03, 0x09, 0x04, 0xff, 0x00]);
    }

    #[test]
    fn answers_as_in_the_kernels_document() {
        let answer = words(&[3, 0xd06, 0, 0, 0, 0, 0x40, 0xffff_ffff, 0, 0, 0, 0]);
        assert_eq!(decode_head(&answer), Ok(Head::Submitted { sequence: 0xd06, status: 0, length: 0x40 }));
        let answer = words(&[4, 9, 0, 0, 0, (-104_i32).cast_unsigned(), 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_head(&answer), Ok(Head::Unlinked { sequence: 9 }));
    }

    #[test]
    fn operations() {
        assert_eq!(list_request(), [0x01, 0x11, 0x80, 0x05, 0, 0, 0, 0]);
        let import = import_request("3-2").unwrap();
        assert_eq!(import[..12], [0x01, 0x11, 0x80, 0x03, 0, 0, 0, 0, b'3', b'-', b'2', 0]);
        assert_eq!(import.len(), 40);
        assert_eq!(import_request(&"1".repeat(32)), None);
        assert_eq!(import_request("1 1"), None);
        assert_eq!(decode_operation(&[0x01, 0x11, 0, 5, 0, 0, 0, 0], REPLY_LIST), Ok(0));
        assert!(decode_operation(&[0x01, 0x06, 0, 5, 0, 0, 0, 0], REPLY_LIST).is_err());
        assert!(decode_operation(&[0x01, 0x11, 0, 3, 0, 0, 0, 0], REPLY_LIST).is_err());
    }

    #[test]
    fn a_device() {
        let mut bytes = vec![0; DEVICE_LENGTH];
        bytes[256..259].copy_from_slice(b"3-2");
        bytes[288..312].copy_from_slice(&[
            0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0x04, 0x83, 0xdf, 0x11, 0x22, 0x00, 1, 2, 3, 1, 1, 4,
        ]);
        let device = Exported::decode(&bytes).unwrap();
        assert_eq!((device.busid.as_str(), device.bus, device.number), ("3-2", 3, 2));
        assert_eq!((device.id, device.revision), (UsbId::new(0x0483, 0xdf11), 0x2200));
        assert_eq!((device.class, device.interface_count), ([1, 2, 3], 4));
        bytes[256] = 0x1b;
        assert!(Exported::decode(&bytes).unwrap_err().contains("\\x1b-2"));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_head(&bytes);
            let _ = decode_operation(&bytes, REPLY_LIST);
            let _ = Exported::decode(&bytes);
        }

        #[test]
        fn any_device_decodes_or_not(bytes in proptest::collection::vec(any::<u8>(), DEVICE_LENGTH)) {
            if let Ok(device) = Exported::decode(&bytes) {
                prop_assert!(is_busid(&device.busid));
            }
        }
    }
}
