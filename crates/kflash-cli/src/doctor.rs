//! `kflash doctor`: what this host lacks.

mod configuration;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kflash::exit::ExitCode;
use kflash::host::Host;
use kflash::system::SystemHost;
use kflash::udev;
use serde::Serialize;

use crate::args::Shared;
use crate::failure::Failure;
use crate::render;
use crate::sheet::shown;

/// Says what this host lacks for flashing
///
/// Looks for USB, for the boards' nodes and whether this user may open them, for the udev rule, and for programs that are
/// known to take boards for something else; and at the configuration: whether what it names is there. Ends with exit code 6
/// if a board that is plugged in may not be opened, else with 2 if the configuration is wrong.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Install the udev rule that gives whoever sits at this machine, and the groups plugdev and dialout, access to
    /// boards. Needs root
    #[arg(long)]
    udev: bool,
}

/// Programs that open ttys of strange devices, by their name in `/proc/PID/comm`, and what they take them for.
const GRABBERS: [(&str, &str); 2] = [("ModemManager", "modems"), ("brltty", "Braille displays")];

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: String,
    state: State,
    /// What it is like, and what mends it.
    is: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ok,
    /// It may be in the way of some boards.
    Note,
    /// A board that is there cannot be flashed.
    Wrong,
}

#[derive(Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

pub fn run(args: &Args, shared: &Shared) -> Result<ExitCode, Failure> {
    if args.udev {
        install(&shared.host_root)?;
    }
    let mut findings = findings(&shared.host_root);
    let any_wrong = |findings: &[Finding]| findings.iter().any(|finding| finding.state == State::Wrong);
    let denied = any_wrong(&findings);
    findings.extend(configuration::findings(&shared.configuration()));
    let exit = match denied {
        true => ExitCode::Denied,
        false if any_wrong(&findings) => ExitCode::Usage,
        false => ExitCode::Ok,
    };
    if shared.json {
        render::result_json(&Findings { findings });
    } else {
        render::result(&text(&findings));
    }
    Ok(exit)
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.chars().count()).max().unwrap_or(0);
    let line = |finding: &Finding| {
        let mark = match finding.state {
            State::Ok => "ok   ",
            State::Note => "note ",
            State::Wrong => "WRONG",
        };
        format!("{mark}  {:<width$}  {}\n", finding.what, finding.is)
    };
    findings.iter().map(line).collect()
}

fn findings(root: &Path) -> Vec<Finding> {
    let finding = |what: &str, state, is: String| Finding { what: what.to_owned(), state, is };
    let rule = rule(root);
    let mut findings = Vec::new();
    let host = SystemHost::new(root);
    let usb = root.join("sys/bus/usb/devices");
    match host.scan() {
        _ if !usb.is_dir() => {
            let is =
                format!("{} is missing: no USB here, or sysfs is not mounted there", shown(&usb.to_string_lossy()));
            findings.push(finding("USB", State::Note, is));
        }
        Err(error) => findings.push(finding("USB", State::Wrong, error.to_string())),
        Ok(scan) => {
            let boards: Vec<_> = scan.devices.iter().filter(|device| super::detect::may_be_a_board(device)).collect();
            let is = match boards.len() {
                0 => "no boards found".to_owned(),
                1 => "1 board found".to_owned(),
                n => format!("{n} boards found"),
            };
            findings.push(finding("USB", State::Ok, is));
            for device in boards {
                let place = shown(&device.place.to_string());
                findings.push(match host.denied(device) {
                    None => finding(&place, State::Ok, "this user may open it".to_owned()),
                    Some(node) => {
                        let mend = match rule.state {
                            State::Ok => "the rule is there: unplug it and plug it in again",
                            _ => "`sudo kflash doctor --udev` installs a rule",
                        };
                        let is = format!("this user may not open {}; {mend}", shown(&node.to_string_lossy()));
                        finding(&place, State::Wrong, is)
                    }
                });
            }
        }
    }
    findings.push(rule);
    for (name, takes_for) in GRABBERS {
        if is_running(root, name) {
            let is = format!("runs, and may take boards for {takes_for}; kflash says so when it holds one");
            findings.push(finding(name, State::Note, is));
        }
    }
    findings
}

