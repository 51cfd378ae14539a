//! The program itself, as the kubelet starts, probes and ends it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use kflash::cluster::{Gate, Outcome, Summary, Workload, annotation, file, rules};
use kflash::exit::ExitCode;
use kflash_sim::firmware::TestImage;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{task, time};

use crate::bench::{Bench, LEASE, flashed, leave};
use crate::double::{NAMESPACE, Server, Timing};
use crate::run::{CONFIG, Script};

/// A printer in a cluster that is reached over HTTP.
pub struct Served {
    pub server: Server,
    pub klipper: Workload,
    /// Holds the kubeconfig, and what the pod's containers share.
    dir: TempDir,
}

impl Served {
    pub async fn new() -> Self {
        let timing = Timing { end: Duration::from_millis(300), ..Timing::default() };
        let server = Server::start(timing, Timestamp::now());
        let klipper: Workload = "deployment/voron-klipper".parse().unwrap();
        server.add_klipper(&klipper, 1);
        server.add_lease(LEASE);
        server.annotate_lease(LEASE, annotation::WORKLOAD, &klipper.to_string());
        let rules = rules(LEASE, &klipper).iter().map(|rule| serde_json::to_value(rule).unwrap()).collect();
        server.user("flasher", "system:serviceaccount:printers:flasher", Some(rules));
        let address = server.listen().await.unwrap();
        let dir = TempDir::new().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "home",
            "clusters": [{"name": "home", "cluster": {"server": format!("http://{address}")}}],
            "users": [
                {"name": "flasher", "user": {"token": "flasher"}}, {"name": "admin", "user": {"token": "admin"}},
            ],
            "contexts": [
                {"name": "home", "context": {"cluster": "home", "user": "flasher", "namespace": NAMESPACE}},
                {"name": "admin", "context": {"cluster": "home", "user": "admin"}},
            ],
        });
        server.user("admin", "admin", None);
        fs::write(dir.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        fs::create_dir(dir.path().join("shared")).unwrap();
        fs::write(dir.path().join("klipper.bin"), TestImage::klipper("stm32f446xx", 0x0800_8000).build()).unwrap();
        let served = Self { server, klipper, dir };
        served.configure(CONFIG);
        served
    }

    /// Has this configuration of the printer `voron`.
    pub fn configure(&self, config: &str) {
        fs::write(self.file("config.toml"), config).unwrap();
    }

    /// What the pod's containers share.
    pub fn shared(&self) -> PathBuf {
        self.file("shared")
    }

    /// A file of the test's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `kubectl-kflash` with these arguments, and nothing of our environment.
    pub fn kflash(&self, arguments: &[&str]) -> Command {
        let mut command = program(arguments);
        command.arg("--kubeconfig").arg(self.dir.path().join("kubeconfig"));
        command
    }

    /// The sidecar with these arguments, besides those that it needs.
    pub fn quiesce(&self, arguments: &[&str]) -> Sidecar {
        let mut command = self.kflash(&["quiesce", "--lease", LEASE, "--workload", "deployment/voron-klipper"]);
        command.arg("--config").arg(self.file("config.toml")).args(["--printer", "voron", "--firmware"]);
        // It sees no USB, but what a test puts there.
        command.arg(self.file("klipper.bin")).arg("--host-root").arg(self.dir.path()).args([
            "--job",
            "first",
            "--job-uid",
            "uid-of-first",
            "--pod",
            "first-x7k2p",
            "--shared",
        ]);
        command.arg(self.shared()).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        Sidecar(command.spawn().unwrap())
    }

    /// Waits for the startup probe to succeed; what was said then.
    pub async fn started(&self) -> Gate {
        let shared = self.shared();
        loop {
            let output = run(self.kflash(&["probe", "--shared", shared.to_str().unwrap()])).await;
            match output.status.code() {
                Some(0) => return Gate::read(&shared.join(file::GATE)).unwrap().unwrap(),
                code => assert_eq!(code, Some(5), "{output:?}"),
            }
            time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn owed(&self) -> Value {
        self.server.lease(LEASE)["metadata"]["annotations"][annotation::RESTORE_REPLICAS].clone()
    }
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-kflash"));
    command.env_clear().args(arguments);
    command
}

/// Runs a command to its end, while the server goes on.
pub async fn run(mut command: Command) -> Output {
    task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
}

/// Sends a signal to a process.
pub fn send(name: &str, process: u32) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
    assert!(sent.unwrap().success());
}

/// A sidecar that runs.
pub struct Sidecar(Child);

