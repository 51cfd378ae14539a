//! The shipped kflash in the VM: real cdc_acm, usbfs and udev, boards on the kernel's vhci.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use kflash_sim::firmware::TestImage;
use serde_json::Value;
use tests::binary::static_binary;
use tests::vm::{Outcome, Vm};

const OLD: &str = "v0.13.0-730-g84104bbbd";
const NEW: &str = "v0.13.0-999-gfeedbeef";
/// Offsets of the application behind Katapult and behind nothing.
const BEHIND_KATAPULT: usize = 0x8000;
const BEHIND_NOTHING: usize = 0;

/// The firmware that is flashed, of the board's whole life the second.
fn image(offset: usize) -> Vec<u8> {
    TestImage::klipper("stm32f446xx", 0x0800_0000 + offset as u32).version(NEW).build()
}

/// What the scripts have in common: an Octopus is plugged in by `serve NAME FD OPTIONS..`: its events are in
/// `/out/NAME.events`, its flash in `/out/NAME.bin`, its controls on descriptor FD. `flash RUN FIRMWARE OPTIONS..` is a
/// run of kflash with that exit status, by the user in $AS if that is set; its result is `/out/RUN.json`.
const FUNCTIONS: &str = r#"
    modprobe -a vhci-hcd cdc-acm
    start_udevd
    serve() {
        name=$1
        fd=$2
        shift 2
        mkfifo "$name.controls"
        ./kflash-sim serve --board btt-octopus-v1.1-f446 --mount vhci --known katapult.bin --known none.bin \
            --dump "/out/$name.bin" "$@" < "$name.controls" > "/out/$name.events" &
        eval "exec $fd> $name.controls"
        wait_for 10 grep -q ^attached "/out/$name.events"
    }
    flash() {
        run=$1
        firmware=$2
        shift 2
        code=0
        ${AS:-} ./kflash --json flash --board btt-octopus-v1.1-f446 --firmware "$firmware" "$@" > "$run.log" || code=$?
        tail -n 1 "$run.log" > "/out/$run.json"
        return $code
    }
    # exits CODE COMMAND..: the command must end with that status.
    exits() {
        wanted=$1
        shift
        code=0
        "$@" || code=$?
        [ "$code" = "$wanted" ] || { echo "guest: $* ended with $code, not $wanted"; return 1; }
    }
    tty() {
        wait_for 10 test -e "$1"
        udevadm settle
    }
"#;

/// Runs a script in a guest with both programs, both images and the shipped udev rule.
fn guest(script: &str) -> Outcome {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../udev/60-kflash.rules");
    let outcome = Vm::new()
        .file(static_binary("kflash"), "kflash")
        .file(static_binary("kflash-sim"), "kflash-sim")
        .file(rules, "60-kflash.rules")
        .bytes(image(BEHIND_KATAPULT), "katapult.bin")
        .bytes(image(BEHIND_NOTHING), "none.bin")
        .script(&[FUNCTIONS, script].concat())
        .run();
    assert_eq!(outcome.code, 0, "{}", outcome.output);
    outcome
}

fn result(outcome: &Outcome, run: &str) -> Value {
    serde_json::from_slice(&outcome.file(&format!("{run}.json"))).unwrap()
}

fn events(outcome: &Outcome, board: &str) -> String {
    String::from_utf8(outcome.file(&format!("{board}.events"))).unwrap()
}

/// The board runs the image, was written by the rules, and went through a device with this id on the way.
fn assert_flashed(outcome: &Outcome, board: &str, run: &str, offset: usize, through: &str) {
    let result = result(outcome, run);
    assert_eq!(result["result"], "flashed", "{result:#}");
    assert_eq!(result["now"]["version"], NEW);
    let image = image(offset);
    assert!(outcome.file(&format!("{board}.bin"))[offset..offset + image.len()] == image);
    let events = events(outcome, board);
    assert!(events.contains(&format!("enumerated id={through}")), "{events}");
    assert!(!events.contains("violation"), "{events}");
    let last = events.lines().rfind(|event| event.starts_with("running")).unwrap();
    assert_eq!(last, format!("running application version={NEW:?}"));
}

