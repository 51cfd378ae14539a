//! Firmware built from a Klipper or Kalico tree: the tree, its configuration, the toolchain, the build, the proof.

pub mod child;
mod environment;
pub mod kconfig;

pub use environment::Environment;
