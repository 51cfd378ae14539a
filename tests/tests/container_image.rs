//! The image of the flasher: made by `tools/images`, and run as a pod runs it: as nobody, without a capability, on a root
//! that cannot be written to.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kflash_sim::firmware::TestImage;
use serde_json::Value;
use tempfile::TempDir;
use tests::binary::static_binary_for;
use tests::served::Served;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const NEW: &str = "v0.13.0-999-gfeedbeef";
/// A program for aarch64 is run by an emulator, which is put into its container with its libraries, if it has any.
const EMULATOR: [&str; 3] = ["/usr/bin/qemu-aarch64", "/lib64", "/lib/x86_64-linux-gnu"];

/// podman, with everything that it keeps in a folder of its own, and an image of kflash in it.
struct Engine {
    folder: TempDir,
    image: String,
    architecture: &'static str,
    /// What `tools/images` said.
    said: String,
}

impl Engine {
    fn with_image(architecture: &'static str, target: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let image = format!("localhost/kflash:{version}-{architecture}");
        let mut engine = Self { folder: TempDir::new().unwrap(), image, architecture, said: String::new() };
        let at = |name: &str| engine.folder.path().join(name).display().to_string();
        // runc goes without systemd, and with control groups of the first kind, too.
        let settings = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\n\
             tmp_dir = {:?}\n[containers]\ndefault_ulimits = [\"nofile=1024:20000\", \"nproc=1000:30000\"]\n",
            at("libpod")
        );
        fs::write(at("containers.conf"), settings).unwrap();
        let storage =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = {:?}\nrunroot = {:?}\n", at("storage"), at("run"));
        fs::write(at("storage.conf"), storage).unwrap();

        let programs = engine.folder.path().join("programs").join(architecture);
        fs::create_dir_all(&programs).unwrap();
        fs::copy(static_binary_for(target, "kflash"), programs.join("kflash")).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/images");
        let mut command = engine.command(&script);
        command.args(["--arch", architecture, "--programs", &at("programs"), "kflash"]);
        let output = command.env("CARGO_TARGET_DIR", engine.folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        engine.said = String::from_utf8(output.stdout).unwrap();
        engine
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("CONTAINERS_CONF", self.folder.path().join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", self.folder.path().join("storage.conf"));
        command
    }

    fn podman(&self, arguments: &[&str]) -> Output {
        let output = self.command(Path::new("podman")).args(arguments).output();
        output.unwrap_or_else(|error| panic!("podman: {error}: run `tools/debian-packages test`"))
    }

    fn inspect(&self) -> Value {
        let output = self.podman(&["image", "inspect", &self.image]);
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))[0].take()
    }

    /// Runs the image confined as in a pod, with these files and folders of the host, and returns what it printed.
    fn run(&self, volumes: &[(PathBuf, &str)], arguments: &[&str]) -> String {
        let mut words: Vec<String> = ["run", "--rm", "--network", "host", "--read-only", "--read-only-tmpfs=false"]
            .into_iter()
            .chain(["--cap-drop", "all", "--security-opt", "no-new-privileges"])
            .map(str::to_owned)
            .collect();
        words.extend(volumes.iter().map(|(from, to)| format!("--volume={}:{to}", from.display())));
        let mut entry = None;
        if self.architecture == "arm64" {
            words.extend(EMULATOR.map(|path| format!("--volume={path}:{path}:ro")));
            words.extend(["--platform=linux/arm64".to_owned(), format!("--entrypoint={}", EMULATOR[0])]);
            entry = Some(self.inspect()["Config"]["Entrypoint"][0].as_str().unwrap().to_owned());
        }
        words.push(self.image.clone());
        words.extend(entry.into_iter().chain(arguments.iter().map(|&word| word.to_owned())));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let output = self.podman(&words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `detect`, and a flash of a board behind the network.
    fn detects_and_flashes(&self) {
        // Of sysfs, every container sees enough.
        let detected: Value = serde_json::from_str(&self.run(&[], &["detect", "--json"])).unwrap();
        assert!(detected["boards"].is_array(), "{detected:#}");

        let [firmware, lock] = ["firmware", "lock"].map(|name| self.folder.path().join(name));
        fs::create_dir(&firmware).unwrap();
        fs::create_dir(&lock).unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o777)).unwrap();
        let file = firmware.join("klipper.bin");
        fs::write(&file, TestImage::klipper("stm32f446xx", 0x0800_8000).version(NEW).build()).unwrap();
        let board = Served::new(OCTOPUS, &["--known", file.to_str().unwrap()]);
        let ready = board.wait_for("ready");
        let place = format!("usbip://{}/1-1", ready.split("listen=").nth(1).unwrap().split(' ').next().unwrap());
        board.wait_for("enumerated");
        let flash = ["flash", "--json", "--board", OCTOPUS, "--device", &place, "--firmware", "/firmware/klipper.bin"];
        let printed = self.run(&[(firmware, "/firmware:ro"), (lock, "/run/lock")], &flash);
        let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
        assert_eq!((&last["result"], &last["now"]["version"]), (&"flashed".into(), &NEW.into()), "{last:#}");
        board.wait_for(&format!("running application version={NEW:?}"));
    }
}

#[test]
fn nobody_flashes_a_board_over_the_network_from_a_container() {
    let engine = Engine::with_image("amd64", "x86_64-unknown-linux-musl");
    let image = engine.inspect();
    let config = &image["Config"];
    assert_eq!((&config["User"], &config["Entrypoint"][0]), (&"65532:65532".into(), &"/usr/bin/kflash".into()));
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].as_str().unwrap_or_default();
    assert_eq!(label("title"), "kflash");
    assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(label("licenses"), "MIT OR Apache-2.0");
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).output().unwrap();
    assert_eq!(label("revision"), String::from_utf8(commit.stdout).unwrap().trim());
    engine.detects_and_flashes();
}

#[test]
fn the_archive_is_what_a_node_imports() {
    let engine = Engine::with_image("amd64", "x86_64-unknown-linux-musl");
    let name = format!("kflash-{}-amd64.tar", env!("CARGO_PKG_VERSION"));
    assert!(engine.said.contains(&format!("sudo k3s ctr images import {name}\n")), "{}", engine.said);
    let archive = engine.folder.path().join("images").join(name);
    let loaded = engine.podman(&["load", "--input", archive.to_str().unwrap()]);
    let loaded = String::from_utf8(loaded.stdout).unwrap();
    // The name that the manifests have.
    let manifest =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../k8s-jobs/detect-job.yaml")).unwrap();
    let wanted = manifest.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap();
    assert_eq!(loaded.trim(), format!("Loaded image: {wanted}"));
}

#[test]
fn the_image_for_arm_does_the_same() {
    let engine = Engine::with_image("arm64", "aarch64-unknown-linux-musl");
    assert_eq!(engine.inspect()["Architecture"], "arm64");
    engine.detects_and_flashes();
}
