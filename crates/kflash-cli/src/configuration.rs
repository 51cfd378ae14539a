//! Where the configuration is found. One file is read: the one that is named, else the user's own, else the machine's.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kflash::config::{Config, ConfigError};

use crate::args::Shared;
use crate::failure::Failure;

/// The machine's.
const OF_THE_MACHINE: &str = "/etc/kflash/config.toml";

/// A configuration, and the file that it was read from.
#[derive(Debug, Default)]
pub struct Configuration {
    /// What it says; nothing, where there is no file.
    pub config: Config,
    /// The file.
    pub file: Option<PathBuf>,
}

impl Shared {
    /// The configuration that is meant.
    pub fn configuration(&self) -> Result<Configuration, Failure> {
        let home = absolute("HOME");
        let read = |file: &Path| Config::read(file, home.as_deref());
        if let Some(file) = &self.config {
            return Ok(Configuration { config: read(file)?, file: Some(file.clone()) });
        }
        let of_the_user = absolute("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let of_the_user = of_the_user.map(|folder| folder.join("kflash/config.toml"));
        for file in of_the_user.into_iter().chain([OF_THE_MACHINE.into()]) {
            match read(&file) {
                Ok(config) => return Ok(Configuration { config, file: Some(file) }),
                Err(ConfigError::Unreadable { source, .. })
                    if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Configuration::default())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

/// A path in an environment variable; one that is not absolute is to be ignored (XDG Base Directory Specification 0.8).
pub fn absolute(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