impl Sidecar {
    /// Sends it a signal: `TERM`, `KILL`.
    pub fn signal(&self, name: &str) {
        send(name, self.0.id());
    }

    /// How it ended.
    pub async fn end(self) -> Output {
        task::spawn_blocking(move || self.0.wait_with_output()).await.unwrap().unwrap()
    }
}

#[track_caller]
fn assert_code(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

#[tokio::test]
async fn it_stops_klipper_until_it_is_told_to_end() {
    let served = Served::new().await;
    let sidecar = served.quiesce(&["--trust-silence"]);
    assert_eq!(served.started().await, Gate::Open);
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (0, "1".into()));

    let status = run(served.kflash(&["status", "--lease", LEASE])).await;
    assert_code(&status, 0);
    let said = String::from_utf8(status.stdout).unwrap();
    assert!(said.contains("held by   Job first (uid-of-first), last heard of at "), "{said}");
    assert!(said.contains("klipper   deployment/voron-klipper, 0 replicas\n"), "{said}");
    assert!(said.contains("owed      1 replicas, when the flash has ended\n"), "{said}");
    let restore = run(served.kflash(&["restore", "--lease", LEASE])).await;
    assert_code(&restore, ExitCode::Busy.code().into());
    assert!(String::from_utf8_lossy(&restore.stderr).contains("held by Job first"), "{restore:?}");

    leave(&served.shared(), &flashed("v2"));
    sidecar.signal("TERM");
    let ended = sidecar.end().await;
    assert_code(&ended, 0);
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));
    let log = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(
        log.lines().collect::<Vec<_>>(),
        [
            "scaling deployment/voron-klipper from 1 replicas to 0",
            "no pod of deployment/voron-klipper is left",
            "scaled deployment/voron-klipper back to 1",
            "flashed: the board runs v2",
        ]
    );
    assert_eq!(served.server.events(), ["StoppingKlipper", "KlipperStopped", "KlipperRestored", "Flashed"]);
    let status = run(served.kflash(&["status", "--lease", LEASE])).await;
    let said = String::from_utf8(status.stdout).unwrap();
    for line in [
        "held by   nobody",
        "owed      nothing",
        "firmware  mcu: v2, image abab",
        "last run  flashed: the board runs v2",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

#[tokio::test]
async fn a_lease_that_is_deleted_stays_until_klipper_is_given_back() {
    let served = Served::new().await;
    let sidecar = served.quiesce(&["--trust-silence"]);
    assert_eq!(served.started().await, Gate::Open);
    served.server.delete_lease(LEASE);
    let status = run(served.kflash(&["status", "--lease", LEASE])).await;
    assert_code(&status, 0);
    let said = String::from_utf8(status.stdout).unwrap();
    assert!(said.starts_with("lease     kflash-voron, which goes as soon as nothing is owed\n"), "{said}");
    assert!(said.contains("owed      1 replicas, when the flash has ended\n"), "{said}");

    // Its account is deleted, too: a person pays.
    served.server.forget_user("flasher");
    leave(&served.shared(), &flashed("v2"));
    sidecar.signal("TERM");
    sidecar.signal("TERM");
    let ended = sidecar.end().await;
    assert!(
        String::from_utf8_lossy(&ended.stderr).ends_with("restore -n printers --lease kflash-voron\n"),
        "{ended:?}"
    );
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (0, "1".into()));
    let lease = served.server.lease(LEASE);
    let mut spec = lease["spec"].clone();
    spec["renewTime"] = "2026-01-01T00:00:00.000000Z".into();
    served.server.set_lease_spec(LEASE, &spec);
    let restored = run(served.kflash(&["restore", "--lease", LEASE, "--context", "admin", "-n", NAMESPACE])).await;
    assert_code(&restored, 0);
    assert_eq!(served.server.replicas(&served.klipper), 1);
    assert_eq!(served.server.find_lease(LEASE), None);

    // A pod that obtains firmware first does not even begin; no more than where it is going for somebody else.
    served.server.user("flasher", "flasher", None);
    let settle = || run(served.kflash(&["settle", "--lease", LEASE, "--job-uid", "u", "--job", "any"]));
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let output = settle().await;
    assert_code(&output, ExitCode::Usage.code().into());
    assert!(said(&output).contains("cannot read Lease kflash-voron: it does not exist"), "{output:?}");
    served.server.add_lease(LEASE);
    served.server.hold_up_lease(LEASE, "example.com/backup");
    served.server.delete_lease(LEASE);
    let output = settle().await;
    assert_code(&output, ExitCode::Usage.code().into());
    assert!(said(&output).contains("is being deleted: apply setup.yaml once more"), "{output:?}");
}

