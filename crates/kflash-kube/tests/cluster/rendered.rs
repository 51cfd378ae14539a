//! All containers of a rendered Job, run as the kubelet runs them: in their order, with what the manifest gives them. The
//! firmware is built, the gate is the real Moonraker's, the board is simulated.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, PodSpec};
use kflash::cluster::{Outcome, Summary, annotation, label};
use kflash::config::Config;
use kflash::exit::ExitCode;
use kflash::obtain::{self, Obtained};
use kflash_job::{Access, Inputs, Manifest, Shape};
use kflash_sim::board::Options;
use serde_json::Value;
use tempfile::TempDir;
use tests::binary::debug_binary;
use tests::firmware_tree::FirmwareTree;
use tokio::{task, time};

use crate::bench::LEASE;
use crate::klippy::{Klippy, Says};
use crate::moonraker::{Running, idle};
use crate::pod::{BOARD, Socket};
use crate::process::{Served, send};

/// A firmware tree that is cloned over the network.
pub struct Repository {
    daemon: Child,
    pub url: String,
    pub tree: FirmwareTree,
}

impl Repository {
    pub fn new() -> Self {
        let tree = FirmwareTree::new();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let daemon = Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", tree.root.path().display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < end, "git daemon does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { daemon, url: format!("git://127.0.0.1:{port}/klipper"), tree }
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        // The daemon is a child of `git`, which passes the signal on.
        send("TERM", self.daemon.id());
        let _ = self.daemon.wait();
    }
}

/// A pod of a Job on a node: its containers, and a folder for each of its volumes.
pub struct Pod<'a> {
    served: &'a Served,
    pub spec: PodSpec,
    pub volumes: TempDir,
}

impl<'a> Pod<'a> {
    /// A pod of the Job that is rendered of `config`, with nothing in its volumes but its inputs.
    pub fn new(served: &'a Served, config: &str) -> Self {
        Self::of(served, config, &Shape { access: Access::Unprivileged, ..Shape::default() }, None)
    }

    /// The same in any shape; `firmware`: what comes along.
    pub fn of(served: &'a Served, config: &str, shape: &Shape, firmware: Option<&Obtained>) -> Self {
        let config = Config::parse(Path::new("/etc/kflash/config.toml"), config.as_bytes(), None).unwrap();
        let inputs = Inputs {
            config: &config,
            printer: &config.printers[0],
            profiles: &BTreeMap::new(),
            ca: None,
            moonraker_ca: None,
            firmware,
        };
        let mut manifests = kflash_job::flash(&inputs, shape).unwrap();
        let (Some(Manifest::Job(job)), Some(Manifest::ConfigMap(map))) = (manifests.pop(), manifests.pop()) else {
            panic!("a ConfigMap and a Job")
        };
        let spec = job.spec.unwrap().template.spec.unwrap();
        let volumes = TempDir::new().unwrap();
        for volume in spec.volumes.iter().flatten() {
            fs::create_dir(volumes.path().join(&volume.name)).unwrap();
        }
        let at = |name: &str| volumes.path().join(name);
        fs::create_dir(at("run")).unwrap();
        symlink(at("lock"), at("run/lock")).unwrap();
        for (key, text) in map.data.unwrap() {
            fs::write(volumes.path().join("inputs").join(key), text).unwrap();
        }
        for (key, bytes) in map.binary_data.into_iter().flatten() {
            fs::write(volumes.path().join("firmware").join(key), bytes.0).unwrap();
        }
        Self { served, spec, volumes }
    }

    pub fn container(&self, name: &str) -> Container {
        let mut containers = self.spec.init_containers.iter().flatten().chain(&self.spec.containers);
        containers.find(|container| container.name == name).unwrap().clone()
    }

    /// The words, and every path where it is here.
    fn words(&self, container: &Container, words: &[String]) -> Vec<String> {
        words.iter().map(|word| self.here(container, &expanded(container, word))).collect()
    }

    fn here(&self, container: &Container, path: &str) -> String {
        if Some(path) == container.termination_message_path.as_deref() {
            return self.termination().display().to_string();
        }
        let mounts = container.volume_mounts.iter().flatten();
        let inside = mounts.filter_map(|mount| {
            let below = path.strip_prefix(&mount.mount_path)?;
            (below.is_empty() || below.starts_with('/')).then_some((mount, below))
        });
        inside.max_by_key(|(mount, _)| mount.mount_path.len()).map_or_else(
            || path.to_owned(),
            |(mount, below)| format!("{}{below}", self.volumes.path().join(&mount.name).display()),
        )
    }

    pub fn termination(&self) -> PathBuf {
        self.volumes.path().join("termination")
    }

