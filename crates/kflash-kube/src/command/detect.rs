//! `kubectl kflash detect`: which boards the nodes of a cluster have.

use std::fmt::Write as _;
use std::time::Duration;

use clap::value_parser;
use k8s_openapi::api::batch::v1::Job;
use kflash::exit::ExitCode;
use kflash_job::{Images, Manifest};
use kflash_kube::api::Patience;
use kflash_kube::detect::Said;
use kflash_kube::step::Step;
use kflash_kube::stop;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::{Cli, Failure, print};

/// For how long the API server may be out of reach.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs `kflash detect` on the nodes: which boards they have, with the line that names each in a configuration
///
/// A Job for each node reads what the kernel tells every container of USB, without any privilege, and is removed.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl kflash detect
  kubectl kflash detect --node pi4 --registry registry.local:5000")]
pub struct Args {
    /// Only on this node: the value of its label kubernetes.io/hostname. May be given several times
    #[arg(long, value_name = "NAME")]
    node: Vec<String>,
    /// Where the container images are
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    registry: String,
    /// Seconds that a node may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    let cluster = cli.connect.cluster().await?;
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::new(ExitCode::Internal, &format!("cannot take signals: {error}")))?;
    let (stopper, stop) = stop::channel();
    let steps = |step: Step| print::note(&step.to_string());
    let enough = Instant::now() + Duration::from_secs(args.timeout);
    let patience = Patience { until: Some(enough + PATIENCE), stop: Some(&stop), steps: &steps };
    let detect = async {
        let nodes = match &args.node[..] {
            [] => cluster.nodes(&patience).await.map_err(|error| {
                Failure::new(error.exit(), &format!("{error} (with --node, nobody has to list them)"))
            })?,
            named => named.to_vec(),
        };
        let images = Images { registry: args.registry.clone(), ..Images::default() };
        let jobs: Vec<Job> = nodes.iter().map(|node| job(&cluster.namespace, node, &images, cli.json)).collect();
        let said = cluster.detect(&jobs, enough, &patience).await;
        Ok(nodes.into_iter().zip(said).collect::<Vec<_>>())
    };
    let interrupted = async {
        interrupt.recv().await;
        stopper.request();
        std::future::pending::<()>().await;
    };
    let said = tokio::select! {
        said = detect => said?,
        () = interrupted => unreachable!("it never ends"),
    };
    let failed = said.iter().filter(|(_, said)| matches!(said, Said::Failed(_))).count();
    for (node, said) in &said {
        if cli.json {
            print::result_json(&as_json(node, said));
        } else {
            print::result(&text(node, said));
        }
    }
    if failed > 0 {
        let message = format!("{failed} of {} nodes did not say what they have", said.len());
        return Err(Failure::new(ExitCode::NotFound, &message));
    }
    Ok(ExitCode::Ok)
}

/// The Job for a node, by a name that the server makes up.
fn job(namespace: &str, node: &str, images: &Images, json: bool) -> Job {
    let mut job = match kflash_job::detect(namespace, Some(node), 1, images) {
        Manifest::Job(job) => *job,
        _ => Job::default(),
    };
    job.metadata.generate_name = job.metadata.name.take().map(|name| name + "-");
    let containers = job.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).map(|pod| &mut pod.containers);
    for container in containers.into_iter().flatten().filter(|_| json) {
        container.args.get_or_insert_default().push("--json".into());
    }
    job
}

fn text(node: &str, said: &Said) -> String {
    let (what, log) = match said {
        Said::Detected(log) => ("", log),
        Said::Failed(log) => (" FAILED", log),
    };
    let mut text = format!("{node}{what}\n");
    for line in log.lines() {
        let indent = if line.is_empty() { "" } else { "  " };
        let _ = writeln!(text, "{indent}{line}");
    }
    text
}

fn as_json(node: &str, said: &Said) -> Value {
    match said {
        Said::Detected(log) => match serde_json::from_str::<Value>(log) {
            Ok(detected) => json!({"node": node, "detected": detected}),
            Err(_) => json!({"node": node, "failed": log}),
        },
        Said::Failed(log) => json!({"node": node, "failed": log}),
    }
}
