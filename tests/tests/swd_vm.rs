//! A simulated CMSIS-DAP v2 probe in the VM, on the kernel's USB: under kflash with probe-rs's own driver, and under
//! OpenOCD, which has the model of no one here in mind.

use std::path::Path;

use kflash::digest::Sha256;
use kflash_sim::firmware::TestImage;
use serde_json::{Value, json};
use tests::binary::{dynamic_binary, libraries};
use tests::vm::{Outcome, Vm};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const FLASH: u32 = 0x0800_0000;
const APP: u32 = 0x0800_8000;

/// A guest with `programs` of this host, and their libraries.
fn guest(programs: &[&Path]) -> Vm {
    let mut vm = Vm::new();
    let mut given = Vec::new();
    for program in programs {
        for file in libraries(program).into_iter().chain([program.to_path_buf()]) {
            let name = file.file_name().and_then(|name| name.to_str()).expect("a plain name").to_owned();
            if !given.contains(&name) {
                vm = vm.file(file, &name);
                given.push(name);
            }
        }
    }
    vm.bytes(katapult(), "katapult.bin").bytes(klipper("v1"), "v1.bin").bytes(klipper("v2"), "v2.bin")
}

fn katapult() -> Vec<u8> {
    TestImage::katapult("stm32f446xx", FLASH).starting(APP).build()
}

fn klipper(version: &str) -> Vec<u8> {
    TestImage::klipper("stm32f446xx", APP).version(version).build()
}

/// An Octopus in port 1-1, a probe at its chip in port 1-2.
fn serve(options: &str) -> String {
    format!(
        r#"
    export LD_LIBRARY_PATH=/work
    modprobe -a vhci-hcd cdc-acm
    [ -e /run/udev/control ] || start_udevd
    rm -f controls; mkfifo controls
    ./kflash-sim serve --board {OCTOPUS} --mount vhci --port 1-1 --probe 1-2 --timing zero \
        --dump /out/flash.bin {options} < controls >> /out/events &
    exec 3> controls
    wait_for 10 usb_devices 1209:da42
    udevadm settle
    ends() {{ want=$1; shift; code=0; "$@" || code=$?; [ $code = $want ] || {{ echo "ended with $code: $*"; exit 1; }}; }}
    "#
    )
}

const END: &str = "
    echo quit >&3
    wait
";

fn run(vm: Vm, script: &str) -> Outcome {
    let outcome = vm.script(script).run();
    let events = String::from_utf8(outcome.file("events")).expect("events are text");
    assert_eq!(outcome.code, 0, "{}\n{events}", outcome.output);
    assert!(!events.contains("violation") && !events.contains("error"), "{events}");
    outcome
}

fn text(outcome: &Outcome, name: &str) -> String {
    String::from_utf8(outcome.file(name)).expect("text")
}

#[test]
fn an_ordinary_user_brings_an_erased_board_to_life() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../udev/60-kflash.rules");
    let vm = guest(&[&dynamic_binary("kflash"), &dynamic_binary("kflash-sim")]).file(rules, "60-kflash.rules");
    let outcome = run(
        vm,
        &[
            &serve("--erased"),
            "
        kflash() { as_user ./kflash \"$@\"; }
        board='--board btt-octopus-v1.1-f446'
        kflash detect --json > /out/denied.json
        ends 6 kflash flash $board --via swd -f v1.bin 2> /out/denied
        ends 4 kflash flash $board --via swd --probe 1209:da42:OTHER -f v1.bin 2> /out/no-probe

        join_group plugdev
        join_group dialout
        install_udev_rules 60-kflash.rules
        kflash detect --query --json > /out/detect.json
        kflash install-bootloader $board --bootloader katapult.bin -f v1.bin --via swd --json > /out/install.json
        kflash flash $board --via swd --probe 1209:da42:SIM00001 -f v2.bin > /out/flash
        kflash backup $board --via swd /tmp/backup.bin > /out/backup
        cp /tmp/backup.bin /out/
        ends 3 kflash flash --board btt-skr-2-f407 --via swd -f v2.bin 2> /out/wrong-image
        wait_for 10 grep -q 'application version=.v2' /out/events
        ",
            END,
        ]
        .concat(),
    );
    let denied: Value = serde_json::from_slice(&outcome.file("denied.json")).expect("JSON");
    assert_eq!(denied["probes"][0]["accessible"], false, "{denied}");
    let said = text(&outcome, "denied");
    assert!(said.contains("permission denied on the debug probe 1209:da42:SIM00001"), "{said}");
    assert!(said.contains("kflash doctor --udev"), "{said}");
    assert!(text(&outcome, "no-probe").contains("no debug probe 1209:da42:OTHER is plugged in"));

    let found: Value = serde_json::from_slice(&outcome.file("detect.json")).expect("JSON");
    assert_eq!(found["probes"][0]["selector"], "1209:da42:SIM00001", "{found}");
    assert_eq!(found["probes"][0]["chip"]["chip"]["may_be"][0], "stm32f446xe", "{found}");
    let install = text(&outcome, "install.json");
    let last: Value = serde_json::from_str(install.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["result"], &last["now"]["version"]), (&"installed".into(), &"v1".into()), "{install}");
    assert!(text(&outcome, "flash").starts_with("Flashed and confirmed"), "{}", text(&outcome, "flash"));
    let backup = outcome.file("backup.bin");
    assert_eq!(backup.len(), 512 * 1024);
    assert!(backup[..katapult().len()] == katapult() && backup[0x8000..][..klipper("v2").len()] == klipper("v2"));
    assert!(backup == outcome.file("flash.bin"));
}

