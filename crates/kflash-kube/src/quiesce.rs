//! The sidecar: stops Klipper for the flash beside it, and gives it back when that has ended.

use std::collections::BTreeMap;
use std::mem;
use std::path::PathBuf;
use std::time::Duration;

use kflash::cluster::{Confirmed, Gate, HandoverError, Outcome, Summary, Workload, file};
use kflash::exit::ExitCode;
use kflash::moonraker::Activity;
use tokio::time::{self, Instant};

use crate::api::{ApiError, Cluster, Patience};
use crate::gate::{self, Answer, Printer, Shut};
use crate::lease::{Debt, End, Flashed, Holder, Identity, Lease, LeaseFailure, RENEWAL};
use crate::pods::WaitError;
use crate::restore::{Standing, may_pass};
use crate::step::Step;
use crate::stop::Stop;

/// For how long an API server may be out of reach before Klipper is stopped.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a gate that is shut, or at a Lease that is held.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is said that it still waits.
const WAITING: Duration = Duration::from_secs(1200);
/// How often it is looked whether somebody scaled Klipper up.
const LOOK: Duration = Duration::from_secs(5);
/// For how long it is tried to note what a run came to that stopped nothing.
const NOTE: Duration = Duration::from_secs(10);

/// What a sidecar is to do.
#[derive(Clone, Debug)]
pub struct Order {
    /// The printer's Lease.
    pub lease: String,
    /// Klipper's workload.
    pub workload: Workload,
    /// Our Job.
    pub who: Identity,
    /// The directory that is shared with the container that flashes.
    pub shared: PathBuf,
    /// What is flashed; or why that cannot be, as far as it is known already.
    pub boards: Result<Vec<Board>, Shut>,
    /// For how long to wait for a gate that is shut.
    pub wait: Duration,
    /// Take no answer of Moonraker for a printer that does nothing.
    pub trusting: bool,
}

/// A board that is flashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Klipper's name of its micro-controller: `mcu`, `mcu EBB`.
    pub mcu: String,
    /// The image that it is to run.
    pub image: Wanted,
}

impl Order {
    /// Klipper's names of the micro-controllers that are flashed.
    fn mcus(&self) -> Vec<String> {
        self.boards.iter().flatten().map(|board| board.mcu.clone()).collect()
    }

    /// Why this cannot be flashed, where that is known already.
    fn unusable(&self) -> Option<NotStopped> {
        let Shut { exit, reason } = self.boards.as_ref().err()?.clone();
        Some(NotStopped::Refused { exit, reason })
    }
}

/// The firmware that a board is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// SHA-256 of the image file, as lower-case hex.
    pub sha256: String,
    /// The version in it.
    pub version: String,
}

/// A sidecar at work.
pub struct Sidecar<'a, P> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// Moonraker.
    pub printer: &'a P,
    /// What it is to do.
    pub order: &'a Order,
    /// Ends it.
    pub stop: &'a Stop,
    /// Told of each step.
    pub steps: &'a (dyn Fn(Step) + Sync),
}

/// What was told of already, so that hours of waiting are no hundreds of Events.
#[derive(Default)]
struct Told {
    taken_over: bool,
    waiting: Option<Instant>,
}

/// Why Klipper was not stopped.
enum NotStopped {
    /// Asked to end before.
    Asked,
    /// Every board has it already.
    AlreadyCurrent(BTreeMap<String, Confirmed>),
    /// For this.
    Refused { exit: ExitCode, reason: String },
}

/// What a flash came to that the sidecar was beside.
enum Came {
    /// Klipper was stopped for it.
    Flash(Summary),
    /// Nothing was stopped: there was nothing to flash, or it could not be.
    Unstopped(Summary),
    /// It was ended before any of that.
    Nothing,
}

