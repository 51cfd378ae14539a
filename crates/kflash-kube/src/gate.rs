//! The print gate: may Klipper be stopped now?

use std::future::Future;

use kflash::exit::ExitCode;
use kflash::moonraker::{Activity, Job};

/// What came of asking Moonraker.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// What the printer does.
    Does(Activity),
    /// It does not say.
    Silent {
        /// The code that a flash ends with for it.
        exit: ExitCode,
        /// Why not.
        reason: String,
    },
}

/// Asks Moonraker, each time in bounded time.
pub trait Printer: Sync {
    /// What the printer does now.
    fn activity(&self) -> impl Future<Output = Answer> + Send;

    /// The version of the firmware that runs on the micro-controller which Klipper calls `mcu`, where Klipper knows.
    fn firmware(&self, mcu: &str) -> impl Future<Output = Option<String>> + Send;
}

/// A gate that is shut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shut {
    /// The code that a flash ends with.
    pub exit: ExitCode,
    /// Why.
    pub reason: String,
}

impl Shut {
    /// Whether it may open by itself.
    pub fn waits(&self) -> bool {
        self.exit == ExitCode::Busy
    }
}

/// Whether Klipper may be stopped. `ready` names a pod of it in which something is ready; `trusting` takes silence for a
/// printer that does nothing.
pub fn gate(answer: &Answer, ready: Option<&str>, trusting: bool) -> Result<(), Shut> {
    let shut = |reason| Err(Shut { exit: ExitCode::Busy, reason });
    match answer {
        // Also where Klipper stopped for a fault: a flash is often the cure.
        Answer::Does(Activity::Idle { .. }) => Ok(()),
        Answer::Does(Activity::Printing(job)) => shut(format!("the printer is printing{}", print(job))),
        Answer::Does(Activity::Paused(job)) => shut(format!("the printer has paused{}", print(job))),
        Answer::Does(Activity::Moving) => shut("the printer is carrying out commands".into()),
        Answer::Silent { exit, reason } => match ready {
            Some(pod) if !trusting => Err(Shut {
                exit: *exit,
                reason: format!("cannot tell whether the printer prints, and pod {pod} is ready: {reason}"),
            }),
            // Nothing runs that could print, or so we are told.
            _ => Ok(()),
        },
    }
}

fn print(job: &Job) -> String {
    let file = if job.file.is_empty() { String::new() } else { format!(" {}", job.file) };
    let percent = job.percent.map(|percent| format!(" ({percent} %)")).unwrap_or_default();
    file + &percent
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn does(activity: Activity) -> Answer {
        Answer::Does(activity)
    }

    fn job() -> Job {
        Job { file: "benchy.gcode".into(), percent: Some(42) }
    }

    #[test]
    fn a_printer_that_does_nothing_may_be_flashed() {
        for klipper in ["ready", "error", "shutdown", "startup", "disconnected"] {
            let idle = does(Activity::Idle { klipper: klipper.into() });
            assert_eq!(gate(&idle, Some("voron-klipper-0"), false), Ok(()), "{klipper}");
        }
    }

    #[test]
    fn one_at_work_may_not_whatever_the_pods_say() {
        for (activity, reason) in [
            (Activity::Printing(job()), "the printer is printing benchy.gcode (42 %)"),
            (Activity::Paused(job()), "the printer has paused benchy.gcode (42 %)"),
            (Activity::Printing(Job { file: String::new(), percent: None }), "the printer is printing"),
            (Activity::Moving, "the printer is carrying out commands"),
        ] {
            let shut = Err(Shut { exit: ExitCode::Busy, reason: reason.into() });
            let answer = does(activity);
            for ready in [None, Some("voron-klipper-0")] {
                // Trust is for silence only.
                assert_eq!([gate(&answer, ready, false), gate(&answer, ready, true)], [shut.clone(), shut.clone()]);
            }
        }
    }

    #[test]
    fn silence_while_klipper_may_print_is_no_leave() {
        for (exit, waits) in [(ExitCode::Busy, true), (ExitCode::Denied, false), (ExitCode::Usage, false)] {
            let silent = Answer::Silent { exit, reason: "it takes too long".into() };
            let shut = gate(&silent, Some("voron-klipper-0"), false).unwrap_err();
            assert_eq!((shut.exit, shut.waits()), (exit, waits));
            assert!(shut.reason.contains("voron-klipper-0") && shut.reason.contains("too long"), "{}", shut.reason);
            assert_eq!(gate(&silent, Some("voron-klipper-0"), true), Ok(()), "told to trust");
            assert_eq!(gate(&silent, None, false), Ok(()), "nothing runs that could print");
        }
    }
}