#[test]
fn a_probe_that_is_pulled_out_or_falls_silent_is_told_and_tried_again() {
    let vm = guest(&[&dynamic_binary("kflash"), &dynamic_binary("kflash-sim")]);
    let flash = "./kflash flash --board btt-octopus-v1.1-f446 --via swd -f v2.bin";
    let outcome = run(
        vm,
        &[
            &serve("--probe-unplugged 3000"),
            &format!("ends 11 {flash} 2> /out/unplugged\n ends 4 {flash} 2> /out/gone\n"),
            END,
            &serve("--probe-mute 3000"),
            &format!("ends 11 {flash} 2> /out/mute\n"),
            END,
            &serve(""),
            &format!("{flash}\n"),
            END,
        ]
        .concat(),
    );
    let said = text(&outcome, "unplugged");
    assert!(said.contains("way back: swd"), "{said}");
    assert!(text(&outcome, "gone").contains("no debug probe is plugged in"));
    let said = text(&outcome, "mute");
    assert!(said.contains("way back: swd"), "{said}");
    assert!(outcome.file("flash.bin")[0x8000..].starts_with(&klipper("v2")));
}

/// An index with firmware behind Katapult and firmware for the start of the flash, both in files beside it.
fn index() -> String {
    let entry = |route: &str, start: u32, version: &str, url: &str, image: &[u8]| {
        json!({
            "board": OCTOPUS, "route": route, "app": "Klipper", "version": version, "mcu": "stm32f446xx",
            "start": format!("{start:#010x}"), "size": image.len(), "sha256": Sha256::of(image), "url": url,
        })
    };
    let images =
        [entry("katapult-usb", APP, "v2", "v2.bin", &klipper("v2")), entry("dfu", FLASH, "v3", "bare.bin", &bare())];
    json!({"format": 1, "created": "2026-01-31T12:00:00Z", "serial": 1, "images": images}).to_string()
}

/// Klipper for the start of the flash.
fn bare() -> Vec<u8> {
    TestImage::klipper("stm32f446xx", FLASH).version("v3").build()
}

