//! The gate in front of the real Moonraker, with a stand-in for Klipper behind it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kflash::cluster::Gate;
use kflash::config;
use kflash::exit::ExitCode;
use kflash::moonraker::{Activity, Job};
use kflash_kube::gate::{Answer, Printer, gate};
use kflash_kube::printer::Moonraker;
use tempfile::TempDir;
use tokio::time;

use crate::klippy::{Klippy, Says};
use crate::process::Served;
use crate::python_client::python;
use crate::run::CONFIG;

/// How long Moonraker may take to see that Klipper is there, or not, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// A Moonraker that runs.
pub struct Running {
    child: Child,
    dir: TempDir,
    pub port: u16,
}

/// The one at `url`.
fn at(url: &str, key_file: Option<&Path>, ca: Option<&Path>) -> Moonraker {
    Moonraker::configured(&config::Moonraker {
        url: url.to_owned(),
        api_key: None,
        api_key_file: key_file.map(Path::to_owned),
        ca: ca.map(Path::to_owned),
    })
}

impl Running {
    /// Starts it, with `options` in its configuration's sections.
    pub fn start(server: &str, authorization: &str) -> Self {
        let dir = TempDir::new().unwrap();
        for folder in ["config", "comms", "logs"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let mut running = Self { child: Command::new("true").spawn().unwrap(), dir, port: free_port() };
        running.run(server, authorization);
        running
    }

    fn run(&mut self, server: &str, authorization: &str) {
        let _ = self.child.wait();
        let (port, socket) = (self.port, self.klippy_socket());
        let configuration = format!(
            "[server]\nhost: 127.0.0.1\nport: {port}\nklippy_uds_address: {}\n{server}\n[machine]\nprovider: none\n\
             [authorization]\n{authorization}\n",
            socket.display()
        );
        fs::write(self.dir.path().join("config/moonraker.conf"), configuration).unwrap();
        let log = fs::File::create(self.dir.path().join("moonraker.log")).unwrap();
        self.child = Command::new(python())
            .args(["-m", "moonraker", "-d"])
            .arg(self.dir.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("`tools/debian-packages test` installs Python and Moonraker");
    }

    pub fn klippy_socket(&self) -> PathBuf {
        self.dir.path().join("comms/klippy.sock")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("moonraker.log")).unwrap_or_default()
    }

    /// Waits until somebody answers at `port`.
    pub async fn listening(&mut self, port: u16) {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(self.child.try_wait().unwrap().is_none() && Instant::now() < end, "{}", self.log());
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn printer(&self) -> Moonraker {
        at(&format!("http://127.0.0.1:{}", self.port), None, None)
    }

    /// Asks until the answer is `wanted`: Moonraker needs a moment to see what Klipper does.
    pub async fn comes_to(&self, wanted: &Answer) {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.printer().activity().await;
            if answer == *wanted {
                return;
            }
            assert!(Instant::now() < end, "{answer:?}, not {wanted:?}: {}", self.log());
            time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        assert!(status.signal() == Some(9), "{status}: {}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub fn idle(klipper: &str) -> Answer {
    Answer::Does(Activity::Idle { klipper: klipper.into() })
}

fn job() -> Job {
    Job { file: "benchy.gcode".into(), percent: Some(42) }
}

/// What the gate says, while a pod of Klipper is ready.
fn opens(answer: &Answer) -> Result<(), (ExitCode, String)> {
    gate(answer, Some("voron-klipper-0"), false).map_err(|shut| (shut.exit, shut.reason))
}

#[tokio::test]
async fn it_follows_klipper_through_all_its_states() {
    let mut moonraker = Running::start("", "trusted_clients: 127.0.0.1");
    moonraker.listening(moonraker.port).await;
    moonraker.comes_to(&idle("disconnected")).await;

    let klippy = Klippy::start(&moonraker.klippy_socket(), Says::ready());
    moonraker.comes_to(&idle("ready")).await;
    assert_eq!(moonraker.printer().firmware("mcu").await.as_deref(), Some("v0.13.0-1-gabcdef0"));
    assert_eq!(moonraker.printer().firmware("mcu ebb").await.as_deref(), Some("v1"), "printer.cfg has [mcu EBB]");
    assert_eq!(moonraker.printer().firmware("mcu nozzle").await, None);

    for (print, idles, answer, open) in [
        (Some("printing"), "Printing", Answer::Does(Activity::Printing(job())), false),
        (Some("paused"), "Idle", Answer::Does(Activity::Paused(job())), false),
        (Some("complete"), "Printing", Answer::Does(Activity::Moving), false),
        (Some("complete"), "Ready", idle("ready"), true),
        (Some("cancelled"), "Idle", idle("ready"), true),
        (Some("error"), "Idle", idle("ready"), true),
        (None, "Printing", Answer::Does(Activity::Moving), false),
        (None, "Idle", idle("ready"), true),
        (Some("standby"), "Idle", idle("ready"), true),
    ] {
        klippy.says(Says { print, idle: idles, ..Says::ready() });
        let said = moonraker.printer().activity().await;
        assert_eq!((&said, opens(&said).is_ok()), (&answer, open), "{}", moonraker.log());
    }

    // A fault in the middle of a print.
    klippy.says(Says { print: Some("printing"), idle: "Printing", ..Says::ready() });
    klippy.shut_down();
    moonraker.comes_to(&idle("shutdown")).await;
    drop(klippy);
    moonraker.comes_to(&idle("disconnected")).await;
    for state in ["error", "startup", "shutdown"] {
        let klippy = Klippy::start(&moonraker.klippy_socket(), Says { state, ..Says::ready() });
        moonraker.comes_to(&idle(state)).await;
        drop(klippy);
        moonraker.comes_to(&idle("disconnected")).await;
    }

    // Too slow, then not at all.
    moonraker.signal("STOP");
    let (exit, reason) = opens(&moonraker.printer().activity().await).unwrap_err();
    assert!(exit == ExitCode::Busy && reason.ends_with("does not answer: it takes too long"), "{reason}");
    moonraker.signal("CONT");
    moonraker.stop();
    let (exit, reason) = opens(&moonraker.printer().activity().await).unwrap_err();
    assert!(exit == ExitCode::Busy && reason.contains("and pod voron-klipper-0 is ready: Moonraker at"), "{reason}");
}

#[tokio::test]
async fn it_wants_a_key_where_it_does_not_trust_us() {
    let mut moonraker = Running::start("", "trusted_clients: 127.0.0.1");
    moonraker.listening(moonraker.port).await;
    let klippy = Klippy::start(&moonraker.klippy_socket(), Says::ready());
    moonraker.comes_to(&idle("ready")).await;
    // Whoever it trusts may ask for the key. It stays in its database.
    let url = format!("http://127.0.0.1:{}/access/api_key", moonraker.port);
    let script = "import json, sys, urllib.request; print(json.load(urllib.request.urlopen(sys.argv[1]))['result'])";
    let asked = Command::new(python()).args(["-c", script, &url]).env_clear().output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
    let key = moonraker.dir.path().join("key");
    fs::write(&key, &asked.stdout).unwrap();
    moonraker.stop();

    moonraker.run("", "trusted_clients: 192.0.2.1");
    moonraker.listening(moonraker.port).await;
    let url = format!("http://127.0.0.1:{}", moonraker.port);
    let ask = async |key: Option<&Path>| at(&url, key, None).activity().await;
    let (exit, reason) = opens(&ask(None).await).unwrap_err();
    assert!(exit == ExitCode::Denied && reason.ends_with("wants a key"), "{reason}");
    let wrong = moonraker.dir.path().join("wrong");
    fs::write(&wrong, "0123456789abcdef0123456789abcdef").unwrap();
    let (exit, reason) = opens(&ask(Some(&wrong)).await).unwrap_err();
    assert!(exit == ExitCode::Denied && reason.ends_with("does not accept the key"), "{reason}");
    let end = Instant::now() + PATIENCE;
    while ask(Some(&key)).await != idle("ready") {
        assert!(Instant::now() < end, "{}", moonraker.log());
        time::sleep(Duration::from_millis(100)).await;
    }
    drop(klippy);
}

#[tokio::test]
async fn it_is_asked_over_tls() {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_pem = parameters.self_signed(&authority).unwrap().pem();
    let issuer = rcgen::Issuer::new(parameters, authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &issuer).unwrap();

    let files = TempDir::new().unwrap();
    let path = |name: &str| files.path().join(name);
    fs::write(path("ca.pem"), authority_pem).unwrap();
    fs::write(path("cert.pem"), certificate.pem()).unwrap();
    fs::write(path("key.pem"), key.serialize_pem()).unwrap();
    let port = free_port();
    let server = format!(
        "ssl_port: {port}\nssl_certificate_path: {}\nssl_key_path: {}",
        path("cert.pem").display(),
        path("key.pem").display()
    );
    let mut moonraker = Running::start(&server, "trusted_clients: 127.0.0.1");
    moonraker.listening(port).await;

    let ask = async |host: &str, ca: Option<&Path>| at(&format!("https://{host}:{port}"), None, ca).activity().await;
    assert_eq!(ask("localhost", Some(&path("ca.pem"))).await, idle("disconnected"), "{}", moonraker.log());
    // Of an authority that nobody knows, and for another name.
    for (host, ca) in [("localhost", None), ("127.0.0.1", Some(path("ca.pem")))] {
        let (exit, reason) = opens(&ask(host, ca.as_deref()).await).unwrap_err();
        assert!(exit == ExitCode::Refused && reason.contains("no secure connection to Moonraker"), "{reason}");
    }
    let (exit, reason) = opens(&ask("localhost", Some(&path("absent.pem"))).await).unwrap_err();
    assert!(exit == ExitCode::Usage && reason.contains("absent.pem"), "{reason}");
    moonraker.stop();
}

#[tokio::test]
async fn the_sidecar_asks_it() {
    let mut moonraker = Running::start("", "trusted_clients: 127.0.0.1");
    moonraker.listening(moonraker.port).await;
    let klippy = Klippy::start(&moonraker.klippy_socket(), Says { print: Some("printing"), ..Says::ready() });
    moonraker.comes_to(&Answer::Does(Activity::Printing(job()))).await;
    let url = format!("http://127.0.0.1:{}", moonraker.port);

    let served = Served::new().await;
    served.configure(&CONFIG.replace("http://127.0.0.1:9", &url));
    let sidecar = served.quiesce(&[]);
    let reason = "the printer is printing benchy.gcode (42 %)".to_owned();
    assert_eq!(served.started().await, Gate::Refused { exit: ExitCode::Busy, reason });
    sidecar.signal("TERM");
    assert_eq!(sidecar.end().await.status.code(), Some(0));
    assert_eq!(served.server.replicas(&served.klipper), 1);

    klippy.says(Says { print: Some("complete"), ..Says::ready() });
    let served = Served::new().await;
    served.configure(&CONFIG.replace("http://127.0.0.1:9", &url));
    let sidecar = served.quiesce(&[]);
    assert_eq!(served.started().await, Gate::Open);
    assert_eq!(served.server.replicas(&served.klipper), 0);
    sidecar.signal("TERM");
    assert_eq!(sidecar.end().await.status.code(), Some(0));
    assert_eq!(served.server.replicas(&served.klipper), 1);
}
