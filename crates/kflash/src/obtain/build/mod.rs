//! Firmware built from a Klipper or Kalico tree: the tree, its configuration, the toolchain, the build, the proof.

pub mod child;
mod configure;
mod environment;
mod error;
mod event;
mod jobserver;
pub mod kconfig;
pub mod make;
mod order;
pub mod prove;
mod run;
pub mod toolchain;
pub mod tree;

pub use configure::Resolved;
pub use environment::Environment;
pub use error::BuildError;
pub use event::BuildEvent;
pub use jobserver::JobServer;
pub use order::{Firmware, Order, Source};
pub use run::{Builder, Outcome};
