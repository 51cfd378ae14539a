//! The host around a board on a pty: a folder that looks like `/sys` and `/dev` do with the board plugged in, as far as
//! finding a board goes; with a `/run/lock`, too. Several processes may keep their boards in the same folder.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use kflash::discover::{UsbId, UsbPath};

use super::descriptors::{Identity, Interface};

/// A host root.
pub struct Tree {
    root: PathBuf,
    /// What the board added, in order.
    entries: Vec<PathBuf>,
    /// The device number that the board had last.
    last_number: u8,
}

/// The USB device that a tty belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// The chip itself.
    Chip(Identity),
    /// A USB-UART bridge.
    Bridge(UsbId),
}

/// Where the USB controller is.
const CONTROLLER: &str = "sys/devices/pci0000:00/0000:00:14.0";

impl Tree {
    /// A tree in `root`, which need not exist.
    pub fn new(root: PathBuf) -> io::Result<Self> {
        for folder in ["sys/bus/usb/devices", "sys/class/tty", "sys/dev/char", "dev", "run/lock"] {
            fs::create_dir_all(root.join(folder)).map_err(|error| at(&root.join(folder), &error))?;
        }
        Ok(Self { root: fs::canonicalize(root)?, entries: Vec::new(), last_number: 0 })
    }

    /// Plugs a board in: its USB device, if it has one, at `port`, and its tty by name and pty. Returns the name that
    /// udev would give the tty in `/dev/serial/by-id`.
    pub fn add(
        &mut self,
        port: &UsbPath,
        parent: Option<&Parent>,
        tty: Option<(&str, &Path)>,
    ) -> io::Result<Option<PathBuf>> {
        let mut tty_folder = PathBuf::from("sys/devices/virtual/tty");
        let mut by_id = None;
        if let Some(parent) = parent {
            let identity = parent.identity();
            let device = self.add_device(port, &identity)?;
            for interface in &identity.interfaces {
                self.add_interface(port, &device, &identity, interface)?;
            }
            let interface = identity.interfaces.first().map_or(0, |interface| interface.number);
            tty_folder = device.join(format!("{port}:{}.{interface}", identity.configuration));
            let mut suffix = format!("if{interface:02x}");
            if let (Parent::Bridge(_), Some((name, _))) = (parent, tty) {
                // A bridge may have several ports, so that there is a level more than for CDC.
                tty_folder = tty_folder.join(name);
                suffix += "-port0";
            }
            by_id = Some(format!("usb-{}-{suffix}", identity.by_id()));
            tty_folder = tty_folder.join("tty");
        }
        let Some((name, pty)) = tty else { return Ok(None) };
        self.add_tty(&tty_folder.join(name), name, pty)?;
        let Some(by_id) = by_id else { return Ok(None) };
        fs::create_dir_all(self.root.join("dev/serial/by-id"))?;
        self.link(&Path::new("dev/serial/by-id").join(&by_id), Path::new("../..").join(name))?;
        Ok(Some(Path::new("/dev/serial/by-id").join(by_id)))
    }

