//! Follows a Job to its end: its containers' logs, and what the cluster warns of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Event, Pod};
use kflash::cluster::label;
use kube::Api;
use kube::api::{ListParams, LogParams};
use tokio::task::JoinSet;
use tokio::time::{self, Instant};

use super::objects::ended;
use super::outcome::{self, Ended};
use super::{Ending, Run, RunError, Told};
use crate::api::{ApiError, Cluster, Patience};
use crate::gate::Printer;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// For how long the API server may be out of reach meanwhile: the flash goes on without it.
const PATIENCE: Duration = Duration::from_secs(600);
/// For how long the last lines of logs are waited for.
const LAST_LINES: Duration = Duration::from_secs(5);
/// The longest line that is shown, in bytes.
const LINE: usize = 16 << 10;
/// What reports the steps of `quiesce`, whose log is followed.
const OURS: &str = "kflash";

impl<P: Printer> Run<'_, P> {
    /// Follows the Job until it has ended, and so until Klipper is back.
    pub(super) async fn follow(&self, uid: &str, name: &str) -> Result<Ending, RunError> {
        let (to, lines) = mpsc::channel();
        let mut logs = Logs { cluster: self.cluster, to, tasks: JoinSet::new(), begun: BTreeSet::new() };
        let mut warned = BTreeSet::new();
        let mut seen = BTreeMap::new();
        let ending = loop {
            let patience =
                Patience { until: Some(Instant::now() + PATIENCE), stop: Some(self.stop), steps: self.steps };
            let looked = self.look(uid, name, &patience).await;
            let (job, pods) = match looked {
                Err(RunError::Api(ApiError::Stopped { .. })) => return Err(stopped(name)),
                looked => looked?,
            };
            for pod in &pods {
                logs.follow(pod);
                seen.insert(pod.metadata.uid.clone().unwrap_or_default(), pod.clone());
            }
            self.warn(name, &seen, &mut warned).await;
            lines.try_iter().for_each(self.tell);
            match job {
                // Its pods may still write and give Klipper back. How they ended stands in those that were seen.
                None if pods.iter().all(is_over) => break Ended::Deleted,
                Some(Some(ended)) => break Ended::Job(ended),
                None | Some(None) => {}
            }
            if !patience.pause(LOOK).await {
                return Err(stopped(name));
            }
        };
        let last = async { while logs.tasks.join_next().await.is_some() {} };
        let _ = time::timeout(LAST_LINES, last).await;
        lines.try_iter().for_each(self.tell);
        Ok(outcome::of(&ending, seen.values()))
    }

    /// Whether the Job is there and has ended; and its pods.
    async fn look(
        &self,
        uid: &str,
        name: &str,
        patience: &Patience<'_>,
    ) -> Result<(Option<Option<Result<(), String>>>, Vec<Pod>), RunError> {
        let jobs = self.jobs();
        let job = match patience.ask(&format!("read Job {name}"), || jobs.get(name)).await {
            Ok(job) => Some(job).filter(|job| job.metadata.uid.as_deref() == Some(uid)),
            Err(ApiError::Missing { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let of_job = ListParams::default().labels(&format!("{}={uid}", label::JOB_UID));
        let pods = patience.ask(&format!("list the pods of Job {name}"), || pods.list(&of_job)).await?;
        Ok((job.map(|job| ended(&job)), pods.items))
    }

    /// Tells of what the cluster warns of. Nothing fails for want of it.
    async fn warn(&self, job: &str, pods: &BTreeMap<String, Pod>, warned: &mut BTreeSet<String>) {
        let events: Api<Event> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let names = pods.values().filter_map(|pod| pod.metadata.name.as_deref()).chain([job]);
        for name in names {
            let about = ListParams::default().fields(&format!("involvedObject.name={name},type=Warning"));
            let Ok(Ok(list)) = time::timeout(LOOK * 5, events.list(&about)).await else { return };
            for event in list.items {
                let source = event.source.and_then(|source| source.component);
                let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
                if source.as_deref() != Some(OURS) && warned.insert(format!("{name} {reason} {message}")) {
                    (self.tell)(Told::Warning { reason, message });
                }
            }
        }
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn stopped(name: &str) -> RunError {
    RunError::Stopped(format!(
        "Job {name} goes on without being followed; run the same once more to follow it, kubectl delete job {name} to end it"
    ))
}

/// The logs that are followed.
struct Logs<'a> {
    cluster: &'a Cluster,
    to: Sender<Told>,
    tasks: JoinSet<()>,
    /// By pod, container, and how often that was created again.
    begun: BTreeSet<(String, String, i32)>,
}

impl Logs<'_> {
    /// Follows those of the pod's containers that have begun.
    fn follow(&mut self, pod: &Pod) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(status) = &pod.status else { return };
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        for container in all {
            let state = container.state.as_ref();
            let began = state.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
            if began && self.begun.insert((name.clone(), container.name.clone(), container.restart_count)) {
                let pods: Api<Pod> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
                self.tasks.spawn(follow(pods, name.clone(), container.name.clone(), self.to.clone()));
            }
        }
    }
}

/// Follows a container's log to its end, over as many connections as that takes.
async fn follow(pods: Api<Pod>, pod: String, container: String, to: Sender<Told>) {
    let parameters = LogParams { container: Some(container.clone()), follow: true, ..LogParams::default() };
    let mut told = 0;
    // A log that cannot be read is no reason to give up on the flash.
    for _ in 0..20 {
        if let Ok(stream) = pods.log_stream(&pod, &parameters).await {
            let mut lines = stream.lines();
            let mut at = 0;
            let ended = loop {
                match lines.try_next().await {
                    Ok(Some(mut line)) => {
                        at += 1;
                        // Of a log that is read again, what was told already is left out.
                        if at <= told {
                            continue;
                        }
                        told = at;
                        line.truncate(
                            (0..=LINE.min(line.len())).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0),
                        );
                        if to.send(Told::Log { container: container.clone(), line }).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if ended {
                return;
            }
        }
        time::sleep(LOOK).await;
    }
}
