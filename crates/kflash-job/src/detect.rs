//! A Job that says which boards a node has.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Affinity, Container, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::pod::{NOBODY, least, words};
use crate::{Images, Manifest};

/// Its name, and the value of its pods' label.
const NAME: &str = "kflash-detect";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// An hour.
const KEPT: i32 = 3600;

/// `kflash detect` on `nodes` nodes, none of them twice; on this one, where it is named. It reads sysfs alone, which every
/// container sees, so that it takes no privilege and no mount.
pub fn detect(namespace: &str, node: Option<&str>, nodes: i32, images: &Images) -> Manifest {
    let labels = BTreeMap::from([("app.kubernetes.io/name".to_owned(), NAME.to_owned())]);
    let metadata = ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    };
    let apart = PodAffinityTerm {
        label_selector: Some(LabelSelector { match_labels: Some(labels.clone()), ..LabelSelector::default() }),
        topology_key: HOSTNAME.to_owned(),
        ..PodAffinityTerm::default()
    };
    let pod = PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        node_selector: node.map(|node| BTreeMap::from([(HOSTNAME.to_owned(), node.to_owned())])),
        affinity: Some(Affinity {
            pod_anti_affinity: Some(PodAntiAffinity {
                required_during_scheduling_ignored_during_execution: Some(vec![apart]),
                ..PodAntiAffinity::default()
            }),
            ..Affinity::default()
        }),
        security_context: Some(PodSecurityContext {
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            run_as_non_root: Some(true),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        containers: vec![Container {
            name: "detect".to_owned(),
            image: Some(images.flasher()),
            args: Some(words(&["detect"])),
            security_context: Some(least()),
            ..Container::default()
        }],
        ..PodSpec::default()
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(pod),
    };
    Manifest::Job(Box::new(Job {
        metadata,
        spec: Some(JobSpec {
            completions: Some(nodes),
            parallelism: Some(nodes),
            backoff_limit: Some(0),
            ttl_seconds_after_finished: Some(KEPT),
            template,
            ..JobSpec::default()
        }),
        status: None,
    }))
}
