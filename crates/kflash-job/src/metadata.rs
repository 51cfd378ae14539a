//! Names and labels.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kflash::config::{Cluster, Printer};
use kflash::digest::Sha256;

/// A pod's host name has at most 63 characters, of which a Job's pods add six; no dots.
const LONGEST: usize = 40;
/// Tokens that no device plugin offers begin with this.
pub(crate) const OWN_TOKENS: &str = "kflash.dev/printer-";

/// The printer's Lease, account, Role and disruption budget.
pub fn lease_name(printer: &Printer) -> String {
    format!("kflash-{}", label(&printer.name))
}

/// The Job and ConfigMap of these inputs: another input is another Job, and the same one is not run twice.
pub fn job_name(printer: &Printer, inputs: &Sha256) -> String {
    let digest = inputs.to_string();
    format!("{}-{}", lease_name(printer), &digest[..10])
}

/// The resource that Klipper gives up to a flash.
pub(crate) fn token(printer: &Printer, cluster: &Cluster) -> String {
    cluster.token.clone().unwrap_or_else(|| format!("{OWN_TOKENS}{}", label(&printer.name)))
}

pub(crate) fn of(name: &str, printer: &Printer, cluster: &Cluster) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(printer)),
        ..ObjectMeta::default()
    }
}

pub(crate) fn labels(printer: &Printer) -> BTreeMap<String, String> {
    let label = |name: &str, value: String| (name.to_owned(), value);
    BTreeMap::from([
        label("app.kubernetes.io/name", "kflash".to_owned()),
        label("app.kubernetes.io/instance", lease_name(printer)),
    ])
}

/// A printer's name as part of a DNS label. What had to be changed for that is told apart by a digest: no two printers
/// share a Lease.
fn label(name: &str) -> String {
    let longest = LONGEST - "kflash-".len();
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    if plain == name && name.len() <= longest && !name.starts_with('-') && !name.ends_with('-') {
        return plain;
    }
    let digest = Sha256::of(name.as_bytes()).to_string();
    let kept: String = plain.chars().take(longest - 5).collect();
    [kept.trim_matches('-'), &digest[..4]].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("-")
}
