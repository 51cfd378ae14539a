#![expect(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::symlink;

use super::*;
use crate::discover::Mode;

/// A host root with devices in it.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(root.path().join(USB_DEVICES)).unwrap();
        root
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let file = self.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }

    fn link(&self, link: &str, target: &str) {
        let link = self.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
    }

    /// A device as sysfs has it: in `/sys/devices`, with a link from `/sys/bus/usb/devices`.
    fn plug(&self, path: &str, id: &str, number: u8, strings: [&[u8]; 3]) -> String {
        let folder = format!("sys/devices/platform/usb1/{path}");
        let (vendor, product) = id.split_once(':').unwrap();
        let number = number.to_string();
        for (name, value) in [
            ("idVendor", vendor),
            ("idProduct", product),
            ("bDeviceClass", "00"),
            ("busnum", "1"),
            ("devnum", number.as_str()),
        ] {
            self.write(&format!("{folder}/{name}"), format!("{value}\n"));
        }
        for (name, value) in ["manufacturer", "product", "serial"].into_iter().zip(strings) {
            if !value.is_empty() {
                self.write(&format!("{folder}/{name}"), value);
            }
        }
        self.link(&format!("{USB_DEVICES}/{path}"), &format!("../../../devices/platform/usb1/{path}"));
        folder
    }

    fn scan(&self) -> Vec<Device> {
        scan(self.path()).unwrap().devices
    }
}

#[test]
fn a_klipper_board_with_all_its_names() {
    let root = Root::new();
    let folder = root.plug("1-1.4", "1d50:614e", 5, [b"Klipper\n", b"stm32f446xx\n", b"36002C001151303432393637\n"]);
    root.write(&format!("{folder}/1-1.4:1.0/tty/ttyACM0/dev"), "166:0\n");
    root.write(&format!("{folder}/1-1.4:1.1/bInterfaceClass"), "0a\n");
    root.link("dev/serial/by-id/usb-Klipper_stm32f446xx_36-if00", "../../ttyACM0");
    root.link("dev/serial/by-id/usb-dangling-if00", "../../../../../etc/passwd");
    let devices = root.scan();
    assert_eq!(devices.len(), 1);
    let device = &devices[0];
    assert_eq!(device.place, Place::Usb("1-1.4".parse().unwrap()));
    assert_eq!((device.mode, device.mcu.as_deref()), (Mode::Klipper, Some("stm32f446xx")));
    assert_eq!(device.usbfs.as_deref(), Some(Path::new("/dev/bus/usb/001/005")));
    assert_eq!(device.usb.as_ref().unwrap().serial.as_deref(), Some("36002C001151303432393637"));
    let tty = device.tty.as_ref().unwrap();
    assert_eq!((tty.node.to_str(), tty.numbers), (Some("/dev/ttyACM0"), Some((166, 0))));
    assert_eq!(tty.by_id.as_deref(), Some(Path::new("/dev/serial/by-id/usb-Klipper_stm32f446xx_36-if00")));
}

#[test]
fn a_bridge_has_a_level_more() {
    let root = Root::new();
    let folder = root.plug("1-2", "1a86:7523", 6, [b"", b"USB Serial\n", b""]);
    root.write(&format!("{folder}/1-2:1.0/ttyUSB0/tty/ttyUSB0/dev"), "188:0\n");
    let device = &root.scan()[0];
    assert_eq!(device.mode, Mode::UartBridge);
    let tty = device.tty.as_ref().unwrap();
    assert_eq!((tty.node.to_str(), tty.numbers, &tty.by_id), (Some("/dev/ttyUSB0"), Some((188, 0)), &None));
}

#[test]
fn hubs_and_interfaces_are_none_and_order_is_by_number() {
    let root = Root::new();
    for (number, path) in [(12, "1-10"), (3, "1-2"), (4, "1-2.1"), (9, "1-1")] {
        root.plug(path, "0483:df11", number, [b"", b"", b""]);
    }
    let hub = root.plug("1-3", "1a40:0101", 2, [b"", b"", b""]);
    root.write(&format!("{hub}/bDeviceClass"), "09\n");
    root.plug("1-4", "1d6b:0104", 7, [b"", b"", b""]);
    root.link(&format!("{USB_DEVICES}/usb1"), "../../../devices/platform/usb1");
    root.link(&format!("{USB_DEVICES}/1-2:1.0"), "../../../devices/platform/usb1/1-2/1-2:1.0");
    // One that leaves while it is being looked at.
    root.link(&format!("{USB_DEVICES}/1-9"), "../../../devices/gone");
    let places: Vec<_> = root.scan().iter().map(|device| device.place.to_string()).collect();
    assert_eq!(places, ["1-1", "1-2", "1-2.1", "1-10"]);
}

