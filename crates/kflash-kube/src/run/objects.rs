//! What is applied: made where it is not there, and brought up to date where that is safe.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kflash_job::Manifest;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Resource};
use serde_json::{Value, json};

use super::{GONE, Run, RunError};
use crate::api::ApiError;
use crate::gate::Printer;

/// Who changes what is applied.
const MANAGER: &str = "kflash";

/// A Job that is there and has not ended.
pub(super) struct Unended {
    pub uid: String,
    /// It has not been started.
    pub suspended: bool,
}

/// The resource of a manifest, and whether it lies in a namespace.
fn resource(manifest: &Manifest) -> (ApiResource, bool) {
    fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
        ApiResource::erase::<K>(&())
    }
    match manifest {
        Manifest::ConfigMap(_) => (of::<ConfigMap>(), true),
        Manifest::Job(_) => (of::<Job>(), true),
        Manifest::Lease(_) => (of::<Lease>(), true),
        Manifest::PodDisruptionBudget(_) => (of::<PodDisruptionBudget>(), true),
        Manifest::PriorityClass(_) => (of::<PriorityClass>(), false),
        Manifest::Role(_) => (of::<Role>(), true),
        Manifest::RoleBinding(_) => (of::<RoleBinding>(), true),
        Manifest::ServiceAccount(_) => (of::<ServiceAccount>(), true),
    }
}

/// Whether the Job has come to an end; and how, in its own words, where it failed.
pub(super) fn ended(job: &Job) -> Option<Result<(), String>> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().filter(|condition| condition.status == "True").find_map(|condition| match &*condition.type_ {
        "Complete" => Some(Ok(())),
        "Failed" => Some(Err(condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default())),
        _ => None,
    })
}

/// Whether nothing removes the ConfigMap while the Job with this UID is there.
fn stays(map: &ConfigMap, job: &str) -> bool {
    let owners = map.metadata.owner_references.as_deref().unwrap_or_default();
    map.metadata.deletion_timestamp.is_none() && (owners.is_empty() || owners.iter().any(|owner| owner.uid == job))
}

impl<P: Printer> Run<'_, P> {
    pub(super) fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace)
    }

    pub(super) fn job_name(&self) -> &str {
        self.order.job.metadata.name.as_deref().unwrap_or_default()
    }

    /// Applies what the printer's flashes stand on; on the Lease, what a flash has written stays. Whoever may not is helped by somebody who may: what is missing then is
    /// told by what needs it.
    pub(super) async fn apply_setup(&self) -> Result<(), RunError> {
        for manifest in &self.order.setup {
            let (of, namespaced) = resource(manifest);
            let wrong =
                |error: serde_json::Error| ApiError::Wrong { what: of.kind.clone(), message: error.to_string() };
            let object = serde_json::to_value(manifest).map_err(wrong)?;
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let api: Api<DynamicObject> = if namespaced {
                Api::namespaced_with(self.cluster.client.clone(), &self.cluster.namespace, &of)
            } else {
                Api::all_with(self.cluster.client.clone(), &of)
            };
            match self.apply(&api, &of.kind, &name, &object).await {
                Ok(()) => {}
                Err(error @ ApiError::Denied { .. }) => self.note(format!("left as it is: {error}")),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn apply(&self, api: &Api<DynamicObject>, kind: &str, name: &str, object: &Value) -> Result<(), ApiError> {
        let parameters = PatchParams::apply(MANAGER).force();
        let patch = Patch::Apply(object);
        self.patience().ask(&format!("apply {kind} {name}"), || api.patch(name, &parameters, &patch)).await.map(drop)
    }

    /// The Job of these inputs, if it has not ended. One that has is removed.
    pub(super) async fn unended_job(&self) -> Result<Option<Unended>, RunError> {
        let (name, jobs) = (self.job_name(), self.jobs());
        let patience = self.patience();
        let what = format!("read Job {name}");
        let mut removed = false;
        loop {
            let job = match patience.ask(&what, || jobs.get(name)).await {
                Ok(job) => job,
                Err(ApiError::Missing { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let going = job.metadata.deletion_timestamp.is_some();
            if !going && ended(&job).is_none() {
                let suspended = job.spec.and_then(|spec| spec.suspend).unwrap_or(false);
                return Ok(Some(Unended { uid: job.metadata.uid.unwrap_or_default(), suspended }));
            }
            if !going && !removed {
                self.note(format!("removing Job {name} of the same inputs, which has ended"));
                let parameters = DeleteParams::foreground();
                match patience.ask(&format!("remove Job {name}"), || jobs.delete(name, &parameters)).await {
                    Ok(_) | Err(ApiError::Missing { .. }) => removed = true,
                    Err(error) => return Err(error.into()),
                }
            }
            if !patience.pause(GONE).await {
                return Err(RunError::Stopped(format!("Job {name} of an earlier run is not gone yet")));
            }
        }
    }

    /// Makes the Job, suspended. Returns its UID.
    pub(super) async fn make_job(&self) -> Result<String, RunError> {
        let (name, jobs) = (self.job_name(), self.jobs());
        let mut job = self.order.job.clone();
        job.spec = job.spec.map(|spec| JobSpec { suspend: Some(true), ..spec });
        let (patience, parameters) = (self.patience(), PostParams::default());
        let made = patience.ask(&format!("make Job {name}"), || jobs.create(&parameters, &job)).await;
        let made = match made {
            // An answer was lost: it is ours.
            Err(ApiError::Conflict { .. }) => patience.ask(&format!("read Job {name}"), || jobs.get(name)).await?,
            made => made?,
        };
        self.note(format!("made Job {name}"));
        Ok(made.metadata.uid.unwrap_or_default())
    }

    /// Makes the Job's ConfigMap, where it is not there; it goes when the Job does.
    pub(super) async fn make_inputs(&self, uid: &str) -> Result<(), RunError> {
        let (name, patience, parameters) = (self.job_name(), self.patience(), PostParams::default());
        let mut inputs = self.order.inputs.clone();
        inputs.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "batch/v1".into(),
            kind: "Job".into(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            controller: None,
            block_owner_deletion: None,
        }]);
        let maps: Api<ConfigMap> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let (make, read) = (format!("make ConfigMap {name}"), format!("read ConfigMap {name}"));
        loop {
            match patience.ask(&make, || maps.create(&parameters, &inputs)).await {
                Ok(_) => return Ok(()),
                Err(ApiError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            match patience.ask(&read, || maps.get(name)).await {
                // Named by the digest of what is in it.
                Ok(map) if stays(&map, uid) => return Ok(()),
                // Who may make it may not always read it.
                Err(ApiError::Denied { .. }) => return Ok(()),
                // That of a Job that was removed is about to follow it.
                Ok(_) | Err(ApiError::Missing { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if !patience.pause(GONE).await {
                return Err(RunError::Stopped(format!("ConfigMap {name} of an earlier run is not gone yet")));
            }
        }
    }

    /// Lets the Job begin.
    pub(super) async fn start(&self, uid: &str) -> Result<(), RunError> {
        let name = self.job_name();
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "spec": {"suspend": false}}));
        let parameters = PatchParams::default();
        let (jobs, what) = (self.jobs(), format!("start Job {name}"));
        self.patience().ask(&what, || jobs.patch(name, &parameters, &patch)).await?;
        self.note(format!("started Job {name}"));
        Ok(())
    }
}
