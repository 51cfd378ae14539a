//! The walk through `/sys/bus/usb/devices`, under a host root. Everything that is read there may come from a hostile
//! device: it is bounded, and never taken for a path.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::folder::Folder;
use super::mode::{mcu_of, mode_of};
use super::{Device, DiscoverError, Place, Scan, TtyNode, UsbId, UsbIdentity, UsbPath};

const USB_DEVICES: &str = "sys/bus/usb/devices";
const BY_ID: &str = "dev/serial/by-id";

/// sysfs attributes are a page at most; a USB string has 126 UTF-16 units.
const LONGEST_ATTRIBUTE: usize = 4096;

/// How far below `/dev` a node is looked for: `/dev/serial/by-path` is two deep.
const DEEPEST: u32 = 3;
/// How many entries of `/dev` are looked at.
const MOST_NODES: u32 = 10_000;

/// `bDeviceClass` of a hub.
const HUB: &str = "09";

/// The Linux Foundation's id: root hubs.
const LINUX: u16 = 0x1d6b;

/// Every USB device of the host in `root` that is no hub.
pub(crate) fn scan(root: &Path) -> Result<Scan, DiscoverError> {
    let folder = root.join(USB_DEVICES);
    let mut scan = Scan { devices: Vec::new(), looked_at: vec![folder.clone(), root.join(BY_ID)] };
    let entries = match Folder::open(&folder) {
        Ok(entries) => entries,
        // No USB on this host, or sysfs is not mounted here: nothing is plugged in.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(scan),
        Err(source) => return Err(DiscoverError::Unreadable { path: folder, source }),
    };
    let by_id = by_id_links(root);
    // `usb1` is a root hub and `1-1:1.0` an interface; neither is a port path.
    let mut paths = Vec::new();
    entries.each_name(|name| paths.extend(name.to_str().ok().and_then(|name| name.parse::<UsbPath>().ok())));
    paths.sort_by_cached_key(|path| {
        path.as_str().split(['-', '.']).map(|part| part.parse().unwrap_or(u8::MAX)).collect::<Vec<_>>()
    });
    scan.devices = paths.into_iter().filter_map(|path| device(&entries, path, &by_id)).collect();
    Ok(scan)
}

/// The tty `node` (without the root) as a device of its own; `None` where there is none.
pub(crate) fn bare_tty(root: &Path, node: &Path) -> Option<Device> {
    let numbers = char_device_numbers(&under(root, node))?;
    Some(Device {
        place: Place::Tty(node.to_owned()),
        mode: super::Mode::Unknown,
        usb: None,
        tty: Some(TtyNode { node: node.to_owned(), by_id: None, numbers: Some(numbers) }),
        usbfs: None,
        mcu: None,
    })
}

/// Whether the character device of these numbers is a tty of the USB device at `path`, by `/sys/dev/char/M:m`.
pub(crate) fn is_tty_of(root: &Path, numbers: (u32, u32), path: &UsbPath) -> bool {
    let link = root.join("sys/dev/char").join(format!("{}:{}", numbers.0, numbers.1));
    let device = root.join(USB_DEVICES).join(path.as_str());
    let (Ok(tty), Ok(device)) = (fs::canonicalize(link), fs::canonicalize(device)) else { return false };
    // Below a hub's directory lie those of the devices behind it: only its own interfaces count.
    let first = tty.strip_prefix(device).ok().and_then(|below| below.components().next().map(Component::as_os_str));
    first.and_then(OsStr::to_str).is_some_and(|name| is_interface_of(name, path))
}

/// Bus and device number of what is at `path` now.
pub(crate) fn bus_and_number(root: &Path, path: &UsbPath) -> Option<(u16, u16)> {
    let folder = Folder::open(root.join(USB_DEVICES).join(path.as_str())).ok()?;
    Some((number(&folder, "busnum")?, number(&folder, "devnum")?))
}

/// The tty of what is at `path` now, without its links.
pub(crate) fn tty_of(root: &Path, path: &UsbPath) -> Option<TtyNode> {
    let (name, numbers) = tty(&Folder::open(root.join(USB_DEVICES).join(path.as_str())).ok()?, path)?;
    Some(TtyNode { node: Path::new("/dev").join(name), by_id: None, numbers })
}

/// The node (with the root) that has a tty's numbers: by the kernel's name, else by whatever name a device plugin gave it in
/// this container. `None` where there is none, or the numbers are not known.
pub(crate) fn node_of(root: &Path, tty: &TtyNode) -> Option<PathBuf> {
    let (node, numbers) = (under(root, &tty.node), tty.numbers?);
    if char_device_numbers(&node) == Some(numbers) {
        return Some(node);
    }
    let mut left = MOST_NODES;
    find_node(&root.join("dev"), numbers, DEEPEST, &mut left)
}

/// A node with these numbers in `folder`, or in folders that are at most `deeper` below it.
fn find_node(folder: &Path, numbers: (u32, u32), deeper: u32, left: &mut u32) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        *left = left.checked_sub(1)?;
        // Links are followed to a node, never into a folder.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => folders.push(entry.path()),
            _ if char_device_numbers(&entry.path()) == Some(numbers) => return Some(entry.path()),
            _ => {}
        }
    }
    let deeper = deeper.checked_sub(1)?;
    folders.iter().find_map(|folder| find_node(folder, numbers, deeper, left))
}

