//! Who holds a node open, from `/proc/PID/fd`.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use crate::host::{Holder, Holders};

/// Inode of the first PID namespace (`PROC_PID_INIT_INO`, include/uapi/linux/nsfs.h): in any other, processes are hidden.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A process name is 15 bytes; kernel threads show longer ones.
const LONGEST_NAME: usize = 64;

/// Who holds which character devices open, this process excepted. Found in one walk, for any number of devices.
pub(crate) struct Open {
    /// Process and device.
    found: Vec<(Holder, (u32, u32))>,
    complete: bool,
}

impl Open {
    /// Walks through `/proc` under `root`; `None` where it cannot.
    pub fn look(root: &Path) -> Option<Self> {
        let proc = root.join("proc");
        let entries = fs::read_dir(&proc).ok()?;
        // A mounted `/proc` of the host numbers this process otherwise than the container does.
        let own = fs::read_link(proc.join("self")).ok().and_then(|own| own.to_str()?.parse().ok());
        let own = own.unwrap_or_else(std::process::id);
        // Seen through its own `/proc`, a container is all there is.
        let mut complete = root != Path::new("/")
            || fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace == Path::new(FIRST_PID_NAMESPACE));
        let mut found = Vec::new();
        for pid in entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()) {
            let process = proc.join(pid.to_string());
            match devices(&process) {
                _ if pid == own => {}
                Some(devices) if devices.is_empty() => {}
                Some(devices) => {
                    let holder = Holder { pid, name: name(&process) };
                    found.extend(devices.into_iter().map(|numbers| (holder.clone(), numbers)));
                }
                None => complete = false,
            }
        }
        found.sort_by_key(|(holder, _)| holder.pid);
        Some(Self { found, complete })
    }

    /// The processes that hold one of the devices of these numbers.
    pub fn holders(&self, nodes: &[(u32, u32)]) -> Holders {
        let holding = self.found.iter().filter(|(_, numbers)| nodes.contains(numbers));
        let mut processes: Vec<_> = holding.map(|(holder, _)| holder.clone()).collect();
        processes.dedup();
        Holders::Seen { processes, complete: self.complete }
    }
}

/// The character devices that a process holds open; `None` where it cannot be looked into.
fn devices(process: &Path) -> Option<BTreeSet<(u32, u32)>> {
    let files = match fs::read_dir(process.join("fd")) {
        Ok(files) => files,
        // It ended meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(BTreeSet::new()),
        Err(_) => return None,
    };
    // By number, not by name: in its own mount namespace a process may know the node by any name. And without asking a
    // server: a file on a dead network mount must not hang this.
    let stat = |file: fs::DirEntry| statx(CWD, file.path(), AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE).ok();
    let files = files.filter_map(|file| stat(file.ok()?));
    let devices = files.filter(|file| FileType::from_raw_mode(file.stx_mode.into()) == FileType::CharacterDevice);
    Some(devices.map(|file| (file.stx_rdev_major, file.stx_rdev_minor)).collect())
}

fn name(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    String::from_utf8_lossy(&name[..name.len().min(LONGEST_NAME)]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::discover::sysfs::char_device_numbers;

    #[test]
    fn another_process_is_found_and_this_one_is_not() {
        let null = char_device_numbers(Path::new("/dev/full")).unwrap();
        let _own = File::open("/dev/full").unwrap();
        let mut child =
            Command::new("sleep").arg("60").stdin(Stdio::from(File::open("/dev/full").unwrap())).spawn().unwrap();
        let found = Open::look(Path::new("/")).unwrap().holders(&[null]);
        child.kill().unwrap();
        child.wait().unwrap();
        let Holders::Seen { processes, .. } = found else { panic!("{found:?}") };
        assert!(processes.iter().any(|holder| holder.pid == child.id()), "{processes:?}");
        assert!(processes.iter().all(|holder| holder.pid != std::process::id()));
    }

    #[test]
    fn names_in_a_mounted_proc() {
        let root = tempfile::tempdir().unwrap();
        let fd = root.path().join("proc/4711/fd");
        fs::create_dir_all(&fd).unwrap();
        fs::write(root.path().join("proc/4711/comm"), b"klip\x1b\xffpy\n").unwrap();
        std::os::unix::fs::symlink("/dev/full", fd.join("3")).unwrap();
        std::os::unix::fs::symlink("socket:[1]", fd.join("4")).unwrap();
        let full = char_device_numbers(Path::new("/dev/full")).unwrap();
        let holder = Holder { pid: 4711, name: "klip\u{1b}\u{fffd}py".to_owned() };
        let look = || Open::look(root.path()).unwrap();
        assert_eq!(look().holders(&[full]), Holders::Seen { processes: vec![holder], complete: true });
        assert_eq!(look().holders(&[]), Holders::Seen { processes: vec![], complete: true });
        // What cannot be looked into is not passed over in silence.
        fs::create_dir(root.path().join("proc/12")).unwrap();
        fs::write(root.path().join("proc/12/fd"), "").unwrap();
        assert_eq!(look().holders(&[]), Holders::Seen { processes: vec![], complete: false });
        assert!(Open::look(&root.path().join("nothing")).is_none());
    }
}
