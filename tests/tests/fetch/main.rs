//! Prebuilt firmware from a real HTTPS server with its own certificate authority, which does all that a bad one can.

#![expect(clippy::unwrap_used, reason = "tests")]

mod command;
mod farm;
mod publishing;
mod server;
mod transfer;
mod trust;