    /// Unplugs what was plugged in.
    pub fn remove(&mut self) -> io::Result<()> {
        while let Some(entry) = self.entries.pop() {
            let path = self.root.join(&entry);
            let done = match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(error) => Err(error),
            };
            match done {
                // Whoever takes the whole folder away has done it already.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path, &error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn add_device(&mut self, port: &UsbPath, identity: &Identity) -> io::Result<PathBuf> {
        let text = port.as_str();
        let (bus, ports) = text.split_once('-').unwrap_or((text, ""));
        let number = self.next_number(bus)?;
        let mut device = Path::new(CONTROLLER).join(format!("usb{bus}"));
        // Hubs on the way: `1-1.4` lies in `1-1`.
        for (at, _) in ports.match_indices('.') {
            device.push(format!("{bus}-{}", &ports[..at]));
        }
        device.push(text);
        self.folder(&device)?;
        let hex = |byte: u8| format!("{byte:02x}");
        let mut attributes = vec![
            ("busnum", bus.to_owned()),
            ("devnum", number.to_string()),
            ("devpath", ports.to_owned()),
            ("idVendor", format!("{:04x}", identity.id.vendor)),
            ("idProduct", format!("{:04x}", identity.id.product)),
            ("bcdDevice", format!("{:04x}", identity.revision)),
            ("bDeviceClass", hex(identity.class[0])),
            ("bDeviceSubClass", hex(identity.class[1])),
            ("bDeviceProtocol", hex(identity.class[2])),
            ("bNumConfigurations", identity.configurations.to_string()),
            ("bConfigurationValue", identity.configuration.to_string()),
            ("bNumInterfaces", format!("{:2}", identity.interfaces.len())),
            ("speed", "12".to_owned()),
        ];
        let strings =
            [("manufacturer", &identity.manufacturer), ("product", &identity.product), ("serial", &identity.serial)];
        attributes.extend(strings.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
        let bus_number: u16 = bus.parse().unwrap_or(1);
        // The numbers of a usbfs node follow from bus and device (Documentation/admin-guide/devices.txt, major 189).
        let minor = (bus_number.saturating_sub(1)) * 128 + u16::from(number) - 1;
        attributes.push(("dev", format!("189:{minor}")));
        attributes.push((
            "uevent",
            format!(
                "MAJOR=189\nMINOR={minor}\nDEVNAME=bus/usb/{bus_number:03}/{number:03}\nDEVTYPE=usb_device\nDRIVER=usb"
            ),
        ));
        self.attributes(&device, &attributes)?;
        self.link(&Path::new("sys/bus/usb/devices").join(text), Path::new("../../../..").join(&device))?;
        Ok(device)
    }

    fn add_interface(
        &mut self,
        port: &UsbPath,
        device: &Path,
        identity: &Identity,
        interface: &Interface,
    ) -> io::Result<()> {
        let name = format!("{port}:{}.{}", identity.configuration, interface.number);
        let folder = device.join(&name);
        fs::create_dir(self.root.join(&folder))?;
        let hex = |byte: u8| format!("{byte:02x}");
        self.attributes(
            &folder,
            &[
                ("bInterfaceNumber", hex(interface.number)),
                ("bAlternateSetting", " 0".to_owned()),
                ("bInterfaceClass", hex(interface.class[0])),
                ("bInterfaceSubClass", hex(interface.class[1])),
                ("bInterfaceProtocol", hex(interface.class[2])),
                ("bNumEndpoints", hex(interface.endpoints.len() as u8)),
            ],
        )?;
        self.link(&Path::new("sys/bus/usb/devices").join(&name), Path::new("../../../..").join(&folder))
    }

    /// A tty whose numbers are those of its pty, so that who opens it finds it to be what sysfs says.
    fn add_tty(&mut self, folder: &Path, name: &str, pty: &Path) -> io::Result<()> {
        let numbers = fs::metadata(pty)?.rdev();
        let (major, minor) = (rustix::fs::major(numbers), rustix::fs::minor(numbers));
        if folder.starts_with("sys/devices/virtual") {
            self.folder(folder)?;
        } else {
            fs::create_dir_all(self.root.join(folder))?;
            // `device` leads to the interface, or to the bridge's port.
            symlink("../..", self.root.join(folder).join("device"))?;
        }
        let uevent = format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={name}");
        self.attributes(folder, &[("dev", format!("{major}:{minor}")), ("uevent", uevent)])?;
        self.link(&Path::new("sys/class/tty").join(name), Path::new("../../..").join(folder))?;
        self.link(&Path::new("sys/dev/char").join(format!("{major}:{minor}")), Path::new("../../..").join(folder))?;
        self.link(&Path::new("dev").join(name), pty)
    }

    /// The next device number of a bus; the kernel, too, hands them out in turn.
    fn next_number(&mut self, bus: &str) -> io::Result<u8> {
        let mut highest = self.last_number;
        for entry in fs::read_dir(self.root.join("sys/bus/usb/devices"))? {
            let entry = entry?;
            let number = fs::read_to_string(entry.path().join("devnum")).ok().and_then(|text| text.trim().parse().ok());
            if entry.file_name().to_string_lossy().starts_with(&format!("{bus}-")) {
                highest = highest.max(number.unwrap_or(0));
            }
        }
        // 1 is the root hub's.
        self.last_number = if highest < 127 { (highest + 1).max(2) } else { 2 };
        Ok(self.last_number)
    }

    /// A folder of the board's own, in folders that it may share.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        let path = self.root.join(folder);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(&path).map_err(|error| at(&path, &error))?;
        self.entries.push(folder.to_owned());
        Ok(())
    }

    fn attributes(&self, folder: &Path, attributes: &[(&str, String)]) -> io::Result<()> {
        for (name, text) in attributes {
            fs::write(self.root.join(folder).join(name), format!("{text}\n"))?;
        }
        Ok(())
    }

    fn link(&mut self, link: &Path, target: impl AsRef<Path>) -> io::Result<()> {
        let path = self.root.join(link);
        symlink(target, &path).map_err(|error| at(&path, &error))?;
        self.entries.push(link.to_owned());
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.remove();
    }
}

impl Parent {
    fn identity(&self) -> Identity {
        match self {
            Self::Chip(identity) => identity.clone(),
            // As a CH340 shows itself: it has no serial number, and no manufacturer either.
            Self::Bridge(id) => Identity {
                id: *id,
                revision: 0x0264,
                class: [0xff, 0, 0],
                configurations: 1,
                configuration: 1,
                manufacturer: None,
                product: Some("USB Serial".to_owned()),
                serial: None,
                interfaces: vec![Interface {
                    number: 0,
                    class: [0xff, 1, 2],
                    endpoints: vec![(0x82, 2), (0x02, 2), (0x81, 3)],
                }],
            },
        }
    }
}

impl Identity {
    /// The middle of a name in `/dev/serial/by-id`, as udev's usb_id and 60-serial.rules make it.
    fn by_id(&self) -> String {
        let or_id = |text: &Option<String>, id: u16| text.clone().unwrap_or_else(|| format!("{id:04x}"));
        let mut words = vec![or_id(&self.manufacturer, self.id.vendor), or_id(&self.product, self.id.product)];
        words.extend(self.serial.clone());
        for word in &mut words {
            *word = word.split_whitespace().collect::<Vec<_>>().join("_");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c);
        words.join("_").chars().map(|c| if plain(c) { c } else { '_' }).collect()
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot change {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::path::Path;

    use super::*;

    fn klipper() -> Parent {
        let interface = |number, class, endpoints: &[(u8, u8)]| Interface {
            number,
            class: [class, 0, 0],
            endpoints: endpoints.to_vec(),
        };
        Parent::Chip(Identity {
            id: UsbId::new(0x1d50, 0x614e),
            revision: 0x0100,
            class: [2, 0, 0],
            configurations: 1,
            configuration: 1,
            manufacturer: Some("Klipper".into()),
            product: Some("stm32f446xx".into()),
            serial: Some("29 00/34".into()),
            interfaces: vec![interface(0, 2, &[(0x81, 3)]), interface(1, 10, &[(2, 2), (0x83, 2)])],
        })
    }

    fn text(path: impl AsRef<Path>) -> String {
        fs::read_to_string(path).unwrap().trim_end().to_owned()
    }

    #[test]
    fn a_board_on_usb_looks_as_it_does_in_sysfs() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(root.path().into()).unwrap();
        let port = "1-1.4".parse().unwrap();
        // Any character device will do for a pty.
        let by_id = tree.add(&port, Some(&klipper()), Some(("ttyACM0", Path::new("/dev/null")))).unwrap();

        let device = root.path().join("sys/bus/usb/devices/1-1.4");
        assert_eq!(text(device.join("idVendor")), "1d50");
        assert_eq!(text(device.join("devnum")), "2");
        assert_eq!(text(device.join("devpath")), "1.4");
        assert_eq!(text(device.join("serial")), "29 00/34");
        assert_eq!(text(device.join("dev")), "189:1");
        assert_eq!(fs::canonicalize(&device).unwrap().file_name().unwrap(), "1-1.4");
        assert_eq!(text(root.path().join("sys/bus/usb/devices/1-1.4:1.1/bInterfaceClass")), "0a");
        // As a walk from the device and a walk from the tty find each other.
        let tty = fs::canonicalize(root.path().join("sys/class/tty/ttyACM0")).unwrap();
        assert_eq!(tty, fs::canonicalize(device.join("1-1.4:1.0/tty/ttyACM0")).unwrap());
        assert_eq!(fs::canonicalize(tty.join("device")).unwrap().file_name().unwrap(), "1-1.4:1.0");
        assert_eq!(text(tty.join("dev")), "1:3");
        assert_eq!(fs::canonicalize(root.path().join("sys/dev/char/1:3")).unwrap(), tty);
        assert_eq!(fs::read_link(root.path().join("dev/ttyACM0")).unwrap(), Path::new("/dev/null"));
        let by_id = by_id.unwrap();
        assert_eq!(by_id, Path::new("/dev/serial/by-id/usb-Klipper_stm32f446xx_29_00_34-if00"));
        let link = root.path().join(by_id.strip_prefix("/").unwrap());
        assert_eq!(fs::read_link(link).unwrap(), Path::new("../../ttyACM0"));
    }

    #[test]
    fn what_is_removed_leaves_nothing_and_returns_under_another_number() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(root.path().into()).unwrap();
        let port = "1-1".parse().unwrap();
        let entries = || {
            let list = |folder: &str| fs::read_dir(root.path().join(folder)).unwrap().count();
            ["sys/bus/usb/devices", "sys/class/tty", "sys/dev/char", "dev/serial/by-id"].map(list)
        };
        tree.add(&port, Some(&klipper()), Some(("ttyACM0", Path::new("/dev/null")))).unwrap();
        assert_eq!(entries(), [3, 1, 1, 1]);
        tree.remove().unwrap();
        assert_eq!(entries(), [0; 4]);
        assert!(!root.path().join("dev/ttyACM0").is_symlink());

        tree.add(&port, Some(&klipper()), Some(("ttyACM1", Path::new("/dev/null")))).unwrap();
        assert_eq!(text(root.path().join("sys/bus/usb/devices/1-1/devnum")), "3");
        drop(tree);
        assert_eq!(entries(), [0; 4]);
    }

