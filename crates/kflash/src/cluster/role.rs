//! The rights that stopping Klipper and giving it back takes, and no more.

use serde::Serialize;

use super::Workload;

/// One rule of a Role, as it is written in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// API groups; the empty one is the core.
    pub api_groups: &'static [&'static str],
    /// Resources and subresources.
    pub resources: Vec<String>,
    /// The only objects that it is about; empty where it cannot be narrowed down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// What may be done.
    pub verbs: &'static [&'static str],
}

/// The rules of the account that `quiesce` and `restore` run as. It can scale that one workload, but not patch it:
/// whoever may patch a privileged pod's template is root on its node. It creates nothing but Events; the Lease is
/// there already.
pub fn rules(lease: &str, workload: &Workload) -> Vec<Rule> {
    let plural = workload.kind.plural();
    let rule = |api_groups, resource: &str, name: Option<&str>, verbs| Rule {
        api_groups,
        resources: vec![resource.to_owned()],
        resource_names: name.map(str::to_owned).into_iter().collect(),
        verbs,
    };
    vec![
        rule(&["apps"], plural, Some(&workload.name), &["get"]),
        rule(&["apps"], &format!("{plural}/scale"), Some(&workload.name), &["get", "patch"]),
        rule(&["coordination.k8s.io"], "leases", Some(lease), &["get", "update"]),
        rule(&[""], "pods", None, &["list", "watch"]),
        rule(&[""], "events", None, &["create"]),
    ]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn nothing_but_events_is_created_and_the_workload_itself_is_never_changed() {
        for workload in ["deployment/voron-klipper", "statefulset/voron-klipper"] {
            let rules = rules("kflash-voron", &workload.parse().unwrap());
            for rule in &rules {
                let resource = &rule.resources[0];
                assert_eq!(rule.verbs.contains(&"create"), resource == "events", "{rule:?}");
                assert_eq!(rule.verbs.contains(&"patch"), resource.ends_with("/scale"), "{rule:?}");
                assert_eq!(rule.resource_names.is_empty(), matches!(resource.as_str(), "pods" | "events"), "{rule:?}");
                let all = rule.api_groups.iter().chain(rule.verbs).any(|word| word.contains('*'));
                assert!(!all && !resource.contains('*'), "{rule:?}");
            }
        }
    }
}
