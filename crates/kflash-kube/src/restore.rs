//! Paying what is owed: the replicas that Klipper's workload had.

use std::time::Duration;

use kflash::cluster::Summary;
use kflash::exit::ExitCode;
use tokio::time::Instant;

use crate::api::{ApiError, Cluster, Patience};
use crate::lease::{Debt, End, Flashed, Identity, Lease, LeaseFailure};
use crate::step::Step;

/// For how long it may be that the account is refused by mistake, where Klipper would stay down for it.
const DENIED: Duration = Duration::from_secs(120);
/// Between two such refusals.
const AGAIN: Duration = Duration::from_secs(2);

/// Whether a Lease can be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody holds it.
    Free,
    /// We do.
    Ours,
    /// Somebody who died does.
    Dead(String),
    /// Somebody else does, in these words.
    Held(String),
}

impl Cluster {
    /// Whether `who` can take `lease`. A holder that was not heard of lately is dead only if none of its pods runs:
    /// clocks of nodes differ, and a container may flash while the one beside it cannot renew.
    pub async fn standing(&self, lease: &Lease, who: &Identity, patience: &Patience<'_>) -> Result<Standing, ApiError> {
        let Some(holder) = &lease.holder else { return Ok(Standing::Free) };
        if holder.uid == who.uid {
            return Ok(Standing::Ours);
        }
        let since = holder.renewed.map(|renewed| format!(", last heard of at {renewed}")).unwrap_or_default();
        let by = holder.describe();
        if holder.is_fresh(self.now()) {
            return Ok(Standing::Held(format!("{by}{since}")));
        }
        if !is_label_value(&holder.uid) {
            return Ok(Standing::Dead(by));
        }
        let pods = self.pods(&format!("{}={}", kflash::cluster::label::JOB_UID, holder.uid), patience).await?;
        Ok(match pods.first() {
            Some(pod) => Standing::Held(format!("{by}{since}, whose {} still runs", pod.describe())),
            None => Standing::Dead(by),
        })
    }

