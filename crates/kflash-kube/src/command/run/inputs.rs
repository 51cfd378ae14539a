//! What goes into the manifests: the configuration and the files that it names.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use kflash::config::{self, Config, Printer};
use kflash::exit::ExitCode;
use kflash::obtain::{self, Obtained};
use kflash_job::{JobError, Manifest, Quiesce, Shape, lease_name};
use kflash_kube::api::Cluster;
use kflash_kube::printer::Moonraker;
use kflash_kube::run::Order;
use kflash_kube::tunnel::{self, Service};

use crate::command::Failure;
use crate::command::which::configuration;

/// All that is read from files.
pub struct Inputs {
    config: Config,
    printer: Printer,
    profiles: BTreeMap<String, String>,
    ca: Option<String>,
    moonraker_ca: Option<String>,
    firmware: Option<Obtained>,
}

impl Inputs {
    /// Reads the configuration in `file`, or where it usually is, and what it names of `printer`.
    pub fn read(file: Option<&Path>, printer: &str, firmware: Option<&Path>) -> Result<Self, Failure> {
        let config = configuration(file)?;
        let printer = config.printer(printer).map_err(|error| usage(&error))?.clone();
        let mut profiles = BTreeMap::new();
        for board in printer.boards.iter().filter(|board| board.board.contains('/')) {
            profiles.insert(board.name.clone(), text(Path::new(&board.board))?);
        }
        let ca = config.fetch.as_ref().and_then(|fetch| fetch.ca.as_deref()).map(text).transpose()?;
        let moonraker_ca = printer.moonraker.as_ref().and_then(|moonraker| moonraker.ca.as_deref());
        let moonraker_ca = moonraker_ca.map(text).transpose()?;
        let firmware = firmware.map(obtain::file).transpose();
        let firmware = firmware.map_err(|error| Failure::new(error.exit(), &error))?;
        Ok(Self { config, printer, profiles, ca, moonraker_ca, firmware })
    }

    /// What is to be run.
    pub fn order(&self, shape: &Shape, wait: Duration, trusting: bool) -> Result<Order, Failure> {
        let inputs = kflash_job::Inputs {
            config: &self.config,
            printer: &self.printer,
            profiles: &self.profiles,
            ca: self.ca.as_deref(),
            moonraker_ca: self.moonraker_ca.as_deref(),
            firmware: self.firmware.as_ref(),
        };
        let wrong = |error: JobError| Failure::new(error.exit(), &error);
        let setup = kflash_job::setup(&self.printer, shape).map_err(wrong)?;
        let (mut map, mut job) = (None, None);
        for manifest in kflash_job::flash(&inputs, shape).map_err(wrong)? {
            match manifest {
                Manifest::ConfigMap(it) => map = Some(*it),
                Manifest::Job(it) => job = Some(*it),
                _ => {}
            }
        }
        let (Some(inputs), Some(job), Some(cluster)) = (map, job, &self.printer.cluster) else {
            return Err(Failure::new(ExitCode::Internal, &"there is no Job among the manifests"));
        };
        let lease = (shape.quiesce == Quiesce::Sidecar).then(|| lease_name(&self.printer));
        Ok(Order { setup, inputs, job, workload: cluster.workload.clone(), lease, wait, trusting })
    }

    /// Whom to ask whether the printer prints: through the API server, where only the cluster knows the name.
    pub async fn moonraker(&self, cluster: &Cluster) -> Result<Moonraker, Failure> {
        let Some(moonraker) = &self.printer.moonraker else { return Ok(Moonraker::of(&self.printer)) };
        let Some(service) = Service::of(&moonraker.url, &cluster.namespace) else {
            return Ok(Moonraker::configured(moonraker));
        };
        let tunnel = tunnel::open(cluster.client.clone(), service).await;
        let tunnel =
            tunnel.map_err(|error| Failure::new(ExitCode::Internal, &format!("cannot open a port: {error}")))?;
        Ok(Moonraker::configured(&config::Moonraker { url: format!("http://{tunnel}"), ..moonraker.clone() }))
    }
}

fn text(file: &Path) -> Result<String, Failure> {
    fs::read_to_string(file).map_err(|error| Failure::new(ExitCode::Usage, &format!("{}: {error}", file.display())))
}

fn usage(error: &dyn std::error::Error) -> Failure {
    Failure::new(ExitCode::Usage, &error.to_string())
}
