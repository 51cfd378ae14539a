//! What the end-to-end tests share. The tests themselves are in `tests/tests/`.

pub mod bench;
pub mod binary;
pub mod command;
pub mod firmware_tree;
pub mod node;
pub mod podman;
pub mod room;
pub mod served;
#[cfg(feature = "swd")]
pub mod swd_probe;
pub mod tap;
pub mod vm;
