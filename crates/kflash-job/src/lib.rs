//! From a printer's configuration to the Kubernetes manifests that flash it. Pure: no client, no files, no clock.
//!
//! [`setup`] is applied once for each printer: the account that may stop Klipper, and the Lease that remembers that it
//! did. [`flash`] is applied once for each flash: a ConfigMap with all inputs, and a Job that is named by their digest.
//! What the containers of the Job agree upon lies in [`kflash::cluster`].

mod config_toml;
mod detect;
mod error;
mod flash;
mod metadata;
mod notes;
mod phases;
mod pod;
mod setup;
mod shape;
mod yaml;

#[cfg(test)]
mod tests;

pub use self::detect::detect;
pub use self::error::JobError;
pub use self::flash::{Inputs, flash};
pub use self::metadata::{job_name, lease_name};
pub use self::notes::{notes_of_flash, notes_of_setup};
pub use self::setup::setup;
pub use self::shape::{Access, Images, Kubernetes, Quiesce, Shape, Via};
pub use self::yaml::{Manifest, yaml};
