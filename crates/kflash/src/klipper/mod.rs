//! Klipper's own protocol: how running firmware is asked what it is, what its memory holds, and to leave for its
//! bootloader.

pub mod client;
pub mod crc;
pub mod dictionary;
pub mod frame;
pub mod request;
pub mod vlq;
pub mod wire;
pub(crate) mod zlib;
