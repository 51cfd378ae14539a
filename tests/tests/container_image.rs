//! The image of the flasher: made by `tools/images`, and run as a pod runs it: as nobody, without a capability, on a root
//! that cannot be written to.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kflash_sim::firmware::TestImage;
use serde_json::Value;
use tests::binary::{dynamic_binary, static_binary_for};
use tests::podman::Engine;
use tests::served::Served;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const NEW: &str = "v0.13.0-999-gfeedbeef";
/// A program that is not for this machine is run by an emulator, which is put into its container.
const EMULATOR: &str = "/usr/bin/qemu-aarch64";
/// What a program that is not static needs in its container.
const LIBRARIES: [&str; 2] = ["/lib64", "/lib/x86_64-linux-gnu"];

/// An image of kflash.
struct Flasher {
    engine: Engine,
    name: String,
    /// Of this host, put into each of its containers.
    beside: Vec<&'static str>,
    /// What `tools/images` said.
    said: String,
}

impl Flasher {
    fn new(architecture: &str, target: &str) -> Self {
        let mut flasher = Self::of("kflash", architecture, static_binary_for(target, "kflash"), &[]);
        if architecture == "arm64" {
            flasher.beside.extend([EMULATOR].into_iter().chain(LIBRARIES));
        }
        flasher
    }

    fn of(image: &str, architecture: &str, program: PathBuf, arguments: &[&str]) -> Self {
        let engine = Engine::new();
        let said = engine.make(architecture, &[(program, image)], &[arguments, &[image]].concat());
        let name = format!("localhost/{image}:{}-{architecture}", env!("CARGO_PKG_VERSION"));
        Self { engine, name, beside: Vec::new(), said }
    }

    fn inspect(&self) -> Value {
        let output = self.engine.podman(["image", "inspect", &self.name]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))[0].take()
    }

    /// Runs the image confined as in a pod, with these files and folders of the host.
    fn output(&self, volumes: &[(PathBuf, &str)], arguments: &[&str]) -> Output {
        let mut words: Vec<String> = ["run", "--rm", "--read-only", "--read-only-tmpfs=false"]
            .into_iter()
            .chain(["--cap-drop", "all", "--security-opt", "no-new-privileges"])
            .map(str::to_owned)
            .collect();
        words.extend(volumes.iter().map(|(from, to)| format!("--volume={}:{to}", from.display())));
        words.extend(self.beside.iter().map(|path| format!("--volume={path}:{path}:ro")));
        let mut entry = None;
        if self.beside.contains(&EMULATOR) {
            words.extend(["--platform=linux/arm64".to_owned(), format!("--entrypoint={EMULATOR}")]);
            entry = Some(self.inspect()["Config"]["Entrypoint"][0].as_str().unwrap().to_owned());
        }
        words.push(self.name.clone());
        words.extend(entry.into_iter().chain(arguments.iter().map(|&word| word.to_owned())));
        self.engine.podman(words)
    }

    /// The same, which ends well; what it printed.
    fn run(&self, volumes: &[(PathBuf, &str)], arguments: &[&str]) -> String {
        let output = self.output(volumes, arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A folder with firmware in it, and its file.
    fn firmware(&self) -> (PathBuf, PathBuf) {
        let folder = self.engine.folder().join("firmware");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("klipper.bin");
        fs::write(&file, TestImage::klipper("stm32f446xx", 0x0800_8000).version(NEW).build()).unwrap();
        (folder, file)
    }

    /// A folder that everybody may write to.
    fn lock(&self) -> PathBuf {
        let folder = self.engine.folder().join("lock");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        folder
    }

    /// `detect`, and a flash of a board behind the network.
    fn detects_and_flashes(&self) {
        // Of sysfs, every container sees enough.
        let detected: Value = serde_json::from_str(&self.run(&[], &["detect", "--json"])).unwrap();
        assert!(detected["boards"].is_array(), "{detected:#}");

        let (firmware, file) = self.firmware();
        let board = Served::new(OCTOPUS, &["--known", file.to_str().unwrap()]);
        let ready = board.wait_for("ready");
        let place = format!("usbip://{}/1-1", ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap());
        board.wait_for("enumerated");
        let flash = ["flash", "--json", "--board", OCTOPUS, "--device", &place, "--firmware", "/firmware/klipper.bin"];
        let printed = self.run(&[(firmware, "/firmware:ro"), (self.lock(), "/run/lock")], &flash);
        let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        assert_eq!((&last["result"], &last["now"]["version"]), (&"flashed".into(), &NEW.into()), "{last:#}");
        board.wait_for(&format!("running application version={NEW:?}"));
    }
}

#[test]
fn nobody_flashes_a_board_over_the_network_from_a_container() {
    let flasher = Flasher::new("amd64", "x86_64-unknown-linux-musl");
    let image = flasher.inspect();
    let config = &image["Config"];
    assert_eq!((&config["User"], &config["Entrypoint"][0]), (&"65532:65532".into(), &"/usr/bin/kflash".into()));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    assert_eq!(label("title"), "kflash");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).output().unwrap();
    assert_eq!(label("revision"), String::from_utf8(commit.stdout).unwrap().trim());
    flasher.detects_and_flashes();
}

#[test]
fn the_archive_is_what_a_node_imports() {
    let flasher = Flasher::new("amd64", "x86_64-unknown-linux-musl");
    let name = format!("kflash-{}-amd64.tar", env!("CARGO_PKG_VERSION"));
    assert!(flasher.said.contains(&format!("sudo k3s ctr images import {name}\n")), "{}", flasher.said);
    let archive = flasher.engine.folder().join("images").join(name);
    let loaded = flasher.engine.podman(["load", "--input", archive.to_str().unwrap()]);
    let loaded = String::from_utf8(loaded.stdout).unwrap();
    // The name that the manifests have.
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s-jobs/detect-job.yaml")).unwrap();
    let wanted = manifest.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap();
    assert_eq!(loaded.trim(), format!("Loaded image: {wanted}"));
}

/// Its program is that of this host: to link it statically takes minutes, and what it does here is the same.
#[test]
fn the_image_with_debug_probes_looks_for_one() {
    let mut flasher = Flasher::of("kflash-swd", "amd64", dynamic_binary("kflash"), &["--no-archive"]);
    flasher.beside.extend(LIBRARIES);
    let label = &flasher.inspect()["Config"]["Labels"]["org.opencontainers.image.title"];
    assert_eq!(label, "kflash-swd");
    let detected: Value = serde_json::from_str(&flasher.run(&[], &["detect", "--json"])).unwrap();
    assert!(detected["boards"].is_array(), "{detected:#}");

    let mounts = [(flasher.firmware().0, "/firmware:ro"), (flasher.lock(), "/run/lock")];
    let flash = ["flash", "--via", "swd", "--board", OCTOPUS, "--firmware", "/firmware/klipper.bin"];
    let output = flasher.output(&mounts, &flash);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("no debug probe"), "{said}");
}

#[test]
fn the_image_for_arm_does_the_same() {
    let flasher = Flasher::new("arm64", "aarch64-unknown-linux-musl");
    assert_eq!(flasher.inspect()["Architecture"], "arm64");
    flasher.detects_and_flashes();
}
