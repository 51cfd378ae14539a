//! Printers of a configuration: their boards flashed at once, on USB/IP, and their Moonrakers asked first.

use serde_json::json;

use crate::desk::{Desk, NEW, NOBODY, OLD, moonraker, printer};

#[test]
fn all_boards_are_flashed_at_once_and_one_that_fails_stops_no_other() {
    let desk = Desk::new();
    let (mcu, toolhead) = (desk.serve("btt-octopus-v1.1-f446"), desk.serve("btt-ebb36-v1.2"));
    let (first, second) = (mcu.configured("mcu"), toolhead.configured("toolhead"));
    let gone = mcu.configured("gone").replace(&mcu.address.to_string(), NOBODY);
    let config = printer("voron", None) + &first + &gone + &printer("trident", None) + &second;
    let ran = desk.kflash(&config, &["flash", "--all"]);
    assert_eq!(ran.code, 4, "{ran:#?}");
    assert_eq!((&ran.result["result"], &ran.result["exit_code"]), (&json!("summary"), &json!(4)));
    for (name, served) in [("voron/mcu", &mcu), ("trident/toolhead", &toolhead)] {
        let ended = ran.of_board(name);
        assert_eq!((&ended["result"], &ended["exit_code"]), (&json!("flashed"), &json!(0)), "{ran:#?}");
        assert_eq!((&ended["before"]["version"], &ended["now"]["version"]), (&json!(OLD), &json!(NEW)));
        served.wait_for(&format!("running application version={NEW:?}"));
        let phases = ran.events.iter().filter(|event| event["board"] == name && event["event"] == "phase");
        assert_eq!(phases.clone().next().unwrap()["phase"], "look");
        assert!(phases.clone().any(|event| event["phase"] == "write"));
    }
    let failed = ran.of_board("voron/gone");
    assert_eq!((&failed["exit_code"], &failed["board"]), (&json!(4), &json!("untouched")), "{ran:#?}");
    assert!(ran.said.contains("voron/gone: error: "), "{}", ran.said);

    // What runs already is not written again, and so the run is as good as its other boards.
    let again = desk.kflash(&(printer("voron", None) + &first), &["flash", "--printer", "voron"]);
    assert_eq!((again.code, &again.of_board("voron/mcu")["result"]), (0, &json!("already-current")), "{again:#?}");
    let verified = desk.kflash(&(printer("voron", None) + &first), &["verify", "--printer", "voron"]);
    assert_eq!(verified.of_board("voron/mcu")["result"], "dictionary-matches", "{verified:#?}");
}

#[test]
fn while_it_prints_nothing_is_done_to_any_of_its_boards() {
    let desk = Desk::new();
    let mcu = desk.serve("btt-octopus-v1.1-f446");
    let (url, keys) = moonraker("printing", "Printing");
    let config = printer("voron", Some(&url)) + &mcu.configured("mcu");
    let device = format!("usbip://{}/1-1", mcu.address);
    let firmware = mcu.firmware.to_str().unwrap();
    // By its printer's name or without, it is the same board.
    let by_device = ["flash", "--board", mcu.id, "--device", &device, "--firmware", firmware];
    for arguments in [&["flash", "--printer", "voron"][..], &by_device] {
        let ran = desk.kflash(&config, arguments);
        assert_eq!(ran.code, 5, "{ran:#?}");
        let ended = if ran.result["result"] == "summary" { ran.of_board("voron/mcu") } else { &ran.result };
        assert_eq!(ended["message"], "voron prints benchy.gcode, 42 %", "{ran:#?}");
        assert_eq!((&ended["kind"], &ended["board"]), (&json!("printing"), &json!("untouched")));
        assert_eq!(keys.try_iter().collect::<Vec<_>>(), ["5ec4e7", "5ec4e7"]);
        assert!(mcu.untouched());
        assert!(!format!("{ran:?}").contains("5ec4e7"));
    }
    let other = desk.kflash(
        &config,
        &["flash", "--board", mcu.id, "--device", &device, "--firmware", firmware, "--moonraker", &url],
    );
    assert_eq!(other.result["message"], "the printer prints benchy.gcode, 42 %", "{other:#?}");

    // A plan touches nothing, so nobody is asked; and who takes it upon himself is not stopped.
    let plan = desk.kflash(&config, &["plan", "--printer", "voron"]);
    assert_eq!(plan.code, 0, "{plan:#?}");
    let forced = desk.kflash(&config, &["flash", "--printer", "voron", "--no-moonraker"]);
    assert_eq!((forced.code, &forced.of_board("voron/mcu")["result"]), (0, &json!("flashed")), "{forced:#?}");
}

#[test]
fn who_does_not_answer_may_be_printing() {
    let desk = Desk::new();
    let mcu = desk.serve("btt-octopus-v1.1-f446");
    let config = printer("voron", Some(&format!("http://{NOBODY}"))) + &mcu.configured("mcu");
    let ran = desk.kflash(&config, &["flash", "--printer", "voron"]);
    let ended = ran.of_board("voron/mcu");
    assert_eq!((ran.code, &ended["kind"]), (5, &json!("not-asked")), "{ran:#?}");
    let start = format!("whether voron prints is not known: Moonraker at http://{NOBODY} does not answer: ");
    assert!(ended["message"].as_str().unwrap().starts_with(&start), "{ran:#?}");
    assert!(ended["hint"].as_str().unwrap().contains("--no-moonraker"), "{ran:#?}");
    assert!(mcu.untouched());
}

#[test]
fn a_printer_that_does_nothing_is_flashed() {
    let desk = Desk::new();
    let mcu = desk.serve("btt-octopus-v1.1-f446");
    let (url, keys) = moonraker("complete", "Idle");
    let config = printer("voron", Some(&url)) + &mcu.configured("mcu");
    let ran = desk.kflash(&config, &["flash", "--printer", "voron"]);
    assert_eq!((ran.code, &ran.of_board("voron/mcu")["result"]), (0, &json!("flashed")), "{ran:#?}");
    assert_eq!(keys.try_iter().count(), 2);
}
