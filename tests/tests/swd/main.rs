//! SWD, against a chip whose core really executes the flash algorithms.
#![expect(clippy::unwrap_used, reason = "tests")]

mod algorithm;
mod bench;
mod connect;
mod desk;
mod flash;
mod flows;
mod locked;
mod look;
mod sweep;
mod trouble;
