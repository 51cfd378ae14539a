//! How a flash ended, by what its pods left.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kflash::cluster::{Outcome, Summary};
use kflash::exit::ExitCode;

use super::Ending;

/// The container with the device.
const FLASHER: &str = "kflash";

/// How the Job ended.
pub(super) enum Ended {
    /// By itself.
    Job(Result<(), String>),
    /// Somebody deleted it.
    Deleted,
}

/// What came of the flash.
pub(super) fn of<'a>(ended: &Ended, pods: impl Iterator<Item = &'a Pod>) -> Ending {
    let mut pods: Vec<_> = pods.collect();
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let told = pods.iter().rev().find_map(|pod| of_pod(pod));
    let failed = |exit, message: String| {
        let summary = Summary::new(Outcome::Failed, exit, Some(message));
        Ending { exit, summary }
    };
    match (ended, told) {
        // A Job whose container ended well did not: what is wrong is not for the container to know.
        (Ended::Job(Err(why)), Some(told)) if told.exit == ExitCode::Ok => {
            failed(ExitCode::Internal, format!("the flash ended well, but its Job failed: {why}"))
        }
        (_, Some(told)) => told,
        (Ended::Job(Err(why)), None) => failed(ExitCode::Internal, format!("the Job failed: {why}")),
        (Ended::Job(Ok(())), None) => {
            failed(ExitCode::Internal, "the Job ended well, but none of its pods says how".into())
        }
        (Ended::Deleted, None) => failed(ExitCode::Cancelled, "somebody deleted the Job before the flash began".into()),
    }
}

/// What the pod's containers left, if one that decides has ended.
fn of_pod(pod: &Pod) -> Option<Ending> {
    let status = pod.status.as_ref()?;
    let flasher = status.container_statuses.iter().flatten().find(|container| container.name == FLASHER);
    if let Some(terminated) = flasher.and_then(terminated) {
        return Some(of_flasher(terminated));
    }
    if let Some(state) = flasher.and_then(|container| container.state.as_ref())
        && state.running.is_some()
    {
        let message = "the flash was under way when its pod went: the state of the board is unknown";
        let exit = ExitCode::Internal;
        return Some(Ending { exit, summary: Summary::new(Outcome::Failed, exit, Some(message.into())) });
    }
    // It never came to flashing.
    let init = status.init_container_statuses.iter().flatten();
    init.filter_map(|container| Some((container, terminated(container)?))).find(|(_, end)| end.exit_code != 0).map(
        |(container, end)| {
            let exit = exit_of(end);
            let said = end.message.as_deref().map(|said| format!(": {}", said.trim())).unwrap_or_default();
            let message = format!("the container {} ended with {}{said}", container.name, end.exit_code);
            Ending { exit, summary: Summary::new(Outcome::Failed, exit, Some(message)) }
        },
    )
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

fn exit_of(end: &ContainerStateTerminated) -> ExitCode {
    // What is none of ours is a signal, or the container never ran.
    u8::try_from(end.exit_code).ok().and_then(ExitCode::of_code).unwrap_or(ExitCode::Internal)
}

fn of_flasher(end: &ContainerStateTerminated) -> Ending {
    let exit = exit_of(end);
    let said = end.message.as_deref().and_then(|message| serde_json::from_str::<Summary>(message).ok());
    // Its exit code is what the kubelet saw; a message that says otherwise is somebody else's.
    let summary = said.filter(|summary| summary.exit == exit).unwrap_or_else(|| {
        let result = if exit == ExitCode::Ok { Outcome::Flashed } else { Outcome::Failed };
        let reason = end.reason.as_deref().unwrap_or("no reason was given");
        let message = format!("it left no result: exit code {}, {reason}", end.exit_code);
        Summary::new(result, exit, Some(message))
    });
    Ending { exit, summary }
}