    /// Gives a workload the replicas that it is owed, unless somebody else has scaled it up already.
    pub async fn pay(&self, debt: &Debt, patience: &Patience<'_>) -> Result<(), ApiError> {
        let workload = debt.workload.clone();
        let scale = match self.scale(&debt.workload, patience).await {
            Ok(scale) => scale,
            Err(ApiError::Missing { .. }) => {
                (patience.steps)(Step::Settled { workload, replicas: None });
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if scale.replicas > 0 || debt.replicas == 0 {
            (patience.steps)(Step::Settled { workload, replicas: Some(scale.replicas) });
            return Ok(());
        }
        self.set_scale(&debt.workload, debt.replicas, None, patience).await?;
        (patience.steps)(Step::Restored { workload, replicas: debt.replicas });
        Ok(())
    }

    /// Pays what the Lease `name` owes, and lets go of it, if `who` holds it; notes on it what the run came to. Nothing
    /// is done where somebody else holds it: whoever took it over has inherited the debt. Where nobody does, as somebody
    /// put the manifest in its place or took its finalizer away, what `who` remembers to be `owed` counts. Says whether
    /// anything was done.
    pub async fn let_go(
        &self,
        name: &str,
        who: &Identity,
        owed: Option<&Debt>,
        end: Option<&End>,
        patience: &Patience<'_>,
    ) -> Result<bool, LeaseFailure> {
        let mut paid = false;
        let began = Instant::now();
        loop {
            let error = match self.let_go_once(name, who, owed, end, &mut paid, patience).await {
                Err(error) => error,
                held => return held,
            };
            let conflict = matches!(error, LeaseFailure::Api(ApiError::Conflict { .. }));
            if !conflict && !may_pass(&error, began, patience).await {
                return Err(error);
            }
        }
    }

    /// The same, with errors that may pass.
    async fn let_go_once(
        &self,
        name: &str,
        who: &Identity,
        owed: Option<&Debt>,
        end: Option<&End>,
        paid: &mut bool,
        patience: &Patience<'_>,
    ) -> Result<bool, LeaseFailure> {
        let lease = match self.lease(name, patience).await {
            Err(LeaseFailure::Api(ApiError::Missing { .. })) => {
                // Where it was paid here, it was going, and went with the write whose answer is missing.
                if let Some(debt) = owed.filter(|_| !*paid) {
                    self.pay(debt, patience).await?;
                    *paid = true;
                }
                return Ok(*paid);
            }
            lease => lease?,
        };
        let debt = if lease.is_held_by(who) {
            lease.debt.as_ref()
        } else if lease.holder.is_none() && owed.is_some() && !*paid {
            owed
        } else {
            // Where it was paid here, the write arrived and its answer did not.
            return Ok(*paid);
        };
        if let Some(debt) = debt
            && !*paid
        {
            self.pay(debt, patience).await?;
        }
        *paid = true;
        self.release(&lease, end, patience).await?;
        Ok(true)
    }

    /// Notes on the Lease `name` what a run came to that stopped nothing, unless somebody holds it.
    pub async fn note_result(
        &self,
        name: &str,
        summary: &Summary,
        patience: &Patience<'_>,
    ) -> Result<(), LeaseFailure> {
        loop {
            let lease = self.lease(name, patience).await?;
            if lease.holder.is_some() || lease.result.as_ref() == Some(summary) {
                return Ok(());
            }
            match self.note(&lease, summary, patience).await {
                Err(LeaseFailure::Api(ApiError::Conflict { .. })) => {}
                noted => return noted.map(drop),
            }
        }
    }

    /// `kubectl kflash restore`: pays what a run that died still owes.
    pub async fn restore(&self, name: &str, who: &Identity, patience: &Patience<'_>) -> Result<Restored, RestoreError> {
        let mut outrun = false;
        loop {
            let lease = match self.lease(name, patience).await {
                // It was going, and somebody else has paid.
                Err(LeaseFailure::Api(ApiError::Missing { .. })) if outrun => return Ok(Restored::NothingOwed),
                lease => lease?,
            };
            let standing = self.standing(&lease, who, patience).await?;
            if let Standing::Held(by) = standing {
                return Err(RestoreError::Held { lease: name.to_owned(), by });
            }
            let taken = match &lease.debt {
                None if standing == Standing::Free => return Ok(Restored::NothingOwed),
                None => self.release(&lease, None, patience).await,
                // Taken first: a Job that takes it over at this moment must not be scaled up under its hands.
                Some(debt) => self.hold(&lease, who, debt, Flashed::Nothing, patience).await,
            };
            match (taken, lease.debt) {
                (Err(LeaseFailure::Api(ApiError::Conflict { .. })), _) => {}
                (Err(error), _) => return Err(error.into()),
                (Ok(_), None) => return Ok(Restored::NothingOwed),
                (Ok(_), Some(debt)) => {
                    if self.let_go(name, who, None, None, patience).await? {
                        return Ok(Restored::Paid(debt));
                    }
                }
            }
            outrun = true;
        }
    }
}

/// Whether the account may have been refused by mistake: a server that has just started does so until it has read the
/// roles. Pauses if so.
pub(crate) async fn may_pass(error: &LeaseFailure, began: Instant, patience: &Patience<'_>) -> bool {
    matches!(error, LeaseFailure::Api(ApiError::Denied { .. }))
        && patience.until.is_none()
        && began.elapsed() < DENIED
        && patience.pause(AGAIN).await
}

/// What came of restoring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Nothing was owed.
    NothingOwed,
    /// This was, and is no more.
    Paid(Debt),
}

/// Why nothing was restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A flash is under way.
    #[error("Lease {lease} is held by {by}")]
    Held {
        /// The Lease.
        lease: String,
        /// By whom.
        by: String,
    },
    /// The requests came to nothing.
    #[error(transparent)]
    Lease(#[from] LeaseFailure),
}

impl From<ApiError> for RestoreError {
    fn from(error: ApiError) -> Self {
        Self::Lease(error.into())
    }
}

impl RestoreError {
    /// The code that the command ends with.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Held { .. } => ExitCode::Busy,
            Self::Lease(failure) => failure.exit(),
        }
    }
}

impl LeaseFailure {
    /// The code that a run ends with which this keeps from its work.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Api(error) => error.exit(),
            // As one that is not there.
            Self::Lease(_) | Self::Going { .. } => ExitCode::Usage,
        }
    }
}

/// Whether it can be the value of a label at all; no pod bears one that cannot.
fn is_label_value(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}
