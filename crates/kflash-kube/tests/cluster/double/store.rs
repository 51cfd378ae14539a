//! Objects, their versions, and the history that watches read.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::Failure;
use super::controller::Task;
use super::request::{Asked, JOBS, PODS, Resource};
use super::selector::Selector;
use super::{patch, validate};

/// How long things take in the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Until a controller acts on a change.
    pub reaction: Duration,
    /// From a pod's creation until its container runs.
    pub start: Duration,
    /// From there until it is ready.
    pub ready: Duration,
    /// From the order to end until it is gone.
    pub end: Duration,
    /// From an object's end until what it owned is removed, too.
    pub collection: Duration,
    /// Between two bookmarks of a watch that asked for them.
    pub bookmark: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            reaction: Duration::from_millis(30),
            start: Duration::from_millis(900),
            ready: Duration::from_millis(400),
            end: Duration::from_secs(2),
            collection: Duration::from_secs(3),
            bookmark: Duration::from_secs(60),
        }
    }
}

/// A change, as watches see it.
#[derive(Clone, Debug)]
pub struct Change {
    pub version: i64,
    pub resource: Resource,
    pub namespace: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

type Key = (Resource, String, String);

/// Everything that the server knows.
pub struct Store {
    objects: BTreeMap<Key, Value>,
    version: i64,
    pub history: Vec<Change>,
    /// Changes up to this version are forgotten.
    pub compacted: i64,
    pub timing: Timing,
    pub tasks: BinaryHeap<Reverse<(Instant, u64, Task)>>,
    pub serial: u64,
    epoch: (Instant, Timestamp),
}

impl Store {
    pub fn new(timing: Timing, now: Timestamp) -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 1000,
            history: Vec::new(),
            compacted: 0,
            timing,
            tasks: BinaryHeap::new(),
            serial: 0,
            epoch: (Instant::now(), now),
        }
    }

    /// The clock on the wall.
    pub fn now(&self) -> Timestamp {
        self.epoch.1 + self.epoch.0.elapsed()
    }

    pub fn time(&self) -> String {
        self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    pub fn version(&self) -> i64 {
        self.version
    }

    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Result<&Value, Failure> {
        let key = (resource, namespace.to_owned(), name.to_owned());
        self.objects.get(&key).ok_or_else(|| Failure::not_found(resource, name))
    }

    pub fn list(&self, resource: Resource, namespace: &str, selector: &Selector) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|((of, at, _), object)| *of == resource && at == namespace && selector.selects(object))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Stores `new` in place of what is there; a change that changes nothing is none.
    pub fn put(&mut self, resource: Resource, namespace: &str, mut new: Value) -> Value {
        let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (resource, namespace.to_owned(), name);
        let old = self.objects.get(&key).cloned();
        new["kind"] = resource.kind.into();
        new["apiVersion"] = resource.api_version().into();
        new["metadata"]["namespace"] = namespace.into();
        if let Some(old) = &old {
            for fixed in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
                new["metadata"][fixed] = old["metadata"][fixed].clone();
            }
            // Nobody takes a deletion back.
            for lasting in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
                if !old["metadata"][lasting].is_null() {
                    new["metadata"][lasting] = old["metadata"][lasting].clone();
                }
            }
            if *old == new {
                return new;
            }
            if old["spec"] != new["spec"] {
                let generation = old["metadata"]["generation"].as_i64().unwrap_or(1);
                new["metadata"]["generation"] = (generation + 1).into();
            }
        } else {
            self.serial += 1;
            new["metadata"]["uid"] = format!("00000000-0000-4000-8000-{:012x}", self.serial).into();
            new["metadata"]["creationTimestamp"] = self.time().into();
            new["metadata"]["generation"] = 1.into();
        }
        self.version += 1;
        new["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(key, new.clone());
        self.note(resource, namespace, old, Some(new.clone()));
        self.react(resource, namespace, &new);
        new
    }

    /// Removes an object for good.
    pub fn remove(&mut self, resource: Resource, namespace: &str, name: &str) {
        let key = (resource, namespace.to_owned(), name.to_owned());
        if let Some(mut old) = self.objects.remove(&key) {
            self.version += 1;
            // A deletion has a version of its own, which the object bears when watches see it.
            old["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.note(resource, namespace, Some(old.clone()), None);
            self.react(resource, namespace, &old);
        }
    }

    fn note(&mut self, resource: Resource, namespace: &str, old: Option<Value>, new: Option<Value>) {
        let namespace = namespace.to_owned();
        self.history.push(Change { version: self.version, resource, namespace, old, new });
    }

    /// Forgets the history: a watch from an earlier version gets 410.
    pub fn compact(&mut self) {
        self.compacted = self.version;
        self.history.clear();
    }

    /// Answers everything but a watch.
    pub fn answer(&mut self, asked: &Asked, content_type: &str, body: &[u8]) -> Result<(u16, Value), Failure> {
        let Asked { resource, namespace, .. } = asked;
        let resource = *resource;
        let name = asked.name.as_deref().unwrap_or_default();
        match (asked.verb, asked.subresource.as_deref()) {
            ("list", _) => {
                let selector = Selector::of(asked.query("labelSelector"), asked.query("fieldSelector"))?;
                let mut items = self.list(resource, namespace, &selector);
                for item in &mut items {
                    if let Some(item) = item.as_object_mut() {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                }
                let list = json!({
                    "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
                    "metadata": {"resourceVersion": self.version.to_string()}, "items": items,
                });
                Ok((200, list))
            }
            ("get", None) => Ok((200, self.get(resource, namespace, name)?.clone())),
            ("get", Some(_)) => Ok((200, scale(self.get(resource, namespace, name)?))),
            ("create", _) => self.create(resource, namespace, decoded(body)?).map(|object| (201, object)),
            ("update", None) => self.update(resource, namespace, name, decoded(body)?).map(|object| (200, object)),
            ("patch", None) if content_type.starts_with("application/apply-patch+yaml") => {
                let applied = decoded(body)?;
                match self.get(resource, namespace, name).cloned() {
                    Err(_) => self.create(resource, namespace, applied).map(|object| (201, object)),
                    Ok(old) => {
                        let new = patch::patched(&old, "application/merge-patch+json", body)?;
                        self.update(resource, namespace, name, new).map(|object| (200, object))
                    }
                }
            }
            ("patch", None) => {
                let old = self.get(resource, namespace, name)?.clone();
                let new = patch::patched(&old, content_type, body)?;
                self.update(resource, namespace, name, new).map(|object| (200, object))
            }
            ("update", Some(_)) => self.update_scale(resource, namespace, name, &decoded(body)?),
            ("patch", Some(_)) => {
                let old = scale(self.get(resource, namespace, name)?);
                let new = patch::patched(&old, content_type, body)?;
                self.update_scale(resource, namespace, name, &new)
            }
            ("delete", _) => {
                let uid = self.get(resource, namespace, name)?["metadata"]["uid"].clone();
                self.delete(resource, namespace, name);
                // What has still to end, or is held up, is answered; else only that it is gone.
                let gone = json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                    "details": {"name": name, "group": resource.group, "kind": resource.plural, "uid": uid},
                });
                Ok((200, self.get(resource, namespace, name).cloned().unwrap_or(gone)))
            }
            _ => Err(Failure::method_not_allowed()),
        }
    }

    pub fn create(&mut self, resource: Resource, namespace: &str, mut object: Value) -> Result<Value, Failure> {
        if let (true, Some(prefix)) =
            (object["metadata"]["name"].is_null(), object["metadata"]["generateName"].as_str().map(str::to_owned))
        {
            object["metadata"]["name"] = format!("{prefix}{:05x}", self.serial + 0xb00b5).into();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        validate::object(resource, namespace, &object)?;
        if !object["metadata"]["resourceVersion"].is_null() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        if self.get(resource, namespace, &name).is_ok() {
            return Err(Failure::already_exists(resource, &name));
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.retain(|key, _| !key.starts_with("deletion"));
        }
        Ok(self.put(resource, namespace, object))
    }

    fn update(&mut self, resource: Resource, namespace: &str, name: &str, new: Value) -> Result<Value, Failure> {
        if new["metadata"]["name"] != *name {
            let message = "the name of the object does not match the name on the URL";
            return Err(Failure::bad_request(message));
        }
        let given = |key: &str| new["metadata"][key].as_str().filter(|value| !value.is_empty());
        let old = self.get(resource, namespace, name).map_err(|missing| match given("uid") {
            // Where a PUT may create, the UID is a precondition, and what is not there has another.
            Some(_) if resource.create_on_update => Failure::conflict(resource, name),
            _ => missing,
        })?;
        match given("resourceVersion") {
            None if !resource.unconditional_update => {
                let problem = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
                return Err(Failure::invalid(resource, name, problem));
            }
            Some(version) if old["metadata"]["resourceVersion"] != version => {
                return Err(Failure::conflict(resource, name));
            }
            _ => {}
        }
        if given("uid").is_some_and(|uid| old["metadata"]["uid"] != uid) {
            return Err(Failure::conflict(resource, name));
        }
        validate::object(resource, namespace, &new)?;
        let going = !old["metadata"]["deletionTimestamp"].is_null();
        if going {
            validate::no_new_finalizers(resource, old, &new)?;
        } else if !new["metadata"]["deletionTimestamp"].is_null() {
            let problem =
                "metadata.deletionTimestamp: Invalid value: field is immutable; may only be changed via deletion";
            return Err(Failure::invalid(resource, name, problem));
        }
        // Pods and Jobs are held up by what still runs of them.
        if going && resource != PODS && resource != JOBS && finalizers(&new).is_empty() {
            // It is never stored without them: what was asked for is the answer, and watches see what there was last.
            self.remove(resource, namespace, name);
            return Ok(new);
        }
        Ok(self.put(resource, namespace, new))
    }

    fn update_scale(
        &mut self,
        resource: Resource,
        namespace: &str,
        name: &str,
        new: &Value,
    ) -> Result<(u16, Value), Failure> {
        let mut object = self.get(resource, namespace, name)?.clone();
        if new["metadata"]["resourceVersion"]
            .as_str()
            .is_some_and(|version| object["metadata"]["resourceVersion"] != version)
        {
            return Err(Failure::conflict(resource, name));
        }
        let replicas = match &new["spec"]["replicas"] {
            Value::Null => 0,
            value => match value.as_i64() {
                Some(replicas) if replicas >= 0 => replicas,
                _ => {
                    let problem = "spec.replicas: Invalid value: must be greater than or equal to 0";
                    return Err(Failure::invalid(resource, name, problem));
                }
            },
        };
        object["spec"]["replicas"] = replicas.into();
        Ok((200, scale(&self.put(resource, namespace, object))))
    }
}

/// Who holds up the object's deletion.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn decoded(body: &[u8]) -> Result<Value, Failure> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Failure::bad_request("the body is no object")) }
}

/// The scale of a workload: of what is nothing, the field is left out.
fn scale(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let labels = object["spec"]["selector"]["matchLabels"].as_object();
    let selector: Vec<_> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": {},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0), "selector": selector.join(",")},
    });
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|replicas| *replicas > 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    scale
}
