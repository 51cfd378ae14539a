//! Who holds a node open, from `/proc/PID/fd`.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::folder::Folder;
use crate::host::{Holder, Holders};

/// Inode of the first PID namespace (`PROC_PID_INIT_INO`, include/uapi/linux/nsfs.h): in any other, processes are hidden.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A process name is 15 bytes; kernel threads show longer ones.
const LONGEST_NAME: usize = 64;

/// Who holds which of some character devices open, this process excepted. Found in one walk, for any number of devices.
pub(crate) struct Open {
    /// Process and device.
    found: Vec<(Holder, (u32, u32))>,
    complete: bool,
}

impl Open {
    /// Walks through `/proc` under `root`, looking for these devices; `None` where it cannot.
    pub fn look(root: &Path, wanted: &BTreeSet<(u32, u32)>) -> Option<Self> {
        let proc = Folder::open(root.join("proc")).ok()?;
        // A mounted `/proc` of the host numbers this process otherwise than the container does.
        let own = proc.link("self").ok().and_then(|own| own.to_str()?.parse().ok());
        let own = own.unwrap_or_else(std::process::id);
        // Seen through its own `/proc`, a container is all there is.
        let mut complete = root != Path::new("/")
            || fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace == Path::new(FIRST_PID_NAMESPACE));
        let mut found = Vec::new();
        let mut pids: Vec<u32> = Vec::new();
        proc.each_name(|name| pids.extend(name.to_str().ok().and_then(|name| name.parse::<u32>().ok())));
        for pid in pids.into_iter().filter(|pid| *pid != own) {
            match devices(&proc, pid, wanted) {
                Some(devices) if devices.is_empty() => {}
                Some(devices) => {
                    let holder = Holder { pid, name: name(&proc, pid) };
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

/// Which of the devices a process holds open; `None` where it cannot be looked into.
fn devices(proc: &Folder, pid: u32, wanted: &BTreeSet<(u32, u32)>) -> Option<BTreeSet<(u32, u32)>> {
    let files = match proc.folder(format!("{pid}/fd")) {
        Ok(files) => files,
        // It ended meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(BTreeSet::new()),
        Err(_) => return None,
    };
    // By number, not by name: in its own mount namespace a process may know the node by any name.
    let mut held = BTreeSet::new();
    files.each_name(|file| held.extend(files.char_device(file).filter(|numbers| wanted.contains(numbers))));
    Some(held)
}

fn name(proc: &Folder, pid: u32) -> String {
    let name = proc.read(format!("{pid}/comm"), LONGEST_NAME).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
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
        let found = Open::look(Path::new("/"), &BTreeSet::from([null])).unwrap().holders(&[null]);
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
        let wanted = BTreeSet::from([full]);
        let look = || Open::look(root.path(), &wanted).unwrap();
        assert_eq!(look().holders(&[full]), Holders::Seen { processes: vec![holder], complete: true });
        assert_eq!(look().holders(&[]), Holders::Seen { processes: vec![], complete: true });
        // What cannot be looked into is not passed over in silence.
        fs::create_dir(root.path().join("proc/12")).unwrap();
        fs::write(root.path().join("proc/12/fd"), "").unwrap();
        assert_eq!(look().holders(&[]), Holders::Seen { processes: vec![], complete: false });
        assert!(Open::look(&root.path().join("nothing"), &wanted).is_none());
    }
}