#[tokio::test]
async fn what_a_killed_one_owes_is_restored() {
    let served = Served::new().await;
    let sidecar = served.quiesce(&["--trust-silence", "--json"]);
    assert_eq!(served.started().await, Gate::Open);
    sidecar.signal("KILL");
    let killed = sidecar.end().await;
    let steps: Vec<Value> =
        killed.stdout.split(|c| *c == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(steps[0]["step"], "stopping");
    assert_eq!(served.owed(), "1");

    // As if a while ago.
    let lease = served.server.lease(LEASE);
    let mut spec = lease["spec"].clone();
    spec["renewTime"] = "2026-01-01T00:00:00.000000Z".into();
    served.server.set_lease_spec(LEASE, &spec);
    let config = served.file("config.toml");
    fs::write(&config, CONFIG).unwrap();
    let of_voron = ["--printer", "voron", "--config", config.to_str().unwrap()];
    let status = run(served.kflash(&[&["status"][..], &of_voron].concat())).await;
    let said = String::from_utf8(status.stdout).unwrap();
    assert!(
        said.contains("which is dead\n") && said.contains("kubectl kflash restore -n printers --lease kflash-voron\n"),
        "{said}"
    );

    let restored = run(served.kflash(&[&["restore"][..], &of_voron].concat())).await;
    assert_code(&restored, 0);
    assert_eq!(String::from_utf8_lossy(&restored.stdout), "deployment/voron-klipper is restored\n");
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));
    let again = run(served.kflash(&["restore", "--lease", LEASE, "--json"])).await;
    assert_code(&again, 0);
    assert_eq!(String::from_utf8_lossy(&again.stdout), "{\"result\":\"nothing-owed\"}\n");
}

#[tokio::test]
async fn before_a_pod_obtains_firmware_klipper_is_given_back() {
    let served = Served::new().await;
    let settle = |uid: &str| served.kflash(&["settle", "--lease", LEASE, "--job-uid", uid, "--job", "any"]);
    let whole = |context: &str| {
        assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null), "{context}");
    };
    assert_code(&run(settle("uid-of-first")).await, 0);
    whole("nothing was owed");

    let sidecar = served.quiesce(&["--trust-silence"]);
    assert_eq!(served.started().await, Gate::Open);
    let other = run(settle("uid-of-second")).await;
    assert_code(&other, 0);
    assert!(String::from_utf8_lossy(&other.stderr).contains("is held by Job first"), "{other:?}");
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (0, Value::from("1")), "under way");

    // The node dies; its Job's next pod.
    sidecar.signal("KILL");
    sidecar.end().await;
    assert_code(&run(settle("uid-of-first")).await, 0);
    whole("paid");
    let pods = served.server.pods(&served.klipper);
    let ready = |pod: &Value| pod["status"]["conditions"].to_string().contains(r#""status":"True""#);
    assert!(pods.iter().any(ready), "it waits for Klipper: {pods:?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_and_says_what_is_owed() {
    let served = Served::new().await;
    let sidecar = served.quiesce(&["--trust-silence"]);
    assert_eq!(served.started().await, Gate::Open);
    // Nobody answers it any more.
    served.server.set_latency(Duration::from_secs(3600));
    sidecar.signal("TERM");
    time::sleep(Duration::from_millis(300)).await;
    sidecar.signal("TERM");
    let ended = sidecar.end().await;
    assert_code(&ended, ExitCode::Cancelled.code().into());
    let log = String::from_utf8(ended.stderr).unwrap();
    let said = "error: ended by a second signal; what is owed stands on the Lease: kubectl kflash restore -n printers --lease kflash-voron\n";
    assert!(log.ends_with(said), "{log}");
    assert_eq!(served.owed(), "1");
}

#[tokio::test]
async fn it_tells_why_and_stays_until_the_pod_ends() {
    let served = Served::new().await;
    // Nothing says whether the printer prints, and Klipper's pod will be ready in a moment.
    time::sleep(Duration::from_secs(2)).await;
    served.configure(&CONFIG.replace("moonraker =", "#"));
    let sidecar = served.quiesce(&[]);
    let Gate::Refused { exit, reason } = served.started().await else { panic!("it is refused") };
    assert!(exit == ExitCode::Usage && reason.ends_with("no Moonraker is configured that could be asked"), "{reason}");
    sidecar.signal("TERM");
    assert_code(&sidecar.end().await, 0);
    assert_eq!(served.server.replicas(&served.klipper), 1);

    // Where it does not even know a cluster.
    let served = Served::new().await;
    fs::write(served.file("kubeconfig"), "").unwrap();
    let sidecar = served.quiesce(&[]);
    let Gate::Refused { exit, reason } = served.started().await else { panic!("it is refused") };
    assert!(exit == ExitCode::Usage && reason.starts_with("no cluster: "), "{reason}");
    sidecar.signal("TERM");
    assert_code(&sidecar.end().await, 0);

    // Or its printer.
    let served = Served::new().await;
    served.configure(&CONFIG.replace("name = 'voron'", "name = 'ender'"));
    let sidecar = served.quiesce(&[]);
    let Gate::Refused { exit, reason } = served.started().await else { panic!("it is refused") };
    assert!(exit == ExitCode::Usage && reason.contains("voron"), "{reason}");
    sidecar.signal("TERM");
    assert_code(&sidecar.end().await, 0);
}

#[tokio::test]
async fn klipper_is_not_stopped_for_firmware_of_another_board() {
    let served = Served::new().await;
    fs::write(served.file("klipper.bin"), TestImage::klipper("stm32g0b1xx", 0x0800_2000).build()).unwrap();
    let sidecar = served.quiesce(&["--trust-silence"]);
    let Gate::Refused { exit, reason } = served.started().await else { panic!("it is refused") };
    assert!(exit == ExitCode::Refused && reason.contains("dictionary names stm32g0b1xx"), "{reason}");
    sidecar.signal("TERM");
    assert_code(&sidecar.end().await, 0);
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));
}

