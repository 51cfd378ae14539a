//! A DfuSe client made of other people's code (dfu-core on libusb), to hold the simulated ROM bootloader to.
//!
//! usage: dfu_libusb write ADDRESS FILE | dfu_libusb read ADDRESS LENGTH FILE

use std::error::Error;
use std::fs::{self, File};
use std::time::Duration;

use dfu_libusb::DfuLibusb;
use rusb::{Context, DeviceHandle, UsbContext};

const VENDOR: u16 = 0x0483;
const PRODUCT: u16 = 0xdf11;
const TIMEOUT: Duration = Duration::from_secs(20);
/// Of the old ROM generation.
const TRANSFER_SIZE: usize = 2048;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["write", address, file] => write(number(address)?, file),
        ["read", address, length, file] => read(number(address)?, length.parse()?, file),
        _ => Err("usage: dfu_libusb write ADDRESS FILE | dfu_libusb read ADDRESS LENGTH FILE".into()),
    }
}

fn number(text: &str) -> Result<u32, Box<dyn Error>> {
    Ok(u32::from_str_radix(text.strip_prefix("0x").ok_or("addresses begin with 0x")?, 16)?)
}

/// dfu-core erases, writes and leaves.
fn write(address: u32, file: &str) -> Result<(), Box<dyn Error>> {
    let mut dfu = DfuLibusb::<Context>::open(&Context::new()?, VENDOR, PRODUCT, 0, 0)?;
    dfu.override_address(address);
    let length = fs::metadata(file)?.len().try_into()?;
    dfu.download(File::open(file)?, length).map_err(|error| format!("download: {error}"))?;
    Ok(())
}

/// dfu-core cannot read: the requests of AN3156 on rusb.
fn read(address: u32, length: usize, file: &str) -> Result<(), Box<dyn Error>> {
    let context = Context::new()?;
    let device = context.open_device_with_vid_pid(VENDOR, PRODUCT).ok_or("no DFU device")?;
    device.claim_interface(0).map_err(|error| format!("claim: {error}"))?;
    // Fresh ROMs are found in dfuERROR with errFIRMWARE.
    if status(&device)?[1] == ERROR {
        device.write_control(0x21, 4, 0, 0, &[], TIMEOUT).map_err(|error| format!("clear status: {error}"))?;
    }
    let mut pointer = vec![0x21];
    pointer.extend(address.to_le_bytes());
    device.write_control(0x21, 1, 0, 0, &pointer, TIMEOUT).map_err(|error| format!("set pointer: {error}"))?;
    for expected in [[0, DNBUSY], [0, DNLOAD_IDLE]] {
        let got = status(&device)?;
        if got != expected {
            return Err(format!("status and state {got:?} after the pointer, not {expected:?}").into());
        }
    }
    device.write_control(0x21, 6, 0, 0, &[], TIMEOUT).map_err(|error| format!("abort: {error}"))?;

    let mut bytes = vec![0; length];
    for (block, part) in bytes.chunks_mut(TRANSFER_SIZE).enumerate() {
        let got = device
            .read_control(0xa1, 2, block as u16 + 2, 0, part, TIMEOUT)
            .map_err(|error| format!("upload of block {block}: {error}"))?;
        if got != part.len() {
            return Err(format!("block {block} has {got} bytes").into());
        }
    }
    Ok(fs::write(file, bytes)?)
}

const DNBUSY: u8 = 4;
const DNLOAD_IDLE: u8 = 5;
const ERROR: u8 = 10;

/// Status and state.
fn status(device: &DeviceHandle<Context>) -> Result<[u8; 2], Box<dyn Error>> {
    let mut status = [0; 6];
    device.read_control(0xa1, 3, 0, 0, &mut status, TIMEOUT).map_err(|error| format!("get status: {error}"))?;
    let [code, low, middle, high, state, _] = status;
    if state == DNBUSY {
        std::thread::sleep(Duration::from_millis(u32::from_le_bytes([low, middle, high, 0]).into()));
    }
    Ok([code, state])
}
