//! The print gate: may Klipper be stopped now?

use std::collections::BTreeMap;
use std::future::Future;

use kflash::exit::ExitCode;

/// What Moonraker says of a printer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrinterState {
    /// The state of the Klipper host.
    pub klippy: Klippy,
    /// What it is at, where it is ready.
    pub work: Option<Work>,
    /// The firmware's version of each micro-controller, by Klipper's name of it (`mcu`, `mcu EBB`).
    pub mcus: BTreeMap<String, String>,
}

/// The state of the Klipper host, as Moonraker's `/printer/info` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Klippy {
    /// It drives the printer.
    Ready,
    /// It connects to its micro-controllers.
    Startup,
    /// It stopped for a fault, with this message.
    Error(String),
    /// It was shut down, with this message.
    Shutdown(String),
    /// It does not run, or Moonraker cannot reach it.
    Disconnected,
}

/// What a printer is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// `print_stats.state`: `standby`, `printing`, `paused`, `complete`, `cancelled`, `error`.
    pub print: String,
    /// `print_stats.filename`; empty where there is none.
    pub file: String,
    /// `virtual_sdcard.is_active`: a file is being read.
    pub reads_file: bool,
    /// `idle_timeout.state`: `Idle`, `Ready`, `Printing`; the last means that commands are being carried out.
    pub idle: String,
}

/// What came of asking Moonraker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Its answer.
    State(PrinterState),
    /// None, for this reason.
    Unreachable(String),
    /// It wants to know who asks.
    Denied(String),
}

/// Asks Moonraker.
pub trait Printer: Sync {
    /// Asks it once, in bounded time.
    fn ask(&self) -> impl Future<Output = Answer> + Send;
}

/// A gate that is shut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shut {
    /// The code that a flash ends with.
    pub exit: ExitCode,
    /// Why.
    pub reason: String,
    /// Whether waiting opens it.
    pub waits: bool,
}

/// Whether Klipper may be stopped. `ready` names a pod of it in which something is ready; `trusting` takes no answer for
/// a printer that does nothing.
pub fn gate(answer: &Answer, ready: Option<&str>, trusting: bool) -> Result<(), Shut> {
    let shut = |reason| Err(Shut { exit: ExitCode::Busy, reason, waits: true });
    let state = match (answer, ready) {
        (Answer::State(state), _) => state,
        // Nothing runs that could print.
        (_, None) => return Ok(()),
        (Answer::Denied(_) | Answer::Unreachable(_), Some(_)) if trusting => return Ok(()),
        (Answer::Denied(why), Some(pod)) => {
            let reason = format!("cannot tell whether the printer prints, and pod {pod} is ready: {why}");
            return Err(Shut { exit: ExitCode::Denied, reason, waits: false });
        }
        (Answer::Unreachable(why), Some(pod)) => {
            return shut(format!("cannot tell whether the printer prints, and pod {pod} is ready: {why}"));
        }
    };
    if state.klippy != Klippy::Ready {
        // Where Klipper stopped, a flash is often the cure.
        return Ok(());
    }
    let Some(work) = &state.work else {
        return shut("Klipper is ready, but Moonraker does not say whether it prints".into());
    };
    let file = if work.file.is_empty() { String::new() } else { format!(" {}", work.file) };
    match work.print.as_str() {
        "printing" => shut(format!("the printer is printing{file}")),
        "paused" => shut(format!("the printer has paused{file}")),
        "standby" | "complete" | "cancelled" | "error" if work.reads_file => shut(format!("the printer reads{file}")),
        "standby" | "complete" | "cancelled" | "error" if work.idle.eq_ignore_ascii_case("printing") => {
            shut("the printer is carrying out commands".into())
        }
        "standby" | "complete" | "cancelled" | "error" => Ok(()),
        other => shut(format!("the printer is in a state that kflash does not know: '{other}'")),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn ready(print: &str) -> PrinterState {
        let work = Work { print: print.into(), file: "benchy.gcode".into(), reads_file: false, idle: "Ready".into() };
        PrinterState { klippy: Klippy::Ready, work: Some(work), mcus: BTreeMap::new() }
    }

    fn asked(state: PrinterState) -> Result<(), Shut> {
        gate(&Answer::State(state), Some("voron-klipper-0"), false)
    }

    #[test]
    fn a_printer_that_does_nothing_may_be_flashed() {
        for print in ["standby", "complete", "cancelled", "error"] {
            assert_eq!(asked(ready(print)), Ok(()), "{print}");
        }
    }

    #[test]
    fn one_that_prints_or_has_paused_may_not() {
        for print in ["printing", "paused"] {
            let shut = asked(ready(print)).unwrap_err();
            assert_eq!(shut.exit, ExitCode::Busy);
            assert!(shut.waits && shut.reason.contains("benchy.gcode"), "{shut:?}");
        }
    }

    #[test]
    fn nor_one_that_is_at_something_else() {
        let mut homing = ready("standby");
        homing.work.as_mut().unwrap().idle = "Printing".into();
        assert!(asked(homing).is_err());
        let mut reading = ready("complete");
        reading.work.as_mut().unwrap().reads_file = true;
        assert!(asked(reading).is_err());
        assert!(asked(ready("levitating")).unwrap_err().reason.contains("'levitating'"));
        assert!(asked(PrinterState { work: None, ..ready("standby") }).is_err());
    }

    #[test]
    fn where_klipper_has_stopped_a_flash_is_often_the_cure() {
        for klippy in [
            Klippy::Error("mcu 'mcu': Unable to connect".into()),
            Klippy::Shutdown("Emergency stop".into()),
            Klippy::Disconnected,
            Klippy::Startup,
        ] {
            // The last word of a print that broke off may still be there.
            assert_eq!(asked(PrinterState { klippy, ..ready("printing") }), Ok(()));
        }
    }

    #[test]
    fn no_answer_while_klipper_may_print_is_no_leave() {
        let unreachable = Answer::Unreachable("timed out".into());
        let shut = gate(&unreachable, Some("voron-klipper-0"), false).unwrap_err();
        assert_eq!((shut.exit, shut.waits), (ExitCode::Busy, true));
        assert!(shut.reason.contains("voron-klipper-0") && shut.reason.contains("timed out"), "{}", shut.reason);
        let denied = Answer::Denied("Moonraker answers 401".into());
        let shut = gate(&denied, Some("voron-klipper-0"), false).unwrap_err();
        assert_eq!((shut.exit, shut.waits), (ExitCode::Denied, false));
        for answer in [unreachable, denied] {
            assert_eq!(gate(&answer, Some("voron-klipper-0"), true), Ok(()), "told to trust");
            assert_eq!(gate(&answer, None, false), Ok(()), "nothing runs that could print");
        }
        assert!(gate(&Answer::State(ready("printing")), Some("p"), true).is_err(), "trust is for no answer only");
        assert!(gate(&Answer::State(ready("printing")), None, false).is_err(), "its word counts more than the pod's");
    }
}
