//! A flash in phases: each begins with a container, which has the node that the board is by then.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, ContainerRestartRuleOnExitCodes};
use kflash::cluster::container;
use kflash::config::{Cluster, Printer};
use kflash::exit::ExitCode;

use crate::pod::{mount, over_the_network, words};
use crate::{Access, JobError, Kubernetes, Shape, Via};

/// The volume with what each phase leaves to the next, and where it is.
pub(crate) const VOLUME: &str = "journal";
const JOURNAL: &str = "/run/kflash/journal";

/// Refuses phases where they are for nothing.
pub(crate) fn check(printer: &Printer, cluster: &Cluster, shape: &Shape) -> Result<(), JobError> {
    let refused = |why| Err(JobError::NoPhases { printer: printer.name.clone(), why });
    match shape {
        Shape { phased: false, .. } => Ok(()),
        Shape { access: Access::Privileged, .. } => {
            refused("with the node's /dev, one container follows the board: they are for --access unprivileged")
        }
        Shape { via: Via::Swd { .. }, .. } => refused("a debug probe stays what it is"),
        _ if printer.boards.iter().all(over_the_network) => refused("no board of it is a device of the node"),
        _ if cluster.resource.is_none() => Err(JobError::NoResource { printer: printer.name.clone() }),
        _ => Ok(()),
    }
}

/// The containers of the phases, all with the same command; the last is the pod's main one. Where a container can be created
/// again in its place, that is one; before, the first two are init containers, which is as many as a flash takes.
pub(crate) fn containers(mut flasher: Container, kubernetes: Kubernetes) -> Vec<Container> {
    flasher.args.get_or_insert_default().extend(words(&["--phased", JOURNAL]));
    flasher.volume_mounts.get_or_insert_default().push(mount(VOLUME, JOURNAL, false));
    if kubernetes >= Kubernetes::V1_35 {
        flasher.restart_policy = Some("Never".to_owned());
        flasher.restart_policy_rules = Some(vec![ContainerRestartRule {
            action: "Restart".to_owned(),
            exit_codes: Some(ContainerRestartRuleOnExitCodes {
                operator: "In".to_owned(),
                values: Some(vec![i32::from(ExitCode::Phase.code())]),
            }),
        }]);
        return vec![flasher];
    }
    let before = |name: &str| {
        let mut container = Container { name: name.to_owned(), ..flasher.clone() };
        container.args.get_or_insert_default().push("--another-follows".to_owned());
        container
    };
    vec![before(container::ENTER), before(container::WRITE), flasher]
}
