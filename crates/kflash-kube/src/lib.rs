//! kflash in a cluster: the only crate with a Kubernetes client, and the only asynchronous one.
//!
//! [`quiesce`] stops Klipper for a flash and gives it back, whatever happens in between; [`restore`] pays what a run
//! that died still owes. What they agree upon with the manifests and with the container that flashes lies in
//! [`kflash::cluster`]. All waiting is tokio's, so that tests run in virtual time.

pub mod api;
pub mod detect;
pub mod events;
pub mod gate;
pub mod lease;
pub mod look;
pub mod pods;
pub mod printer;
pub mod quiesce;
pub mod restore;
pub mod run;
pub mod status;
pub mod step;
pub mod stop;
pub mod tunnel;
pub mod workload;