#[test]
fn the_circle_through_rom_dfu_beside_a_twin_that_sits_in_it_already() {
    let outcome = guest(
        r"
        serve board 3 --port 1-1 --bootloader none
        serve twin 4 --port 1-2 --bootloader none --mode dfu --uid 290034001751333038363537
        tty /dev/ttyACM0
        flash run none.bin --device 1-1
        echo quit >&3
        echo quit >&4
        wait
        ",
    );
    assert_eq!(result(&outcome, "run")["before"]["version"], OLD);
    assert_flashed(&outcome, "board", "run", BEHIND_NOTHING, "0483:df11");
    let twin = events(&outcome, "twin");
    assert!(!twin.contains("erased") && !twin.contains("written") && !twin.contains("gone"), "{twin}");
}

#[test]
fn the_circle_through_katapult_to_another_tty_beside_a_twin() {
    let outcome = guest(
        r"
        serve early 3 --port 1-3
        tty /dev/ttyACM0
        serve board 4 --port 1-1 --uid 290034001751333038363537
        tty /dev/ttyACM1
        serve twin 5 --port 1-2
        tty /dev/ttyACM2
        # The board is ttyACM1 now, and the first number is free when it comes back.
        echo quit >&3
        wait_for 10 test ! -e /dev/ttyACM0
        exits 3 flash ambiguous katapult.bin
        flash run katapult.bin --device 290034001751333038363537
        readlink /dev/serial/by-id/usb-Klipper_stm32f446xx_290034001751333038363537-if00 > /out/tty
        echo quit >&4
        echo quit >&5
        wait
        ",
    );
    assert_flashed(&outcome, "board", "run", BEHIND_KATAPULT, "1d50:6177");
    let run = result(&outcome, "run");
    assert_eq!(run["device"]["tty"]["node"], "/dev/ttyACM0");
    assert_eq!(outcome.file("tty"), b"../../ttyACM0\n");
    let ambiguous = result(&outcome, "ambiguous");
    assert_eq!(ambiguous["exit"], "refused", "{ambiguous:#}");
    let twin = events(&outcome, "twin");
    assert!(!twin.contains("erased") && !twin.contains("written") && !twin.contains("gone"), "{twin}");
}

#[test]
fn an_ordinary_user_flashes_with_the_shipped_udev_rule() {
    let outcome = guest(
        r"
        serve katapult 3 --port 1-1
        tty /dev/ttyACM0
        serve none 4 --port 1-2 --bootloader none
        tty /dev/ttyACM1
        serve rom 5 --port 1-3 --bootloader none --mode dfu
        wait_for 10 usb_devices 0483:df11
        AS=as_user
        exits 6 flash denied-tty katapult.bin --device 1-1
        exits 6 flash denied-usb none.bin --device 1-3
        join_group dialout
        join_group plugdev
        exits 6 flash denied-still none.bin --device 1-3
        install_udev_rules 60-kflash.rules
        flash katapult katapult.bin --device 1-1
        flash none none.bin --device 1-2
        flash rom none.bin --device 1-3
        for fd in 3 4 5; do echo quit >&$fd; done
        wait
        ",
    );
    for (run, node, state) in [
        ("denied-tty", "/dev/ttyACM0", "untouched"),
        ("denied-usb", "/dev/bus/usb/", "in-bootloader"),
        ("denied-still", "/dev/bus/usb/", "in-bootloader"),
    ] {
        let denied = result(&outcome, run);
        assert_eq!((&denied["exit"], &denied["board"]), (&"denied".into(), &state.into()), "{denied:#}");
        assert!(denied["node"].as_str().unwrap().starts_with(node), "{denied:#}");
    }
    assert_flashed(&outcome, "katapult", "katapult", BEHIND_KATAPULT, "1d50:6177");
    assert_flashed(&outcome, "none", "none", BEHIND_NOTHING, "0483:df11");
    assert_flashed(&outcome, "rom", "rom", BEHIND_NOTHING, "0483:df11");
}
