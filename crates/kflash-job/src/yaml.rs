//! Manifests as text.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde::Serialize;

use crate::JobError;

/// One object.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Manifest {
    /// Configuration, profiles, and possibly the firmware.
    ConfigMap(Box<ConfigMap>),
    /// The flash.
    Job(Box<Job>),
    /// What remembers that Klipper was stopped.
    Lease(Box<Lease>),
    /// Keeps a drain of the node from ending a flash.
    PodDisruptionBudget(Box<PodDisruptionBudget>),
    /// Lets a flash go before Klipper.
    PriorityClass(Box<PriorityClass>),
    /// What the account may.
    Role(Box<Role>),
    /// That it may.
    RoleBinding(Box<RoleBinding>),
    /// The account that stops Klipper.
    ServiceAccount(Box<ServiceAccount>),
}

/// The objects as one YAML file.
pub fn yaml(manifests: &[Manifest]) -> Result<String, JobError> {
    let mut text = String::new();
    for manifest in manifests {
        // Through JSON, which leaves out what is not there.
        let value = serde_json::to_value(manifest).map_err(|error| JobError::Yaml(error.to_string()))?;
        let one = serde_saphyr::to_string(&value).map_err(|error| JobError::Yaml(error.to_string()))?;
        text.push_str("---\n");
        text.push_str(one.trim_start_matches("---\n"));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}
