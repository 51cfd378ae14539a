//! The container with the device: it does what `quiesce` has said, and leaves what came of it.

use std::fs;
use std::path::PathBuf;

use kflash::cluster::{Confirmed, Gate, Outcome, Summary, file};
use kflash::exit::ExitCode;

use crate::desk::{Desk, NEW, OLD, Ran, printer};

struct Pod {
    desk: Desk,
    shared: PathBuf,
    message: PathBuf,
}

impl Pod {
    fn new() -> Self {
        let desk = Desk::new();
        let (shared, message) = (desk.0.path().join("shared"), desk.0.path().join("termination"));
        fs::create_dir(&shared).unwrap();
        fs::write(&message, "").unwrap();
        Self { desk, shared, message }
    }

    /// The container's run with this word of `quiesce`, and what it leaves.
    fn flash(&self, config: &str, gate: Option<&Gate>, more: &[&str]) -> (Ran, Summary) {
        if let Some(gate) = gate {
            gate.write(&self.shared.join(file::GATE)).unwrap();
        }
        let (shared, message) = (self.shared.to_str().unwrap(), self.message.to_str().unwrap());
        let arguments = ["flash", "--no-moonraker", "--shared", shared, "--termination-message", message];
        let ran = self.desk.kflash(config, &[&arguments, more].concat());
        let left = Summary::read(&self.shared.join(file::RESULT)).unwrap().unwrap();
        let message = fs::read(&self.message).unwrap();
        assert!(message.len() < 4096);
        assert_eq!(serde_json::from_slice::<Summary>(&message).unwrap(), left);
        assert_eq!((ran.code, ran.code), (left.exit_code.into(), left.exit.code().into()), "{ran:?}");
        (ran, left)
    }
}

#[test]
fn it_flashes_once_klipper_is_stopped_and_says_what_it_came_to() {
    let pod = Pod::new();
    let (mcu, toolhead) = (pod.desk.serve("btt-octopus-v1.1-f446"), pod.desk.serve("btt-ebb36-v1.2"));
    let one = printer("voron", None) + &mcu.configured("mcu");
    let (_, left) = pod.flash(&one, Some(&Gate::Open), &["--printer", "voron"]);
    assert_eq!((left.result, left.exit), (Outcome::Flashed, ExitCode::Ok));
    assert_eq!((left.before.as_deref(), left.now.as_deref()), (Some(OLD), Some(NEW)));
    assert!(left.durations_ms.contains_key("read-back"), "{left:?}");
    let image = fs::read(&mcu.firmware).unwrap();
    assert_eq!(left.sha256.unwrap(), kflash::digest::Sha256::of(&image).to_string());

    // The first is current by now, and of the third there is nothing.
    let (id, nobody) = ("btt-ebb36-v1.2", crate::desk::NOBODY);
    let two = one.clone() + &toolhead.configured("toolhead");
    let third = format!(
        "[[printers.boards]]\nname = \"gone\"\nboard = \"{id}\"\ndevice = [\"usbip://{nobody}/1-1\"]\nfirmware = {{ file = \"{}\" }}\n",
        toolhead.firmware.display()
    );
    let (_, left) = pod.flash(&(two + &third), None, &["--printer", "voron"]);
    assert_eq!((left.result, left.exit), (Outcome::Failed, ExitCode::NotFound), "{left:?}");
    assert!(left.message.as_deref().unwrap().starts_with("1 of 3 boards failed: voron/gone: "), "{left:?}");
    let of = |name: &str| (left.boards[name].result, left.boards[name].confirmed().is_some());
    assert_eq!(of("voron/mcu"), (Outcome::AlreadyCurrent, true));
    assert_eq!(of("voron/toolhead"), (Outcome::Flashed, true));
    assert_eq!(of("voron/gone"), (Outcome::Failed, false));
}

#[test]
fn it_opens_no_device_unless_it_is_told_to() {
    let pod = Pod::new();
    let mcu = pod.desk.serve("btt-octopus-v1.1-f446");
    let config = printer("voron", None) + &mcu.configured("mcu");
    let (ran, left) = pod.flash(&config, None, &["--printer", "voron"]);
    assert_eq!((left.result, left.exit), (Outcome::Refused, ExitCode::Usage));
    assert!(ran.said.contains("quiesce has said nothing in "), "{}", ran.said);

    let reason = "the printer is printing benchy.gcode (42 %)".to_owned();
    let refused = Gate::Refused { exit: ExitCode::Busy, reason: reason.clone() };
    let (ran, left) = pod.flash(&config, Some(&refused), &["--printer", "voron"]);
    assert_eq!((left.result, left.exit, left.message), (Outcome::Refused, ExitCode::Busy, Some(reason.clone())));
    assert_eq!((&ran.result["result"], &ran.result["message"]), (&"failed".into(), &reason.into()));

    let runs = |version: &str| Confirmed { version: version.into(), sha256: "ab".repeat(32) };
    let current = Gate::AlreadyCurrent { boards: [("mcu".to_owned(), runs(NEW))].into() };
    let (ran, left) = pod.flash(&config, Some(&current), &["--printer", "voron"]);
    assert_eq!((left.result, left.exit), (Outcome::AlreadyCurrent, ExitCode::Ok));
    assert_eq!((&ran.result["result"], &ran.result["now"]), (&"already-current".into(), &NEW.into()));
    let boards = [("mcu".to_owned(), runs(NEW)), ("mcu EBB".to_owned(), runs("v2"))];
    let (_, left) = pod.flash(&config, Some(&Gate::AlreadyCurrent { boards: boards.into() }), &["--printer", "voron"]);
    assert_eq!((left.result, left.exit, left.boards.len()), (Outcome::AlreadyCurrent, ExitCode::Ok, 2));
    assert_eq!(left.boards["mcu EBB"].confirmed(), Some(runs("v2")));

    for nothing in ["{}", r#"{"gate":"already-current","boards":{}}"#] {
        fs::write(pod.shared.join(file::GATE), nothing).unwrap();
        let (_, left) = pod.flash(&config, None, &["--printer", "voron"]);
        assert_eq!((left.result, left.exit), (Outcome::Refused, ExitCode::Internal), "{nothing}");
    }
    assert!(mcu.untouched());
}

#[test]
fn it_says_why_it_never_came_to_flashing() {
    let pod = Pod::new();
    let (_, left) = pod.flash("", Some(&Gate::Open), &["--printer", "voron"]);
    assert_eq!((left.result, left.exit), (Outcome::Failed, ExitCode::Usage));
    assert!(left.message.unwrap().contains("voron"));

    // Of a virtual board nothing is confirmed.
    let (_, left) = pod.flash("", None, &["--board", "btt-octopus-v1.1-f446", "--simulate"]);
    assert_eq!((left.result, left.exit, left.confirmed()), (Outcome::Flashed, ExitCode::Ok, None));
}
