//! `kubectl kflash status`: who flashes a printer, what is owed, what runs on it.

use std::fmt::Write as _;
use std::time::Duration;

use kflash::exit::ExitCode;
use kflash_kube::api::Patience;
use kflash_kube::status::Status;
use kflash_kube::step::Step;
use tokio::time::Instant;

use super::which::Which;
use super::{Cli, Failure, print};

/// For how long the API server may be out of reach.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tells who flashes a printer, what is owed, and what was last seen running on it
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl kflash status --printer voron
  kubectl kflash status -n printers --lease kflash-voron")]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    let (cluster, lease) = args.which.find(&cli.connect).await?;
    let steps = |step: Step| print::note(&step.to_string());
    let patience = Patience { until: Some(Instant::now() + PATIENCE), stop: None, steps: &steps };
    let status = cluster.status(&lease, &patience).await;
    let status = status.map_err(|error| Failure::new(error.exit(), &error))?;
    if cli.json {
        print::result_json(&status);
    } else {
        print::result(&text(&status, &cluster.namespace));
    }
    Ok(ExitCode::Ok)
}

fn text(status: &Status, namespace: &str) -> String {
    let mut text = String::new();
    let mut entry = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    let going = if status.being_deleted { ", which goes as soon as nothing is owed" } else { "" };
    entry("lease", &format!("{}{going}", status.lease));
    match (&status.held_by, status.holder_is_dead) {
        (None, _) => entry("held by", "nobody"),
        (Some(by), false) => entry("held by", by),
        (Some(by), true) => entry("held by", &format!("{by}, which is dead")),
    }
    if let Some(workload) = &status.workload {
        let replicas = status.replicas.map_or_else(|| "gone".to_owned(), |replicas| format!("{replicas} replicas"));
        entry("klipper", &format!("{workload}, {replicas}"));
    }
    let owed = match (status.owed, &status.held_by, status.holder_is_dead) {
        (Some(owed), Some(_), false) => format!("{owed} replicas, when the flash has ended"),
        (Some(owed), _, _) => {
            format!("{owed} replicas: kubectl kflash restore -n {namespace} --lease {}", status.lease)
        }
        (None, _, _) => "nothing".to_owned(),
    };
    entry("owed", &owed);
    for (mcu, confirmed) in &status.confirmed {
        entry("firmware", &format!("{mcu}: {}, image {}", confirmed.version, confirmed.sha256));
    }
    if let Some(result) = &status.result {
        entry("last run", &Step::Ended { summary: result.clone() }.to_string());
    }
    text
}
