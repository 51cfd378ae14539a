//! What is applied once for each printer.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kflash::cluster::{annotation, rules};
use kflash::config::{Cluster, Moonraker, Printer};

use crate::metadata::{self, lease_name};
use crate::{JobError, Manifest, Quiesce, Shape};

/// The priority of Jobs that Klipper gives way to.
pub(crate) const PRIORITY: &str = "kflash";
const PRIORITY_VALUE: i32 = 100_000;

/// The objects that a printer's flashes stand on.
pub fn setup(printer: &Printer, shape: &Shape) -> Result<Vec<Manifest>, JobError> {
    let cluster = cluster_of(printer)?;
    let mut manifests = Vec::new();
    match shape.quiesce {
        Quiesce::Sidecar => {
            manifests.push(Manifest::ServiceAccount(Box::new(account(printer, cluster))));
            manifests.push(Manifest::Role(Box::new(role(printer, cluster))));
            manifests.push(Manifest::RoleBinding(Box::new(binding(printer, cluster))));
            manifests.push(Manifest::Lease(Box::new(lease(printer, cluster)?)));
        }
        Quiesce::Token => manifests.push(Manifest::PriorityClass(Box::new(priority()))),
        Quiesce::None => {}
    }
    manifests.push(Manifest::PodDisruptionBudget(Box::new(budget(printer, cluster))));
    Ok(manifests)
}

pub(crate) fn cluster_of(printer: &Printer) -> Result<&Cluster, JobError> {
    printer.cluster.as_ref().ok_or_else(|| JobError::NoCluster { printer: printer.name.clone() })
}

/// Whom the gate asks. Its API key is never in a manifest.
pub(crate) fn moonraker_of(printer: &Printer) -> Result<&Moonraker, JobError> {
    let name = || printer.name.clone();
    let moonraker = printer.moonraker.as_ref().ok_or_else(|| JobError::NoMoonraker { printer: name() })?;
    let secret = printer.cluster.as_ref().is_some_and(|cluster| cluster.api_key_secret.is_some());
    match (&moonraker.api_key, &moonraker.api_key_file) {
        (None, None) => Ok(moonraker),
        _ if secret => Ok(moonraker),
        _ => Err(JobError::NoSecret { printer: name() }),
    }
}

fn account(printer: &Printer, cluster: &Cluster) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::of(&lease_name(printer), printer, cluster),
        // Only the container that stops Klipper gets a token, by a volume of its own.
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

fn role(printer: &Printer, cluster: &Cluster) -> Role {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let rules = rules(&lease_name(printer), &cluster.workload).into_iter().map(|rule| PolicyRule {
        api_groups: Some(words(rule.api_groups)),
        resources: Some(rule.resources),
        resource_names: Some(rule.resource_names).filter(|names| !names.is_empty()),
        verbs: words(rule.verbs),
        ..PolicyRule::default()
    });
    Role { metadata: metadata::of(&lease_name(printer), printer, cluster), rules: Some(rules.collect()) }
}

fn binding(printer: &Printer, cluster: &Cluster) -> RoleBinding {
    let name = lease_name(printer);
    RoleBinding {
        metadata: metadata::of(&name, printer, cluster),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: name.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name,
            namespace: Some(cluster.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

/// Empty: its holder and what is owed are written by the flash, and are not undone by applying this again.
fn lease(printer: &Printer, cluster: &Cluster) -> Result<Lease, JobError> {
    let moonraker = moonraker_of(printer)?;
    let mut metadata = metadata::of(&lease_name(printer), printer, cluster);
    metadata.annotations = Some(BTreeMap::from([
        (annotation::WORKLOAD.to_owned(), cluster.workload.to_string()),
        (annotation::MOONRAKER.to_owned(), moonraker.url.clone()),
    ]));
    Ok(Lease { metadata, spec: None })
}

fn budget(printer: &Printer, cluster: &Cluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata::of(&lease_name(printer), printer, cluster),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector { match_labels: Some(metadata::labels(printer)), ..LabelSelector::default() }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

fn priority() -> PriorityClass {
    PriorityClass {
        metadata: ObjectMeta { name: Some(PRIORITY.to_owned()), ..ObjectMeta::default() },
        value: PRIORITY_VALUE,
        description: Some("Flashes of a printer's boards: its Klipper gives way".to_owned()),
        ..PriorityClass::default()
    }
}
