//! `kubectl kflash quiesce`: the sidecar.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::value_parser;
use kflash::cluster::{Gate, Workload, file};
use kflash::config::Printer;
use kflash::exit::ExitCode;
use kflash_kube::api::{Cluster, Patience};
use kflash_kube::events;
use kflash_kube::gate::Shut;
use kflash_kube::lease::Identity;
use kflash_kube::look::{Places, look};
use kflash_kube::printer::Moonraker;
use kflash_kube::quiesce::{Order, Sidecar};
use kflash_kube::run::SIDECARS;
use kflash_kube::step::Step;
use kflash_kube::stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{self, Instant};

use super::which::configuration;
use super::{Cli, Failure, print};

/// For how long its version is asked for.
const VERSION: Duration = Duration::from_secs(20);
/// For how long the last Events are waited for, when Klipper is back already.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Stops Klipper for the flash in the same pod, and gives it back: the sidecar of a flash Job
///
/// Asks Moonraker whether the printer prints, notes on the printer's Lease how many replicas Klipper has, scales it to
/// nothing and waits until its pods are gone. Then, or if the gate stays shut, it tells the container that flashes, in
/// gate.json of the shared directory. On SIGTERM, which the kubelet sends when that container has ended, Klipper gets
/// its replicas back. What is still owed if this is killed, another pod of the same Job, the next Job, or
/// `kubectl kflash restore` pays.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration: it names the printer's Moonraker and its boards
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The printer, by its name there
    #[arg(long, value_name = "NAME")]
    printer: String,
    /// The printer's Lease
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    lease: String,
    /// What runs Klipper: deployment/NAME or statefulset/NAME
    #[arg(long, value_name = "KIND/NAME")]
    workload: Workload,
    /// UID of this Job: the pod's label batch.kubernetes.io/controller-uid
    #[arg(long, value_name = "UID", value_parser = NonEmptyStringValueParser::new())]
    job_uid: String,
    /// Name of this Job: the pod's label batch.kubernetes.io/job-name
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    job: String,
    /// Name of this pod
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pod: String,
    /// Directory that is shared with the container that flashes
    #[arg(long, value_name = "DIR")]
    shared: PathBuf,
    /// The firmware file, or the directory with one for each board. Klipper is not stopped where all run theirs already,
    /// nor where one is not for its board
    #[arg(long, value_name = "PATH")]
    firmware: PathBuf,
    /// The boards need not show in the node's sysfs: a debug probe is on them
    #[arg(long)]
    through_probe: bool,
    /// Where the node's root is mounted, for its /sys
    #[arg(long, value_name = "DIR", default_value = "/")]
    host_root: PathBuf,
    /// Seconds to wait for a print to end, or for another flash, instead of refusing
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = value_parser!(u64).range(..=604_800))]
    wait: u64,
    /// Take a Moonraker that does not answer for a printer that does nothing
    #[arg(long)]
    trust_silence: bool,
}

impl Args {
    /// What the configuration says of the printer.
    fn printer(&self) -> Result<Printer, Failure> {
        let config = configuration(Some(&self.config))?;
        config.printer(&self.printer).cloned().map_err(|error| Failure::new(ExitCode::Usage, &error))
    }
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::new(ExitCode::Internal, &format!("cannot take signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut asked = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };

    let known = async { Ok::<_, Failure>((args.printer()?, cli.connect.cluster().await?)) };
    let (printer, cluster) = match known.await {
        Ok(known) => known,
        Err(failure) => {
            // If it ended, it would be started again, and the flash would wait for ever.
            print::failure(&failure, cli.json);
            let gate = Gate::Refused { exit: failure.exit, reason: failure.message };
            gate.write(&args.shared.join(file::GATE)).map_err(|error| Failure::new(ExitCode::Internal, &error))?;
            asked().await;
            return Ok(ExitCode::Ok);
        }
    };
    too_old(&cluster).await?;
    let root = Some(&*args.host_root).filter(|_| !args.through_probe);
    let (stopper, stop) = stop::channel();
    let boards = tokio::select! {
        boards = look(&printer, Places { firmware: &args.firmware, root }) => boards,
        // Klipper may be owed its replicas already, by an earlier life of this container.
        () = asked() => {
            stopper.request();
            Err(Shut { exit: ExitCode::Cancelled, reason: "ended before the boards were looked at".to_owned() })
        }
    };
    let who = Identity { uid: args.job_uid.clone(), job: args.job.clone() };
    let order = Order {
        lease: args.lease.clone(),
        workload: args.workload.clone(),
        who: who.clone(),
        shared: args.shared.clone(),
        boards,
        wait: Duration::from_secs(args.wait),
        trusting: args.trust_silence,
    };
    let printer = Moonraker::of(&printer);
    let (recorder, writer) = events::channel();
    let writing = {
        let (cluster, who, pod) = (cluster.clone(), who.clone(), args.pod.clone());
        tokio::spawn(async move { writer.run(&cluster, &who, &pod).await })
    };
    let ended = {
        let steps = |step: Step| {
            print::step(&step, cli.json);
            recorder.record(&step);
        };
        let sidecar = Sidecar { cluster: &cluster, printer: &printer, order: &order, stop: &stop, steps: &steps };
        let twice = async {
            asked().await;
            stopper.request();
            asked().await;
        };
        tokio::select! {
            ended = sidecar.run() => Some(ended),
            () = twice => None,
        }
    };
    drop(recorder);
    let _ = time::timeout(LAST_EVENTS, writing).await;
    let owed = format!(
        "what is owed stands on the Lease: kubectl kflash restore -n {} --lease {}",
        cluster.namespace, args.lease
    );
    match ended {
        Some(Ok(())) => Ok(ExitCode::Ok),
        Some(Err(error)) => Err(Failure::new(error.exit(), &format!("{error}; {owed}"))),
        None => Err(Failure::new(ExitCode::Cancelled, &format!("ended by a second signal; {owed}"))),
    }
}

/// Fails on a server that runs this as an ordinary init container, whose end the flash would wait for: to end at once fails
/// the pod there, with Klipper running.
async fn too_old(cluster: &Cluster) -> Result<(), Failure> {
    let patience = Patience { until: Some(Instant::now() + VERSION), stop: None, steps: &|_| {} };
    match cluster.server_minor(&patience).await {
        Ok(minor) if minor < SIDECARS => {
            let message =
                format!("the server is Kubernetes 1.{minor}, which has no sidecars: 1.{SIDECARS} or newer is needed");
            Err(Failure::new(ExitCode::Usage, &message))
        }
        // What it does not tell, it need not tell: most servers are newer.
        _ => Ok(()),
    }
}
