//! `kubectl kflash run`: a flash from a person's own machine, from the manifests to its exit code.

mod follow;
mod objects;
mod outcome;

use std::mem;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kflash::cluster::{Summary, Workload};
use kflash::exit::ExitCode;
use kflash_job::Manifest;
use serde::Serialize;
use tokio::time::Instant;

use self::objects::Unended;
use crate::api::{ApiError, Cluster, Patience};
use crate::gate::{self, Answer, Printer, Shut};
use crate::lease::{DURATION, Identity, LeaseFailure};
use crate::restore::{RestoreError, Standing};
use crate::step::Step;
use crate::stop::Stop;

/// For how long the API server may be out of reach.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// After how long a sidecar that has ended counts as dead.
const EXPIRED: Duration = DURATION.saturating_mul(2);
/// Between two looks at a gate that is shut.
const AGAIN: Duration = Duration::from_secs(5);
/// Between two looks whether something that was deleted is gone.
const GONE: Duration = Duration::from_millis(500);
/// The first server that has native sidecars by default.
pub const SIDECARS: u32 = 29;

/// What is to be flashed, and how.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is applied once for each printer.
    pub setup: Vec<Manifest>,
    /// The configuration of the flash.
    pub inputs: ConfigMap,
    /// The flash.
    pub job: Job,
    /// Klipper's workload.
    pub workload: Workload,
    /// The printer's Lease, where a sidecar stops Klipper: it asks Moonraker itself.
    pub lease: Option<String>,
    /// For how long to wait for a gate that is shut.
    pub wait: Duration,
    /// Take no answer of Moonraker for a printer that does nothing.
    pub trusting: bool,
}

/// A flash that is run.
pub struct Run<'a, P> {
    /// The cluster, as the person sees it.
    pub cluster: &'a Cluster,
    /// Moonraker, as far as it can be reached from here.
    pub printer: &'a P,
    /// What is to be done.
    pub order: &'a Order,
    /// Ends the following, not the flash.
    pub stop: &'a Stop,
    /// Told of each step towards giving back what an earlier run owes.
    pub steps: &'a (dyn Fn(Step) + Sync),
    /// Told of everything else.
    pub tell: &'a (dyn Fn(Told) + Sync),
}

/// What happens meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "told", rename_all = "kebab-case")]
pub enum Told {
    /// What is done to the cluster.
    Note {
        /// In words.
        text: String,
    },
    /// A container said this.
    Log {
        /// The container: `quiesce`, `kflash`.
        container: String,
        /// The line.
        line: String,
    },
    /// The cluster warns of the Job or its pod.
    Warning {
        /// In a word: `FailedScheduling`.
        reason: String,
        /// In full.
        message: String,
    },
}

/// How a flash ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The exit code of the flash.
    pub exit: ExitCode,
    /// What it said of itself.
    pub summary: Summary,
}

/// Why a flash was not followed to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A request came to nothing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The Lease cannot be read.
    #[error(transparent)]
    Lease(#[from] LeaseFailure),
    /// What an earlier run owes cannot be given back.
    #[error("what an earlier flash owes is not given back: {0}")]
    Restore(#[from] RestoreError),
    /// The gate is shut.
    #[error("{}", .0.reason)]
    Shut(Shut),
    /// No cluster for this.
    #[error(
        "the server is Kubernetes 1.{minor}, which has no sidecars: 1.{SIDECARS} or newer is needed, or --quiesce token"
    )]
    TooOld {
        /// Its version.
        minor: u32,
    },
    /// Asked to stop.
    #[error("stopped: {0}")]
    Stopped(String),
}

impl RunError {
    /// The code that the command ends with.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Api(error) => error.exit(),
            Self::Lease(failure) => failure.exit(),
            Self::Restore(error) => error.exit(),
            Self::Shut(shut) => shut.exit,
            Self::TooOld { .. } => ExitCode::Usage,
            Self::Stopped(_) => ExitCode::Cancelled,
        }
    }
}

