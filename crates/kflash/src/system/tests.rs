#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serialport::{SerialPort, TTYPort};

use super::*;
use crate::discover::Mode;
use crate::host::Holder;

/// A host root with Klipper boards whose ttys are ptys.
struct Root {
    folder: tempfile::TempDir,
    ptys: Vec<(TTYPort, PathBuf)>,
}

impl Root {
    fn new() -> Self {
        let root = Self { folder: tempfile::tempdir().unwrap(), ptys: Vec::new() };
        for folder in ["sys/bus/usb/devices", "sys/dev/char", "dev/serial/by-path", "run"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        root
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A pty that is free to be opened; its index.
    fn pty(&mut self) -> usize {
        let (master, slave) = TTYPort::pair().unwrap();
        let name = slave.name().unwrap().into();
        self.ptys.push((master, name));
        self.ptys.len() - 1
    }

    fn plug(&mut self, port: &str, tty: &str) -> usize {
        let pty = self.pty();
        let numbers = sysfs::char_device_numbers(&self.ptys[pty].1).unwrap();
        let device = self.path().join("sys/bus/usb/devices").join(port);
        let class = device.join(format!("{port}:1.0/tty/{tty}"));
        fs::create_dir_all(&class).unwrap();
        for (name, value) in [
            ("idVendor", "1d50"),
            ("idProduct", "614e"),
            ("bDeviceClass", "02"),
            ("busnum", "1"),
            ("devnum", "5"),
            ("serial", port),
        ] {
            fs::write(device.join(name), value).unwrap();
        }
        fs::write(class.join("dev"), format!("{}:{}\n", numbers.0, numbers.1)).unwrap();
        symlink(&class, self.path().join(format!("sys/dev/char/{}:{}", numbers.0, numbers.1))).unwrap();
        self.node(tty, pty);
        pty
    }

    fn node(&self, tty: &str, pty: usize) {
        let node = self.path().join("dev").join(tty);
        let _ = fs::remove_file(&node);
        symlink(&self.ptys[pty].1, node).unwrap();
    }
}

fn by_place(host: &SystemHost, place: &str) -> Device {
    let devices = host.scan().unwrap().devices;
    devices.into_iter().find(|device| device.place.to_string() == place).unwrap()
}

#[test]
fn a_tty_is_opened_and_is_the_device_that_was_meant() {
    let mut root = Root::new();
    let pty = root.plug("1-1", "ttyACM0");
    let host = SystemHost::new(root.path());
    let mut link = host.open_serial(&by_place(&host, "1-1"), 250_000).unwrap();
    root.ptys[pty].0.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    assert_eq!(link.read(&mut bytes, Duration::from_secs(5)).unwrap(), 5);
    assert_eq!(root.ptys[pty].0.baud_rate().unwrap(), 250_000);
}

#[test]
fn a_device_is_waited_for_until_udev_has_set_it_up() {
    let mut root = Root::new();
    let pty = root.plug("1-1", "ttyACM0");
    let host = SystemHost::new(root.path());
    let device = by_place(&host, "1-1");
    let (node, pts) = (root.path().join("dev/ttyACM0"), root.ptys[pty].1.clone());
    fs::remove_file(&node).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            symlink(pts, node).unwrap();
        });
        // As it was seen before its driver had bound to it.
        host.open_serial(&Device { tty: None, ..device.clone() }, 250_000).unwrap();
    });
    fs::remove_dir_all(root.path().join("sys/bus/usb/devices/1-1")).unwrap();
    fs::remove_file(root.path().join("dev/ttyACM0")).unwrap();
    assert!(matches!(host.open_serial(&device, 250_000).map(|_| ()), Err(LinkError::Gone)));
}