#[tokio::test]
async fn what_an_earlier_life_of_it_owes_is_paid_though_it_looks_for_the_board_when_the_pod_ends() {
    let served = Served::new().await;
    let sidecar = served.quiesce(&["--trust-silence"]);
    assert_eq!(served.started().await, Gate::Open);
    sidecar.signal("KILL");
    sidecar.end().await;
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (0, "1".into()));
    // The board is in its bootloader, under another serial number.
    fs::create_dir_all(served.file("sys/bus/usb/devices")).unwrap();
    let sidecar = served.quiesce(&["--trust-silence"]);
    time::sleep(Duration::from_secs(1)).await;
    sidecar.signal("TERM");
    assert_code(&sidecar.end().await, 0);
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));
}

#[tokio::test]
async fn a_server_without_sidecars_is_told_apart_before_anything_is_stopped() {
    let served = Served::new().await;
    served.server.set_minor("28+");
    let ended = served.quiesce(&["--trust-silence"]).end().await;
    assert_code(&ended, ExitCode::Usage.code().into());
    assert!(String::from_utf8_lossy(&ended.stderr).contains("is Kubernetes 1.28, which has no sidecars"), "{ended:?}");
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));
    served.server.set_minor("29");
    let sidecar = served.quiesce(&["--trust-silence"]);
    assert_eq!(served.started().await, Gate::Open);
    sidecar.signal("TERM");
    assert_code(&sidecar.end().await, 0);
}

#[tokio::test]
async fn a_person_runs_a_flash() {
    let served = Served::new().await;
    let file = |name: &str| served.file(name);
    let command = |more: &[&str]| {
        let mut command = served.kflash(&["run", "--context", "admin", "--printer", "voron"]);
        command.arg("--config").arg(file("config.toml")).arg("--firmware").arg(file("klipper.bin")).args(more);
        command
    };
    let bench = Bench::around(&served.server, &served.klipper);
    let well = Script { flash: Duration::from_millis(300), ..Script::well() };
    let lost = Summary::new(Outcome::Failed, ExitCode::Lost, Some("it did not come back".into()));
    let failing = Script { summary: lost.clone(), ..well.clone() };
    let ran = async |script: &Script, more: &[&str]| {
        tokio::select! {
            output = run(command(more)) => output,
            () = Box::pin(bench.kubelet(script)) => unreachable!("it never ends"),
        }
    };
    let output = ran(&well, &[]).await;
    assert_code(&output, 0);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "flashed: the board runs v2\n");
    let log = String::from_utf8(output.stderr).unwrap();
    for line in [
        "whether the printer prints is asked in the cluster: ",
        "quiesce: no pod of deployment/voron-klipper is left\n",
        "kflash: write 50 %\n",
        "quiesce: scaled deployment/voron-klipper back to 1\n",
    ] {
        assert!(log.contains(line), "{line} in {log}");
    }
    let output = ran(&failing, &["--json"]).await;
    assert_code(&output, ExitCode::Lost.code().into());
    let last = output.stdout.trim_ascii_end().rsplit(|c| *c == b'\n').next().unwrap();
    assert_eq!(serde_json::from_slice::<Summary>(last).unwrap(), lost);
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));

    for (arguments, said) in [
        (vec!["--namespace", "elsewhere"], "the configuration has the printer in namespace printers, not elsewhere"),
        (vec!["--access", "unprivileged"], "unprivileged access takes a device plugin's resource"),
        (vec!["--quiesce", "shout"], "sidecar, token, none"),
    ] {
        let output = run(command(&arguments)).await;
        assert_code(&output, ExitCode::Usage.code().into());
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    let output = run(program(&["run", "--printer", "voron"])).await;
    assert_code(&output, ExitCode::Usage.code().into());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no configuration: it names the printer"), "{output:?}");
}

