//! What a printer's Lease and workload say, for a person.

use std::collections::BTreeMap;

use kflash::cluster::{Confirmed, Summary, Workload};
use serde::Serialize;

use crate::api::{ApiError, Cluster, Patience};
use crate::lease::{Identity, LeaseFailure};
use crate::restore::Standing;

/// A printer as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Its Lease.
    pub lease: String,
    /// Whether somebody deleted that: it goes as soon as nothing is owed.
    pub being_deleted: bool,
    /// Who flashes it, in a few words.
    pub held_by: Option<String>,
    /// Whether the holder is dead.
    pub holder_is_dead: bool,
    /// Klipper's workload, where the Lease knows it: the one that is owed something, else the one that the manifest has.
    pub workload: Option<Workload>,
    /// How many replicas that has; `None` where it is gone.
    pub replicas: Option<i32>,
    /// How many it is owed.
    pub owed: Option<i32>,
    /// The firmware that was last seen running, by Klipper's name of the micro-controller.
    pub confirmed: BTreeMap<String, Confirmed>,
    /// What the last run came to.
    pub result: Option<Summary>,
}

impl Cluster {
    /// Reads the state of the printer whose Lease is `name`.
    pub async fn status(&self, name: &str, patience: &Patience<'_>) -> Result<Status, LeaseFailure> {
        let lease = self.lease(name, patience).await?;
        // Nobody's identity: nothing is taken.
        let nobody = Identity { uid: String::new(), job: String::new() };
        let (held_by, holder_is_dead) = match self.standing(&lease, &nobody, patience).await? {
            Standing::Free | Standing::Ours => (None, false),
            Standing::Dead(by) => (Some(by), true),
            Standing::Held(by) => (Some(by), false),
        };
        let owed = lease.debt.as_ref();
        let workload = owed.map(|debt| debt.workload.clone()).or_else(|| lease.workload.clone());
        let replicas = match &workload {
            None => None,
            Some(workload) => match self.scale(workload, patience).await {
                Ok(scale) => Some(scale.replicas),
                Err(ApiError::Missing { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        Ok(Status {
            lease: lease.name().to_owned(),
            being_deleted: lease.is_going(),
            held_by,
            holder_is_dead,
            workload,
            replicas,
            owed: owed.map(|debt| debt.replicas),
            confirmed: lease.confirmed.clone(),
            result: lease.result,
        })
    }
}