#[test]
fn a_node_that_became_another_printers_is_stale() {
    let mut root = Root::new();
    root.plug("1-1", "ttyACM0");
    let other = root.plug("1-2", "ttyACM1");
    let host = SystemHost::new(root.path());
    let device = by_place(&host, "1-1");
    // 1-1 left, and the node is 1-2's now.
    root.node("ttyACM0", other);
    match host.open_serial(&device, 250_000).map(|_| ()).unwrap_err() {
        LinkError::Stale { node, expected } => assert_eq!((node.as_str(), expected.as_str()), ("/dev/ttyACM0", "1-1")),
        error => panic!("{error}"),
    }
    assert_eq!(root.ptys[other].0.baud_rate().unwrap(), 38400, "the other board was not even opened");
    fs::remove_file(root.path().join("dev/ttyACM0")).unwrap();
    assert!(matches!(host.open_serial(&device, 250_000).map(|_| ()), Err(LinkError::Gone)));
    // The device left, and took its numbers along.
    fs::remove_dir_all(root.path().join("sys/bus/usb/devices/1-2")).unwrap();
    root.node("ttyACM0", other);
    assert!(matches!(host.open_serial(&device, 250_000).map(|_| ()), Err(LinkError::Stale { .. })));
}

#[test]
fn a_usb_node_whose_number_was_handed_on_is_stale() {
    let mut root = Root::new();
    root.plug("1-1", "ttyACM0");
    let host = SystemHost::new(root.path());
    let device = by_place(&host, "1-1");
    assert!(matches!(host.open_usb(&device).map(|_| ()), Err(LinkError::Gone)), "there is no such node");
    fs::write(root.path().join("sys/bus/usb/devices/1-1/devnum"), "6\n").unwrap();
    let stale = host.open_usb(&device).map(|_| ()).unwrap_err();
    assert_eq!(stale.to_string(), "/dev/bus/usb/001/005 is not the device at 1-1 any more");
}

#[test]
fn a_tty_without_usb_is_listed_when_it_is_named() {
    let mut root = Root::new();
    let pty = root.pty();
    let name = root.ptys[pty].1.clone();
    let (host, selectors) = SystemHost::new("/").with_selectors(vec![Selector::Tty(name.clone())]);
    assert_eq!(selectors, [Selector::Tty(name.clone())]);
    let device = by_place(&host, name.to_str().unwrap());
    assert_eq!((device.mode, &device.usb), (Mode::Unknown, &None));
    host.open_serial(&device, 115_200).unwrap();
    // The pty behind the name is another one by now.
    let moved = Device { tty: device.tty.clone().map(|tty| TtyNode { numbers: Some((4, 64)), ..tty }), ..device };
    assert!(matches!(host.open_serial(&moved, 115_200).map(|_| ()), Err(LinkError::Stale { .. })));
}

#[test]
fn a_link_leads_to_the_device_that_is_listed_already() {
    let mut root = Root::new();
    root.plug("1-1", "ttyACM0");
    symlink("../../ttyACM0", root.path().join("dev/serial/by-path/pci-0:1.0")).unwrap();
    let named = vec![Selector::Tty("/dev/serial/by-path/pci-0:1.0".into()), Selector::Tty("/dev/ttyACM7".into())];
    let (host, selectors) = SystemHost::new(root.path()).with_selectors(named);
    assert_eq!(selectors, [Selector::Tty("/dev/ttyACM0".into()), Selector::Tty("/dev/ttyACM7".into())]);
    let scan = host.scan().unwrap();
    assert_eq!(scan.devices.len(), 1);
    assert!(scan.looked_at.contains(&root.path().join("dev/ttyACM7")));
}

#[test]
fn servers_that_are_named_are_looked_at() {
    let root = Root::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (host, _) = SystemHost::new(root.path()).with_selectors(vec![Selector::Tcp(address.clone())]);
    let device = by_place(&host, &format!("tcp://{address}"));
    host.open_serial(&device, 250_000).unwrap();
    assert!(matches!(host.open_usb(&device).map(|_| ()), Err(LinkError::Unsupported { .. })));
    assert_eq!(host.holders(&device), Holders::Unknown);
    drop(listener);
    let usbip = Selector::Usbip { server: address.clone(), busid: "1-1".into() };
    let (host, _) = SystemHost::new(root.path()).with_selectors(vec![usbip]);
    match host.scan().unwrap_err() {
        DiscoverError::Unreachable { server, .. } => assert_eq!(server, address),
        error @ DiscoverError::Unreadable { .. } => panic!("{error}"),
    }
}