#[test]
fn hostile_strings_are_bounded_and_kept_as_text() {
    let root = Root::new();
    let long = vec![b'A'; 1 << 20];
    root.plug("1-1", "1d50:614e", 5, [b"Klip\xff\xfeper\n", b"../../etc/\x1b[31mpasswd\n", &long]);
    root.plug("1-2", "1d50:614e", 6, [b"Klipper\n", b"\n", b"a\nb\n"]);
    let folder = root.plug("1-3", "zzzz:0000", 7, [b"", b"", b""]);
    root.write(&format!("{folder}/devnum"), "99999999999\n");
    let devices = root.scan();
    assert_eq!(devices.len(), 2);
    let usb = devices[0].usb.as_ref().unwrap();
    assert_eq!(usb.manufacturer.as_deref(), Some("Klip\u{fffd}\u{fffd}per"));
    assert_eq!(usb.serial.as_ref().unwrap().len(), LONGEST_ATTRIBUTE);
    assert_eq!(devices[0].mcu, None);
    let usb = devices[1].usb.as_ref().unwrap();
    assert_eq!((&usb.product, usb.serial.as_deref()), (&None, Some("a\nb")));
}

#[test]
fn a_host_without_usb_is_empty_and_says_where_it_looked() {
    let root = tempfile::tempdir().unwrap();
    let found = scan(root.path()).unwrap();
    assert!(found.devices.is_empty());
    assert_eq!(found.looked_at, [root.path().join(USB_DEVICES), root.path().join(BY_ID)]);
}

#[test]
fn a_tty_is_told_from_that_of_a_device_behind_the_same_hub() {
    let root = Root::new();
    let hub = root.plug("1-1", "1a40:0101", 2, [b"", b"", b""]);
    let own = root.plug("1-1.4", "1d50:614e", 5, [b"", b"", b""]);
    // As the kernel nests them: what is behind a hub lies below it.
    fs::rename(root.path().join(&own), root.path().join(format!("{hub}/1-1.4"))).unwrap();
    root.write(&format!("{hub}/1-1.4/1-1.4:1.0/tty/ttyACM0/dev"), "166:0\n");
    fs::remove_file(root.path().join(USB_DEVICES).join("1-1.4")).unwrap();
    root.link(&format!("{USB_DEVICES}/1-1.4"), "../../../devices/platform/usb1/1-1/1-1.4");
    root.link("sys/dev/char/166:0", "../../devices/platform/usb1/1-1/1-1.4/1-1.4:1.0/tty/ttyACM0");
    root.link("sys/dev/char/166:1", "../../devices/platform/serial8250/tty/ttyS0");
    let is = |numbers, path: &str| is_tty_of(root.path(), numbers, &path.parse().unwrap());
    assert!(is((166, 0), "1-1.4"));
    assert!(!is((166, 0), "1-1"), "a hub's own directory holds the devices behind it");
    assert!(!is((166, 1), "1-1.4"));
    assert!(!is((166, 2), "1-1.4"));
    assert!(!is((166, 0), "1-1.5"));
}

#[test]
fn links_are_followed_within_the_root() {
    let root = Root::new();
    root.write("dev/ttyACM0", "");
    root.link("dev/serial/by-path/pci-0:1.0", "../../ttyACM0");
    root.link("dev/octopus", "serial/by-path/pci-0:1.0");
    root.link("dev/absolute", "/dev/octopus");
    root.link("dev/loop", "loop");
    root.link("dev/simulated", "/dev/pts/0");
    let resolved = |path: &str| resolve(root.path(), Path::new(path));
    assert_eq!(resolved("/dev/absolute"), Path::new("/dev/ttyACM0"));
    assert_eq!(resolved("/dev/../dev/./octopus"), Path::new("/dev/ttyACM0"));
    assert_eq!(resolved("/dev/simulated"), Path::new("/dev/simulated"));
    assert_eq!(resolved("/dev/loop"), Path::new("/dev/loop"));
    assert_eq!(resolved("/dev/nothing"), Path::new("/dev/nothing"));
}
