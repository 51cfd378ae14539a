//! The simulated ROM bootloader in the VM, on the kernel's USB, under clients that are not ours.

use kflash_sim::firmware::TestImage;
use tests::binary::{example, libraries, static_binary};
use tests::vm::{Outcome, Vm};

const FLASH_START: u32 = 0x0800_0000;

/// A guest with an Octopus in its ROM bootloader, BOOT0 set, on vhci; its events are in `/out/events`, its controls on
/// descriptor 3.
fn bench(image: &[u8]) -> Vm {
    Vm::new().file(static_binary("kflash-sim"), "kflash-sim").bytes(image, "klipper.bin")
}

fn serve(options: &str) -> String {
    format!(
        "
    modprobe -a vhci-hcd cdc-acm
    start_udevd
    mkfifo controls
    ./kflash-sim serve --board btt-octopus-v1.1-f446 --bootloader none --known klipper.bin --mode dfu --boot0 \
        --mount vhci --port 1-1 --dump /out/flash.bin {options} < controls > /out/events &
    exec 3> controls
    wait_for 10 usb_devices 0483:df11
    udevadm settle
"
    )
}

const END: &str = "
    echo quit >&3
    wait
";

fn run(vm: Vm, options: &str, script: &str) -> (Outcome, String) {
    let outcome = vm.script(&[&serve(options), script, END].concat()).run();
    let events = String::from_utf8(outcome.file("events")).expect("events are text");
    assert_eq!(outcome.code, 0, "{}\n{events}", outcome.output);
    (outcome, events)
}

fn image() -> Vec<u8> {
    // Into the fourth sector of 16 KiB, and not a multiple of a transfer.
    TestImage::klipper("stm32f446xx", FLASH_START).version("v0.13.0-999-gfeedbeef").size(50_001).build()
}

#[test]
fn dfu_util_lists_writes_reads_and_leaves() {
    let image = image();
    let (outcome, events) = run(
        bench(&image),
        "",
        "
        dfu-util -l > /out/list
        dfu-util -d 0483:df11 -a 0 -s 0x08000000 -D klipper.bin
        dfu-util -d 0483:df11 -a 0 -s 0x08000000:50001 -U /out/back.bin
        dfu-util -d 0483:df11 -a 0 -s 0x08000000:leave -D klipper.bin
        wait_for 10 usb_devices 1d50:614e
        wait_for 10 test -e /dev/serial/by-id/usb-Klipper_stm32f446xx_290034001751333038363536-if00
        ",
    );
    let list = String::from_utf8(outcome.file("list")).expect("dfu-util prints text");
    assert!(
        list.contains(r#"path="1-1", alt=0, name="@Internal Flash  /0x08000000/04*016Kg,01*064Kg,03*128Kg", serial="#),
        "{list}"
    );
    assert_eq!(outcome.file("back.bin"), image);
    assert_eq!(outcome.file("flash.bin")[..image.len()], image);
    assert!(events.contains(r#"running application version="v0.13.0-999-gfeedbeef""#), "{events}");
    assert!(!events.contains("violation"), "{events}");
}

#[test]
fn dfu_util_cannot_write_to_a_protected_chip_before_it_is_unprotected() {
    let image = image();
    let (outcome, events) = run(
        bench(&image),
        "--read-protected --timing zero",
        "
        if dfu-util -d 0483:df11 -a 0 -s 0x08000000 -D klipper.bin; then exit 1; fi
        if dfu-util -d 0483:df11 -a 0 -s 0x08000000:256 -U /tmp/back.bin; then exit 1; fi
        echo dump /out/protected >&3
        wait_for 5 test -e /out/protected
        # Unprotecting erases everything and resets.
        dfu-util -d 0483:df11 -a 0 -s 0x08000000:unprotect:force -D klipper.bin || true
        wait_for 10 grep -q gone /out/events
        wait_for 10 usb_devices 0483:df11
        dfu-util -d 0483:df11 -a 0 -s 0x08000000:mass-erase:force -D klipper.bin
        ",
    );
    let first = TestImage::klipper("stm32f446xx", FLASH_START).build();
    assert_eq!(outcome.file("protected")[..first.len()], first);
    let flash = outcome.file("flash.bin");
    assert_eq!(flash[..image.len()], image);
    assert!(flash[image.len()..].iter().all(|&byte| byte == 0xff));
    assert!(!events.contains("violation"), "{events}");
}

#[test]
fn dfu_core_on_libusb_writes_and_rusb_reads() {
    let image = image();
    let client = example("dfu_libusb");
    let mut vm = bench(&image).file(&client, "dfu_libusb");
    for library in libraries(&client) {
        let name = library.file_name().and_then(|name| name.to_str()).expect("libraries have plain names").to_owned();
        vm = vm.file(library, &name);
    }
    let (outcome, events) = run(
        vm,
        "",
        "
        export LD_LIBRARY_PATH=/work
        ./dfu_libusb write 0x08000000 klipper.bin
        wait_for 10 usb_devices 1d50:614e
        # The BOOT0 jumper is still set.
        echo reset >&3
        wait_for 10 usb_devices 0483:df11
        ./dfu_libusb read 0x08000000 50001 /out/back.bin
        ",
    );
    assert_eq!(outcome.file("back.bin"), image);
    assert_eq!(outcome.file("flash.bin")[..image.len()], image);
    assert!(events.contains(r#"running application version="v0.13.0-999-gfeedbeef""#), "{events}");
    assert!(!events.contains("violation"), "{events}");
}
