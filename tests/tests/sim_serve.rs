//! The `kflash-sim` command: what it prints, what its controls do, how it ends.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::Command;

use kflash_sim::firmware::TestImage;
use tempfile::tempdir;
use tests::binary::static_binary;
use tests::served::Served;

const BOARD: &str = "btt-octopus-v1.1-f446";

fn fails_with(arguments: &[&str]) -> String {
    let output = Command::new(static_binary("kflash-sim")).args(["serve", "--board"]).args(arguments).output();
    let output = output.unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn the_buttons_lead_where_they_lead_on_a_board() {
    let served = Served::new(BOARD, &[]);
    assert!(served.wait_for("ready").starts_with("ready mount=usbip listen=127.0.0.1:"));
    served.wait_for(r#"running application version="v0."#);
    let enumerated = served.wait_for("enumerated");
    let expected = r#"enumerated id=1d50:614e path=1-1 product="stm32f446xx" serial="290034001751333038363536""#;
    assert_eq!(enumerated, expected);

    served.control("double-reset");
    served.wait_for("gone");
    served.wait_for("enumerated id=1d50:6177");
    served.control("boot0 on");
    served.control("reset");
    served.wait_for("running rom");
    served.wait_for("enumerated id=0483:df11");
    served.control("boot0 off");
    served.control("power off");
    served.wait_for("running off");
    served.control("power on");
    served.wait_for("enumerated id=1d50:614e path=1-1 ");
    served.control("unplug");
    served.wait_for("gone");
    served.control("plug 1-1.4");
    served.wait_for("enumerated id=1d50:614e path=1-1.4");
    served.control("jump");
    assert!(served.wait_for("error").contains("double-reset"));
    assert!(served.end().success());
}

#[test]
fn modes_are_where_the_board_is_at_first() {
    for (mode, event) in [("katapult", "enumerated id=1d50:6177"), ("dfu", "enumerated id=0483:df11")] {
        let served = Served::new(BOARD, &["--mode", mode]);
        served.wait_for(event);
        served.control("reset");
        // Nobody holds a button any more.
        served.wait_for("enumerated id=1d50:614e");
    }
}

#[test]
fn the_dump_is_the_flash() {
    let folder = tempdir().unwrap();
    let [dump, copy, firmware] = ["dump.bin", "copy.bin", "klipper.bin"].map(|name| folder.path().join(name));
    let image = TestImage::klipper("stm32f446xx", 0x0800_8000).size(20_000).build();
    fs::write(&firmware, &image).unwrap();
    let [dump_text, firmware_text] = [&dump, &firmware].map(|path| path.to_str().unwrap());
    let served = Served::new(BOARD, &["--firmware", firmware_text, "--dump", dump_text]);
    served.wait_for("enumerated");
    served.control(&format!("dump {}", copy.display()));
    served.wait_for("done dump");
    served.control("dump /nowhere/at/all");
    assert!(served.wait_for("error").contains("/nowhere/at/all"));
    assert!(served.end().success());

    let flash = fs::read(&dump).unwrap();
    assert_eq!(flash.len(), 512 * 1024);
    assert_eq!(flash[0x8000..0x8000 + image.len()], image);
    assert!(flash[0x8000 + image.len()..].iter().all(|&byte| byte == 0xff));
    assert!(flash[..0x8000].iter().any(|&byte| byte != 0xff), "no Katapult below the application");
    assert_eq!(fs::read(&copy).unwrap(), flash);
}

#[test]
fn sigterm_ends_it_and_leaves_no_host_behind() {
    let folder = tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let served = Served::new(BOARD, &["--mount", "pty", "--host-root", root]);
    let tty = served.wait_for("tty");
    assert!(tty.contains(" node=/dev/ttyACM0 by-id=/dev/serial/by-id/usb-Klipper_stm32f446xx_"), "{tty}");
    assert!(folder.path().join("sys/bus/usb/devices/1-1/idVendor").exists());
    served.signal("TERM");
    assert!(served.wait().success());
    assert!(!folder.path().join("dev/ttyACM0").is_symlink());
    assert_eq!(fs::read_dir(folder.path().join("sys/bus/usb/devices")).unwrap().count(), 0);
}

#[test]
fn quit_ends_it() {
    let served = Served::new(BOARD, &[]);
    served.wait_for("ready");
    served.control("quit");
    assert!(served.wait().success());
}

#[test]
fn what_cannot_be_served_is_refused_with_a_reason() {
    assert!(fails_with(&["octopuss-v1.1"]).contains("did you mean"));
    assert!(fails_with(&[BOARD, "--bootloader", "optiboot"]).contains("it may have: katapult, vendor, none"));
    assert!(fails_with(&[BOARD, "--bootloader", "none", "--mode", "katapult"]).contains("has no Katapult"));
    assert!(fails_with(&["creality-v4.2.7"]).contains("is reached through a UART: use --mount pty"));
    assert!(fails_with(&[BOARD, "--firmware", "/nowhere.bin"]).contains("cannot read /nowhere.bin: No such file"));
    assert!(fails_with(&[BOARD, "--uid", "12"]).contains("24 hexadecimal digits"));
    if !Path::new("/sys/devices/platform/vhci_hcd.0").exists() {
        assert!(fails_with(&[BOARD, "--mount", "vhci"]).contains("is the module vhci_hcd loaded?"));
    }
}
