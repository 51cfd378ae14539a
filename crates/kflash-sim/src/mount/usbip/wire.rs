//! The bytes of USB/IP. All integers are big-endian, but the setup packet, which is as on the bus.

use std::io::{self, Read};

use crate::mount::descriptors::Identity;

/// Protocol version of the handshake.
pub const VERSION: u16 = 0x0111;
/// Request for the list of exported devices.
pub const OP_REQ_DEVLIST: u16 = 0x8005;
/// Request to attach one of them.
pub const OP_REQ_IMPORT: u16 = 0x8003;
/// The answers.
const OP_REP_DEVLIST: u16 = 0x0005;
const OP_REP_IMPORT: u16 = 0x0003;

/// `-EPIPE`: the endpoint is stalled.
pub const STALLED: i32 = -32;
/// `-ECONNRESET`: the URB was unlinked before it was done.
pub const UNLINKED: i32 = -104;
/// `-EOVERFLOW`: the device sent more than was asked for.
pub const OVERFLOW: i32 = -75;

/// USB_SPEED_FULL: what every micro-controller with its own transceiver has.
pub const FULL_SPEED: u32 = 2;

/// The most that one URB may carry: far above what a host asks a full-speed device for at once.
const MAX_TRANSFER: u32 = 1 << 20;

/// A request of an attached host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// USBIP_CMD_SUBMIT.
    Submit(Urb),
    /// USBIP_CMD_UNLINK.
    Unlink {
        /// Its own sequence number.
        seqnum: u32,
        /// The device that is meant.
        devid: u32,
        /// The sequence number of the URB to take back.
        victim: u32,
    },
}

/// A URB as submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urb {
    /// Sequence number.
    pub seqnum: u32,
    /// Bus number in the upper half, device number in the lower.
    pub devid: u32,
    /// Whether the data goes to the host.
    pub direction_in: bool,
    /// Endpoint number, 0 to 15.
    pub endpoint: u8,
    /// Length of the host's buffer.
    pub length: u32,
    /// The setup packet, on endpoint 0.
    pub setup: [u8; 8],
    /// The data of an OUT transfer.
    pub data: Vec<u8>,
}

