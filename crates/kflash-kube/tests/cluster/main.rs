//! kflash in a cluster, against a double of the API server.

mod bench;
mod containers;
mod crash;
mod detect;
mod double;
mod klippy;
mod lease;
mod look;
mod moonraker;
mod phases;
mod pod;
mod process;
mod python_client;
mod quiesce;
mod rendered;
mod run;
