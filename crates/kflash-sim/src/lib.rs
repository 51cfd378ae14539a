//! Models of Klipper micro-controllers and their bootloaders, and ways to mount them: in process, on a pty with a fake
//! sysfs tree, as USB/IP over TCP or into the kernel's vhci.
//!
//! The models share no codec with the drivers of `kflash`: they use its data types alone, so that a mirrored mistake
//! fails.

pub mod board;
mod boot;
mod crc;
pub mod dfu_variant;
mod execute;
pub mod fault;
pub mod firmware;
pub mod flash;
pub mod host;
pub mod katapult;
mod klipper_mcu;
mod klipper_wire;
pub mod mount;
mod outbox;
mod rom_dfu;
mod silicon;
#[cfg(feature = "swd")]
pub mod swd;
mod uart;
mod usb;
