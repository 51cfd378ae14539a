//! `kubectl kflash restore`: pays what a run that died still owes.

use std::time::Duration;

use kflash::exit::ExitCode;
use kflash_kube::api::Patience;
use kflash_kube::lease::Identity;
use kflash_kube::restore::Restored;
use kflash_kube::step::Step;
use tokio::time::Instant;

use super::which::Which;
use super::{Cli, Failure, print};

/// For how long the API server may be out of reach.
const PATIENCE: Duration = Duration::from_secs(60);

/// Scales Klipper back up where a flash died before it could
///
/// The printer's Lease says what is owed. Where nothing is, nothing is done. A flash that is under way is left alone
/// (exit code 5). A Lease that was deleted meanwhile, alone or with its namespace, stays until this was done.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl kflash restore --printer voron
  kubectl kflash restore -n printers --lease kflash-voron")]
pub struct Args {
    #[command(flatten)]
    which: Which,
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    let (cluster, lease) = args.which.find(&cli.connect).await?;
    let who = Identity::of_a_person(&cluster, "kubectl kflash restore");
    let steps = |step: Step| print::step(&step, cli.json);
    let patience = Patience { until: Some(Instant::now() + PATIENCE), stop: None, steps: &steps };
    let restored = cluster.restore(&lease, &who, &patience).await;
    let restored = restored.map_err(|error| Failure::new(error.exit(), &error))?;
    match (restored, cli.json) {
        (Restored::NothingOwed, false) => print::result("nothing is owed\n"),
        (Restored::NothingOwed, true) => print::result_json(&serde_json::json!({"result": "nothing-owed"})),
        (Restored::Paid(debt), false) => print::result(&format!("{} is restored\n", debt.workload)),
        (Restored::Paid(debt), true) => {
            let result = serde_json::json!({
                "result": "restored", "workload": debt.workload, "replicas": debt.replicas,
            });
            print::result_json(&result);
        }
    }
    Ok(ExitCode::Ok)
}
