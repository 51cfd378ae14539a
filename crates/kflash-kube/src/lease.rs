//! A printer's Lease: who flashes, and what is owed. Every change is a compare-and-swap.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1 as kubernetes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kflash::cluster::{Confirmed, FINALIZER, Summary, Workload, annotation};
use kube::Api;
use kube::api::PostParams;
use serde::de::DeserializeOwned;

use crate::api::{ApiError, Cluster, Patience};

/// For how long a holder counts as alive that was not heard of.
pub const DURATION: Duration = Duration::from_secs(60);
/// How often the holder renews: several attempts may fail.
pub const RENEWAL: Duration = Duration::from_secs(15);
/// No clock of a node is trusted to be off by more than that: a renewal from later than this says nothing.
const SKEW: Duration = Duration::from_secs(60);

/// A Lease as it was read.
#[derive(Clone, Debug)]
pub struct Lease {
    object: kubernetes::Lease,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// What is owed.
    pub debt: Option<Debt>,
    /// The firmware that was last seen running, by Klipper's name of the micro-controller.
    pub confirmed: BTreeMap<String, Confirmed>,
    /// What the last run came to.
    pub result: Option<Summary>,
    /// Klipper's workload, as the manifest has it.
    pub workload: Option<Workload>,
}

/// Who holds a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The UID of its Job.
    pub uid: String,
    /// The Job's name, where known.
    pub job: Option<String>,
    /// When it was last heard of.
    pub renewed: Option<Timestamp>,
    /// For how long it counts as alive then.
    pub duration: Duration,
}

impl Holder {
    /// In a few words.
    pub fn describe(&self) -> String {
        match &self.job {
            Some(job) => format!("Job {job} ({})", self.uid),
            None => self.uid.clone(),
        }
    }

    /// Whether it was heard of lately. It may live even if not: its pods tell.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        let Some(renewed) = self.renewed else { return false };
        let age = now.duration_since(renewed);
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        (-seconds(SKEW)..seconds(self.duration)).contains(&age.as_secs())
    }
}

/// Who wants to hold a Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The UID of its Job.
    pub uid: String,
    /// The Job's name.
    pub job: String,
}

impl Identity {
    /// Somebody who is no Job: no two of them are the same.
    pub fn of_a_person(cluster: &Cluster, job: &str) -> Self {
        let uid = format!("person-{}-{:x}", std::process::id(), cluster.now().as_nanosecond());
        Self { uid, job: job.to_owned() }
    }
}

/// Replicas that are to be given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debt {
    /// Of this.
    pub workload: Workload,
    /// As many as it had.
    pub replicas: i32,
}

impl Debt {
    /// What these two annotations say.
    fn of(replicas: Option<&str>, workload: Option<&str>) -> Result<Option<Self>, String> {
        let Some(text) = replicas else { return Ok(None) };
        let (number, of) = (annotation::RESTORE_REPLICAS, annotation::RESTORE_WORKLOAD);
        let replicas = text.parse().ok().filter(|replicas| *replicas >= 0);
        let replicas = replicas.ok_or_else(|| format!("{number} is '{text}', which is no number of replicas"))?;
        let workload = workload.ok_or_else(|| format!("{number} is there, {of} is not"))?;
        let workload = workload.parse().map_err(|error| format!("{of}: {error}"))?;
        Ok(Some(Self { workload, replicas }))
    }
}

/// What may change on the printer's boards while a Lease is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flashed<'a> {
    /// Nothing.
    Nothing,
    /// The firmware of the micro-controllers that Klipper calls so.
    These(&'a [String]),
}

/// How a flash ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Klipper's names of the micro-controllers that were flashed, where they are known.
    pub mcus: Vec<String>,
    /// What it came to.
    pub summary: Summary,
}

