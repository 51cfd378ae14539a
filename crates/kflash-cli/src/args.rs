//! Options that all verbs share.

use std::path::PathBuf;

use clap::Args;

/// Options of every verb.
#[derive(Args, Debug)]
pub struct Shared {
    /// Where the host's `/sys`, `/dev`, `/run` and `/proc` are found, for a container that mounts them elsewhere
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub host_root: PathBuf,
    /// Print the result as JSON; a verb that takes time prints each event as a line, the result last
    #[arg(long, global = true)]
    pub json: bool,
}