#[tokio::test]
async fn a_moonraker_that_only_the_cluster_knows_is_asked_through_the_api_server() {
    let served = Served::new().await;
    served.configure(&CONFIG.replace("127.0.0.1:9", "voron-klipper:7125"));
    let command_of = |context: &str, quiesce: &str| {
        let mut command = served.kflash(&["run", "--context", context, "--printer", "voron", "--quiesce", quiesce]);
        command.arg("--config").arg(served.file("config.toml")).arg("--firmware").arg(served.file("klipper.bin"));
        command
    };
    let command = |quiesce: &str| command_of("admin", quiesce);
    // The pod is ready by then.
    time::sleep(Duration::from_secs(2)).await;
    let output = run(command("token")).await;
    assert_code(&output, ExitCode::Busy.code().into());
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot tell whether the printer prints"), "{output:?}");

    let moonraker = "http:voron-klipper:7125";
    let says = |path: &str, result: Value| served.server.set_service(moonraker, path, json!({"result": result}));
    let prints = |print: &str, idle: &str| {
        let stats = json!({"state": print, "filename": "benchy.gcode"});
        let status = json!({
            "print_stats": stats, "virtual_sdcard": {"progress": 0.42}, "idle_timeout": {"state": idle},
        });
        says("/printer/objects/query", json!({"status": status}));
    };
    says("/server/info", json!({"klippy_connected": true, "klippy_state": "ready"}));
    says("/printer/info", json!({"state": "ready"}));
    // Whoever may not ask it that way is told so, and not to find a key.
    let mut rules: Vec<_> =
        rules(LEASE, &served.klipper).iter().map(|rule| serde_json::to_value(rule).unwrap()).collect();
    rules.push(json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]}));
    served.server.user("flasher", "somebody", Some(rules));
    let output = run(command_of("home", "token")).await;
    assert_code(&output, ExitCode::Busy.code().into());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot get resource \"services/proxy\""), "{said}");
    prints("printing", "Printing");
    for quiesce in ["token", "sidecar"] {
        let output = run(command(quiesce)).await;
        assert_code(&output, ExitCode::Busy.code().into());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.ends_with("error: the printer is printing benchy.gcode (42 %)\n"), "{said}");
    }
    assert!(served.server.jobs().is_empty());
    prints("standby", "Idle");
    let bench = Bench::around(&served.server, &served.klipper);
    let well = Script { flash: Duration::from_millis(300), ..Script::well() };
    let output = tokio::select! {
        output = run(command("token")) => output,
        () = Box::pin(bench.kubelet(&well)) => unreachable!("it never ends"),
    };
    assert_code(&output, 0);
}

#[tokio::test]
async fn what_is_typed_wrongly_is_told() {
    for (arguments, said) in [
        (vec!["restore"], "--printer <NAME>"),
        (vec!["restore", "--lease", ""], "a value is required for '--lease <NAME>'"),
        // A pod without the label has no UID of its Job.
        (vec!["quiesce", "--job-uid", ""], "a value is required for '--job-uid <UID>'"),
        (vec!["quiesce", "--wait", "18446744073709551615"], "is not in 0..=604800"),
        (vec!["quiesce", "--workload", "pod/a"], "'pod/a' is no workload"),
        (vec!["restore", "--lease", "a", "--kubeconfig", "/absent"], "no cluster: "),
    ] {
        let output = run(program(&arguments)).await;
        assert_code(&output, ExitCode::Usage.code().into());
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
    }
    let probe = run(program(&["probe", "--shared", Path::new("/absent").to_str().unwrap()])).await;
    assert_code(&probe, ExitCode::Busy.code().into());
}
