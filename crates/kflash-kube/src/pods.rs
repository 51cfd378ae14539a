//! Pods: whether Klipper's are ready, and when the last of them is gone.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kflash::cluster::Workload;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::time::{self, Instant};

use crate::api::{ApiError, Cluster, Patience};

/// A watch is asked to end by itself after that; then everything is listed anew.
const WATCH: Duration = Duration::from_secs(60);
/// Between two looks whether a pod is ready.
const AGAIN: Duration = Duration::from_secs(1);
/// For how long pods may take to end, besides their own grace period: the node is slow, or the API server is.
const SLOW: Duration = Duration::from_secs(90);
/// Kubernetes' own grace period, where a pod names none.
const GRACE: i64 = 30;
/// More than any pod takes.
const MAX_GRACE: i64 = 86_400;
/// Between two lists, where watches fail at once.
const PAUSE: Duration = Duration::from_millis(500);

/// What counts of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Something of it runs, or may: it has not come to an end. A corpse (`Failed`, such as one that was never admitted)
    /// holds no device.
    pub alive: bool,
    /// It, or a container of it, is ready: Klipper may be at work.
    pub ready: bool,
    /// It was told to end.
    pub ending: bool,
    /// For how long it may take to end.
    pub grace: Duration,
}

impl Seen {
    fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref());
        let condition = status
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"));
        // Klipper prints on while Moonraker beside it is down and the pod as a whole not ready.
        let container = status
            .and_then(|status| status.container_statuses.as_ref())
            .is_some_and(|all| all.iter().any(|container| container.ready));
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(GRACE);
        let alive = !matches!(phase, Some("Succeeded" | "Failed"));
        Self {
            name: pod.metadata.name.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            alive,
            ready: alive && (condition || container),
            ending: pod.metadata.deletion_timestamp.is_some(),
            grace: Duration::from_secs(grace.clamp(0, MAX_GRACE).unsigned_abs()),
        }
    }

    /// In a few words.
    pub fn describe(&self) -> String {
        let node = self.node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
        let ending = if self.ending { ", which was told to end" } else { "" };
        format!("pod {}{node}{ending}", self.name)
    }
}

/// Pods that did not end in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The requests came to nothing.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// They are still there.
    #[error("{} still runs {} s", .pods.iter().map(Seen::describe).collect::<Vec<_>>().join(", "), .after.as_secs())]
    StillThere {
        /// These.
        pods: Vec<Seen>,
        /// For so long it was waited.
        after: Duration,
    },
}

impl Cluster {
    fn pod_api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods that `selector` selects and that have not come to an end.
    pub async fn pods(&self, selector: &str, patience: &Patience<'_>) -> Result<Vec<Seen>, ApiError> {
        let (pods, _) = self.list(selector, patience).await?;
        Ok(pods.into_values().collect())
    }

    async fn list(
        &self,
        selector: &str,
        patience: &Patience<'_>,
    ) -> Result<(BTreeMap<String, Seen>, Option<String>), ApiError> {
        let pods = self.pod_api();
        let parameters = ListParams::default().labels(selector);
        let list = patience.ask("list pods", || pods.list(&parameters)).await?;
        let seen = list.items.iter().map(Seen::of).filter(|pod| pod.alive);
        Ok((seen.map(|pod| (pod.name.clone(), pod)).collect(), list.metadata.resource_version))
    }

    /// Returns once none of the pods that `selector` selects is alive, or fails when they should long have ended.
    pub async fn until_none(&self, selector: &str, patience: &Patience<'_>) -> Result<(), WaitError> {
        let began = Instant::now();
        let mut grace = Duration::ZERO;
        loop {
            let (mut alive, version) = self.list(selector, patience).await?;
            if alive.is_empty() {
                return Ok(());
            }
            grace = alive.values().map(|pod| pod.grace).fold(grace, Duration::max);
            let enough = began + grace + SLOW;
            if Instant::now() >= enough {
                return Err(WaitError::StillThere { pods: alive.into_values().collect(), after: began.elapsed() });
            }
            let watch = self.watch(selector, version.as_deref().unwrap_or("0"), &mut alive);
            let stopped = async {
                match patience.stop {
                    Some(stop) => stop.wait().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stopped => return Err(ApiError::Stopped { what: "see Klipper's pods end".into() }.into()),
                () = time::sleep_until(enough) => {}
                () = watch => {}
            }
            if !alive.is_empty() {
                // It ended early, or its version is gone: no reason to list in a circle.
                patience.pause(PAUSE).await;
            }
        }
    }

    /// Returns once something of `workload` is ready, or `patience` is at its end.
    pub async fn until_ready(&self, workload: &Workload, patience: &Patience<'_>) -> Result<(), ApiError> {
        let selector = self.scale(workload, patience).await?.selector;
        while !self.pods(&selector, patience).await?.iter().any(|pod| pod.ready) && patience.pause(AGAIN).await {}
        Ok(())
    }

    /// Follows the pods from `version` on, until none is alive or the server ends it, well or badly.
    async fn watch(&self, selector: &str, version: &str, alive: &mut BTreeMap<String, Seen>) {
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let parameters = WatchParams::default().labels(selector).timeout(seconds);
        let pods = self.pod_api();
        let Ok(Ok(events)) = time::timeout(WATCH, pods.watch(&parameters, version)).await else { return };
        let mut events = pin!(events);
        let end = Instant::now() + WATCH + PAUSE;
        // A connection that hangs brings no event and no end.
        while let Ok(Ok(Some(event))) = time::timeout_at(end, events.try_next()).await {
            match event {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => {
                    let pod = Seen::of(&pod);
                    if pod.alive {
                        alive.insert(pod.name.clone(), pod);
                    } else {
                        alive.remove(&pod.name);
                    }
                }
                WatchEvent::Deleted(pod) => {
                    alive.remove(pod.metadata.name.as_deref().unwrap_or_default());
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => return,
            }
            if alive.is_empty() {
                return;
            }
        }
    }
}
