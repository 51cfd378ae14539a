//! kflash takes the micro-controller of a 3D printer from whatever state it is in to running exactly the Klipper
//! firmware that its host needs, and proves it.
//!
//! The modules are the stages of one flash, in order: [`discover`], [`identify`], [`obtain`], [`plan`], [`enter`],
//! [`apply`], [`confirm`]; [`flash`] is the seven in a row. They speak through [`klipper`] and [`proto`] over a
//! [`link`], on a [`host::Host`], waiting only by a [`clock::Clock`].
//!
//! The library never prints, never exits and never reads an environment variable.

pub mod addr;
pub mod apply;
pub mod board;
pub mod boards;
pub mod chip;
pub mod clock;
pub mod cluster;
pub mod config;
mod confirm;
pub mod digest;
pub mod discover;
mod enter;
pub mod event;
pub mod exit;
pub mod flash;
pub mod follow;
pub mod host;
pub mod identify;
pub mod image;
pub mod klipper;
pub mod link;
mod lock;
#[cfg(feature = "moonraker")]
pub mod moonraker;
pub mod obtain;
pub mod plan;
pub mod proto;
pub mod query;
pub mod system;
pub mod timestamp;
pub mod udev;
