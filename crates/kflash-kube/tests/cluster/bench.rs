//! A printer in a cluster, and the pods that flash it, in virtual time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use kflash::cluster::{FINALIZER, Gate, Outcome, Summary, Workload, annotation, file, label, rules};
use kflash::exit::ExitCode;
use kflash::moonraker::Activity;
use kflash_kube::api::{Cluster, Patience};
use kflash_kube::gate::{Answer, Printer};
use kflash_kube::lease::{Identity, LeaseFailure};
use kflash_kube::quiesce::{Board, Order, Sidecar, Wanted};
use kflash_kube::restore::{RestoreError, Restored};
use kflash_kube::step::Step;
use kflash_kube::{events, stop};
use kube::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{self, Instant};

use crate::double::{NAMESPACE, Server, Timing};

/// The printer's Lease.
pub const LEASE: &str = "kflash-voron";
/// For how long the container with the device flashes.
pub const FLASH: Duration = Duration::from_secs(40);

/// A printer in a cluster.
pub struct Bench {
    pub server: Server,
    /// As the account of the Role sees it.
    pub cluster: Cluster,
    pub klipper: Workload,
    /// What Moonraker says; `None` is what fits the pods.
    pub says: Mutex<Option<Answer>>,
    /// The firmware that Klipper knows of.
    pub firmware: Mutex<Option<String>>,
    /// What was told of.
    pub steps: Mutex<Vec<Step>>,
}

/// How a pod ended.
#[derive(Debug)]
pub struct Ended {
    /// What was said to the container with the device, if anything.
    pub gate: Option<Gate>,
    /// Whether it was killed.
    pub killed: bool,
    /// What the sidecar ended with.
    pub result: Result<(), LeaseFailure>,
}

impl Bench {
    /// A printer with a Klipper that is ready.
    pub async fn new() -> Self {
        Self::of("deployment/voron-klipper", 1).await
    }

    pub async fn of(klipper: &str, replicas: i32) -> Self {
        let server = Server::start(Timing::default(), "2026-03-01T12:00:00Z".parse().expect("a time"));
        let klipper: Workload = klipper.parse().expect("a workload");
        server.add_klipper(&klipper, replicas);
        server.add_lease(LEASE);
        server.annotate_lease(LEASE, annotation::WORKLOAD, &klipper.to_string());
        let rules: Vec<Value> =
            rules(LEASE, &klipper).iter().map(|rule| serde_json::to_value(rule).expect("JSON")).collect();
        server.user("flasher", "system:serviceaccount:printers:flasher", Some(rules));
        time::sleep(Duration::from_secs(5)).await;
        let bench = Self::around(&server, &klipper);
        assert_eq!(bench.server.replicas(&bench.klipper), i64::from(replicas));
        bench.server.plan(Vec::new());
        bench
    }

