//! `kubectl kflash settle`: the first container of a pod that obtains firmware.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use kflash::exit::ExitCode;
use kflash_kube::api::{ApiError, Patience};
use kflash_kube::lease::{Identity, Lease};
use kflash_kube::restore::{RestoreError, Restored};
use kflash_kube::step::Step;
use kflash_kube::stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::{Cli, Failure, print};

/// For how long the API server may be out of reach.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long Klipper may take to come back.
const READY: Duration = Duration::from_secs(180);

/// Pays what a flash that died still owes, before a pod obtains firmware
///
/// The first container of a flash's pod. Obtaining firmware can take minutes and can fail, and Klipper is not to stay
/// down for that; and the version that its host runs is known only while it runs. What another flash holds that is
/// under way is left to it.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The printer's Lease
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    lease: String,
    /// UID of this Job: the pod's label batch.kubernetes.io/controller-uid
    #[arg(long, value_name = "UID", value_parser = NonEmptyStringValueParser::new())]
    job_uid: String,
    /// Name of this Job: the pod's label batch.kubernetes.io/job-name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    job: String,
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    // The first process of a container is ended by no signal that it does not take.
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| Failure::new(ExitCode::Internal, &format!("cannot take signals: {error}")))?;
    let (stopper, stop) = stop::channel();
    let cluster = cli.connect.cluster().await?;
    let who = Identity { uid: args.job_uid.clone(), job: args.job.clone() };
    let steps = |step: Step| print::step(&step, cli.json);
    let patience = Patience { until: Some(Instant::now() + PATIENCE), stop: Some(&stop), steps: &steps };
    // Nothing is obtained for a flash that will not be.
    let stays = async || match cluster.lease(&args.lease, &patience).await.and_then(Lease::staying) {
        Ok(_) => Ok(ExitCode::Ok),
        Err(error) => Err(Failure::new(error.exit(), &error)),
    };
    let settled = async {
        match cluster.restore(&args.lease, &who, &patience).await {
            Ok(Restored::Paid(debt)) => {
                let patience = Patience { until: Some(Instant::now() + READY), ..patience.clone() };
                match cluster.until_ready(&debt.workload, &patience).await {
                    // Whoever needs Klipper will say so; it is given back, and that is what counts here.
                    Ok(()) | Err(ApiError::Unreachable { .. }) => stays().await,
                    Err(error) => Err(Failure::new(error.exit(), &error)),
                }
            }
            Ok(Restored::NothingOwed) => stays().await,
            Err(held @ RestoreError::Held { .. }) => {
                print::note(&held.to_string());
                Ok(ExitCode::Ok)
            }
            Err(error) => Err(Failure::new(error.exit(), &error)),
        }
    };
    let stopped = async {
        terminate.recv().await;
        stopper.request();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        settled = settled => settled,
        () = stopped => unreachable!("it never ends"),
    }
}
