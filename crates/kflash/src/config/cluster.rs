//! A printer whose Klipper runs in Kubernetes.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::cluster::Workload;
use crate::cluster::name::{is_extended_resource, is_label, is_label_value, is_subdomain};

/// Where a printer's Klipper runs in Kubernetes, for the Jobs that flash its boards.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cluster {
    /// The namespace of Klipper, and of the Jobs. Without it: default.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The node that holds the boards: the value of its label kubernetes.io/hostname.
    pub node: String,
    /// What runs Klipper: deployment/NAME or statefulset/NAME.
    #[schemars(with = "String")]
    pub workload: Workload,
    /// The resource of a device plugin that stands for the board, such as smarter-devices/ttyUSB0: for a board that does
    /// not re-enumerate, instead of the node's /dev.
    pub resource: Option<String>,
    /// The resource of a device plugin that stands for the debug probe on the board, such as squat.ai/stlink: for
    /// unprivileged Jobs that flash through it.
    pub probe_resource: Option<String>,
    /// The resource that Klipper's pod asks for, and of which its node has one: with --quiesce token the flash asks for
    /// it, too, and Klipper gives way. Without it: kflash.dev/printer-NAME.
    pub token: Option<String>,
    /// The Secret whose key api-key is Moonraker's API key, where that does not trust the cluster.
    pub api_key_secret: Option<String>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

impl Cluster {
    /// What is no name in Kubernetes, and why.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let rules = [
            ("namespace", Some(&self.namespace), is_label as fn(&str) -> bool, "namespace"),
            ("node", Some(&self.node), is_label_value, "value of the label kubernetes.io/hostname"),
            ("resource", self.resource.as_ref(), is_extended_resource, "extended resource such as example.com/board"),
            (
                "probe-resource",
                self.probe_resource.as_ref(),
                is_extended_resource,
                "extended resource such as example.com/board",
            ),
            ("token", self.token.as_ref(), is_extended_resource, "extended resource such as example.com/board"),
            ("api-key-secret", self.api_key_secret.as_ref(), is_subdomain, "name of a Secret"),
        ];
        for (key, value, rule, what) in rules {
            if let Some(value) = value.filter(|value| !rule(value)) {
                return Err((key, format!("{value:?} is no {what}")));
            }
        }
        Ok(())
    }
}