fn rule(root: &Path) -> Finding {
    let path = rule_path(root);
    let (state, is) = match fs::read(&path) {
        Ok(text) if text == udev::RULES.as_bytes() => (State::Ok, "is installed".to_owned()),
        Ok(_) => (State::Note, "is another than this kflash has; `sudo kflash doctor --udev` replaces it".to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            (State::Note, "is not installed; `sudo kflash doctor --udev` does it".to_owned())
        }
        Err(error) => (State::Note, format!("cannot be read: {error}")),
    };
    Finding { what: "udev rule".to_owned(), state, is }
}

fn rule_path(root: &Path) -> PathBuf {
    root.join(udev::RULES_PATH.trim_start_matches('/'))
}

/// Writes the rule, and has udev apply it to what is plugged in where this is udev's own host.
fn install(root: &Path) -> Result<(), Failure> {
    let path = rule_path(root);
    let failed = |error: std::io::Error| {
        let exit = match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ExitCode::Denied,
            _ => ExitCode::Internal,
        };
        let hint = Some("run it with sudo".to_owned()).filter(|_| error.kind() == ErrorKind::PermissionDenied);
        Failure { hint, ..Failure::new(exit, format!("cannot write {}: {error}", path.display())) }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(&path, udev::RULES).map_err(failed)?;
    let applied = root == Path::new("/")
        && udevadm(&["control", "--reload"])
        && udevadm(&["trigger", "--subsystem-match=usb", "--subsystem-match=tty"]);
    let then = if applied { "" } else { "; it holds for boards that are plugged in from now on" };
    render::note(&format!("wrote {}{then}", path.display()));
    Ok(())
}

fn udevadm(arguments: &[&str]) -> bool {
    let mut command = Command::new("udevadm");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn is_running(root: &Path, name: &str) -> bool {
    let processes = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let mut names = processes.filter_map(|process| fs::read(process.path().join("comm")).ok());
    names.any(|comm| comm.trim_ascii_end() == name.as_bytes())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("sys/bus/usb/devices/1-1");
        fs::create_dir_all(&device).unwrap();
        for (name, value) in
            [("idVendor", "0483"), ("idProduct", "df11"), ("bDeviceClass", "00"), ("busnum", "1"), ("devnum", "5")]
        {
            fs::write(device.join(name), value).unwrap();
        }
        root
    }

    #[test]
    fn a_host_without_anything() {
        let root = tempfile::tempdir().unwrap();
        let usb = root.path().join("sys/bus/usb/devices");
        assert_eq!(
            text(&findings(root.path())),
            format!(
                "note   USB        {} is missing: no USB here, or sysfs is not mounted there\n\
                 note   udev rule  is not installed; `sudo kflash doctor --udev` does it\n",
                usb.display()
            )
        );
    }

    #[test]
    fn the_rule_is_installed_and_grabbers_are_named() {
        let root = host();
        fs::create_dir_all(root.path().join("proc/9")).unwrap();
        fs::write(root.path().join("proc/9/comm"), "brltty\n").unwrap();
        install(root.path()).unwrap_or_else(|failure| panic!("{failure:?}"));
        assert_eq!(fs::read_to_string(root.path().join("etc/udev/rules.d/60-kflash.rules")).unwrap(), udev::RULES);
        assert_eq!(
            text(&findings(root.path())),
            "ok     USB        1 board found\n\
             ok     1-1        this user may open it\n\
             ok     udev rule  is installed\n\
             note   brltty     runs, and may take boards for Braille displays; kflash says so when it holds one\n"
        );
        fs::write(root.path().join("etc/udev/rules.d/60-kflash.rules"), "# older").unwrap();
        assert!(text(&findings(root.path())).contains("note   udev rule  is another than this kflash has"));
    }
}
