//! Klipper's workload and its scale.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v1 as autoscaling;
use kflash::cluster::{Workload, WorkloadKind};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::json;

use crate::api::{ApiError, Cluster, Patience};

/// The scale of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// How many pods it is to have.
    pub replicas: i32,
    /// Selects its pods.
    pub selector: String,
    /// The version of the workload that this was read from.
    pub resource_version: Option<String>,
}

impl Cluster {
    fn workloads(&self, kind: WorkloadKind) -> Api<DynamicObject> {
        let resource = match kind {
            WorkloadKind::Deployment => ApiResource::erase::<Deployment>(&()),
            WorkloadKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        };
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// Reads the scale of `workload`.
    pub async fn scale(&self, workload: &Workload, patience: &Patience<'_>) -> Result<Scale, ApiError> {
        let what = format!("read the scale of {workload}");
        let workloads = self.workloads(workload.kind);
        let scale = patience.ask(&what, || workloads.get_scale(&workload.name)).await?;
        scale_of(&what, scale)
    }

    /// Gives `workload` that many replicas. With `version`, only where it was not changed since: then an earlier attempt
    /// that is still on its way can do nothing once this is answered.
    pub async fn set_scale(
        &self,
        workload: &Workload,
        replicas: i32,
        version: Option<&str>,
        patience: &Patience<'_>,
    ) -> Result<Scale, ApiError> {
        let what = format!("scale {workload} to {replicas}");
        let workloads = self.workloads(workload.kind);
        let mut patch = json!({"spec": {"replicas": replicas}});
        if let Some(version) = version {
            patch["metadata"] = json!({"resourceVersion": version});
        }
        let patch = Patch::Merge(patch);
        let parameters = PatchParams { field_manager: Some("kflash".into()), ..PatchParams::default() };
        let scale = patience.ask(&what, || workloads.patch_scale(&workload.name, &parameters, &patch)).await?;
        scale_of(&what, scale)
    }
}

fn scale_of(what: &str, scale: autoscaling::Scale) -> Result<Scale, ApiError> {
    let selector = scale.status.and_then(|status| status.selector).filter(|selector| !selector.is_empty());
    // Without one, every pod of the namespace would count as Klipper's.
    let selector = selector.ok_or_else(|| ApiError::Wrong {
        what: what.to_owned(),
        message: "its scale names no selector of its pods".to_owned(),
    })?;
    Ok(Scale {
        // What is nothing is left out.
        replicas: scale.spec.and_then(|spec| spec.replicas).unwrap_or(0),
        selector,
        resource_version: scale.metadata.resource_version,
    })
}
