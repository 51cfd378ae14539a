//! The VM itself: what every test in it relies on.

use std::time::Duration;

use tests::binary::static_binary;
use tests::vm::Vm;

#[test]
fn has_a_usb_stack_and_udev() {
    let outcome = Vm::new()
        .bytes(r#"SUBSYSTEM=="usb", ATTR{idVendor}=="1d6b", MODE="0660", GROUP="plugdev""#, "60-hubs.rules")
        .script(
            r#"
            test ! -e /sys/bus/usb/devices/usb1
            modprobe -a vhci-hcd cdc-acm
            test -e /sys/bus/usb/drivers/cdc_acm
            start_udevd
            udevadm control --ping
            wait_for 5 usb_devices 1d6b:0002
            usb_devices 1d6b:0002 > /out/hubs

            read_hub() { as_user cat /dev/bus/usb/001/001; }
            test "$(as_user id -u)" = 1000
            read_hub | cmp -n 2 - /dev/zero && exit 1
            install_udev_rules 60-hubs.rules
            if read_hub; then echo "read by a user outside of the group"; exit 1; fi
            join_group plugdev
            read_hub > /out/descriptors
            "#,
        )
        .run();
    assert_eq!(outcome.code, 0, "{}", outcome.output);
    // vhci_hcd comes with eight controllers for high speed.
    assert_eq!(outcome.file("hubs").split(|byte| *byte == b'\n').count(), 9);
    // USB 2.0 §9.6.1: a device descriptor has 18 bytes and type 1.
    assert_eq!(outcome.file("descriptors")[..2], [18, 1]);
}

#[test]
fn exit_codes_are_the_scripts() {
    for code in [3, 137] {
        let outcome = Vm::new().script(&format!("echo so far\nexit {code}")).run();
        assert_eq!(outcome.code, code, "{}", outcome.output);
        assert!(outcome.output.contains("so far\n"), "{}", outcome.output);
    }
}

#[test]
fn a_failing_command_ends_the_script() {
    let outcome = Vm::new().script("false\necho not reached").run();
    assert_eq!(outcome.code, 1, "{}", outcome.output);
    assert!(!outcome.output.contains("not reached"), "{}", outcome.output);
}

#[test]
#[should_panic(expected = "has not ended after 1s")]
fn a_guest_that_hangs_is_killed() {
    Vm::new().limit(Duration::from_secs(1)).run();
}

#[test]
#[should_panic(expected = "the guest died")]
fn a_guest_that_powers_off_has_not_passed() {
    Vm::new().script("poweroff -f").run();
}

#[test]
fn runs_the_static_program_as_an_ordinary_user() {
    let outcome =
        Vm::new().file(static_binary("kflash"), "kflash").script("as_user ./kflash --version > /out/version").run();
    assert_eq!(outcome.code, 0, "{}", outcome.output);
    assert_eq!(outcome.file("version"), format!("kflash {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
}
