//! The Job controller: a Job's pods, one after another, until one ends well or it must not go on.

use serde_json::{Value, json};

use super::controller::Task;
use super::request::{JOBS, PODS};
use super::selector::Selector;
use super::store::Store;

impl Store {
    /// Looks at a Job.
    pub fn reconcile_job(&mut self, namespace: &str, name: &str) {
        let Ok(job) = self.get(JOBS, namespace, name).cloned() else { return };
        let all = self.list(PODS, namespace, &Selector::default());
        let owner = |pod: &&Value| pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"];
        let pods: Vec<_> = all.iter().filter(owner).collect();
        if !job["metadata"]["deletionTimestamp"].is_null() {
            // In the foreground: what it owns goes first.
            for pod in &pods {
                self.delete(PODS, namespace, pod["metadata"]["name"].as_str().unwrap_or_default());
            }
            if pods.is_empty() {
                self.remove(JOBS, namespace, name);
                // What did not hold it up follows it in the background.
                let owner = job["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                self.later(self.timing.collection, Task::Collect { namespace: namespace.to_owned(), owner });
            }
            return;
        }
        let phase = |pod: &&&Value, phase: &str| pod["status"]["phase"] == phase;
        let failed: Vec<_> = pods.iter().filter(|pod| phase(pod, "Failed")).collect();
        let active = pods.iter().filter(|pod| !phase(pod, "Failed") && !phase(pod, "Succeeded")).count();
        let limit = job["spec"]["backoffLimit"].as_u64().unwrap_or(6);
        let ended = job["status"]["conditions"].is_array();
        if ended || active > 0 || job["spec"]["suspend"] == true {
            return;
        }
        let (kind, reason, message) = if pods.iter().any(|pod| phase(&pod, "Succeeded")) {
            ("Complete", "CompletionsReached", "Reached expected number of succeeded pods".to_owned())
        } else if let Some((container, code)) = failed.iter().find_map(|pod| for_good(&job, pod)) {
            let message =
                format!("Container {container} failed with exit code {code} matching FailJob rule at index 0");
            ("Failed", "PodFailurePolicy", message)
        } else if failed.len() as u64 > limit {
            ("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit".to_owned())
        } else {
            return self.start_pod(namespace, name, &job);
        };
        let mut job = job;
        job["status"]["conditions"] = json!([{"type": kind, "status": "True", "reason": reason, "message": message}]);
        self.put(JOBS, namespace, job);
    }

    fn start_pod(&mut self, namespace: &str, name: &str, job: &Value) {
        self.serial += 1;
        let template = &job["spec"]["template"];
        let mut labels = template["metadata"]["labels"].clone();
        labels["batch.kubernetes.io/controller-uid"] = job["metadata"]["uid"].clone();
        labels["batch.kubernetes.io/job-name"] = name.into();
        let mut spec = template["spec"].clone();
        spec["nodeName"] = "pi4".into();
        let owner = json!({
            "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": true,
            "blockOwnerDeletion": true,
        });
        let pod = json!({
            "metadata": {"name": format!("{name}-{:05x}", self.serial), "labels": labels, "ownerReferences": [owner]},
            "spec": spec, "status": {"phase": "Pending"},
        });
        self.put(PODS, namespace, pod);
    }
}

/// The container, and its exit code, with which the Job fails for good.
fn for_good(job: &Value, pod: &Value) -> Option<(String, i64)> {
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array()?;
    let codes = rules.iter().find(|rule| rule["action"] == "FailJob")?["onExitCodes"]["values"].as_array()?;
    let status = |key: &str| pod["status"][key].as_array().cloned().unwrap_or_default();
    let all = status("initContainerStatuses").into_iter().chain(status("containerStatuses"));
    let mut ends = all.filter_map(|container| {
        let code = container["state"]["terminated"]["exitCode"].as_i64()?;
        Some((container["name"].as_str()?.to_owned(), code))
    });
    ends.find(|(_, code)| codes.iter().any(|one| one.as_i64() == Some(*code)))
}
