//! Where output goes: the result to stdout, a record of the link to a file, the rule to the host.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, OpenOptions};
use std::process::{Command, Output};

use serde_json::Value;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";

fn kflash(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kflash"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    kflash(arguments).output().unwrap()
}

fn result(output: &Output) -> Value {
    let stdout = str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_rehearsed_plan_says_that_it_is_one() {
    let plan = result(&run(&["plan", "--board", OCTOPUS, "--simulate", "--json"]));
    assert_eq!((&plan["result"], &plan["simulated"], &plan["exit_code"]), (&"plan".into(), &true.into(), &0.into()));
    assert_eq!(plan["operations"].as_array().unwrap().len(), 6, "{plan}");
}

#[test]
fn a_trace_holds_every_link_from_the_touch_to_the_reset() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    let flash = run(&["flash", "--board", OCTOPUS, "--simulate", "--trace", file.to_str().unwrap()]);
    assert_eq!(flash.status.code(), Some(0), "{flash:?}");
    let trace = fs::read_to_string(file).unwrap();
    let at = |what: &str| trace.find(what).unwrap_or_else(|| panic!("no {what:?} in {trace}"));
    // Klipper's first identify, the touch, Katapult's CONNECT and its answer, Klipper again.
    let order =
        [at("> 08 1"), at("= 1200 baud"), at("> 01 88 11 00"), at("< 01 88 a0"), trace.rfind("> 09 1").unwrap()];
    assert!(order.is_sorted(), "{order:?}");
    let times = trace.lines().map(|line| line.split_whitespace().next().unwrap().parse::<f64>().unwrap());
    assert!(times.is_sorted());
}

#[test]
fn a_result_that_cannot_be_written_is_not_lost_in_silence() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let boards = kflash(&["boards", "--json"]).stdout(full).output().unwrap();
    let said = str::from_utf8(&boards.stderr).unwrap();
    assert!(said.starts_with("kflash: cannot write the result: No space left on device"), "{said}");
}

#[test]
fn doctor_installs_the_rule_that_it_misses() {
    let root = tempfile::tempdir().unwrap();
    let doctor = |more: &[&str]| {
        let mut arguments = vec!["doctor", "--json", "--host-root", root.path().to_str().unwrap()];
        arguments.extend(more);
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        result(&output)["findings"].as_array().unwrap().iter().find(|one| one["what"] == "udev rule").unwrap()["state"]
            .clone()
    };
    assert_eq!(doctor(&[]), "note");
    assert_eq!(doctor(&["--udev"]), "ok");
    let rule = fs::read_to_string(root.path().join("etc/udev/rules.d/60-kflash.rules")).unwrap();
    assert!(rule.contains(r#"ATTR{idVendor}=="0483", ATTR{idProduct}=="df11""#), "{rule}");
}

#[test]
fn doctor_looks_at_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = |config: &str| {
        let file = folder.path().join("config.toml");
        fs::write(&file, config).unwrap();
        let root = folder.path().to_str().unwrap();
        let output = run(&["doctor", "--json", "--host-root", root, "--config", file.to_str().unwrap()]);
        let findings = result(&output)["findings"].as_array().unwrap().clone();
        let of_it = findings.iter().filter(|one| one["what"] == "configuration");
        let said = of_it.map(|one| format!("{}: {}", one["state"].as_str().unwrap(), one["is"].as_str().unwrap()));
        let said: Vec<_> = said.map(|said| said.replace(root, "~")).collect();
        (output.status.code(), said.join("\n"))
    };
    let printer =
        |board: &str| format!("[[printers]]\nname = \"a\"\n[[printers.boards]]\nboard = \"{OCTOPUS}\"\n{board}");
    assert_eq!(doctor(&printer("")), (Some(0), "ok: ~/config.toml: 1 printer, 1 board".into()));
    let (code, said) = doctor(&printer("route = \"katapult\"\nfirmware = \"fetch\""));
    let start = "wrong: ~/config.toml: printers.a.boards.btt-octopus-v1.1-f446: route: btt-octopus-v1.1-f446 has no \"katapult\", but katapult-usb, ";
    assert!(code == Some(2) && said.starts_with(start), "{said}");
    assert_eq!(
        doctor("klipper = \"nowhere\""),
        (Some(2), "wrong: ~/config.toml: klipper: ~/nowhere is no Klipper tree".into())
    );
    assert_eq!(doctor("kliper = \"x\"").0, Some(2));
    fs::remove_file(folder.path().join("config.toml")).unwrap();
    let gone = run(&["doctor", "--config", folder.path().join("config.toml").to_str().unwrap()]);
    assert!(str::from_utf8(&gone.stdout).unwrap().contains("WRONG  configuration  cannot read "), "{gone:?}");
}
