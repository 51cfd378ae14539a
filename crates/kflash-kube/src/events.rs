//! Steps as Events: what `kubectl describe job` shows. Nothing waits for them, and nothing fails for want of one.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::PostParams;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::api::{Cluster, Patience};
use crate::lease::Identity;
use crate::step::{EventKind, Step};

/// What reports them.
const COMPONENT: &str = "kflash";
/// An Event that could not be written by then is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// Steps that wait to be written; more are left out.
const QUEUE: usize = 64;
/// The longest message that every API server takes, in bytes.
const MESSAGE: usize = 1024;

/// Takes steps.
#[derive(Clone, Debug)]
pub struct Recorder(mpsc::Sender<Step>);

/// Writes the steps that its [`Recorder`] takes.
#[derive(Debug)]
pub struct Writer(mpsc::Receiver<Step>);

/// Both ends.
pub fn channel() -> (Recorder, Writer) {
    let (to, from) = mpsc::channel(QUEUE);
    (Recorder(to), Writer(from))
}

impl Recorder {
    /// Takes a step.
    pub fn record(&self, step: &Step) {
        if step.event().is_some() {
            // A full queue means that the API server is gone: the log has them all.
            let _ = self.0.try_send(step.clone());
        }
    }
}

impl Writer {
    /// Writes Events about the Job `about`, by the pod `by`, until the last recorder is gone.
    pub async fn run(mut self, cluster: &Cluster, about: &Identity, by: &str) {
        let mut number = 0_u32;
        while let Some(step) = self.0.recv().await {
            let Some((kind, reason)) = step.event() else { continue };
            number += 1;
            let event = event(cluster, about, by, number, kind, reason, &step.to_string());
            let events: Api<Event> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
            let steps = |_| {};
            let patience = Patience { until: Some(Instant::now() + PATIENCE), stop: None, steps: &steps };
            let parameters = PostParams::default();
            let _ = patience.ask("create an Event", || events.create(&parameters, &event)).await;
        }
    }
}

fn event(
    cluster: &Cluster,
    about: &Identity,
    by: &str,
    number: u32,
    kind: EventKind,
    reason: &str,
    message: &str,
) -> Event {
    let now = cluster.now();
    let time = Some(Time(now));
    let mut end = message.len().min(MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    Event {
        metadata: ObjectMeta {
            // As client-go names them. A second attempt that finds it there has nothing left to do.
            name: Some(format!("{}.{:x}.{number}", about.job, now.as_nanosecond())),
            namespace: Some(cluster.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("batch/v1".into()),
            kind: Some("Job".into()),
            name: Some(about.job.clone()),
            namespace: Some(cluster.namespace.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(if kind == EventKind::Normal { "Normal" } else { "Warning" }.into()),
        reason: Some(reason.into()),
        message: Some(message[..end].to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(by.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(by.into()),
        first_timestamp: time.clone(),
        last_timestamp: time,
        count: Some(1),
        ..Event::default()
    }
}