#[test]
fn a_locked_chip_and_a_blank_one_at_two_probes_are_each_given_what_fits() {
    let vm = guest(&[&dynamic_binary("kflash"), &dynamic_binary("kflash-sim")])
        .bytes(index(), "index.json")
        .bytes(bare(), "bare.bin");
    let outcome = run(
        vm,
        &[
            &serve("--read-protected"),
            "
        board='--board btt-octopus-v1.1-f446 --via swd'
        fetched='--from index.json --allow-unsigned'
        export HOME=/root
        ends 3 ./kflash flash $board -f v2.bin 2> /out/locked
        ends 3 ./kflash flash $board $fetched 2> /out/locked-before-fetching
        ends 3 ./kflash backup $board backup.bin 2> /out/locked-backup
        ./kflash install-bootloader $board --bootloader katapult.bin -f v1.bin --unlock > /out/unlocked

        mkfifo others
        ./kflash-sim serve --board btt-octopus-v1.1-f446 --mount vhci --port 1-3 --probe 1-4 --probe-serial SIM00002 \\
            --uid 310034001751333038363536 --erased --timing zero < others >> /out/events &
        exec 4> others
        wait_for 10 test -e /sys/bus/usb/devices/1-4
        udevadm settle
        ends 3 ./kflash flash $board -f v2.bin 2> /out/two
        ./kflash plan $board --probe 1209:da42:SIM00001 $fetched > /out/plan
        ./kflash flash $board --probe 1209:da42:SIM00001 $fetched > /out/behind-katapult
        ends 12 ./kflash verify $board --probe :SIM00001 -f v1.bin 2> /out/differs
        ./kflash verify $board --probe :SIM00001 $fetched > /out/verified
        ./kflash flash $board --probe 1209:da42:SIM00002 $fetched > /out/bare
        echo quit >&4
        ",
            END,
        ]
        .concat(),
    );
    for name in ["locked", "locked-before-fetching", "locked-backup"] {
        let said = text(&outcome, name);
        assert!(said.contains("stm32f446xe is read-protected (FLASH_OPTCR reads"), "{name}: {said}");
        assert!(said.contains("--unlock") && said.contains("ERASES ALL"), "{name}: {said}");
    }
    assert!(text(&outcome, "unlocked").starts_with("Installed and confirmed"), "{}", text(&outcome, "unlocked"));
    let said = text(&outcome, "two");
    for probe in ["2 debug probes are plugged in", "1209:da42:SIM00001", "1209:da42:SIM00002", "--probe VID:PID:SERIAL"]
    {
        assert!(said.contains(probe), "{probe}: {said}");
    }
    let said = text(&outcome, "plan");
    assert!(said.contains("katapult") && !said.contains("pending"), "{said}");
    for (name, version) in [("behind-katapult", "Klipper v2"), ("bare", "Klipper v3")] {
        let said = text(&outcome, name);
        assert!(said.starts_with("Flashed and confirmed") && said.contains(version), "{name}: {said}");
    }
    assert!(text(&outcome, "differs").contains("flash differs from the image at"), "{}", text(&outcome, "differs"));
    let said = text(&outcome, "verified");
    assert!(said.starts_with("It holds this firmware: every byte is equal"), "{said}");
}

#[test]
fn openocd_reads_steps_breaks_programs_and_verifies() {
    let scripts = Path::new("/usr/share/openocd/scripts");
    let vm = guest(&[Path::new("/usr/bin/openocd"), &dynamic_binary("kflash-sim")])
        .file(scripts.join("target/stm32f4x.cfg"), "stm32f4x.cfg")
        .file(scripts.join("target/swj-dp.tcl"), "swj-dp.tcl")
        .file(scripts.join("mem_helper.tcl"), "mem_helper.tcl");
    let image = klipper("v1");
    let reset = u32::from_le_bytes(image[4..8].try_into().expect("four bytes")) & !1;
    let second = reset + 2;
    let outcome = run(
        vm,
        &[
            &serve(""),
            &format!(
                "
        mkdir target
        mv stm32f4x.cfg swj-dp.tcl target/
        ./openocd -s /work -c 'adapter driver cmsis-dap' -c 'cmsis_dap_vid_pid 0x1209 0xda42' \\
            -c 'cmsis_dap_backend usb_bulk' -c 'transport select swd' -f target/stm32f4x.cfg \\
            -c init -c 'dap info' -c 'reset halt' -c 'flash probe 0' -c 'mdw 0xe0042000' -c 'mww 0x20000100 0x12345678' \\
            -c 'mdw 0x20000100' -c 'program v1.bin 0x08008000 verify' -c 'reset halt' \\
            -c 'reg pc {reset:#x}' -c 'step' -c 'reg pc' -c 'bp {second:#x} 2 hw' -c 'reg pc {reset:#x}' -c 'resume' \\
            -c 'wait_halt 2000' -c 'reg pc' -c 'reset run' -c shutdown > /out/openocd 2>&1 || {{ cat /out/openocd; exit 1; }}
        echo dump /out/board.bin >&3
        "
            ),
            END,
        ]
        .concat(),
    );
    let said = text(&outcome, "openocd");
    for fact in [
        "SWD DPIDR 0x2ba01477",
        "Cortex-M4 r0p1",
        "device id = 0x10006421",
        "flash size = 512",
        "0xe0042000: 10006421",
        "0x20000100: 12345678",
        "ROM table",
        "** Programming Finished **",
        "** Verified OK **",
        &format!("pc (/32): {second:#010x}"),
    ] {
        assert!(said.contains(fact), "{fact}:\n{said}");
    }
}
