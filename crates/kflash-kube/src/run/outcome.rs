//! How a flash ended, by what its pods left.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kflash::cluster::{Outcome, Summary, container};
use kflash::exit::ExitCode;

use super::Ending;

/// The containers with the device, the last first.
const FLASHERS: [&str; 3] = [container::FLASHER, container::WRITE, container::ENTER];

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
    let all: Vec<_> = status.init_container_statuses.iter().chain(&status.container_statuses).flatten().collect();
    let last = FLASHERS.iter().find_map(|name| of_flasher(all.iter().find(|container| container.name == *name)?));
    // Or else it never came to flashing.
    last.or_else(|| all.into_iter().find_map(of_another))
}

/// What a container without the device spoilt.
fn of_another(container: &ContainerStatus) -> Option<Ending> {
    let end = container.state.as_ref()?.terminated.as_ref().filter(|end| end.exit_code != 0)?;
    let exit = exit_of(end);
    let said = end.message.as_deref().map(|said| format!(": {}", said.trim())).unwrap_or_default();
    let message = format!("the container {} ended with {}{said}", container.name, end.exit_code);
    Some(Ending { exit, summary: Summary::new(Outcome::Failed, exit, Some(message)) })
}

/// What a container with the device left, unless it left everything to the one that follows it.
fn of_flasher(container: &ContainerStatus) -> Option<Ending> {
    let state = container.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        let message = "the flash was under way when its pod went: the state of the board is unknown";
        let exit = ExitCode::Internal;
        return Some(Ending { exit, summary: Summary::new(Outcome::Failed, exit, Some(message.into())) });
    }
    // Between two phases it waits to be created again.
    let ended =
        [state, container.last_state.as_ref()].into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    let exit = exit_of(ended);
    let said = ended.message.as_deref().and_then(|message| serde_json::from_str::<Summary>(message).ok());
    match said {
        Some(summary) if summary.exit == exit => Some(Ending { exit, summary }),
        // For the kubelet it ended well, as another follows.
        Some(summary) if summary.result == Outcome::Phase && exit == ExitCode::Ok => {
            Some(Ending { exit: summary.exit, summary })
        }
        // Its exit code is what the kubelet saw; a message that says otherwise is somebody else's.
        _ if container.name != container::FLASHER && exit == ExitCode::Ok => None,
        _ => Some(Ending { exit, summary: without_result(ended, exit) }),
    }
}

fn without_result(end: &ContainerStateTerminated, exit: ExitCode) -> Summary {
    let result = if exit == ExitCode::Ok { Outcome::Flashed } else { Outcome::Failed };
    let reason = end.reason.as_deref().unwrap_or("no reason was given");
    Summary::new(result, exit, Some(format!("it left no result: exit code {}, {reason}", end.exit_code)))
}

fn exit_of(end: &ContainerStateTerminated) -> ExitCode {
    // What is none of ours is a signal, or the container never ran.
    u8::try_from(end.exit_code).ok().and_then(ExitCode::of_code).unwrap_or(ExitCode::Internal)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use serde_json::{Value, json};

    use super::*;

    fn status(name: &str, state: &str, of: &Value) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, state: of})
    }

    fn ended(code: u8, summary: Option<&Summary>) -> Value {
        let message = summary.map(|summary| serde_json::to_string(summary).unwrap());
        json!({"terminated": {"exitCode": code, "message": message}})
    }

    fn exit(init: &[Value], main: &Value) -> (ExitCode, Outcome, String) {
        let status = json!({"initContainerStatuses": init, "containerStatuses": [main]});
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
        let Ending { exit, summary } = of(&Ended::Deleted, [pod].iter());
        (exit, summary.result, summary.message.unwrap_or_default())
    }

    #[test]
    fn of_a_flash_in_phases_the_last_container_that_began_tells() {
        let phase = Summary::new(Outcome::Phase, ExitCode::Phase, Some("in its bootloader".into()));
        let failed = Summary::new(Outcome::Failed, ExitCode::Write, Some("it stalls".into()));
        let flashed = Summary::new(Outcome::Flashed, ExitCode::Ok, None);
        let waiting = status("kflash", "state", &json!({"waiting": {"reason": "PodInitializing"}}));
        let enter = |summary| status("kflash-enter", "state", &ended(0, summary));
        let quiesce = status("quiesce", "state", &json!({"running": {}}));

        // Created again in its place.
        let mut again = status("kflash", "lastState", &ended(75, Some(&phase)));
        assert_eq!(exit(&[], &again), (ExitCode::Phase, Outcome::Phase, "in its bootloader".into()));
        again["state"] = json!({"running": {}});
        assert_eq!(exit(&[], &again).0, ExitCode::Internal);
        again["state"] = ended(0, Some(&flashed));
        assert_eq!(exit(&[], &again), (ExitCode::Ok, Outcome::Flashed, String::new()));

        // Init containers.
        let begun = [quiesce, enter(Some(&phase))];
        assert_eq!(exit(&begun, &waiting), (ExitCode::Phase, Outcome::Phase, "in its bootloader".into()));
        let write = |state: &Value| [&begun[..], &[status("kflash-write", "state", state)]].concat();
        let spoilt = write(&ended(11, Some(&failed)));
        assert_eq!(exit(&spoilt, &waiting), (ExitCode::Write, Outcome::Failed, "it stalls".into()));
        let killed = exit(&write(&ended(137, None)), &waiting);
        assert_eq!((killed.0, killed.1), (ExitCode::Internal, Outcome::Failed));
        let (code, _, message) = exit(&write(&json!({"running": {}})), &waiting);
        assert!(code == ExitCode::Internal && message.contains("under way"), "{message}");
        let confirmed = status("kflash", "state", &ended(0, Some(&flashed)));
        assert_eq!(exit(&write(&ended(0, Some(&phase))), &confirmed).1, Outcome::Flashed);

        // What quiesce refused is for the last to tell: that one left nothing is no flash.
        assert_eq!(exit(&[enter(None)], &waiting).0, ExitCode::Cancelled);
        let refused = Summary::new(Outcome::Refused, ExitCode::Busy, Some("it prints".into()));
        let told = status("kflash", "state", &ended(5, Some(&refused)));
        assert_eq!(exit(&[enter(None)], &told), (ExitCode::Busy, Outcome::Refused, "it prints".into()));
    }
}
