//! Firmware built from a Klipper or Kalico tree: the tree, its configuration, the toolchain, the build, the proof.

pub mod child;
mod environment;
mod jobserver;
pub mod kconfig;
pub mod make;
pub mod prove;
pub mod toolchain;
pub mod tree;

pub use environment::Environment;
pub use jobserver::JobServer;