    /// The container `name`, ready to be started.
    pub fn command(&self, name: &str, words: Option<Vec<String>>) -> Command {
        let container = self.container(name);
        let sidecar = name == "quiesce" && words.is_none();
        let words = self.words(&container, &words.unwrap_or_else(|| container.args.clone().unwrap()));
        let mut command = if ["settle", "quiesce"].contains(&name) {
            // Where a pod has its account's token.
            self.served.kflash(&words.iter().map(String::as_str).collect::<Vec<_>>())
        } else {
            let mut command = Command::new(debug_binary("kflash", "kflash-cli"));
            command.args(&words).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
            command
        };
        for variable in container.env.iter().flatten() {
            command.envs(variable.value.as_ref().map(|value| (&variable.name, self.here(&container, value))));
        }
        // Its /run/lock is a volume; and what both see of the node is here, too, where there is one.
        if name.starts_with("kflash") || (sidecar && self.volumes.path().join("sys").is_dir()) {
            command.args(["--host-root"]).arg(self.volumes.path());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub async fn run(&self, name: &str, words: Option<Vec<String>>) -> Output {
        let mut command = self.command(name, words);
        task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    /// All of them, from the obtaining of the firmware to the end of the sidecar; what the flash came to.
    async fn run_all(&self, built: impl FnOnce(PathBuf)) -> Summary {
        let names: Vec<_> =
            self.spec.init_containers.iter().flatten().map(|container| container.name.as_str()).collect();
        assert_eq!(names, ["settle", "build", "quiesce"]);
        for name in ["settle", "build"] {
            let output = self.run(name, None).await;
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        }
        built(self.volumes.path().join("firmware/mcu"));
        let sidecar = self.quiesced().await;
        let flashed = self.run("kflash", None).await;
        let json = fs::read(self.termination()).unwrap_or_else(|error| panic!("{error}: {flashed:?}"));
        let left: Summary = serde_json::from_slice(&json).unwrap();
        assert_eq!(flashed.status.code(), Some(left.exit_code.into()), "{flashed:?}");
        self.end(sidecar).await;
        left
    }

    /// The sidecar, once its startup probe has succeeded.
    pub async fn quiesced(&self) -> Child {
        let sidecar = self.command("quiesce", None).spawn().unwrap();
        let probe = self.container("quiesce").startup_probe.unwrap().exec.unwrap().command.unwrap().split_off(1);
        while self.run("quiesce", Some(probe.clone())).await.status.code() != Some(0) {
            time::sleep(Duration::from_millis(50)).await;
        }
        sidecar
    }

    /// The sidecar is told to end, and Klipper is back.
    pub async fn end(&self, sidecar: Child) {
        send("TERM", sidecar.id());
        let output = task::spawn_blocking(move || sidecar.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!((self.served.server.replicas(&self.served.klipper), self.served.owed()), (1, Value::Null));
    }
}

/// A word as the kubelet hands it over.
pub fn expanded(container: &Container, word: &str) -> String {
    let pod = BTreeMap::from([
        (format!("metadata.labels['{}']", label::JOB_UID), "uid-of-first"),
        (format!("metadata.labels['{}']", label::JOB_NAME), "first"),
        ("metadata.name".to_owned(), "first-x7k2p"),
    ]);
    let mut word = word.to_owned();
    for variable in container.env.iter().flatten() {
        if let Some(field) = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref()) {
            word = word.replace(&format!("$({})", variable.name), pod[&field.field_path]);
        }
    }
    word
}

/// A configuration of a printer whose board's firmware is built.
pub fn config(klipper: &str, moonraker: u16, device: &str) -> String {
    format!(
        "klipper = {{ git = '{klipper}' }}
[[printers]]
name = 'voron'
moonraker = {{ url = 'http://127.0.0.1:{moonraker}' }}
cluster = {{ namespace = 'printers', node = 'pi4', workload = 'deployment/voron-klipper' }}
[[printers.boards]]
name = 'mcu'
board = '{BOARD}'
device = ['{device}']
route = 'katapult-usb'
"
    )
}

#[tokio::test]
async fn from_a_repository_to_a_confirmed_flash_and_then_nothing_is_to_be_done() {
    let (repository, socket, served) = (Repository::new(), Socket::new(), Served::new().await);
    let mut moonraker = Running::start("", "trusted_clients: 127.0.0.1");
    moonraker.listening(moonraker.port).await;
    let klippy = Klippy::start(&moonraker.klippy_socket(), Says::ready());
    moonraker.comes_to(&idle("ready")).await;
    let config = config(&repository.url, moonraker.port, &socket.device());

    // Told to end while it builds: nothing was stopped, nothing begun.
    let pod = Pod::new(&served, &config);
    let mut building = pod.command("build", None).spawn().unwrap();
    let first = BufReader::new(building.stdout.take().unwrap()).lines().next();
    assert!(first.is_some(), "it says what it does");
    send("TERM", building.id());
    let ended = task::spawn_blocking(move || building.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(ExitCode::Cancelled.code().into()));
    assert!(served.server.log().is_empty());

    let mut version = String::new();
    let left = Pod::new(&served, &config)
        .run_all(|image| {
            let image = obtain::file(&image).unwrap();
            version = image.image.dictionary.as_ref().unwrap().version.clone();
            socket.hold(image.bytes, Options::default());
        })
        .await;
    assert_eq!((left.result, left.now.as_ref()), (Outcome::Flashed, Some(&version)), "{left:?}");

    // Klipper runs again, and reports what it was given: the next Job finds nothing to do.
    klippy.says(Says { firmware: version.clone().leak(), ..Says::ready() });
    time::sleep(Duration::from_secs(2)).await;
    served.server.plan(Vec::new());
    let left = Pod::new(&served, &config).run_all(|_| ()).await;
    assert_eq!((left.result, left.now.as_ref()), (Outcome::AlreadyCurrent, Some(&version)), "{left:?}");
    let log = served.server.log();
    assert!(!log.iter().any(|line| line.starts_with("patch")), "{log:?}");
    assert_eq!(log.iter().filter(|line| line.starts_with("update")).count(), 1, "its result: {log:?}");
    let lease = served.server.lease(LEASE);
    let noted = lease["metadata"]["annotations"][annotation::RESULT].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Summary>(noted).unwrap(), left);
    assert_eq!(served.server.events().last().unwrap(), "AlreadyCurrent");
}
