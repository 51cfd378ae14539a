//! `kubectl kflash run`: flashes a printer in the cluster, and follows that.

mod inputs;
mod log;

use std::path::PathBuf;
use std::time::Duration;

use clap::value_parser;
use kflash::cluster::Outcome;
use kflash::exit::ExitCode;
use kflash_job::{Access, Images, Kubernetes, Quiesce, Shape, Via};
use kflash_kube::api::{ApiError, Cluster, Patience};
use kflash_kube::run::{Ending, PATIENCE, Run, Told};
use kflash_kube::step::Step;
use kflash_kube::stop::{self, Stop};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::inputs::Inputs;
use self::log::Log;
use super::{Cli, Failure, print};

/// Flashes all boards of a printer in the cluster, shows how it goes, and ends with the exit code of the flash
///
/// Makes the manifests of `kflash job render` and applies them: what the printer's flashes stand on, where that is not
/// there yet, and a Job. Gives Klipper back first if an earlier flash died before it could. Refuses while the printer
/// prints. What the Job's containers say is shown until it has ended and Klipper is back. Ctrl-C ends the following, not
/// the flash; the same command follows it again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  kubectl kflash run --printer voron
  kubectl kflash run --printer voron --firmware klipper.bin
  kubectl kflash run --printer ender --access unprivileged --quiesce token --wait 7200")]
pub struct Args {
    /// The printer, by its name in the configuration
    #[arg(long, short, value_name = "NAME")]
    printer: String,
    /// The configuration [default: kflash/config.toml in $XDG_CONFIG_HOME or ~/.config, else /etc/kflash/config.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which way the firmware goes to the chip: over the board's own cable, or through a debug probe on its SWD pins
    #[arg(long, default_value = "cable", value_name = "cable|swd")]
    via: Via,
    /// Which debug probe, where the node has several
    #[arg(long, value_name = "VID:PID:SERIAL")]
    probe: Option<String>,
    /// Firmware that comes along, for a printer with one board: nothing is built or fetched
    #[arg(long, short, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// How the board is reached: with the node's /dev, or with a device plugin's resource
    #[arg(long, default_value = "privileged", value_name = "privileged|unprivileged")]
    access: Access,
    /// With --access unprivileged, for a board on USB behind Katapult: flash it in phases, since a container keeps the
    /// device node that it was created with. The device plugin has to give a path that stays
    #[arg(long)]
    phased: bool,
    /// How Klipper is stopped: by a sidecar that scales it, by a token that it gives up to the Job, or by somebody else
    #[arg(long, default_value = "sidecar", value_name = "sidecar|token|none")]
    quiesce: Quiesce,
    /// Where the container images are
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    registry: String,
    /// Seconds to wait for a print to end instead of refusing; a sidecar waits as long for one that begins meanwhile
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = value_parser!(u32).range(..=604_800))]
    wait: u32,
    /// Take a Moonraker that does not answer for a printer that does nothing
    #[arg(long)]
    trust_silence: bool,
}

pub async fn run(args: &Args, cli: &Cli) -> Result<ExitCode, Failure> {
    let inputs = Inputs::read(args.config.as_deref(), &args.printer, args.firmware.as_deref())?;
    let shape = Shape {
        access: args.access,
        quiesce: args.quiesce,
        images: Images { registry: args.registry.clone(), ..Images::default() },
        via: args.via.clone().with(args.probe.clone()).map_err(|error| Failure::new(ExitCode::Usage, &error))?,
        wait: if args.quiesce == Quiesce::Sidecar { args.wait } else { 0 },
        trusting: args.trust_silence,
        phased: args.phased,
        ..Shape::default()
    };
    let ordered = |shape: &Shape| inputs.order(shape, Duration::from_secs(args.wait.into()), args.trust_silence);
    let mut order = ordered(&shape)?;
    let cluster = cli.connect.cluster_in(order.inputs.metadata.namespace.as_deref()).await?;
    let (stopper, stop) = stop::channel();
    let steps = |step: Step| print::step(&step, cli.json);
    if args.phased {
        order = ordered(&Shape { kubernetes: version(&cluster, &stop, &steps).await?, ..shape })?;
    }
    let printer = inputs.moonraker(&cluster).await?;

    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::new(ExitCode::Internal, &format!("cannot take signals: {error}")))?;
    let log = Log::default();
    let tell = |told: Told| match told {
        _ if cli.json => print::result_json(&told),
        Told::Note { text } => print::note(&text),
        Told::Warning { reason, message } => print::note(&format!("warning: {reason}: {message}")),
        Told::Log { container, line } => log.line(&container, &line).into_iter().for_each(|line| print::note(&line)),
    };
    let flash = Run { cluster: &cluster, printer: &printer, order: &order, stop: &stop, steps: &steps, tell: &tell };
    let interrupted = async {
        interrupt.recv().await;
        stopper.request();
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = flash.run() => ended,
        () = interrupted => unreachable!("it never ends"),
    };
    let Ending { exit, summary } = ended.map_err(|error| Failure::new(error.exit(), &error))?;
    if cli.json {
        print::result_json(&summary);
    } else if summary.result == Outcome::Refused || exit != ExitCode::Ok {
        print::note(&format!("error: {}", Step::Ended { summary }));
    } else {
        print::result(&format!("{}\n", Step::Ended { summary }));
    }
    Ok(exit)
}

/// What the server has; what is there everywhere, if it does not tell.
async fn version(cluster: &Cluster, stop: &Stop, steps: &(dyn Fn(Step) + Sync)) -> Result<Kubernetes, Failure> {
    let patience = Patience { until: Some(Instant::now() + PATIENCE), stop: Some(stop), steps };
    match cluster.server_minor(&patience).await {
        Ok(minor) => Ok(Kubernetes::of_minor(minor)),
        Err(ApiError::Denied { .. } | ApiError::Wrong { .. }) => Ok(Kubernetes::V1_29),
        Err(error) => Err(Failure::new(error.exit(), &error)),
    }
}
