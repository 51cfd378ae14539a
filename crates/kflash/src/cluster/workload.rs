//! Klipper's workload.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::is_subdomain;

/// What runs Klipper, in the namespace of the flash: `deployment/voron-klipper`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Workload {
    /// What kind of object it is.
    pub kind: WorkloadKind,
    /// Its name: a DNS subdomain.
    pub name: String,
}

/// The kinds that can be scaled to nothing and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
}

impl WorkloadKind {
    /// The resource in URLs and Roles: `deployments`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
        }
    }

    fn singular(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
        }
    }
}

/// Not a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// The kind is missing or cannot be scaled.
    #[error("'{0}' is no workload: it is written deployment/NAME or statefulset/NAME")]
    Kind(String),
    /// No object can have that name.
    #[error("'{0}' is no name of a workload: lower-case letters, digits, '-' and '.', at most 253 characters")]
    Name(String),
}

impl FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || WorkloadError::Kind(text.to_owned());
        let (kind, name) = text.split_once('/').ok_or_else(wrong)?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "deployment" | "deployments" | "deploy" => WorkloadKind::Deployment,
            "statefulset" | "statefulsets" | "sts" => WorkloadKind::StatefulSet,
            _ => return Err(wrong()),
        };
        if !is_subdomain(name) {
            return Err(WorkloadError::Name(name.to_owned()));
        }
        Ok(Self { kind, name: name.to_owned() })
    }
}

impl TryFrom<String> for Workload {
    type Error = WorkloadError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Workload> for String {
    fn from(workload: Workload) -> Self {
        workload.to_string()
    }
}

impl Display for Workload {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.singular(), self.name)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn it_is_written_as_kubectl_takes_it() {
        for (text, written) in [
            ("deployment/voron-klipper", "deployment/voron-klipper"),
            ("deploy/a", "deployment/a"),
            ("StatefulSet/klipper.v0", "statefulset/klipper.v0"),
        ] {
            let workload: Workload = text.parse().unwrap();
            assert_eq!(workload.to_string(), written);
            assert_eq!(written.parse::<Workload>().unwrap(), workload);
        }
    }

    #[test]
    fn nothing_else_is_one() {
        for text in ["voron", "pod/voron", "deployment/", "deployment/..", "deployment/a/b", "deployment/A", "/a"] {
            assert!(text.parse::<Workload>().is_err(), "{text}");
        }
        assert!(format!("deployment/{}", "a".repeat(254)).parse::<Workload>().is_err());
    }
}