impl End {
    /// What was seen running, by Klipper's name of the micro-controller.
    fn confirmed(&self) -> BTreeMap<String, Confirmed> {
        let Self { mcus, summary } = self;
        // `voron/EBB` is [mcu EBB] in printer.cfg; the one board that has no name there is [mcu].
        let section = |name: &str| {
            let name = name.rsplit('/').next().unwrap_or_default();
            let named = format!("mcu {name}");
            let is_mcu = name == "mcu" || (!mcus.contains(&named) && mcus.iter().any(|mcu| mcu == "mcu"));
            if is_mcu { "mcu".to_owned() } else { named }
        };
        let boards = summary.boards.iter().filter_map(|(name, board)| Some((section(name), board.confirmed()?)));
        let one = summary.confirmed().map(|runs| (mcus.first().cloned().unwrap_or_else(|| "mcu".to_owned()), runs));
        boards.chain(one).collect()
    }
}

/// A Lease that says what nobody understands: whoever changed it by hand has to put it right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Lease {lease} is not to be understood: {problem}")]
pub struct LeaseError {
    /// Its name.
    pub lease: String,
    /// What is wrong.
    pub problem: String,
}

impl Lease {
    /// What `object` says.
    pub fn of(object: kubernetes::Lease) -> Result<Self, LeaseError> {
        let none = BTreeMap::new();
        let annotations = object.metadata.annotations.as_ref().unwrap_or(&none);
        let wrong = |problem| LeaseError { lease: object.metadata.name.clone().unwrap_or_default(), problem };
        let get = |name: &str| annotations.get(name).map(String::as_str);
        let debt = Debt::of(get(annotation::RESTORE_REPLICAS), get(annotation::RESTORE_WORKLOAD)).map_err(wrong)?;
        let spec = object.spec.as_ref();
        let uid = spec.and_then(|spec| spec.holder_identity.clone()).filter(|uid| !uid.is_empty());
        let holder = uid.map(|uid| Holder {
            uid,
            job: get(annotation::JOB).map(str::to_owned),
            renewed: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
            duration: spec
                .and_then(|spec| spec.lease_duration_seconds)
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DURATION, Duration::from_secs),
        });
        // These only save work or inform: what is not understood is not there.
        let workload = get(annotation::WORKLOAD).and_then(|text| text.parse().ok());
        let confirmed = get(annotation::CONFIRMED).and_then(parsed).unwrap_or_default();
        let result = get(annotation::RESULT).and_then(parsed);
        Ok(Self { object, holder, debt, confirmed, result, workload })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether `who` holds it.
    pub fn is_held_by(&self, who: &Identity) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.uid == who.uid)
    }

    /// Whether somebody deleted it: it goes as soon as nothing is owed.
    pub fn is_going(&self) -> bool {
        self.object.metadata.deletion_timestamp.is_some()
    }

    /// Itself, where nobody deleted it: nothing new can be owed on one that is going.
    pub fn staying(self) -> Result<Self, LeaseFailure> {
        if self.is_going() { Err(LeaseFailure::Going { lease: self.name().to_owned() }) } else { Ok(self) }
    }

    /// This Lease held by `who` from `now` on, owing `debt`, while `flashed` may change.
    fn held(&self, who: &Identity, now: Timestamp, debt: &Debt, flashed: Flashed<'_>) -> kubernetes::Lease {
        let mut object = self.object.clone();
        let ours = self.is_held_by(who);
        let spec = object.spec.get_or_insert_default();
        if !ours {
            spec.acquire_time = Some(MicroTime(now));
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(who.uid.clone());
        spec.renew_time = Some(MicroTime(now));
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert(annotation::JOB.into(), who.job.clone());
        annotations.insert(annotation::RESTORE_WORKLOAD.into(), debt.workload.to_string());
        annotations.insert(annotation::RESTORE_REPLICAS.into(), debt.replicas.to_string());
        let mut confirmed = self.confirmed.clone();
        match flashed {
            Flashed::Nothing => {}
            Flashed::These(mcus) => confirmed.retain(|mcu, _| !mcus.contains(mcu)),
        }
        if confirmed != self.confirmed {
            insert_json(annotations, annotation::CONFIRMED, &confirmed);
        }
        let finalizers = object.metadata.finalizers.get_or_insert_default();
        // The server takes no new one where it is going: then it stays for what holds it up already.
        if !self.is_going() && finalizers.iter().all(|one| one != FINALIZER) {
            finalizers.push(FINALIZER.to_owned());
        }
        object
    }

    /// This Lease held by nobody and owing nothing, with what the run came to.
    fn released(&self, now: Timestamp, end: Option<&End>) -> kubernetes::Lease {
        let mut object = self.object.clone();
        let spec = object.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(now));
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.remove(annotation::RESTORE_REPLICAS);
        annotations.remove(annotation::RESTORE_WORKLOAD);
        if let Some(end) = end {
            insert_json(annotations, annotation::RESULT, &end.summary);
            let seen = end.confirmed();
            if !seen.is_empty() {
                let mut confirmed = self.confirmed.clone();
                confirmed.extend(seen);
                insert_json(annotations, annotation::CONFIRMED, &confirmed);
            }
        }
        // One that is going goes with this.
        if let Some(finalizers) = &mut object.metadata.finalizers {
            finalizers.retain(|one| one != FINALIZER);
        }
        object
    }

    /// This Lease with what a run came to that stopped nothing.
    fn noted(&self, summary: &Summary) -> kubernetes::Lease {
        let mut object = self.object.clone();
        insert_json(object.metadata.annotations.get_or_insert_default(), annotation::RESULT, summary);
        object
    }
}

