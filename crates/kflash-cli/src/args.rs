//! Options that all verbs share.

use std::path::PathBuf;

use clap::Args;

/// Options of every verb.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every verb")]
pub struct Shared {
    /// Where the host's `/sys`, `/dev`, `/run` and `/proc` are found, for a container that mounts them elsewhere
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true,
        display_order = 100
    )]
    pub host_root: PathBuf,
    /// The cache of images [default: kflash in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, global = true, value_name = "DIR", display_order = 100)]
    pub cache_dir: Option<PathBuf>,
    /// The configuration [default: kflash/config.toml in $XDG_CONFIG_HOME or ~/.config, else /etc/kflash/config.toml]
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    pub config: Option<PathBuf>,
    /// Print the result as JSON; a verb that takes time prints each event as a line, the result last
    #[arg(long, global = true, display_order = 101)]
    pub json: bool,
}