    /// With what is there on a server.
    pub fn around(server: &Server, klipper: &Workload) -> Self {
        let client = Client::new(server.in_process("flasher"), NAMESPACE);
        let clock = server.clone();
        Self {
            server: server.clone(),
            cluster: Cluster::new(client, NAMESPACE, move || clock.with(|store| store.now())),
            klipper: klipper.clone(),
            says: Mutex::default(),
            firmware: Mutex::default(),
            steps: Mutex::default(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.server.with(|store| store.now())
    }

    pub fn says(&self, answer: Option<Answer>) {
        *self.says.lock().expect("no panic") = answer;
    }

    /// What a sidecar of Job `job` is told to do, with this directory.
    pub fn order(&self, job: &str, shared: &Path) -> Order {
        Order {
            lease: LEASE.into(),
            workload: self.klipper.clone(),
            who: Identity { uid: format!("uid-of-{job}"), job: job.into() },
            shared: shared.to_owned(),
            boards: Ok(vec![Board {
                mcu: "mcu".into(),
                image: Wanted { sha256: "00".repeat(32), version: "v1".into() },
            }]),
            wait: Duration::ZERO,
            trusting: false,
        }
    }

    /// A pod of Job `job` with an empty directory, from its beginning to its end.
    pub async fn pod(&self, job: &str) -> Ended {
        let shared = TempDir::new().expect("a directory");
        self.pod_with(self.order(job, shared.path())).await
    }

    /// A pod with this order: the sidecar, and the container with the device once that may start.
    pub async fn pod_with(&self, order: Order) -> Ended {
        let (stopper, stop) = stop::channel();
        let shared = order.shared.clone();
        let flash = async {
            let gate = started(&shared).await;
            match unflashed(&gate) {
                Some(summary) => leave(&shared, &summary),
                None => self.flash(&shared).await,
            }
            stopper.request();
            gate
        };
        self.sidecar(&order, &stop, flash).await
    }

    /// A sidecar, beside `flash`.
    pub async fn sidecar(&self, order: &Order, stop: &stop::Stop, flash: impl Future<Output = Gate>) -> Ended {
        self.server.add_pod(
            &format!("{}-pod", order.who.job),
            json!({label::JOB_UID: order.who.uid, label::JOB_NAME: order.who.job}),
            json!({"phase": "Running"}),
        );
        let (recorder, writer) = events::channel();
        let cluster = self.cluster.clone();
        let who = order.who.clone();
        let writing = tokio::spawn(async move { writer.run(&cluster, &who, "pod").await });
        let steps = |step: Step| {
            recorder.record(&step);
            self.steps.lock().expect("no panic").push(step);
        };
        let sidecar = Sidecar { cluster: &self.cluster, printer: self, order, stop, steps: &steps };
        let gate = Mutex::new(None);
        let flash = async {
            let said = flash.await;
            *gate.lock().expect("no panic") = Some(said);
            std::future::pending::<()>().await;
        };
        let (mut killed, result) = tokio::select! {
            biased;
            () = self.server.killed() => (true, Ok(())),
            result = sidecar.run() => (false, result),
            () = flash => unreachable!("it never ends"),
        };
        drop(recorder);
        let abort = writing.abort_handle();
        tokio::select! {
            biased;
            () = self.server.killed(), if !killed => killed = true,
            written = writing, if !killed => written.expect("no panic"),
            else => {}
        }
        abort.abort();
        let phase = if killed { "Failed" } else { "Succeeded" };
        self.server.add_pod(
            &format!("{}-pod", order.who.job),
            json!({label::JOB_UID: order.who.uid, label::JOB_NAME: order.who.job}),
            json!({"phase": phase}),
        );
        Ended { gate: gate.into_inner().expect("no panic"), killed, result }
    }

    /// What the container with the device does.
    async fn flash(&self, shared: &Path) {
        let end = Instant::now() + FLASH;
        assert_eq!(
            self.server.pods(&self.klipper).iter().filter(|pod| alive(pod)).count(),
            0,
            "Klipper holds the device"
        );
        time::sleep_until(end).await;
        flashed("v2").write(&shared.join(file::RESULT)).expect("a directory");
    }

    /// As a person sees it who may do everything.
    pub fn admin(&self) -> Cluster {
        self.server.user("admin", "admin", None);
        let clock = self.server.clone();
        Cluster::new(Client::new(self.server.in_process("admin"), NAMESPACE), NAMESPACE, move || {
            clock.with(|store| store.now())
        })
    }

    /// `kubectl kflash restore`.
    pub async fn restore(&self) -> Result<Restored, RestoreError> {
        let cluster = self.admin();
        let who = Identity::of_a_person(&cluster, "kubectl kflash restore");
        let steps = |step: Step| self.steps.lock().expect("no panic").push(step);
        let patience = Patience { until: None, stop: None, steps: &steps };
        cluster.restore(LEASE, &who, &patience).await
    }

    /// How many replicas the Lease says are owed, if it is there. It cannot go as long as it says so.
    pub fn owed(&self) -> Option<i64> {
        let lease = self.server.find_lease(LEASE)?;
        let owed = lease["metadata"]["annotations"][annotation::RESTORE_REPLICAS].as_str();
        let held_up = lease["metadata"]["finalizers"].to_string().contains(FINALIZER);
        assert_eq!(owed.is_some(), held_up, "{lease}");
        owed.map(|text| text.parse().expect("a number"))
    }

    /// Nothing is held, nothing is owed, Klipper has that many replicas.
    #[track_caller]
    pub fn assert_whole(&self, replicas: i64, context: &str) {
        let lease = self.server.lease(LEASE);
        assert_eq!(self.server.replicas(&self.klipper), replicas, "{context}: {lease}");
        assert_eq!((self.owed(), &lease["spec"]["holderIdentity"]), (None, &Value::Null), "{context}: {lease}");
    }

    /// Klipper has that many replicas, and the Lease that somebody deleted is gone.
    #[track_caller]
    pub fn assert_gone(&self, replicas: i64, context: &str) {
        let lease = self.server.find_lease(LEASE);
        assert_eq!((self.server.replicas(&self.klipper), &lease), (replicas, &None), "{context}");
    }

    pub fn steps(&self) -> Vec<Step> {
        self.steps.lock().expect("no panic").clone()
    }
}

impl Printer for Bench {
    async fn activity(&self) -> Answer {
        time::sleep(Duration::from_millis(20)).await;
        if let Some(answer) = self.says.lock().expect("no panic").clone() {
            return answer;
        }
        let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        if self.server.pods(&self.klipper).iter().any(ready) {
            Answer::Does(Activity::Idle { klipper: "ready".into() })
        } else {
            silence()
        }
    }

    async fn firmware(&self, mcu: &str) -> Option<String> {
        assert!(["mcu", "mcu EBB", "mcu nozzle"].contains(&mcu), "{mcu}");
        self.firmware.lock().expect("no panic").clone()
    }
}

/// A Moonraker that nobody reaches.
pub fn silence() -> Answer {
    Answer::Silent { exit: ExitCode::Busy, reason: "connection refused".into() }
}

/// A good end.
pub fn flashed(version: &str) -> Summary {
    Summary {
        before: Some("v1".into()),
        now: Some(version.into()),
        sha256: Some("ab".repeat(32)),
        ..Summary::new(Outcome::Flashed, ExitCode::Ok, None)
    }
}

/// What the container with the device leaves where it does not flash.
pub fn unflashed(gate: &Gate) -> Option<Summary> {
    match gate {
        Gate::Open => None,
        Gate::Refused { exit, reason } => Some(Summary::new(Outcome::Refused, *exit, Some(reason.clone()))),
        Gate::AlreadyCurrent { .. } => Some(Summary::new(Outcome::AlreadyCurrent, ExitCode::Ok, None)),
    }
}

/// Whether a pod has not come to an end.
pub fn alive(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

/// Waits as the kubelet does for the startup probe.
pub async fn started(shared: &Path) -> Gate {
    let path: PathBuf = shared.join(file::GATE);
    loop {
        if let Ok(Some(gate)) = Gate::read(&path) {
            return gate;
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Leaves this result, as the container with the device does.
pub fn leave(shared: &Path, summary: &Summary) {
    fs::create_dir_all(shared).expect("a directory");
    summary.write(&shared.join(file::RESULT)).expect("a file");
}
