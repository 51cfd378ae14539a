//! A stock Debian kernel in QEMU, for what needs real USB: vhci, cdc-acm, usbfs and udev.
//!
//! ```no_run
//! use tests::{binary::static_binary, vm::Vm};
//!
//! let outcome = Vm::new()
//!     .file(static_binary("kflash"), "kflash")
//!     .script("./kflash detect --json > /out/boards.json")
//!     .run();
//! assert_eq!(outcome.code, 0, "{}", outcome.output);
//! let boards = outcome.file("boards.json");
//! ```
//!
//! The guest is made of programs of this host (`tests/vm/build-guest`) and cached under `target/vm/`. Its script runs as root with
//! `sh -eu` in `/work`, where the files given to it lie, with the functions of `tests/vm/guest-lib.sh`. What it leaves in `/out` comes back.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::binary::target_dir;

/// What is run where a piece is missing.
const INSTALL: &str = "run `tools/debian-packages test`";

/// Debian's packages whose programs the guest is made of.
const PACKAGES: [&str; 8] =
    ["busybox-static", "cpio", "dfu-util", "kmod", "qemu-system-x86", "udev", "xz-utils", "zstd"];

/// One run of a guest.
pub struct Vm {
    share: TempDir,
    script: String,
    limit: Duration,
}

/// How a guest's script ended.
pub struct Outcome {
    /// The script's exit code.
    pub code: i32,
    /// What it printed, and what the kernel had to say at level "error" or worse.
    pub output: String,
    share: TempDir,
}

impl Vm {
    /// A guest with an empty script and a limit of five minutes, which an overloaded machine needs.
    pub fn new() -> Self {
        let share = TempDir::with_prefix("kflash-vm-").expect("a temporary folder can be made");
        for folder in ["in", "out"] {
            fs::create_dir(share.path().join(folder)).expect("the share can be laid out");
        }
        Self { share, script: String::new(), limit: Duration::from_secs(300) }
    }

    /// Gives the guest a copy of a file of the host, mode included, as `/work/NAME`.
    #[must_use]
    pub fn file(self, host: impl AsRef<Path>, name: &str) -> Self {
        let host = host.as_ref();
        fs::copy(host, self.input(name))
            .unwrap_or_else(|error| panic!("cannot give {} to the guest: {error}", host.display()));
        self
    }

    /// Gives the guest a file with these bytes as `/work/NAME`.
    #[must_use]
    pub fn bytes(self, bytes: impl AsRef<[u8]>, name: &str) -> Self {
        fs::write(self.input(name), bytes).unwrap_or_else(|error| panic!("cannot give {name} to the guest: {error}"));
        self
    }

    /// The text that the guest's shell runs.
    #[must_use]
    pub fn script(mut self, text: &str) -> Self {
        text.clone_into(&mut self.script);
        self
    }

    /// The wall-clock time that the whole run may take.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Boots, runs the script, powers off.
    ///
    /// Panics, with all that the console said, if the guest does not end in time or dies before its script has ended.
    pub fn run(self) -> Outcome {
        let guest = Guest::cached();
        fs::copy(recipe().join("guest-lib.sh"), self.input("guest-lib.sh")).expect("the share can be written");
        fs::write(self.input("script"), format!(". ./guest-lib.sh\n{}\n", self.script))
            .expect("the share can be written");

        let started = Instant::now();
        let mut qemu = guest.qemu(self.share.path()).spawn().unwrap_or_else(|error| {
            panic!("cannot run qemu-system-x86_64 (package qemu-system-x86): {error}; {INSTALL}")
        });
        let mut console = qemu.stdout.take().expect("the console is piped");
        let reader = thread::spawn(move || {
            let mut text = Vec::new();
            console.read_to_end(&mut text).expect("the console can be read");
            String::from_utf8_lossy(&text).replace('\r', "")
        });
        let status = wait(&mut qemu, started + self.limit);
        let output = reader.join().expect("the console's reader does not panic");
        let Some(status) = status else {
            panic!("the guest has not ended after {:?}; its console:\n{output}", self.limit);
        };
        let code =
            fs::read_to_string(self.share.path().join("code")).ok().and_then(|text| text.trim().parse::<i32>().ok());
        match code {
            // isa-debug-exit: QEMU ends with (value << 1) | 1, of which the host sees eight bits.
            Some(code) if status.code() == Some((code << 1 | 1) & 0xff) => Outcome { code, output, share: self.share },
            _ => panic!("the guest died ({status}, exit code {code:?}); its console:\n{output}"),
        }
    }

