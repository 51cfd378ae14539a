//! The controllers: what happens in the cluster by itself, over time.

use std::cmp::Reverse;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::request::{CONFIG_MAPS, DEPLOYMENTS, JOBS, PODS, Resource, STATEFUL_SETS};
use super::selector::Selector;
use super::store::{Store, finalizers};

/// Something that is to happen at its time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// A controller looks at its workload.
    Reconcile { resource: Resource, namespace: String, name: String },
    /// A pod's container runs.
    Run { namespace: String, pod: String },
    /// It is ready.
    Ready { namespace: String, pod: String },
    /// It has ended, and the pod is removed.
    Gone { namespace: String, pod: String },
    /// The garbage collector removes what had this owner.
    Collect { namespace: String, owner: String },
}

impl Store {
    pub fn later(&mut self, after: Duration, task: Task) {
        self.serial += 1;
        self.tasks.push(Reverse((Instant::now() + after, self.serial, task)));
    }

    /// When the next task is due.
    pub fn due(&self) -> Option<Instant> {
        self.tasks.peek().map(|Reverse((at, ..))| *at)
    }

    /// Does what is due.
    pub fn work(&mut self) {
        while self.due().is_some_and(|at| at <= Instant::now()) {
            let Some(Reverse((_, _, task))) = self.tasks.pop() else { return };
            self.perform(task);
        }
    }

    /// A change to `object`: has its controller look at it.
    pub fn react(&mut self, resource: Resource, namespace: &str, object: &Value) {
        let name = |value: &Value| value.as_str().map(str::to_owned);
        let (resource, name) = match resource {
            DEPLOYMENTS | STATEFUL_SETS | JOBS => (resource, name(&object["metadata"]["name"])),
            PODS => {
                let owner = &object["metadata"]["ownerReferences"][0];
                let resource = match owner["kind"].as_str() {
                    Some("StatefulSet") => STATEFUL_SETS,
                    Some("Job") => JOBS,
                    _ => DEPLOYMENTS,
                };
                (resource, name(&owner["name"]))
            }
            _ => return,
        };
        if let Some(name) = name {
            let task = Task::Reconcile { resource, namespace: namespace.to_owned(), name };
            let reaction = self.timing.reaction;
            if !self.tasks.iter().any(|Reverse((_, _, one))| *one == task) {
                self.later(reaction, task);
            }
        }
    }

    fn perform(&mut self, task: Task) {
        match task {
            Task::Reconcile { resource: JOBS, namespace, name } => self.reconcile_job(&namespace, &name),
            Task::Reconcile { resource, namespace, name } => self.reconcile(resource, &namespace, &name),
            Task::Run { namespace, pod } => {
                let ready = self.timing.ready;
                self.set_pod(&namespace, &pod, "Running", false);
                self.later(ready, Task::Ready { namespace, pod });
            }
            Task::Ready { namespace, pod } => self.set_pod(&namespace, &pod, "Running", true),
            Task::Gone { namespace, pod } => self.remove(PODS, &namespace, &pod),
            Task::Collect { namespace, owner } => {
                for map in self.list(CONFIG_MAPS, &namespace, &Selector::default()) {
                    if map["metadata"]["ownerReferences"][0]["uid"] == *owner {
                        self.remove(CONFIG_MAPS, &namespace, map["metadata"]["name"].as_str().unwrap_or_default());
                    }
                }
            }
        }
    }

    fn set_pod(&mut self, namespace: &str, name: &str, phase: &str, ready: bool) {
        let Ok(pod) = self.get(PODS, namespace, name) else { return };
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return;
        }
        let mut pod = pod.clone();
        pod["status"] = status(phase, ready);
        self.put(PODS, namespace, pod);
    }

    /// Makes and removes pods until there are as many as there should be.
    fn reconcile(&mut self, resource: Resource, namespace: &str, name: &str) {
        let Ok(workload) = self.get(resource, namespace, name).cloned() else { return };
        let wanted = workload["spec"]["replicas"].as_u64().unwrap_or(1);
        let labels = workload["spec"]["selector"]["matchLabels"].clone();
        let ours = |pod: &&Value| pod["metadata"]["ownerReferences"][0]["uid"] == workload["metadata"]["uid"];
        let all = self.list(PODS, namespace, &Selector::default());
        let pods: Vec<_> = all.iter().filter(ours).collect();
        let is_alive = |pod: &Value| !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
        let alive: Vec<_> = pods
            .iter()
            .filter(|pod| is_alive(pod) && pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        let count = alive.len() as u64;
        if count > wanted {
            for pod in alive.iter().skip(wanted as usize) {
                self.delete(PODS, namespace, pod);
            }
        }
        // Recreate, as kubeklipper has it, and StatefulSets: nothing new before the old is gone.
        let ending = pods.iter().any(|pod| is_alive(pod) && !pod["metadata"]["deletionTimestamp"].is_null());
        if count < wanted && !ending {
            for number in count..wanted {
                self.serial += 1;
                let pod = match resource {
                    STATEFUL_SETS => format!("{name}-{number}"),
                    _ => format!("{name}-7d4b9c6f5-{:05x}", self.serial),
                };
                self.start(namespace, &pod, &workload, &labels);
            }
        }
        let mut workload = workload;
        workload["status"] = json!({"replicas": pods.iter().filter(|pod| is_alive(pod)).count()});
        self.put(resource, namespace, workload);
    }

    fn start(&mut self, namespace: &str, name: &str, workload: &Value, labels: &Value) {
        let owner = json!({
            "apiVersion": workload["apiVersion"], "kind": workload["kind"], "name": workload["metadata"]["name"],
            "uid": workload["metadata"]["uid"], "controller": true,
        });
        let pod = json!({
            "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]},
            "spec": {"containers": [{"name": "klipper", "image": "klipper"}], "nodeName": "pi4"},
            "status": status("Pending", false),
        });
        self.put(PODS, namespace, pod);
        let start = self.timing.start;
        self.later(start, Task::Run { namespace: namespace.to_owned(), pod: name.to_owned() });
    }

    /// Deletes an object: a pod ends first, and what has finalizers stays until the last of them is taken away.
    pub fn delete(&mut self, resource: Resource, namespace: &str, name: &str) {
        let Ok(object) = self.get(resource, namespace, name) else { return };
        let ends = resource == PODS || resource == JOBS;
        if !ends && finalizers(object).is_empty() {
            return self.remove(resource, namespace, name);
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            let mut object = object.clone();
            object["metadata"]["deletionTimestamp"] = self.time().into();
            if !ends {
                object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            }
            self.put(resource, namespace, object);
            if resource == PODS {
                let end = self.timing.end;
                self.later(end, Task::Gone { namespace: namespace.to_owned(), pod: name.to_owned() });
            }
        }
    }
}

fn status(phase: &str, ready: bool) -> Value {
    json!({
        "phase": phase,
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        "containerStatuses": [{
            "name": "klipper", "ready": ready, "restartCount": 0, "image": "klipper", "imageID": "", "started": ready,
        }],
    })
}
