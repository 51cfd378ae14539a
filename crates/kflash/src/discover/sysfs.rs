//! The walk through `/sys/bus/usb/devices`, under a host root. Everything that is read there may come from a hostile
//! device: it is bounded, and never taken for a path.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::mode::{mcu_of, mode_of};
use super::{Device, DiscoverError, Place, Scan, TtyNode, UsbId, UsbIdentity, UsbPath};

const USB_DEVICES: &str = "sys/bus/usb/devices";
const BY_ID: &str = "dev/serial/by-id";

/// sysfs attributes are a page at most; a USB string has 126 UTF-16 units.
const LONGEST_ATTRIBUTE: u64 = 4096;

/// `bDeviceClass` of a hub.
const HUB: &str = "09";

/// The Linux Foundation's id: root hubs.
const LINUX: u16 = 0x1d6b;

/// Every USB device of the host in `root` that is no hub.
pub(crate) fn scan(root: &Path) -> Result<Scan, DiscoverError> {
    let folder = root.join(USB_DEVICES);
    let mut scan = Scan { devices: Vec::new(), looked_at: vec![folder.clone(), root.join(BY_ID)] };
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        // No USB on this host, or sysfs is not mounted here: nothing is plugged in.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(scan),
        Err(source) => return Err(DiscoverError::Unreadable { path: folder, source }),
    };
    let by_id = by_id_links(root);
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    // `usb1` is a root hub and `1-1:1.0` an interface; neither is a port path.
    let mut paths: Vec<UsbPath> = names.filter_map(|name| name.parse().ok()).collect();
    paths.sort_by_cached_key(|path| {
        path.as_str().split(['-', '.']).map(|part| part.parse().unwrap_or(u8::MAX)).collect::<Vec<_>>()
    });
    scan.devices = paths.into_iter().filter_map(|path| device(root, path, &by_id)).collect();
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
    let folder = root.join(USB_DEVICES).join(path.as_str());
    Some((number(&folder, "busnum")?, number(&folder, "devnum")?))
}

/// The tty of what is at `path` now, without its links.
pub(crate) fn tty_of(root: &Path, path: &UsbPath) -> Option<TtyNode> {
    let (name, numbers) = tty(&root.join(USB_DEVICES).join(path.as_str()), path)?;
    Some(TtyNode { node: Path::new("/dev").join(name), by_id: None, numbers })
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

fn device(root: &Path, path: UsbPath, by_id: &BTreeMap<PathBuf, PathBuf>) -> Option<Device> {
    let folder = root.join(USB_DEVICES).join(path.as_str());
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
fn tty(folder: &Path, path: &UsbPath) -> Option<(String, Option<(u32, u32)>)> {
    let interfaces = names(folder).into_iter().filter(|name| is_interface_of(name, path));
    let ttys = interfaces.flat_map(|interface| {
        let interface = folder.join(interface);
        let ports = names(&interface).into_iter().filter(|name| name.starts_with("tty"));
        let class =
            ports.map(move |name| if name == "tty" { interface.join(name) } else { interface.join(name).join("tty") });
        class.flat_map(|class| names(&class).into_iter().map(move |name| (class.join(&name), name)))
    });
    ttys.map(|(tty, name)| (name, numbers(&tty))).next()
}

fn is_interface_of(name: &str, path: &UsbPath) -> bool {
    name.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with(':'))
}

/// `166:0`, as the attribute `dev` says it.
fn numbers(tty: &Path) -> Option<(u32, u32)> {
    let dev = attribute(tty, "dev")?;
    let (major, minor) = dev.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The links in `/dev/serial/by-id` by the node that they lead to, all without the root.
fn by_id_links(root: &Path) -> BTreeMap<PathBuf, PathBuf> {
    let folder = root.join(BY_ID);
    let links = names(&folder).into_iter().rev().filter_map(|name| {
        let target = fs::read_link(folder.join(&name)).ok()?;
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

/// The names in a directory, sorted; none if it cannot be read (a device may leave at any moment).
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// An attribute without its line end; bytes that are no UTF-8 are replaced.
fn attribute(folder: &Path, name: &str) -> Option<String> {
    let text = read_bounded(&folder.join(name)).ok()?;
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn hex(folder: &Path, name: &str) -> Option<u16> {
    u16::from_str_radix(&attribute(folder, name)?, 16).ok()
}

fn number(folder: &Path, name: &str) -> Option<u16> {
    attribute(folder, name)?.parse().ok()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST_ATTRIBUTE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