    fn input(&self, name: &str) -> PathBuf {
        self.share.path().join("in").join(name)
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self::new()
    }
}

impl Outcome {
    /// The bytes that the guest left as `/out/NAME`. Panics, with the console, if there are none.
    pub fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.share.path().join("out").join(name))
            .unwrap_or_else(|error| panic!("the guest left no /out/{name} ({error}); its console:\n{}", self.output))
    }
}

/// The folder of the guest's recipe.
fn recipe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm")
}

fn wait(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().expect("QEMU can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            child.kill().expect("QEMU can be killed");
            child.wait().expect("QEMU can be waited for");
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A folder with `vmlinux` and `initramfs.cpio`.
struct Guest(PathBuf);

impl Guest {
    /// The guest for the kernel that is there and the packages that are installed; built if it is not there yet, which takes a quarter of a minute.
    fn cached() -> Self {
        let vm = target_dir().join("vm");
        let kernel = newest_kernel(&vm);
        let folder = vm.join(key(&kernel));
        // Tests run in several threads and processes.
        let lock = File::create(vm.join("lock")).expect("target/vm can be written");
        lock.lock().expect("target/vm/lock can be locked");
        if !folder.exists() {
            let unfinished = vm.join("unfinished");
            let output = Command::new(recipe().join("build-guest"))
                .arg(&kernel)
                .arg(&unfinished)
                .output()
                .expect("tests/vm/build-guest can be run");
            assert!(
                output.status.success(),
                "tests/vm/build-guest: {}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            fs::rename(&unfinished, &folder).expect("target/vm can be written");
        }
        Self(folder)
    }

    fn qemu(&self, share: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Always TCG: /dev/kvm may be there and still hang on an ordinary kernel. Always one CPU: USB/IP is ten times slower with two.
        qemu.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max"])
            .args(["-m", "768", "-smp", "1", "-nodefaults", "-no-reboot"])
            .args(["-display", "none", "-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0x501,iosize=1"])
            .arg("-kernel")
            .arg(self.0.join("vmlinux"))
            .arg("-initrd")
            .arg(self.0.join("initramfs.cpio"))
            .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off tsc=reliable no_timer_check"])
            .arg("-virtfs")
            .arg(format!("local,path={},mount_tag=host,security_model=none,multidevs=remap", share.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        qemu
    }
}

/// The kernel package that `tools/debian-packages test` downloaded.
fn newest_kernel(vm: &Path) -> PathBuf {
    fs::read_dir(vm)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .max()
        .unwrap_or_else(|| panic!("no package linux-image-*-amd64 in {}: {INSTALL}, which downloads it", vm.display()))
}

/// Names a guest by all that it is made of: the kernel, the recipe, the versions of the packages. Panics if a package is missing.
fn key(kernel: &Path) -> String {
    let query = Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Abbrev}${Package} ${Version}\n"])
        .args(PACKAGES)
        .output()
        .expect("dpkg-query can be run: the VM is made on Debian");
    let versions = String::from_utf8_lossy(&query.stdout);
    for package in PACKAGES {
        assert!(
            versions.lines().any(|line| line.starts_with(&format!("ii {package} "))),
            "the Debian package {package} is not installed: {INSTALL}"
        );
    }
    let name = kernel.file_name().expect("a file has a name");
    let mut hash = Sha256::new();
    hash.update(name.as_encoded_bytes());
    hash.update(&query.stdout);
    for file in ["build-guest", "init"] {
        hash.update(fs::read(recipe().join(file)).expect("tests/vm can be read"));
    }
    let digest = hash.finalize();
    let start = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes make a u64"));
    format!("guest-{start:016x}")
}