impl<P: Printer> Run<'_, P> {
    /// Does it all.
    pub async fn run(&self) -> Result<Ending, RunError> {
        self.check_version().await?;
        self.give_back().await?;
        self.apply_setup().await?;
        self.check_lease().await?;
        self.check_workload().await?;
        let ending = self.flash().await?;
        self.until_given_back().await?;
        Ok(ending)
    }

    async fn flash(&self) -> Result<Ending, RunError> {
        let (name, unended) = (self.job_name(), self.unended_job().await?);
        if let Some(Unended { uid, suspended: false }) = &unended {
            self.note(format!("Job {name} is there already, and has not ended"));
            return self.follow(uid, name).await;
        }
        // Also for a Job that somebody applied, or that a run left which died: nobody has asked for it now.
        self.open_gate().await?;
        let uid = match unended {
            Some(Unended { uid, .. }) => uid,
            None => self.make_job().await?,
        };
        self.make_inputs(&uid).await?;
        self.start(&uid).await?;
        self.follow(&uid, name).await
    }

    async fn check_version(&self) -> Result<(), RunError> {
        match self.cluster.server_minor(&self.patience()).await {
            Ok(minor) if minor < SIDECARS && self.order.lease.is_some() => Err(RunError::TooOld { minor }),
            // What it does not tell, it need not tell.
            Ok(_) | Err(ApiError::Denied { .. } | ApiError::Wrong { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Pays what a run that died owes: before any gate, as Moonraker may be down with Klipper. Waits for a Lease to go that
    /// somebody deleted: it is made anew then.
    async fn give_back(&self) -> Result<(), RunError> {
        let Some(name) = &self.order.lease else { return Ok(()) };
        let patience = self.patience();
        let who = Identity::of_a_person(self.cluster, "kubectl kflash run");
        let mut told = false;
        loop {
            let lease = match self.cluster.lease(name, &patience).await {
                Err(LeaseFailure::Api(ApiError::Missing { .. })) => return Ok(()),
                lease => lease?,
            };
            let standing = self.cluster.standing(&lease, &who, &patience).await?;
            if lease.debt.is_some() && !matches!(standing, Standing::Held(_)) {
                self.cluster.restore(name, &who, &patience).await?;
            } else if !lease.is_going() {
                return Ok(());
            } else {
                if !mem::replace(&mut told, true) {
                    let by =
                        if let Standing::Held(by) = standing { format!(", is held by {by}") } else { String::new() };
                    self.note(format!("Lease {name} is being deleted{by}: waiting until it is gone"));
                }
                if !patience.pause(GONE).await {
                    return Err(LeaseFailure::Going { lease: name.clone() }.into());
                }
            }
        }
    }

    /// Whoever may not make the Lease learns here that it is not there.
    async fn check_lease(&self) -> Result<(), RunError> {
        let Some(name) = &self.order.lease else { return Ok(()) };
        self.cluster.lease(name, &self.patience()).await?.staying()?;
        Ok(())
    }

    /// In another namespace than Klipper's, or for another name, all would come to nothing after a build.
    async fn check_workload(&self) -> Result<(), RunError> {
        if self.order.lease.is_none() {
            return Ok(());
        }
        match self.cluster.scale(&self.order.workload, &self.patience()).await {
            // The sidecar's account may.
            Ok(_) | Err(ApiError::Denied { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Pays what the sidecar could not, such as one whose rights were taken away. It counts as alive for a while.
    async fn until_given_back(&self) -> Result<(), RunError> {
        let Some(name) = &self.order.lease else { return Ok(()) };
        let (who, dead) = (Identity::of_a_person(self.cluster, "kubectl kflash run"), Instant::now() + EXPIRED);
        loop {
            let patience = self.patience();
            let lease = match self.cluster.lease(name, &patience).await {
                Err(LeaseFailure::Api(ApiError::Missing { .. })) => return Ok(()),
                lease => lease?,
            };
            if lease.debt.is_none() {
                return Ok(());
            }
            match self.cluster.standing(&lease, &who, &patience).await? {
                Standing::Held(by) if Instant::now() >= dead => {
                    self.note(format!("Klipper is given back by {by}, which holds Lease {name}"));
                    return Ok(());
                }
                Standing::Held(_) => {
                    let patience = Patience { until: None, ..patience };
                    if !patience.pause(AGAIN).await {
                        return Err(RunError::Stopped(format!("what Lease {name} says is owed is not given back yet")));
                    }
                }
                _ => {
                    self.note(format!("what Lease {name} says is owed was left: giving it back"));
                    self.cluster.restore(name, &who, &patience).await?;
                }
            }
        }
    }

    /// Waits until the printer may be flashed. Where a sidecar asks once more, it is only asked here what can be reached
    /// from here.
    async fn open_gate(&self) -> Result<(), RunError> {
        let deadline = Instant::now() + self.order.wait;
        let mut told = None;
        loop {
            let Err(shut) = self.ask().await? else { return Ok(()) };
            if !shut.waits() || Instant::now() >= deadline {
                return Err(RunError::Shut(shut));
            }
            if told.as_ref() != Some(&shut.reason) {
                (self.steps)(Step::Waiting { reason: shut.reason.clone() });
                told = Some(shut.reason);
            }
            let patience = Patience { until: None, ..self.patience() };
            if !patience.pause(AGAIN.min(deadline - Instant::now())).await {
                return Err(RunError::Stopped("nothing was applied".into()));
            }
        }
    }

    async fn ask(&self) -> Result<Result<(), Shut>, RunError> {
        let answer = self.printer.activity().await;
        let ready = match &answer {
            Answer::Does(_) => None,
            Answer::Silent { reason, .. } if self.order.lease.is_some() => {
                self.note(format!("whether the printer prints is asked in the cluster: {reason}"));
                return Ok(Ok(()));
            }
            Answer::Silent { .. } => {
                let patience = self.patience();
                let scale = self.cluster.scale(&self.order.workload, &patience).await?;
                let pods = self.cluster.pods(&scale.selector, &patience).await?;
                pods.into_iter().find(|pod| pod.ready).map(|pod| pod.name)
            }
        };
        Ok(gate::gate(&answer, ready.as_deref(), self.order.trusting))
    }

    fn note(&self, text: String) {
        (self.tell)(Told::Note { text });
    }

    fn patience(&self) -> Patience<'_> {
        Patience { until: Some(Instant::now() + PATIENCE), stop: Some(self.stop), steps: self.steps }
    }
}