    #[test]
    fn two_boards_share_a_host() {
        let root = tempfile::tempdir().unwrap();
        let mut first = Tree::new(root.path().into()).unwrap();
        let mut second = Tree::new(root.path().into()).unwrap();
        first.add(&"1-1".parse().unwrap(), Some(&klipper()), Some(("ttyACM0", Path::new("/dev/null")))).unwrap();
        second.add(&"1-2".parse().unwrap(), Some(&klipper()), None).unwrap();
        assert_eq!(text(root.path().join("sys/bus/usb/devices/1-2/devnum")), "3");
        let taken = second.add(&"1-1".parse().unwrap(), Some(&klipper()), None).unwrap_err();
        assert!(taken.to_string().contains("usb1/1-1: File exists"), "{taken}");
        drop(second);
        assert_eq!(text(root.path().join("sys/bus/usb/devices/1-1/devnum")), "2");
    }

    #[test]
    fn a_bridge_and_a_bare_uart_have_ttys_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(root.path().into()).unwrap();
        let port = "1-1".parse().unwrap();
        let bridge = Parent::Bridge(UsbId::new(0x1a86, 0x7523));
        let by_id = tree.add(&port, Some(&bridge), Some(("ttyUSB0", Path::new("/dev/null")))).unwrap();
        assert_eq!(by_id.as_deref(), Some(Path::new("/dev/serial/by-id/usb-1a86_USB_Serial-if00-port0")));
        let tty = root.path().join("sys/bus/usb/devices/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0");
        assert_eq!(text(tty.join("dev")), "1:3");
        tree.remove().unwrap();

        assert_eq!(tree.add(&port, None, Some(("ttyS0", Path::new("/dev/null")))).unwrap(), None);
        let tty = fs::canonicalize(root.path().join("sys/class/tty/ttyS0")).unwrap();
        assert!(tty.ends_with("devices/virtual/tty/ttyS0"));
    }
}
