//! What a person has to know who applies the manifests, as comments above them.

use std::fmt::Write as _;

use kflash::config::Printer;

use crate::metadata::{OWN_TOKENS, token};
use crate::setup::cluster_of;
use crate::{Access, JobError, Kubernetes, Quiesce, Shape};

/// The comments above what [`setup`](crate::setup) makes.
pub fn notes_of_setup(printer: &Printer, shape: &Shape) -> Result<String, JobError> {
    let cluster = cluster_of(printer)?;
    let mut text = "# Once for each printer: kubectl apply -f setup.yaml\n".to_owned();
    if shape.access == Access::Privileged {
        let _ = write!(
            text,
            "#\n# The namespace has to admit privileged pods with the node's directories:\n\
             #   kubectl label namespace {} pod-security.kubernetes.io/enforce=privileged\n",
            cluster.namespace
        );
    }
    let token = token(printer, cluster);
    if shape.quiesce == Quiesce::Token && token.starts_with(OWN_TOKENS) {
        let path = token.replace('~', "~0").replace('/', "~1");
        let _ = write!(
            text,
            "#\n# The node has to offer one {token}:\n\
             #   kubectl patch node {} --subresource=status --type=json \\\n\
             #     -p '[{{\"op\": \"add\", \"path\": \"/status/capacity/{path}\", \"value\": \"1\"}}]'\n",
            cluster.node
        );
    }
    if shape.quiesce == Quiesce::Token {
        let _ = writeln!(text, "#\n# Klipper's container has to ask for it, too: resources.limits: {{{token}: 1}}");
    }
    Ok(text)
}

/// The comments above what [`flash`](crate::flash) makes.
pub fn notes_of_flash(shape: &Shape) -> String {
    let mut text = "# Once for each flash: kubectl apply -f flash-job.yaml\n\
                    # The very same once more: kubectl replace --force -f flash-job.yaml\n"
        .to_owned();
    if shape.wait > 0 {
        let _ = write!(
            text,
            "#\n# Waits up to {} s for a print to end, when the firmware is there. Until then Klipper runs, nothing is stopped, and\n\
             # the node cannot be drained; kubectl delete -f flash-job.yaml ends the wait.\n",
            shape.wait
        );
    }
    if shape.phased && shape.kubernetes >= Kubernetes::V1_35 {
        text.push_str(
            "#\n# For Kubernetes 1.35 or newer: the container kflash is created again in its place for each phase of the flash.\n",
        );
    }
    if shape.quiesce == Quiesce::Token {
        text.push_str(
            "#\n# The Job is suspended: as soon as it runs, Klipper has to give way. Ask Moonraker whether the printer prints,\n\
             # or let `kubectl kflash run` do that.\n",
        );
    }
    text
}
