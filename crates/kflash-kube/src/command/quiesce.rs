//! `kubectl kflash quiesce`: the sidecar.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::value_parser;
use kflash::cluster::{Gate, Workload, file};
use kflash::exit::ExitCode;
use kflash::obtain;
use kflash_kube::api::{Cluster, Patience};
use kflash_kube::events;
use kflash_kube::lease::Identity;
use kflash_kube::printer;
use kflash_kube::quiesce::{Board, Order, Sidecar, Wanted};
use kflash_kube::run::SIDECARS;
use kflash_kube::step::Step;
use kflash_kube::stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{self, Instant};

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
    /// The printer's Lease
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    lease: String,
    /// What runs Klipper: deployment/NAME or statefulset/NAME
    #[arg(long, value_name = "KIND/NAME")]
    workload: Workload,
    /// Where Moonraker is asked whether the printer prints: http://NAME:7125
    #[arg(long, value_name = "URL")]
    moonraker: Option<String>,
    /// File that holds Moonraker's API key
    #[arg(long, value_name = "FILE", requires = "moonraker")]
    moonraker_key_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust, where Moonraker's address is an https:// one
    #[arg(long, value_name = "FILE", requires = "moonraker")]
    moonraker_ca: Option<PathBuf>,
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
    /// Klipper's name of a micro-controller that is flashed: mcu, mcu EBB. May be given several times
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    mcu: Vec<String>,
    /// Image that will be flashed to it, as often as --mcu: where all run theirs already, Klipper is not stopped
    #[arg(long, value_name = "FILE", requires = "mcu")]
    firmware: Vec<PathBuf>,
    /// Seconds to wait for a print to end, or for another flash, instead of refusing
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = value_parser!(u64).range(..=604_800))]
    wait: u64,
    /// Take a Moonraker that does not answer for a printer that does nothing
    #[arg(long)]
    trust_silence: bool,
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    let failed = |error| Failure::new(ExitCode::Internal, &format!("cannot take signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut asked = async || tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} };

    let cluster = match cli.connect.cluster().await {
        Ok(cluster) => cluster,
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
    let who = Identity { uid: args.job_uid.clone(), job: args.job.clone() };
    let order = Order {
        lease: args.lease.clone(),
        workload: args.workload.clone(),
        who: who.clone(),
        shared: args.shared.clone(),
        boards: boards(&args.mcu, &args.firmware)?,
        wait: Duration::from_secs(args.wait),
        trusting: args.trust_silence,
    };
    let printer = printer::Moonraker::new(
        args.moonraker.as_deref(),
        args.moonraker_key_file.as_deref(),
        args.moonraker_ca.as_deref(),
    );
    let (stopper, stop) = stop::channel();
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
    let owed = format!("what is owed stands on the Lease: kubectl kflash restore --lease {}", args.lease);
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

/// The boards, each with its image.
fn boards(mcus: &[String], images: &[PathBuf]) -> Result<Vec<Board>, Failure> {
    if !images.is_empty() && images.len() != mcus.len() {
        let message = format!("--firmware is given {} times, --mcu {} times", images.len(), mcus.len());
        return Err(Failure::new(ExitCode::Usage, &message));
    }
    let mut images = images.iter().map(|path| wanted(path));
    Ok(mcus.iter().map(|mcu| Board { mcu: mcu.clone(), image: images.next() }).collect())
}

/// What the image at `path` makes of a board.
fn wanted(path: &Path) -> Result<Wanted, String> {
    let image = obtain::file(path).map_err(|error| error.to_string())?.image;
    let dictionary = image.dictionary.ok_or_else(|| format!("{}: it holds no data dictionary", path.display()))?;
    Ok(Wanted { sha256: image.sha256, version: dictionary.version })
}
