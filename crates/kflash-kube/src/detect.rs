//! `kubectl kflash detect`: which boards the nodes of a cluster have.

use std::time::Duration;

use futures_util::future;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kflash::cluster::label;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use serde::Serialize;
use tokio::time::Instant;

use crate::api::{ApiError, Cluster, Patience};

/// A node's label that pods are pinned by.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// What is read of a log, in bytes.
const LOG: i64 = 1 << 20;

/// What a node said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// What `kflash detect` printed there.
    Detected(String),
    /// Why it did not.
    Failed(String),
}

impl Cluster {
    /// The nodes, by the label that pods are pinned by.
    pub async fn nodes(&self, patience: &Patience<'_>) -> Result<Vec<String>, ApiError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let parameters = ListParams::default();
        let list = patience.ask("list nodes", || nodes.list(&parameters)).await?;
        let name = |node: Node| {
            let label = node.metadata.labels.and_then(|mut labels| labels.remove(HOSTNAME));
            label.or(node.metadata.name)
        };
        let mut names: Vec<_> = list.items.into_iter().filter_map(name).collect();
        names.sort();
        Ok(names)
    }

    /// Runs each of `jobs` to its end, at once, and removes it. What failed is told in place of what was found.
    pub async fn detect(&self, jobs: &[Job], enough: Instant, patience: &Patience<'_>) -> Vec<Said> {
        let each = jobs.iter().map(|job| async move {
            let detected = self.detect_on_one(job, enough, patience).await;
            detected.unwrap_or_else(|error| Said::Failed(error.to_string()))
        });
        future::join_all(each).await
    }

    async fn detect_on_one(&self, job: &Job, enough: Instant, patience: &Patience<'_>) -> Result<Said, ApiError> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &self.namespace);
        // An attempt whose answer was lost made one that removes itself; each attempt has a name of its own.
        let parameters = PostParams::default();
        let made = patience.ask("make a Job that detects", || jobs.create(&parameters, job)).await?;
        let (name, uid) = (made.metadata.name.unwrap_or_default(), made.metadata.uid.unwrap_or_default());
        let said = self.until_detected(&uid, enough, patience).await;
        let parameters = DeleteParams::background();
        let what = format!("remove Job {name}");
        let removed = Patience { stop: None, ..patience.clone() };
        match removed.ask(&what, || jobs.delete(&name, &parameters)).await {
            Ok(_) | Err(ApiError::Missing { .. }) => said,
            Err(error) => said.and(Err(error)),
        }
    }

    async fn until_detected(&self, uid: &str, enough: Instant, patience: &Patience<'_>) -> Result<Said, ApiError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let of_job = ListParams::default().labels(&format!("{}={uid}", label::JOB_UID));
        loop {
            let list = patience.ask("list the pods that detect", || pods.list(&of_job)).await?;
            let pod = list.items.into_iter().next();
            let status = pod.as_ref().and_then(|pod| pod.status.as_ref());
            let phase = status.and_then(|status| status.phase.as_deref());
            if let (Some(pod), Some("Succeeded" | "Failed")) = (&pod, phase) {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let parameters = LogParams { limit_bytes: Some(LOG), ..LogParams::default() };
                let log =
                    patience.ask(&format!("read the log of pod {name}"), || pods.logs(&name, &parameters)).await?;
                return Ok(if phase == Some("Succeeded") { Said::Detected(log) } else { Said::Failed(log) });
            }
            if Instant::now() >= enough || !patience.pause(LOOK).await {
                let why = pod.as_ref().map_or_else(|| "no pod was made for it".to_owned(), waits_for);
                return Ok(Said::Failed(why));
            }
        }
    }
}

/// Why a pod has not ended.
fn waits_for(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let waiting = status.container_statuses.unwrap_or_default().into_iter().find_map(|one| one.state?.waiting);
    let waiting = waiting.map(|waiting| (waiting.reason, waiting.message));
    let unmet = || {
        let unmet = status.conditions.unwrap_or_default().into_iter().find(|condition| condition.status == "False");
        unmet.map(|condition| (condition.reason, condition.message))
    };
    let (reason, message) = waiting.or_else(unmet).unwrap_or_default();
    let words: Vec<_> = [reason, message].into_iter().flatten().collect();
    let why = if words.is_empty() { String::new() } else { format!(": {}", words.join(": ")) };
    format!("its pod is {}{why}", status.phase.as_deref().unwrap_or("Pending"))
}
