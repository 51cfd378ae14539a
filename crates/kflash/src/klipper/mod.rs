//! Klipper's own protocol: how running firmware is asked what it is.

pub mod dictionary;
pub(crate) mod zlib;
