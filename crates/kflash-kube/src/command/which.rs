//! Which printer is meant, and the configuration that has it.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use kflash::config::{Config, ConfigError};
use kflash::exit::ExitCode;
use kflash_job::lease_name;
use kflash_kube::api::Cluster;

use super::{Connect, Failure};

/// The machine's configuration.
const OF_THE_MACHINE: &str = "/etc/kflash/config.toml";

/// A printer in a cluster.
#[derive(Args, Debug)]
pub struct Which {
    /// The printer, by its name in the configuration
    #[arg(long, short, value_name = "NAME", required_unless_present = "lease", conflicts_with = "lease")]
    printer: Option<String>,
    /// The configuration [default: kflash/config.toml in $XDG_CONFIG_HOME or ~/.config, else /etc/kflash/config.toml]
    #[arg(long, value_name = "FILE", requires = "printer")]
    config: Option<PathBuf>,
    /// The printer's Lease, where there is no configuration: kubectl get leases
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    lease: Option<String>,
}

impl Which {
    /// The namespace that it is in, and its Lease.
    pub async fn find(&self, connect: &Connect) -> Result<(Cluster, String), Failure> {
        if let Some(lease) = &self.lease {
            return Ok((connect.cluster().await?, lease.clone()));
        }
        let config = configuration(self.config.as_deref())?;
        let printer = config.printer(self.printer.as_deref().unwrap_or_default()).map_err(|error| usage(&error))?;
        let Some(cluster) = &printer.cluster else {
            let message =
                format!("printer {} is in no cluster: the configuration has no `cluster` for it", printer.name);
            return Err(Failure::new(ExitCode::Usage, &message));
        };
        Ok((connect.cluster_in(Some(&cluster.namespace)).await?, lease_name(printer)))
    }
}

/// The configuration in `file`; else the user's own, else the machine's.
pub fn configuration(file: Option<&Path>) -> Result<Config, Failure> {
    let absolute = |variable: &str| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = absolute("HOME");
    let read = |file: &Path| Config::read(file, home.as_deref());
    if let Some(file) = file {
        return read(file).map_err(|error| usage(&error));
    }
    let of_the_user = absolute("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let of_the_user = of_the_user.map(|folder| folder.join("kflash/config.toml"));
    for file in of_the_user.into_iter().chain([OF_THE_MACHINE.into()]) {
        match read(&file) {
            Err(ConfigError::Unreadable { source, .. })
                if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            read => return read.map_err(|error| usage(&error)),
        }
    }
    Err(Failure::new(ExitCode::Usage, &"no configuration: it names the printer, its node and what runs Klipper"))
}

fn usage(error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::Usage, &error.to_string())
}