impl<P: Printer> Sidecar<'_, P> {
    /// Does it all, until it is asked to stop and Klipper is back. Requests are made again for as long as it takes once
    /// Klipper is stopped, but for an account that stays refused; the caller may give up, too. Then the Lease says what
    /// is owed.
    pub async fn run(&self) -> Result<(), LeaseFailure> {
        let mut owed = None;
        let came = match self.open_gate(&mut owed).await {
            Ok(came) => came,
            Err(error) => {
                // Nobody can be told, so nothing may stay stopped. The probe never succeeds, which ends the Job.
                let (exit, reason) = (ExitCode::Internal, error.to_string());
                (self.steps)(Step::Refused { exit, reason: reason.clone() });
                self.give_back(&mut owed, None, &self.endless()).await?;
                self.stop.wait().await;
                Came::Unstopped(refused(exit, &reason))
            }
        };
        match came {
            Came::Flash(summary) => {
                let end = End { mcus: self.order.mcus(), summary };
                self.give_back(&mut owed, Some(&end), &self.endless()).await?;
                (self.steps)(Step::Ended { summary: end.summary });
            }
            Came::Unstopped(summary) => {
                self.give_back(&mut owed, None, &self.endless()).await?;
                self.note(&summary).await;
            }
            Came::Nothing => self.give_back(&mut owed, None, &self.endless()).await?,
        }
        Ok(())
    }

    /// Pays what is `owed`, once, and lets go of the Lease.
    async fn give_back(
        &self,
        owed: &mut Option<Debt>,
        end: Option<&End>,
        patience: &Patience<'_>,
    ) -> Result<(), LeaseFailure> {
        let Order { lease, who, .. } = self.order;
        self.cluster.let_go(lease, who, owed.as_ref(), end, patience).await?;
        *owed = None;
        Ok(())
    }

    /// Notes on the Lease what came of a run that stopped nothing. Nothing fails for want of that.
    async fn note(&self, summary: &Summary) {
        let patience = Patience { until: Some(Instant::now() + NOTE), ..self.endless() };
        if let Err(error) = self.cluster.note_result(&self.order.lease, summary, &patience).await {
            (self.steps)(Step::Unnoted { problem: error.to_string() });
        }
    }

    /// Stops Klipper and says so to the container that flashes, or says why not; returns when asked to stop, with what
    /// came of the flash. `owed` is what is owed from when on it is.
    async fn open_gate(&self, owed: &mut Option<Debt>) -> Result<Came, HandoverError> {
        let path = self.order.shared.join(file::GATE);
        match Gate::read(&path) {
            // We were restarted: what was said stands.
            Ok(Some(gate @ (Gate::Refused { .. } | Gate::AlreadyCurrent { .. }))) => {
                return Ok(self.until_unflashed(gate).await);
            }
            // The flash may be under way.
            Ok(Some(Gate::Open)) => match self.still_owed().await {
                Some(debt) => return Ok(Came::Flash(self.hold(owed.insert(debt)).await)),
                None => Gate::clear(&path)?,
            },
            // It cannot be written there later, either, if that fails.
            _ => Gate::clear(&path)?,
        }
        let gate = match self.stop_klipper(owed).await {
            Ok(debt) => {
                Gate::Open.write(&path)?;
                return Ok(Came::Flash(self.hold(&debt).await));
            }
            Err(NotStopped::Asked) => return Ok(Came::Nothing),
            Err(NotStopped::AlreadyCurrent(boards)) => {
                let versions = boards.iter().map(|(mcu, runs)| (mcu.clone(), runs.version.clone())).collect();
                (self.steps)(Step::AlreadyCurrent { versions });
                Gate::AlreadyCurrent { boards }
            }
            Err(NotStopped::Refused { exit, reason }) => {
                // Before the flash is told to end: Klipper is not to wait for that.
                let end = End { mcus: self.order.mcus(), summary: refused(exit, &reason) };
                if let Err(error) = self.give_back(owed, Some(&end), &self.bounded()).await {
                    let what = format!("give back {}", self.order.workload);
                    (self.steps)(Step::Retrying { what, problem: error.to_string() });
                }
                (self.steps)(Step::Refused { exit, reason: reason.clone() });
                Gate::Refused { exit, reason }
            }
        };
        gate.write(&path)?;
        Ok(self.until_unflashed(gate).await)
    }

    /// Waits until asked to stop. What came of the flash that `gate` kept from its work, in its own words if it left any.
    async fn until_unflashed(&self, gate: Gate) -> Came {
        self.stop.wait().await;
        match (self.left(), gate) {
            (Some(summary), _) => Came::Unstopped(summary.fitted()),
            (None, Gate::Refused { exit, reason }) => Came::Unstopped(refused(exit, &reason)),
            (None, _) => Came::Nothing,
        }
    }

    /// What the container that flashes has left.
    fn left(&self) -> Option<Summary> {
        Summary::read(&self.order.shared.join(file::RESULT)).ok().flatten()
    }

    /// What is owed, where the Lease is ours and owes something: then Klipper was stopped by us.
    async fn still_owed(&self) -> Option<Debt> {
        let (began, patience) = (Instant::now(), self.endless());
        let lease = loop {
            match self.cluster.lease(&self.order.lease, &patience).await {
                Ok(lease) => break lease,
                Err(error) if may_pass(&error, began, &patience).await => {}
                Err(_) => return None,
            }
        };
        lease.debt.clone().filter(|_| lease.is_held_by(&self.order.who))
    }

    /// Takes the Lease and scales Klipper to nothing. Returns what is owed then.
    async fn stop_klipper(&self, owed: &mut Option<Debt>) -> Result<Debt, NotStopped> {
        let deadline = Instant::now() + self.order.wait;
        let mut told = Told::default();
        let debt = loop {
            match self.take(&mut told).await {
                Ok(debt) => break debt,
                Err(Taking::Changed) => {}
                Err(Taking::Not(why)) => return Err(why),
                Err(Taking::Shut(shut)) => {
                    if !shut.waits() || Instant::now() >= deadline {
                        return Err(NotStopped::Refused { exit: shut.exit, reason: shut.reason });
                    }
                    if told.waiting.is_none_or(|at| at.elapsed() >= WAITING) {
                        (self.steps)(Step::Waiting { reason: shut.reason });
                        told.waiting = Some(Instant::now());
                    }
                    let patience = Patience { until: None, ..self.bounded() };
                    if !patience.pause(AGAIN.min(deadline - Instant::now())).await {
                        return Err(NotStopped::Asked);
                    }
                }
            }
        };
        *owed = Some(debt.clone());
        self.scale_down(&debt).await?;
        self.until_stopped(&debt).await?;
        (self.steps)(Step::Stopped { workload: self.order.workload.clone() });
        Ok(debt)
    }

    /// Takes the Lease, with what is owed from now on; asks the gate before, unless Klipper is down already for a flash
    /// that died.
    async fn take(&self, told: &mut Told) -> Result<Debt, Taking> {
        let Order { who, workload, .. } = self.order;
        let mcus = self.order.mcus();
        let flashed = Flashed::These(&mcus);
        let patience = self.bounded();
        let lease = self.cluster.lease(&self.order.lease, &patience).await?;
        let from = match self.cluster.standing(&lease, who, &patience).await? {
            Standing::Held(by) => {
                let reason = format!("Lease {} is held by {by}", self.order.lease);
                return Err(Taking::Shut(Shut { exit: ExitCode::Busy, reason }));
            }
            Standing::Ours => "an earlier pod of this Job".to_owned(),
            Standing::Dead(by) => by,
            Standing::Free => "a run that nobody knows".to_owned(),
        };
        let Some(owed) = lease.debt.clone() else {
            let lease = lease.staying()?;
            // Klipper is not stopped for a flash that cannot be.
            self.order.unusable().map_or(Ok(()), |why| Err(Taking::Not(why)))?;
            let scale = self.cluster.scale(workload, &patience).await?;
            let answer = self.ask(&scale.selector).await?;
            if let Some(boards) = self.current(&lease, &answer).await {
                return Err(Taking::Not(NotStopped::AlreadyCurrent(boards)));
            }
            // Waiting for an answer takes time: what is recorded has to be what is there now.
            let replicas = self.cluster.scale(workload, &patience).await?.replicas;
            let debt = Debt { workload: workload.clone(), replicas };
            self.cluster.hold(&lease, who, &debt, flashed, &patience).await?;
            return Ok(debt);
        };
        // The debt comes before any gate: once the Lease is ours, whatever happens next pays it.
        let lease = self.cluster.hold(&lease, who, &owed, flashed, &patience).await?;
        let Debt { workload: of, replicas } = owed.clone();
        if !mem::replace(&mut told.taken_over, true) {
            (self.steps)(Step::TakenOver { from, workload: of, replicas });
        }
        // Another's debt is none of this flash; and where somebody gave Klipper back already, it may be printing.
        if owed.workload != *workload || self.cluster.scale(workload, &patience).await?.replicas > 0 {
            self.cluster.pay(&owed, &patience).await?;
            self.cluster.release(&lease, None, &patience).await?;
            return Err(Taking::Changed);
        }
        // What is owed is given back with the refusal.
        self.order.unusable().map_or(Ok(owed), |why| Err(Taking::Not(why)))
    }

    /// Asks the gate; the answer of one that is open.
    async fn ask(&self, selector: &str) -> Result<Answer, Taking> {
        let answer = self.printer.activity().await;
        let pods = match answer {
            Answer::Does(_) => Vec::new(),
            Answer::Silent { .. } => self.cluster.pods(selector, &self.bounded()).await?,
        };
        let ready = pods.iter().find(|pod| pod.ready).map(|pod| pod.name.as_str());
        gate::gate(&answer, ready, self.order.trusting).map_err(Taking::Shut)?;
        Ok(answer)
    }

    /// What runs, where that is what every board is to run, by the word of the Lease and of Moonraker both.
    async fn current(&self, lease: &Lease, answer: &Answer) -> Option<BTreeMap<String, Confirmed>> {
        let Ok(boards) = &self.order.boards else { return None };
        let mut current = BTreeMap::new();
        for Board { mcu, image } in boards {
            let Wanted { sha256, version } = image;
            lease.confirmed.get(mcu).filter(|confirmed| confirmed.sha256 == *sha256)?;
            current.insert(mcu.clone(), Confirmed { sha256: sha256.clone(), version: version.clone() });
        }
        let ready = matches!(answer, Answer::Does(Activity::Idle { klipper }) if klipper == "ready");
        // Two boards of one name are not told apart.
        if !ready || current.is_empty() || current.len() < boards.len() {
            return None;
        }
        for (mcu, wanted) in &current {
            if self.printer.firmware(mcu).await? != wanted.version {
                return None;
            }
        }
        Some(current)
    }

    async fn scale_down(&self, debt: &Debt) -> Result<(), NotStopped> {
        // A request that may still arrive must not be abandoned: it would stop Klipper after it was given back.
        let patience = self.endless();
        let mut told = false;
        loop {
            let workload = &self.order.workload;
            let scaled = async {
                let scale = self.cluster.scale(workload, &self.bounded()).await?;
                if scale.replicas > 0 {
                    if !mem::replace(&mut told, true) {
                        let replicas = debt.replicas;
                        (self.steps)(Step::Stopping { workload: workload.clone(), replicas });
                    }
                    self.cluster.set_scale(workload, 0, scale.resource_version.as_deref(), &patience).await?;
                }
                Ok(())
            };
            match scaled.await {
                Ok(()) => return Ok(()),
                Err(ApiError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn until_stopped(&self, debt: &Debt) -> Result<(), NotStopped> {
        let patience = Patience { until: None, ..self.bounded() };
        let scale = self.cluster.scale(&self.order.workload, &patience).await?;
        // An API server that is slow, or Klipper that is, must not cost the Lease.
        let ended = self.cluster.until_none(&scale.selector, &patience);
        let renewed = async {
            loop {
                time::sleep(RENEWAL).await;
                self.renew(debt).await;
            }
        };
        let ended = tokio::select! {
            ended = ended => ended,
            () = renewed => Ok(()),
        };
        ended.map_err(|error| match error {
            WaitError::Api(error) => error.into(),
            WaitError::StillThere { .. } => {
                NotStopped::Refused { exit: ExitCode::Busy, reason: format!("{error} after Klipper was scaled to 0") }
            }
        })
    }

    /// Holds the Lease, and Klipper down, until asked to stop. Returns what came of the flash.
    async fn hold(&self, owed: &Debt) -> Summary {
        let workload = &self.order.workload;
        let patience = Patience { stop: Some(self.stop), ..self.endless() };
        let mut set_back: Option<(i32, u32)> = None;
        let mut renewal = Instant::now() + RENEWAL;
        while patience.pause(LOOK).await {
            if Instant::now() >= renewal {
                self.renew(owed).await;
                renewal = Instant::now() + RENEWAL;
            }
            let Ok(scale) = self.cluster.scale(workload, &patience).await else { continue };
            if scale.replicas > 0 {
                (self.steps)(Step::SetBack { workload: workload.clone(), replicas: scale.replicas });
                set_back = Some((scale.replicas, set_back.map_or(1, |(_, times)| times + 1)));
                let version = scale.resource_version.as_deref();
                // Where it changed meanwhile, the next look sees how.
                let _ = self.cluster.set_scale(workload, 0, version, &self.endless()).await;
            }
        }
        let note = set_back.map(|(replicas, times)| {
            format!(
                "somebody scaled {workload} to {replicas} during the flash, {times} times (a GitOps tool? have it ignore spec.replicas)"
            )
        });
        let mut summary = self.left().unwrap_or_else(|| {
            let message = "the container that flashes left no result: the state of the board is unknown";
            Summary::new(Outcome::Failed, ExitCode::Internal, Some(message.into()))
        });
        summary.notes.extend(note);
        summary.fitted()
    }

    /// Renews the Lease, where it is still ours, or where somebody put the manifest in its place: that says nothing of what
    /// is owed.
    async fn renew(&self, owed: &Debt) {
        let Order { lease, who, .. } = self.order;
        let patience = self.bounded();
        loop {
            let Ok(lease) = self.cluster.lease(lease, &patience).await else { return };
            if !lease.is_held_by(who) {
                let by = lease.holder.as_ref().map_or_else(|| "nobody".to_owned(), Holder::describe);
                (self.steps)(Step::LeaseLost { by });
                if lease.holder.is_some() {
                    return;
                }
            }
            match self.cluster.hold(&lease, who, owed, Flashed::Nothing, &patience).await {
                Err(LeaseFailure::Api(ApiError::Conflict { .. })) => {}
                _ => return,
            }
        }
    }

    /// Before Klipper is stopped.
    fn bounded(&self) -> Patience<'_> {
        Patience { until: Some(Instant::now() + PATIENCE), stop: Some(self.stop), steps: self.steps }
    }

    /// After.
    fn endless(&self) -> Patience<'_> {
        Patience { until: None, stop: None, steps: self.steps }
    }
}

/// A flash that the gate kept from its work.
fn refused(exit: ExitCode, reason: &str) -> Summary {
    Summary::new(Outcome::Refused, exit, Some(reason.to_owned())).fitted()
}

/// Why the Lease is not taken.
enum Taking {
    /// It changed meanwhile: from the start.
    Changed,
    /// It cannot be now.
    Shut(Shut),
    /// It will not be.
    Not(NotStopped),
}

impl From<ApiError> for Taking {
    fn from(error: ApiError) -> Self {
        match error {
            // A night's wait is not lost for a server that is restarted.
            ApiError::Unreachable { .. } => Self::Shut(Shut { exit: ExitCode::Busy, reason: error.to_string() }),
            error => Self::Not(error.into()),
        }
    }
}

impl From<LeaseFailure> for Taking {
    fn from(failure: LeaseFailure) -> Self {
        match failure {
            LeaseFailure::Api(ApiError::Conflict { .. }) => Self::Changed,
            LeaseFailure::Api(error) => error.into(),
            failure => Self::Not(NotStopped::Refused { exit: failure.exit(), reason: failure.to_string() }),
        }
    }
}

impl From<ApiError> for NotStopped {
    fn from(error: ApiError) -> Self {
        match error {
            ApiError::Stopped { .. } => Self::Asked,
            error => Self::Refused { exit: error.exit(), reason: error.to_string() },
        }
    }
}
