//! Watch streams.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::Failure;
use super::request::{Asked, Resource};
use super::selector::Selector;
use super::store::Store;

/// How long a watch lives that does not say.
const LIFE: Duration = Duration::from_secs(1800);

/// A watch.
pub struct Watch {
    resource: Resource,
    namespace: String,
    selector: Selector,
    /// Everything up to here was sent.
    version: i64,
    /// Sent first.
    initial: Vec<Value>,
    pub end: Instant,
    pub bookmark: Option<Instant>,
}

impl Watch {
    pub fn of(asked: &Asked, store: &Store) -> Result<Self, Failure> {
        let selector = Selector::of(asked.query("labelSelector"), asked.query("fieldSelector"))?;
        let life = match asked.query("timeoutSeconds").map(str::parse) {
            Some(Ok(seconds)) => Duration::from_secs(seconds),
            Some(Err(_)) => return Err(Failure::bad_request("timeoutSeconds is no number")),
            None => LIFE,
        };
        let (version, initial) = match asked.query("resourceVersion") {
            None | Some("" | "0") => {
                let all = store.list(asked.resource, &asked.namespace, &selector);
                let added = all.into_iter().map(|object| json!({"type": "ADDED", "object": object})).collect();
                (store.version(), added)
            }
            Some(text) => {
                let version =
                    text.parse().map_err(|_| Failure::bad_request(format!("Invalid resource version: {text}")))?;
                (version, Vec::new())
            }
        };
        let bookmarks = matches!(asked.query("allowWatchBookmarks"), Some("true" | "1" | "True"));
        Ok(Self {
            resource: asked.resource,
            namespace: asked.namespace.clone(),
            selector,
            version,
            initial,
            end: Instant::now() + life,
            bookmark: bookmarks.then(|| Instant::now() + store.timing.bookmark),
        })
    }

    /// The events since the last call; the second value is true where it is over after them.
    pub fn events(&mut self, store: &Store) -> (Vec<Value>, bool) {
        let mut events = std::mem::take(&mut self.initial);
        if self.version < store.compacted {
            let gone = Failure::expired(self.version, store.compacted);
            events.push(json!({"type": "ERROR", "object": gone.status()}));
            return (events, true);
        }
        for change in store.history.iter().filter(|change| change.version > self.version) {
            if change.resource != self.resource || change.namespace != self.namespace {
                continue;
            }
            let selected = |object: &Option<Value>| object.as_ref().is_some_and(|object| self.selector.selects(object));
            let (kind, object) = match (selected(&change.old), selected(&change.new)) {
                (false, false) => continue,
                (false, true) => ("ADDED", &change.new),
                (true, true) => ("MODIFIED", &change.new),
                (true, false) => ("DELETED", &change.old),
            };
            let mut object = object.clone().unwrap_or_default();
            // What left the selection bears the version at which it did.
            object["metadata"]["resourceVersion"] = change.version.to_string().into();
            events.push(json!({"type": kind, "object": object}));
        }
        self.version = self.version.max(store.version());
        if self.bookmark.is_some_and(|at| at <= Instant::now()) {
            self.bookmark = Some(Instant::now() + store.timing.bookmark);
            events.push(json!({"type": "BOOKMARK", "object": {
                "kind": self.resource.kind, "apiVersion": self.resource.api_version(),
                "metadata": {"resourceVersion": self.version.to_string(), "creationTimestamp": null},
            }}));
        }
        (events, self.end <= Instant::now())
    }
}