#[test]
fn who_holds_a_board_is_seen_by_its_numbers() {
    let mut root = Root::new();
    let pty = root.plug("1-1", "ttyACM0");
    let fd = root.path().join("proc/77/fd");
    fs::create_dir_all(&fd).unwrap();
    fs::write(root.path().join("proc/77/comm"), "klippy\n").unwrap();
    // A process that knows the node by a name of its own.
    symlink(&root.ptys[pty].1, fd.join("9")).unwrap();
    let host = SystemHost::new(root.path());
    let device = by_place(&host, "1-1");
    let processes = vec![Holder { pid: 77, name: "klippy".into() }];
    assert_eq!(host.holders(&device), Holders::Seen { processes, complete: true });
    let _lock = host.lock(&device).unwrap();
    assert!(matches!(host.lock(&device).map(|_| ()), Err(LockError::Held { .. })));
}

#[test]
fn a_node_is_found_by_its_numbers_whatever_a_device_plugin_called_it() {
    let mut root = Root::new();
    let pty = root.plug("1-1", "ttyACM3");
    let other = root.plug("1-2", "ttyACM0");
    fs::remove_file(root.path().join("dev/ttyACM3")).unwrap();
    // The name is that of another board on the host.
    root.node("ttyACM0", pty);
    let named = vec![Selector::Tty("/dev/ttyACM0".into())];
    let (host, selectors) = SystemHost::new(root.path()).with_selectors(named);
    assert_eq!(selectors, [Selector::Tty("/dev/ttyACM3".into())]);
    let [ours, its] = ["1-1", "1-2"].map(|place| by_place(&host, place));
    assert_eq!([host.has_node(&ours), host.has_node(&its)], [true, false]);
    let mut link = host.open_serial(&ours, 250_000).unwrap();
    root.ptys[pty].0.write_all(b"hello").unwrap();
    assert_eq!(link.read(&mut [0; 5], Duration::from_secs(5)).unwrap(), 5);
    drop(link);

    // What it was created with is another board's by now, and it enumerated anew.
    root.node("ttyACM0", other);
    assert_eq!([host.has_node(&ours), host.has_node(&its)], [false, true]);
    fs::create_dir_all(root.path().join("dev/kflash/by/name")).unwrap();
    root.node("kflash/by/name/mcu", pty);
    assert!(host.has_node(&ours));
    drop(host.open_serial(&ours, 250_000).unwrap());
    assert_eq!(root.ptys[other].0.baud_rate().unwrap(), 38400, "the other board was not even opened");
}

#[test]
fn a_node_is_looked_for_in_dev_alone_and_not_for_ever() {
    let mut root = Root::new();
    let pty = root.plug("1-1", "ttyACM0");
    fs::remove_file(root.path().join("dev/ttyACM0")).unwrap();
    let host = SystemHost::new(root.path());
    let device = by_place(&host, "1-1");
    fs::create_dir(root.path().join("elsewhere")).unwrap();
    root.node("../elsewhere/mcu", pty);
    symlink("../elsewhere", root.path().join("dev/elsewhere")).unwrap();
    symlink(".", root.path().join("dev/around")).unwrap();
    fs::create_dir_all(root.path().join("dev/a/b/c/d")).unwrap();
    root.node("a/b/c/d/mcu", pty);
    assert!(!host.has_node(&device));
    root.node("a/b/c/mcu", pty);
    assert!(host.has_node(&device));
    // One that left has none.
    fs::remove_dir_all(root.path().join("sys/bus/usb/devices/1-1")).unwrap();
    assert!(!host.has_node(&device));
}
