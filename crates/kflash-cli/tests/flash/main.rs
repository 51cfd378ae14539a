//! `kflash flash` as a person runs it, on boards that are served over USB/IP.

#![cfg(feature = "moonraker")]
#![expect(clippy::unwrap_used, reason = "tests")]

mod desk;
mod obtain;
mod phases;
mod pod;
mod printers;