/// Reads one request of an attached host.
pub fn read_request(stream: &mut impl Read) -> io::Result<Request> {
    let mut header = [0; 48];
    stream.read_exact(&mut header)?;
    let word = |index: usize| {
        let at = index * 4;
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let (seqnum, devid) = (word(1), word(2));
    match word(0) {
        1 => {
            let (direction_in, length) = (word(3) == 1, word(6));
            let endpoint = u8::try_from(word(4)).ok().filter(|&number| number < 16);
            let endpoint = endpoint.ok_or_else(|| broken(format!("endpoint {}", word(4))))?;
            if length > MAX_TRANSFER {
                return Err(broken(format!("a URB of {length} bytes")));
            }
            // Other than isochronous transfers say 0 or -1 here, by the age of the host.
            if !matches!(word(8), 0 | u32::MAX) {
                return Err(broken(format!("an isochronous URB of {} packets", word(8))));
            }
            let mut data = vec![0; if direction_in { 0 } else { length as usize }];
            stream.read_exact(&mut data)?;
            let mut setup = [0; 8];
            setup.copy_from_slice(&header[40..]);
            Ok(Request::Submit(Urb { seqnum, devid, direction_in, endpoint, length, setup, data }))
        }
        2 => Ok(Request::Unlink { seqnum, devid, victim: word(5) }),
        command => Err(broken(format!("command {command:#010x}"))),
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// USBIP_RET_SUBMIT: `actual` bytes were transferred; `data` are those of an IN transfer.
pub fn ret_submit(seqnum: u32, status: i32, actual: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(3, seqnum, status);
    bytes[24..28].copy_from_slice(&actual.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// USBIP_RET_UNLINK.
pub fn ret_unlink(seqnum: u32, status: i32) -> Vec<u8> {
    header(4, seqnum, status)
}

fn header(command: u32, seqnum: u32, status: i32) -> Vec<u8> {
    let mut bytes = vec![0; 48];
    bytes[..4].copy_from_slice(&command.to_be_bytes());
    bytes[4..8].copy_from_slice(&seqnum.to_be_bytes());
    bytes[20..24].copy_from_slice(&status.to_be_bytes());
    bytes
}

/// A request of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// OP_REQ_DEVLIST.
    List,
    /// OP_REQ_IMPORT of this bus id.
    Import(String),
}

/// Reads the request that opens a connection.
pub fn read_handshake(stream: &mut impl Read) -> io::Result<Handshake> {
    let mut header = [0; 8];
    stream.read_exact(&mut header)?;
    let half = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    if half(0) != VERSION {
        return Err(broken(format!("USB/IP version {:#06x}", half(0))));
    }
    match half(2) {
        OP_REQ_DEVLIST => Ok(Handshake::List),
        OP_REQ_IMPORT => {
            let mut busid = [0; 32];
            stream.read_exact(&mut busid)?;
            let text = busid.split(|&byte| byte == 0).next().unwrap_or_default();
            Ok(Handshake::Import(String::from_utf8_lossy(text).into_owned()))
        }
        code => Err(broken(format!("operation {code:#06x}"))),
    }
}

/// Why an import is refused: the status of OP_REP_IMPORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another host has it.
    Busy = 2,
    /// There is no such device.
    NoDevice = 4,
}

/// An exported device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Its USB port path, `1-1`.
    pub busid: String,
    /// Bus number.
    pub bus: u32,
    /// Device number; another one after every enumeration.
    pub device: u32,
    /// What it is.
    pub identity: Identity,
}

impl Export {
    /// How a host names the device in its requests.
    pub fn devid(&self) -> u32 {
        self.bus << 16 | self.device
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = padded(&format!("/sys/devices/platform/kflash-sim/usb{}/{}", self.bus, self.busid), 256);
        bytes.extend(padded(&self.busid, 32));
        for word in [self.bus, self.device, FULL_SPEED] {
            bytes.extend(word.to_be_bytes());
        }
        let identity = &self.identity;
        for half in [identity.id.vendor, identity.id.product, identity.revision] {
            bytes.extend(half.to_be_bytes());
        }
        bytes.extend(identity.class);
        bytes.extend([identity.configuration, identity.configurations, identity.interfaces.len() as u8]);
        bytes
    }
}

/// `text` in a field of `length` bytes, ended by at least one zero.
fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.truncate(length - 1);
    bytes.resize(length, 0);
    bytes
}

/// OP_REP_DEVLIST.
pub fn device_list(exports: &[Export]) -> Vec<u8> {
    let mut bytes = reply(OP_REP_DEVLIST, 0);
    bytes.extend((exports.len() as u32).to_be_bytes());
    for export in exports {
        bytes.extend(export.encode());
        for interface in &export.identity.interfaces {
            bytes.extend(interface.class);
            bytes.push(0);
        }
    }
    bytes
}

/// OP_REP_IMPORT.
pub fn import(export: Result<&Export, Refusal>) -> Vec<u8> {
    match export {
        Ok(export) => [reply(OP_REP_IMPORT, 0), export.encode()].concat(),
        Err(refusal) => reply(OP_REP_IMPORT, refusal as u32),
    }
}

fn reply(code: u16, status: u32) -> Vec<u8> {
    [VERSION.to_be_bytes().as_slice(), &code.to_be_bytes(), &status.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use kflash::discover::UsbId;

    use super::*;
    use crate::mount::descriptors::Interface;

    fn words(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// The recorded example at the end of usbip_protocol.rst.
    const INTERRUPT_IN: &str = "00000001 00000d05 0001000f 00000001 00000001 00000200 00000040 ffffffff 00000000 \
                                00000004 00000000 00000000";
    const INTERRUPT_OUT: &str = "00000001 00000d06 0001000f 00000000 00000001 00000000 00000040 ffffffff 00000000 \
                                 00000004 00000000 00000000";

    #[test]
    fn recorded_submissions_are_read() {
        let urb = Urb {
            seqnum: 0xd05,
            devid: 0x1_000f,
            direction_in: true,
            endpoint: 1,
            length: 64,
            setup: [0; 8],
            data: Vec::new(),
        };
        assert_eq!(read_request(&mut words(INTERRUPT_IN).as_slice()).unwrap(), Request::Submit(urb.clone()));

        let mut data = words("ffffffff860008a784ce5ae212376300");
        data.resize(64, 0);
        let bytes = [words(INTERRUPT_OUT), data.clone()].concat();
        let out = Urb { seqnum: 0xd06, direction_in: false, data, ..urb };
        assert_eq!(read_request(&mut bytes.as_slice()).unwrap(), Request::Submit(out));
    }

    #[test]
    fn every_cut_of_a_submission_is_an_error() {
        let bytes = [words(INTERRUPT_OUT), vec![0; 64]].concat();
        for length in 0..bytes.len() {
            read_request(&mut &bytes[..length]).unwrap_err();
        }
    }

    #[test]
    fn what_no_host_sends_is_an_error() {
        let word = |index: usize, value: u32| {
            let mut bytes = words(INTERRUPT_IN);
            bytes[index * 4..index * 4 + 4].copy_from_slice(&value.to_be_bytes());
            read_request(&mut bytes.as_slice()).unwrap_err().to_string()
        };
        assert_eq!(word(0, 7), "command 0x00000007");
        assert_eq!(word(4, 16), "endpoint 16");
        assert_eq!(word(6, u32::MAX), "a URB of 4294967295 bytes");
        assert_eq!(word(8, 3), "an isochronous URB of 3 packets");
    }

    #[test]
    fn answers_have_the_layout_of_the_protocol() {
        let expected = "00000003 00000d05 00000000 00000000 00000000 00000000 00000002 00000000 00000000 00000000 \
                        00000000 00000000 beef";
        assert_eq!(ret_submit(0xd05, 0, 2, &[0xbe, 0xef]), words(expected));
        let expected = "00000003 00000d06 00000000 00000000 00000000 ffffffe0 00000000 00000000 00000000 00000000 \
                        00000000 00000000";
        assert_eq!(ret_submit(0xd06, STALLED, 0, &[]), words(expected));
        let expected = "00000004 00000d07 00000000 00000000 00000000 ffffff98 00000000 00000000 00000000 00000000 \
                        00000000 00000000";
        assert_eq!(ret_unlink(0xd07, UNLINKED), words(expected));
    }

    #[test]
    fn an_unlinking_is_read() {
        let bytes = words(
            "00000002 00000010 00010002 00000000 00000000 0000000f 00000000 00000000 00000000 00000000 00000000 00000000",
        );
        let unlink = Request::Unlink { seqnum: 0x10, devid: 0x1_0002, victim: 0xf };
        assert_eq!(read_request(&mut bytes.as_slice()).unwrap(), unlink);
    }

    #[test]
    fn the_handshake_is_read() {
        assert_eq!(read_handshake(&mut words("01118005 00000000").as_slice()).unwrap(), Handshake::List);
        let mut import = words("01118003 00000000 312d31");
        import.resize(8 + 32, 0);
        assert_eq!(read_handshake(&mut import.as_slice()).unwrap(), Handshake::Import("1-1".into()));
        read_handshake(&mut &import[..39]).unwrap_err();
        assert_eq!(
            read_handshake(&mut words("01068005 00000000").as_slice()).unwrap_err().to_string(),
            "USB/IP version 0x0106"
        );
    }

    #[test]
    fn a_device_list_has_the_layout_of_the_protocol() {
        let identity = Identity {
            id: UsbId::new(0x0483, 0xdf11),
            revision: 0x2200,
            class: [0, 0, 0],
            configurations: 1,
            configuration: 1,
            manufacturer: None,
            product: None,
            serial: None,
            interfaces: vec![Interface { number: 0, class: [0xfe, 1, 2], endpoints: Vec::new() }],
        };
        let export = Export { busid: "1-1.4".into(), bus: 1, device: 5, identity };
        let list = device_list(std::slice::from_ref(&export));
        assert_eq!(list.len(), 12 + 312 + 4);
        assert_eq!(list[..12], words("0111 0005 00000000 00000001"));
        assert!(list[12..].starts_with(b"/sys/devices/"));
        assert_eq!(list[268..274], *b"1-1.4\0");
        assert_eq!(list[300..], words("00000001 00000005 00000002 0483 df11 2200 00 00 00 01 01 01 fe 01 02 00"));
        assert_eq!(export.devid(), 0x1_0005);

        let accepted = import(Ok(&export));
        assert_eq!(accepted[..8], words("0111 0003 00000000"));
        assert_eq!(accepted[8..], list[12..324]);
        assert_eq!(import(Err(Refusal::NoDevice)), words("0111 0003 00000004"));
        assert_eq!(device_list(&[]), words("0111 0005 00000000 00000000"));
    }
}
