//! Which cluster, and which namespace.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use kflash::exit::ExitCode;
use kflash_kube::api::Cluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::Failure;

/// Which cluster; as kubectl has them.
#[derive(Args, Debug)]
#[command(next_help_heading = "Options of every verb")]
pub struct Connect {
    /// Namespace; without it that of the context, or of the pod that this runs in
    #[arg(short, long, global = true, display_order = 100)]
    namespace: Option<String>,
    /// Context of the kubeconfig
    #[arg(long, global = true, display_order = 100)]
    context: Option<String>,
    /// Path of the kubeconfig
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    kubeconfig: Option<PathBuf>,
}

impl Connect {
    /// The namespace that is meant. Asks nothing of the server yet.
    pub async fn cluster(&self) -> Result<Cluster, Failure> {
        self.cluster_in(None).await
    }

    /// The same, where something else says `namespace`: the command line must not say another.
    pub async fn cluster_in(&self, namespace: Option<&str>) -> Result<Cluster, Failure> {
        if let (Some(given), Some(namespace)) = (&self.namespace, namespace)
            && given != namespace
        {
            let message = format!("the configuration has the printer in namespace {namespace}, not {given}");
            return Err(Failure::new(ExitCode::Usage, &message));
        }
        let usage = |error: &dyn std::error::Error| Failure::new(ExitCode::Usage, &format!("no cluster: {error}"));
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let kubeconfig = Kubeconfig::read_from(path).map_err(|error| usage(&error))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| usage(&error))?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&options).await.map_err(|error| usage(&error))?,
            None => Config::infer().await.map_err(|error| usage(&error))?,
        };
        // Requests are made again here, where it is known which of them may be.
        config.default_retry = false;
        let namespace = namespace.or(self.namespace.as_deref()).unwrap_or(&config.default_namespace).to_owned();
        let client = Client::try_from(config).map_err(|error| usage(&error))?;
        Ok(Cluster::new(client, namespace, Timestamp::now))
    }
}