fn parsed<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::from_str(json).ok()
}

fn insert_json(annotations: &mut BTreeMap<String, String>, name: &str, value: &impl serde::Serialize) {
    if let Ok(json) = serde_json::to_string(value) {
        annotations.insert(name.into(), json);
    }
}

/// Reading or changing a Lease failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseFailure {
    /// The request came to nothing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// It was answered, but with this.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// Somebody deleted it.
    #[error("Lease {lease} is being deleted: apply setup.yaml once more when it is gone")]
    Going {
        /// Its name.
        lease: String,
    },
}

impl Cluster {
    fn leases(&self) -> Api<kubernetes::Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Reads the Lease `name`.
    pub async fn lease(&self, name: &str, patience: &Patience<'_>) -> Result<Lease, LeaseFailure> {
        let leases = self.leases();
        let object = patience.ask(&format!("read Lease {name}"), || leases.get(name)).await?;
        Ok(Lease::of(object)?)
    }

    /// Makes `who` the holder of `lease` from now on, owing `debt`, in one write; what `flashed` runs is not known from then
    /// on. [`ApiError::Conflict`] where the Lease changed since it was read.
    pub async fn hold(
        &self,
        lease: &Lease,
        who: &Identity,
        debt: &Debt,
        flashed: Flashed<'_>,
        patience: &Patience<'_>,
    ) -> Result<Lease, LeaseFailure> {
        self.put(lease.held(who, self.now(), debt, flashed), patience).await
    }

    /// Makes `lease` nobody's, owing nothing. Where it was deleted meanwhile, it goes.
    pub async fn release(
        &self,
        lease: &Lease,
        end: Option<&End>,
        patience: &Patience<'_>,
    ) -> Result<Lease, LeaseFailure> {
        self.put(lease.released(self.now(), end), patience).await
    }

    /// Notes on `lease` what a run came to that stopped nothing.
    pub async fn note(&self, lease: &Lease, summary: &Summary, patience: &Patience<'_>) -> Result<Lease, LeaseFailure> {
        self.put(lease.noted(summary), patience).await
    }

    async fn put(&self, object: kubernetes::Lease, patience: &Patience<'_>) -> Result<Lease, LeaseFailure> {
        let leases = self.leases();
        let name = object.metadata.name.clone().unwrap_or_default();
        let what = format!("change Lease {name}");
        let parameters = PostParams::default();
        let object = patience.ask(&what, || leases.replace(&name, &parameters, &object)).await?;
        Ok(Lease::of(object)?)
    }
}