/// The tty, as the kernel calls it, that the node at `path` is, where that is one of a USB device.
pub(crate) fn usb_tty_at(root: &Path, path: &Path) -> Option<PathBuf> {
    let numbers = char_device_numbers(&under(root, path));
    let mut ttys = scan(root).ok()?.devices.into_iter().filter_map(|device| device.tty);
    ttys.find(|tty| tty.numbers.is_some() && tty.numbers == numbers).map(|tty| tty.node)
}

/// Where the links from `path` (without the root) lead, read as text, so that they stay under the root.
pub(crate) fn resolve(root: &Path, path: &Path) -> PathBuf {
    let mut path = lexical(path);
    // As many as the kernel follows.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(under(root, &path)) else { break };
        let next = lexical(&path.parent().unwrap_or(Path::new("/")).join(target));
        // A simulated node leads to a pty of the real root.
        if fs::symlink_metadata(under(root, &next)).is_err() {
            break;
        }
        path = next;
    }
    path
}

/// `path`, which begins at the host's root, below `root`.
pub(crate) fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Major and minor number of a character device.
pub(crate) fn char_device_numbers(path: &Path) -> Option<(u32, u32)> {
    let metadata = fs::metadata(path).ok().filter(|metadata| metadata.file_type().is_char_device())?;
    Some((rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())))
}

fn device(devices: &Folder, path: UsbPath, by_id: &BTreeMap<PathBuf, PathBuf>) -> Option<Device> {
    let folder = devices.folder(path.as_str()).ok()?;
    let id = UsbId::new(hex(&folder, "idVendor")?, hex(&folder, "idProduct")?);
    if id.vendor == LINUX || attribute(&folder, "bDeviceClass")? == HUB {
        return None;
    }
    let revision = hex(&folder, "bcdDevice").unwrap_or(0);
    let (bus, number) = (number(&folder, "busnum")?, number(&folder, "devnum")?);
    let text = |name| attribute(&folder, name).filter(|text| !text.is_empty());
    let (manufacturer, product, serial) = (text("manufacturer"), text("product"), text("serial"));
    let mode = mode_of(id, manufacturer.as_deref());
    let mcu = mcu_of(mode, product.as_deref());
    let tty = tty(&folder, &path).map(|(name, numbers)| {
        let node = Path::new("/dev").join(name);
        TtyNode { by_id: by_id.get(&node).cloned(), node, numbers }
    });
    Some(Device {
        place: Place::Usb(path),
        mode,
        usb: Some(UsbIdentity { id, revision, bus, number, manufacturer, product, serial }),
        tty,
        usbfs: Some(format!("/dev/bus/usb/{bus:03}/{number:03}").into()),
        mcu,
    })
}

/// The first tty among the interfaces of a device: `1-1:1.0/tty/ttyACM0` (cdc_acm) or `1-1:1.0/ttyUSB0/tty/ttyUSB0`
/// (usb-serial).
fn tty(folder: &Folder, path: &UsbPath) -> Option<(String, Option<(u32, u32)>)> {
    let interfaces = folder.names(|name| is_interface_of(name, path)).into_iter();
    let mut ttys = interfaces.filter_map(|interface| folder.folder(interface).ok()).flat_map(|interface| {
        let ports = interface.names(|name| name.starts_with("tty")).into_iter();
        let classes = ports.filter_map(move |name| {
            let class = if name == "tty" { name } else { name + "/tty" };
            interface.folder(class).ok()
        });
        classes.filter_map(|class| class.names(|_| true).into_iter().next().map(|name| (class, name)))
    });
    ttys.next().map(|(class, name)| {
        let numbers = class.folder(&*name).ok().and_then(|tty| numbers(&tty));
        (name, numbers)
    })
}

fn is_interface_of(name: &str, path: &UsbPath) -> bool {
    name.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with(':'))
}

/// `166:0`, as the attribute `dev` says it.
fn numbers(tty: &Folder) -> Option<(u32, u32)> {
    let dev = attribute(tty, "dev")?;
    let (major, minor) = dev.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The links in `/dev/serial/by-id` by the node that they lead to, all without the root.
fn by_id_links(root: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let Ok(folder) = Folder::open(root.join(BY_ID)) else { return BTreeMap::new() };
    let links = folder.names(|_| true).into_iter().rev().filter_map(|name| {
        let target = folder.link(&*name).ok()?;
        let link = Path::new("/").join(BY_ID).join(name);
        Some((lexical(&link.parent()?.join(target)), link))
    });
    links.collect()
}

/// `path` without `.` and `..`, as an absolute path.
fn lexical(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    result
}

/// An attribute without its line end; bytes that are no UTF-8 are replaced.
fn attribute(folder: &Folder, name: &str) -> Option<String> {
    let text = folder.read(name, LONGEST_ATTRIBUTE).ok()?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn hex(folder: &Folder, name: &str) -> Option<u16> {
    u16::from_str_radix(&attribute(folder, name)?, 16).ok()
}

fn number(folder: &Folder, name: &str) -> Option<u16> {
    attribute(folder, name)?.parse().ok()
}

#[cfg(test)]
mod tests;
