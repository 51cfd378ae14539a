//! What a URL asks for.

use http::{Method, Uri};

use super::answer::Failure;

/// A resource that this server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub group: &'static str,
    pub version: &'static str,
    pub plural: &'static str,
    pub kind: &'static str,
    /// A PUT without a resource version is taken.
    pub unconditional_update: bool,
    /// A PUT of what is not there makes it.
    pub create_on_update: bool,
    pub scalable: bool,
    pub namespaced: bool,
}

const fn resource(group: &'static str, plural: &'static str, kind: &'static str) -> Resource {
    Resource {
        group,
        version: "v1",
        plural,
        kind,
        unconditional_update: true,
        create_on_update: false,
        scalable: false,
        namespaced: true,
    }
}

pub const PODS: Resource = resource("", "pods", "Pod");
pub const EVENTS: Resource = resource("", "events", "Event");
pub const LEASES: Resource = Resource {
    unconditional_update: false,
    create_on_update: true,
    ..resource("coordination.k8s.io", "leases", "Lease")
};
pub const DEPLOYMENTS: Resource = Resource { scalable: true, ..resource("apps", "deployments", "Deployment") };
pub const STATEFUL_SETS: Resource = Resource { scalable: true, ..resource("apps", "statefulsets", "StatefulSet") };

pub const JOBS: Resource = resource("batch", "jobs", "Job");
pub const CONFIG_MAPS: Resource = resource("", "configmaps", "ConfigMap");
const SERVICES: Resource = resource("", "services", "Service");
const PRIORITY_CLASSES: Resource =
    Resource { namespaced: false, ..resource("scheduling.k8s.io", "priorityclasses", "PriorityClass") };

pub const NODES: Resource = Resource { namespaced: false, ..resource("", "nodes", "Node") };

const ALL: [Resource; 14] = [
    NODES,
    SERVICES,
    PODS,
    EVENTS,
    LEASES,
    DEPLOYMENTS,
    STATEFUL_SETS,
    JOBS,
    CONFIG_MAPS,
    PRIORITY_CLASSES,
    resource("", "serviceaccounts", "ServiceAccount"),
    resource("rbac.authorization.k8s.io", "roles", "Role"),
    resource("rbac.authorization.k8s.io", "rolebindings", "RoleBinding"),
    resource("policy", "poddisruptionbudgets", "PodDisruptionBudget"),
];

impl Resource {
    pub fn api_version(self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    /// As errors have it: `leases.coordination.k8s.io`.
    pub fn qualified(self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// A request, taken apart.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As RBAC has it.
    pub verb: &'static str,
    pub resource: Resource,
    pub namespace: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
    /// What a proxy is asked for behind it.
    pub behind: String,
    query: Vec<(String, String)>,
}

impl Asked {
    pub fn of(method: &Method, uri: &Uri) -> Result<Self, Failure> {
        let unknown = || Failure::page_not_found();
        let parts: Vec<&str> = uri.path().trim_start_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return Err(unknown()),
        };
        let (namespace, plural, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] => (*namespace, *plural, rest),
            [plural, rest @ ..] => ("", *plural, rest),
            [] => return Err(unknown()),
        };
        let resource = ALL
            .into_iter()
            .find(|one| (one.group, one.version, one.plural) == (group, version, plural))
            .filter(|one| one.namespaced != namespace.is_empty())
            .ok_or_else(unknown)?;
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, "scale"] if resource.scalable => (Some(*name), Some("scale")),
            [name, "log"] if resource == PODS => (Some(*name), Some("log")),
            [name, "proxy", ..] if resource == SERVICES => (Some(*name), Some("proxy")),
            _ => return Err(unknown()),
        };
        let query: Vec<_> = form(uri.query().unwrap_or_default());
        let watches =
            query.iter().any(|(key, value)| key == "watch" && matches!(value.as_str(), "true" | "1" | "True"));
        let verb = match (method.as_str(), name) {
            ("GET", Some(_)) => "get",
            ("GET", None) if watches => "watch",
            ("GET", None) => "list",
            ("POST", None) => "create",
            ("PUT", Some(_)) => "update",
            ("PATCH", Some(_)) => "patch",
            ("DELETE", Some(_)) if subresource.is_none() => "delete",
            _ => return Err(Failure::method_not_allowed()),
        };
        Ok(Self {
            verb,
            resource,
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
            behind: uri.path().split_once("/proxy").map_or("", |(_, behind)| behind).to_owned(),
            query,
        })
    }

    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// In a few words, for a log: `patch deployments/scale voron-klipper`.
    pub fn describe(&self) -> String {
        let sub = self.subresource.as_ref().map(|sub| format!("/{sub}")).unwrap_or_default();
        let name = self.name.as_ref().map(|name| format!(" {name}")).unwrap_or_default();
        format!("{} {}{sub}{name}", self.verb, self.resource.plural)
    }
}

/// `application/x-www-form-urlencoded`, taken apart.
fn form(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let byte = std::str::from_utf8(&digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.push(byte.unwrap_or(b'?'));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
