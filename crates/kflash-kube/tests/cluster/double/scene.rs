//! A namespace with printers in it.

use kflash::cluster::{Workload, WorkloadKind};
use serde_json::{Value, json};

use super::request::{CONFIG_MAPS, DEPLOYMENTS, EVENTS, JOBS, LEASES, NODES, PODS, Resource, STATEFUL_SETS};
use super::selector::Selector;
use super::serve::Server;

/// The namespace.
pub const NAMESPACE: &str = "printers";

fn resource(workload: &Workload) -> Resource {
    match workload.kind {
        WorkloadKind::Deployment => DEPLOYMENTS,
        WorkloadKind::StatefulSet => STATEFUL_SETS,
    }
}

fn labels(workload: &Workload) -> Value {
    let instance = workload.name.trim_end_matches("-klipper");
    json!({"app.kubernetes.io/instance": instance, "app.kubernetes.io/name": "klipper"})
}

impl Server {
    /// Makes Klipper's workload. Its pods come by themselves.
    pub fn add_klipper(&self, workload: &Workload, replicas: i32) {
        let labels = labels(workload);
        let object = json!({
            "metadata": {"name": workload.name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}},
            },
        });
        self.with(|store| store.create(resource(workload), NAMESPACE, object)).expect("it is new");
    }

    /// Makes an empty Lease, as the manifest has it.
    pub fn add_lease(&self, name: &str) {
        let object = json!({"metadata": {"name": name}, "spec": {}});
        self.with(|store| store.create(LEASES, NAMESPACE, object)).expect("it is new");
    }

    /// Somebody else writes the Lease: what it says from now on.
    #[expect(clippy::needless_pass_by_value, reason = "literals")]
    pub fn set_lease(&self, name: &str, annotations: Value, spec: Value) {
        let object = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
        self.with(|store| store.put(LEASES, NAMESPACE, object));
    }

    /// Somebody else sets one annotation of it, as `kubectl apply` of a manifest with it does.
    pub fn annotate_lease(&self, name: &str, key: &str, value: &str) {
        let mut object = self.lease(name);
        object["metadata"]["annotations"][key] = value.into();
        self.with(|store| store.put(LEASES, NAMESPACE, object));
    }

    /// Somebody else changes who holds it, or since when.
    pub fn set_lease_spec(&self, name: &str, spec: &Value) {
        let mut object = self.lease(name);
        object["spec"] = spec.clone();
        self.with(|store| store.put(LEASES, NAMESPACE, object));
    }

    /// Somebody has it wait for them when it is deleted, and for nobody else.
    pub fn hold_up_lease(&self, name: &str, finalizer: &str) {
        let mut object = self.lease(name);
        object["metadata"]["finalizers"] = json!([finalizer]);
        self.with(|store| store.put(LEASES, NAMESPACE, object));
    }

    /// Somebody else deletes it.
    pub fn delete_lease(&self, name: &str) {
        self.with(|store| store.delete(LEASES, NAMESPACE, name));
    }

    /// Somebody takes its finalizers away and deletes it.
    pub fn remove_lease(&self, name: &str) {
        self.with(|store| store.remove(LEASES, NAMESPACE, name));
    }

    /// The Lease as it is.
    pub fn lease(&self, name: &str) -> Value {
        self.find_lease(name).expect("it is there")
    }

    /// The Lease, where it is there.
    pub fn find_lease(&self, name: &str) -> Option<Value> {
        self.with(|store| store.get(LEASES, NAMESPACE, name).cloned()).ok()
    }

    /// How many pods the workload is to have.
    pub fn replicas(&self, workload: &Workload) -> i64 {
        let object = self.with(|store| store.get(resource(workload), NAMESPACE, &workload.name).cloned());
        object.expect("it is there")["spec"]["replicas"].as_i64().expect("a number")
    }

    /// Somebody else scales it.
    pub fn set_replicas(&self, workload: &Workload, replicas: i32) {
        self.with(|store| {
            let mut object = store.get(resource(workload), NAMESPACE, &workload.name).expect("it is there").clone();
            object["spec"]["replicas"] = replicas.into();
            store.put(resource(workload), NAMESPACE, object);
        });
    }

    /// Somebody uninstalls it.
    pub fn remove_klipper(&self, workload: &Workload) {
        self.with(|store| store.remove(resource(workload), NAMESPACE, &workload.name));
    }

    /// Its pods may take that long to end.
    pub fn set_grace(&self, workload: &Workload, seconds: u32) {
        for mut pod in self.pods(workload) {
            pod["spec"]["terminationGracePeriodSeconds"] = seconds.into();
            self.with(|store| store.put(PODS, NAMESPACE, pod));
        }
    }

    /// Puts a pod there that no controller made.
    #[expect(clippy::needless_pass_by_value, reason = "literals")]
    pub fn add_pod(&self, name: &str, labels: Value, status: Value) {
        let pod = json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i"}], "nodeName": "pi4"}, "status": status,
        });
        self.with(|store| store.put(PODS, NAMESPACE, pod));
    }

    /// The pods of the workload that are there, by name.
    pub fn pods(&self, workload: &Workload) -> Vec<Value> {
        let labels = labels(workload);
        let mine = |pod: &Value| pod["metadata"]["labels"] == labels;
        self.with(|store| store.list(PODS, NAMESPACE, &Selector::default())).into_iter().filter(mine).collect()
    }

    /// The Jobs that are there.
    pub fn jobs(&self) -> Vec<Value> {
        self.with(|store| store.list(JOBS, NAMESPACE, &Selector::default()))
    }

    /// The pods of Jobs that are there.
    pub fn job_pods(&self) -> Vec<Value> {
        let of_job = |pod: &Value| pod["metadata"]["ownerReferences"][0]["kind"] == "Job";
        self.with(|store| store.list(PODS, NAMESPACE, &Selector::default())).into_iter().filter(of_job).collect()
    }

    /// The ConfigMap as it is.
    pub fn config_map(&self, name: &str) -> Value {
        self.with(|store| store.get(CONFIG_MAPS, NAMESPACE, name).cloned()).expect("it is there")
    }

    /// A node joins.
    pub fn add_node(&self, name: &str) {
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        self.with(|store| store.put(NODES, "", node));
    }

    /// The kubelet writes a pod's status.
    pub fn set_status(&self, pod: &str, status: &Value) {
        self.with(|store| {
            let Ok(object) = store.get(PODS, NAMESPACE, pod) else { return };
            let mut object = object.clone();
            object["status"] = status.clone();
            store.put(PODS, NAMESPACE, object);
        });
    }

    /// Somebody deletes the Job, in the background.
    pub fn delete_job(&self, name: &str) {
        self.with(|store| store.delete(JOBS, NAMESPACE, name));
    }

    /// Somebody reports an Event about an object.
    pub fn report(&self, about: &str, reason: &str, message: &str) {
        self.with(|store| {
            store.put(EVENTS, NAMESPACE, json!({
                "metadata": {"name": format!("{about}.{reason}")}, "type": "Warning", "reason": reason, "message": message,
                "involvedObject": {"kind": "Pod", "name": about, "namespace": NAMESPACE},
                "source": {"component": "default-scheduler"},
            }));
        });
    }

    /// The reasons of the Events so far.
    pub fn events(&self) -> Vec<String> {
        let mut events = self.with(|store| store.list(EVENTS, NAMESPACE, &Selector::default()));
        events.sort_by_key(|event| event["metadata"]["uid"].to_string());
        events.iter().map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }
}
