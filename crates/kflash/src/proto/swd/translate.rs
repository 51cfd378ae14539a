//! probe-rs's errors in the terms that decide what happens next.

use std::error::Error;
use std::io;
use std::time::Duration;

use probe_rs::architecture::arm::{ArmError, DapError};
use probe_rs::flashing::FlashError;
use probe_rs::probe::DebugProbeError;

use crate::link::LinkError;
use crate::proto::ProtoError;

/// probe-rs does not tell how long it waited for an algorithm: the longest time in `boards/swd/`.
const LONGEST_WAIT: Duration = Duration::from_secs(6);

/// `error` while `doing` something.
pub fn failed(doing: &str, error: &(dyn Error + 'static)) -> ProtoError {
    let doing = doing.to_owned();
    let refused = |status: &str| ProtoError::Status { doing: doing.clone(), status: status.into(), protected: false };
    match cause(error) {
        Cause::Gone => ProtoError::Link { doing, source: LinkError::Gone },
        Cause::ProbeSilent(after) => ProtoError::Link { doing, source: LinkError::TimedOut(after) },
        Cause::TargetSilent => {
            ProtoError::Link { doing, source: LinkError::Malformed("the chip does not answer any more".into()) }
        }
        Cause::Busy => refused("the chip answers WAIT without end"),
        Cause::Fault => refused("the chip answers FAULT: the access failed on its bus"),
        Cause::Refused { routine, code: 1 } => {
            refused(&format!("the chip's flash controller refused it ({routine} of the flash algorithm says so)"))
        }
        // A core that is caught in a fault looks to probe-rs like one that came to its end.
        Cause::Refused { routine, code } => {
            refused(&format!("the flash algorithm ended with {code:#x} in {routine}, which is none of its answers"))
        }
        Cause::LockedUp => refused("the flash algorithm crashed on the chip"),
        Cause::TimedOut => ProtoError::Stuck { doing, after: LONGEST_WAIT },
        Cause::Other => ProtoError::Malformed { doing, what: text(error) },
    }
}

/// An operation that was not begun.
pub fn unsupported(doing: &str, why: impl Into<String>) -> ProtoError {
    ProtoError::Unsupported { doing: doing.to_owned(), why: why.into() }
}

/// What lies at the bottom of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The probe left the bus.
    Gone,
    /// The probe stopped answering.
    ProbeSilent(Duration),
    /// The chip does not acknowledge.
    TargetSilent,
    /// WAIT, more often than the probe repeats.
    Busy,
    /// FAULT.
    Fault,
    /// A routine of the flash algorithm said no.
    Refused {
        routine: String,
        code: u32,
    },
    /// The core locked up in the flash algorithm.
    LockedUp,
    /// Something was not done in its time.
    TimedOut,
    Other,
}

/// The first thing of an error's chain, from its bottom, that tells.
pub fn cause(error: &(dyn Error + 'static)) -> Cause {
    let mut found = Cause::Other;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(cause) = one(error) {
            found = cause;
        }
        next = error.source();
    }
    found
}

fn one(error: &(dyn Error + 'static)) -> Option<Cause> {
    if let Some(error) = error.downcast_ref::<DapError>() {
        return Some(match error {
            DapError::NoAcknowledge | DapError::IncorrectParity | DapError::Protocol(_) => Cause::TargetSilent,
            DapError::FaultResponse => Cause::Fault,
            DapError::WaitResponse => Cause::Busy,
        });
    }
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return Some(match error.kind() {
            io::ErrorKind::TimedOut => Cause::ProbeSilent(PROBE_PATIENCE),
            _ => Cause::Gone,
        });
    }
    match error.downcast_ref::<DebugProbeError>() {
        Some(DebugProbeError::Timeout) => return Some(Cause::ProbeSilent(PROBE_PATIENCE)),
        Some(DebugProbeError::TargetNotFound) => return Some(Cause::TargetSilent),
        _ => {}
    }
    match error.downcast_ref::<FlashError>() {
        Some(FlashError::RoutineCallFailed { name, error_code }) => {
            return Some(Cause::Refused { routine: name.clone(), code: *error_code });
        }
        Some(FlashError::UnexpectedCoreStatus { .. }) => return Some(Cause::LockedUp),
        _ => {}
    }
    let timed_out = matches!(error.downcast_ref::<ArmError>(), Some(ArmError::Timeout))
        || match error.downcast_ref::<probe_rs::Error>() {
            Some(probe_rs::Error::Timeout) => true,
            // What a time-out while attaching under reset is made into.
            Some(probe_rs::Error::Other(text)) => text.starts_with("Timeout"),
            _ => false,
        };
    timed_out.then_some(Cause::TimedOut)
}

/// How long probe-rs waits for a probe's answer.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// An error with its causes, in one line.
pub fn text(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        // `#[error(transparent)]` says everything twice.
        if !text.ends_with(&more) {
            text = format!("{}: {more}", text.trim_end_matches('.'));
        }
        next = error.source();
    }
    text.trim_end_matches('.').to_owned()
}
