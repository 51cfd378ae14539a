//! A double of the Kubernetes API server, with the few controllers that matter to kflash.
//!
//! It shares no code with the client under test: JSON in, JSON out, written from the API's documented conventions. An
//! independent client (PyPI's `kubernetes`) is held to it first, see `python_client.rs`. Time is tokio's: in a test with
//! paused time a termination grace period of 30 s takes none.

mod answer;
mod controller;
mod fault;
mod job;
mod log;
mod patch;
mod rbac;
mod request;
mod scene;
mod selector;
mod serve;
mod store;
mod validate;
mod watch;

pub use self::fault::{Fault, How};
pub use self::scene::NAMESPACE;
pub use self::serve::Server;
pub use self::store::{Store, Timing};
