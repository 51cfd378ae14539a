//! `kubectl kflash run`, with a kubelet that runs the pod's containers.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job as KubernetesJob;
use kflash::cluster::{Outcome, Summary, annotation, file, label};
use kflash::config::Config;
use kflash::exit::ExitCode;
use kflash::image::Image;
use kflash::moonraker::{Activity, Job};
use kflash::obtain::{From, Obtained};
use kflash_job::{Access, Inputs, Manifest, Quiesce, Shape};
use kflash_kube::api::Cluster;
use kflash_kube::gate::Answer;
use kflash_kube::lease::Identity;
use kflash_kube::quiesce::Sidecar;
use kflash_kube::run::{Ending, Order, Run, RunError, Told};
use kflash_kube::step::Step;
use kflash_kube::stop;
use kflash_sim::firmware::TestImage;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time;

use crate::bench::{Bench, FLASH, LEASE, flashed, leave, silence, started, unflashed};
use crate::double::{Fault, How, NAMESPACE, Server};

/// A printer with one board.
pub const CONFIG: &str = "
[[printers]]
name = 'voron'
moonraker = { url = 'http://127.0.0.1:9' }
[printers.cluster]
namespace = 'printers'
node = 'pi4'
workload = 'deployment/voron-klipper'
[[printers.boards]]
name = 'mcu'
board = 'btt-octopus-v1.1-f446'
device = ['1-1.4']
";

/// What is run of [`CONFIG`].
pub fn order(quiesce: Quiesce) -> Order {
    order_of(&Shape { quiesce, ..Shape::default() })
}

/// The same, in any shape.
pub fn order_of(shape: &Shape) -> Order {
    let mut config = Config::parse(Path::new("/etc/kflash/config.toml"), CONFIG.as_bytes(), None).unwrap();
    if shape.access == Access::Unprivileged {
        config.printers[0].cluster.as_mut().unwrap().resource = Some("squat.ai/serial".to_owned());
    }
    let printer = config.printer("voron").unwrap();
    let profiles = std::collections::BTreeMap::new();
    let bytes = TestImage::klipper("stm32f446xx", 0x0800_8000).build();
    let image = Image::parse(&bytes).unwrap();
    let firmware = Obtained { image, bytes, from: From::File("klipper.bin".into()) };
    let firmware = Some(&firmware);
    let inputs = Inputs { config: &config, printer, profiles: &profiles, ca: None, moonraker_ca: None, firmware };
    let mut manifests = kflash_job::flash(&inputs, shape).unwrap();
    let (Some(Manifest::Job(job)), Some(Manifest::ConfigMap(map))) = (manifests.pop(), manifests.pop()) else {
        panic!("a ConfigMap and a Job")
    };
    Order {
        setup: kflash_job::setup(printer, shape).unwrap(),
        inputs: *map,
        job: *job,
        workload: "deployment/voron-klipper".parse().unwrap(),
        lease: (shape.quiesce == Quiesce::Sidecar).then(|| LEASE.to_owned()),
        wait: Duration::ZERO,
        trusting: false,
    }
}

/// What a pod's containers do.
#[derive(Clone, Debug)]
pub struct Script {
    /// What the container with the device comes to, if the gate is open.
    pub summary: Summary,
    /// The container that obtains the firmware ends with this.
    pub obtain: i64,
    /// For how long it flashes.
    pub flash: Duration,
}

impl Script {
    pub fn well() -> Self {
        Self { summary: flashed("v2"), obtain: 0, flash: Duration::from_secs(20) }
    }

    fn failing(exit: ExitCode) -> Self {
        Self { summary: Summary::new(Outcome::Failed, exit, Some("it stalls".into())), ..Self::well() }
    }
}

fn container(name: &str, state: &Value) -> Value {
    json!({
        "name": name, "ready": false, "restartCount": 0, "image": name, "imageID": "", "started": true, "state": state,
    })
}

fn terminated(code: i64, message: Option<&str>) -> Value {
    json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" }, "message": message}})
}

fn running() -> Value {
    json!({"running": {"startedAt": "2026-03-01T12:00:00Z"}})
}

impl Bench {
    /// Runs it, beside a kubelet.
    async fn run(&self, order: &Order, script: &Script) -> (Result<Ending, RunError>, Vec<Told>) {
        let (_stopper, stop) = stop::channel();
        Box::pin(self.run_until(order, script, &stop)).await
    }

    async fn run_until(
        &self,
        order: &Order,
        script: &Script,
        stop: &stop::Stop,
    ) -> (Result<Ending, RunError>, Vec<Told>) {
        let cluster = self.admin();
        let told = Mutex::new(Vec::new());
        let steps = |step: Step| self.steps.lock().unwrap().push(step);
        let tell = |one: Told| told.lock().unwrap().push(one);
        let run = Run { cluster: &cluster, printer: self, order, stop, steps: &steps, tell: &tell };
        let ended = tokio::select! {
            ended = Box::pin(run.run()) => ended,
            () = Box::pin(self.kubelet(script)) => unreachable!("it never ends"),
        };
        (ended, told.into_inner().unwrap())
    }

    /// Runs the pods of Jobs, one after another.
    pub async fn kubelet(&self, script: &Script) {
        loop {
            let pod = self.server.job_pods().into_iter().find(|pod| pod["status"] == json!({"phase": "Pending"}));
            match pod {
                Some(pod) => self.run_pod(&pod, script).await,
                None => time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn run_pod(&self, pod: &Value, script: &Script) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let server = &self.server;
        let labels = &pod["metadata"]["labels"];
        let says = |container: &str, line: &Value| server.log_line(name, container, Some(&line.to_string()));
        says("build", &json!({"event": "phase", "what": "building"}));
        server.log_line(name, "build", None);
        let built = container("build", &terminated(script.obtain, (script.obtain != 0).then_some("make: Error 2\n")));
        if script.obtain != 0 {
            server.set_status(name, &json!({"phase": "Failed", "initContainerStatuses": [built]}));
            return;
        }
        let shared = TempDir::new().unwrap();
        let sidecar =
            pod["spec"]["initContainers"].as_array().into_iter().flatten().any(|one| one["name"] == "quiesce");
        if !sidecar {
            time::sleep(script.flash).await;
            return self.ended(name, &[built], &script.summary);
        }
        let mut order = self.order("x", shared.path());
        let text = |key: &str| labels[key].as_str().unwrap().to_owned();
        order.who = Identity { uid: text(label::JOB_UID), job: text(label::JOB_NAME) };
        let (stopper, stop) = stop::channel();
        let steps = |step: Step| says("quiesce", &serde_json::to_value(&step).unwrap());
        let sidecar = Sidecar { cluster: &self.cluster, printer: self, order: &order, stop: &stop, steps: &steps };
        let quiesce = container("quiesce", &running());
        server.set_status(name, &json!({"phase": "Pending", "initContainerStatuses": [built, quiesce]}));
        let flash = async {
            let gate = started(shared.path()).await;
            let summary = match unflashed(&gate) {
                None => {
                    let status = json!({
                        "phase": "Running", "initContainerStatuses": [built, quiesce],
                        "containerStatuses": [container("kflash", &running())],
                    });
                    server.set_status(name, &status);
                    for done in [0, 50, 100] {
                        says("kflash", &json!({"event": "progress", "phase": "write", "done": done, "total": 100}));
                        time::sleep(script.flash / 3).await;
                    }
                    script.summary.clone()
                }
                Some(summary) => summary,
            };
            leave(shared.path(), &summary);
            says("kflash", &serde_json::to_value(&summary).unwrap());
            server.log_line(name, "kflash", None);
            stopper.request();
            summary
        };
        let (ended, summary) = tokio::join!(sidecar.run(), flash);
        server.log_line(name, "quiesce", None);
        let code = u8::from(ended.is_err()).into();
        self.ended(name, &[built, container("quiesce", &terminated(code, None))], &summary);
    }

    fn ended(&self, pod: &str, init: &[Value], summary: &Summary) {
        let message = serde_json::to_string(summary).unwrap();
        let phase = if summary.exit == ExitCode::Ok { "Succeeded" } else { "Failed" };
        let flasher = container("kflash", &terminated(summary.exit_code.into(), Some(&message)));
        self.server
            .set_status(pod, &json!({"phase": phase, "initContainerStatuses": init, "containerStatuses": [flasher]}));
    }
}

/// What containers said.
fn said(told: &[Told]) -> Vec<String> {
    let lines = told.iter().filter_map(|one| match one {
        Told::Log { container, line } => Some(format!("{container} {line}")),
        _ => None,
    });
    lines.collect()
}

fn conditions(server: &Server) -> Vec<String> {
    let jobs = server.jobs();
    jobs.iter().map(|job| job["status"]["conditions"][0]["reason"].as_str().unwrap_or("none").to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_printer_is_flashed_from_nothing_but_its_configuration() {
    let bench = Bench::new().await;
    bench.server.delete_lease(LEASE);
    let (ended, told) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    assert_eq!(ended.unwrap(), Ending { exit: ExitCode::Ok, summary: flashed("v2") });
    bench.assert_whole(1, "run");
    let lease = bench.server.lease(LEASE);
    assert_eq!(lease["metadata"]["annotations"][annotation::WORKLOAD], "deployment/voron-klipper");
    let log = bench.server.log();
    for made in ["roles", "rolebindings", "serviceaccounts", "leases", "poddisruptionbudgets"] {
        assert!(log.contains(&format!("patch {made} {LEASE}")), "{made}: {log:#?}");
    }
    // Nothing runs before its inputs are there, and they go when it goes.
    let at = |what: &str| log.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}"));
    assert!(at("create jobs") < at("create configmaps") && at("create configmaps") < at("patch jobs"), "{log:#?}");
    let job = &bench.server.jobs()[0];
    assert_eq!(conditions(&bench.server), ["CompletionsReached"]);
    let (name, uid) = (job["metadata"]["name"].as_str().unwrap(), &job["metadata"]["uid"]);
    assert_eq!(bench.server.config_map(name)["metadata"]["ownerReferences"][0]["uid"], *uid);

    let said = said(&told);
    assert!(said[0].starts_with("build ") && said.iter().any(|line| line.contains(r#""step":"stopped""#)), "{said:#?}");
    assert_eq!(said.iter().filter(|line| line.contains(r#""event":"progress""#)).count(), 3, "{said:#?}");
    assert!(said.iter().any(|line| line.contains(r#""step":"restored""#)), "{said:#?}");

    // Once more: the Job that has ended is in the way. What the Lease says stays, but for what the manifest does.
    bench.server.annotate_lease(LEASE, annotation::WORKLOAD, "deployment/another");
    let (ended, told) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    assert_eq!(ended.unwrap().exit, ExitCode::Ok);
    let removed = format!("removing Job {name} of the same inputs, which has ended");
    assert!(told.contains(&Told::Note { text: removed }), "{told:#?}");
    let again = &bench.server.jobs()[0]["metadata"]["uid"];
    assert_ne!(again, uid);
    // The inputs of the first, which follow it a moment later, were not taken for those of this one.
    time::sleep(Duration::from_secs(60)).await;
    assert_eq!(bench.server.config_map(name)["metadata"]["ownerReferences"][0]["uid"], *again);
    bench.assert_whole(1, "again");
    let annotations = &bench.server.lease(LEASE)["metadata"]["annotations"];
    assert_eq!(annotations[annotation::WORKLOAD], "deployment/voron-klipper");
    assert!(annotations[annotation::CONFIRMED].is_string(), "{annotations}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_as_the_flash_does() {
    for (exit, pods, reason) in [
        (ExitCode::Lost, 1, "PodFailurePolicy"),
        (ExitCode::Refused, 1, "PodFailurePolicy"),
        (ExitCode::Write, 3, "BackoffLimitExceeded"),
    ] {
        let bench = Bench::new().await;
        let script = Script::failing(exit);
        let (ended, _) = bench.run(&order(Quiesce::Sidecar), &script).await;
        assert_eq!(ended.unwrap(), Ending { exit, summary: script.summary });
        assert_eq!((bench.server.job_pods().len(), conditions(&bench.server)), (pods, vec![reason.to_owned()]));
        bench.assert_whole(1, reason);
    }
    // It does not even come to a flash.
    let bench = Bench::new().await;
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script { obtain: 7, ..Script::well() }).await;
    let Ending { exit, summary } = ended.unwrap();
    assert_eq!(exit, ExitCode::Build);
    assert_eq!(summary.message.unwrap(), "the container build ended with 7: make: Error 2");
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script { obtain: 137, ..Script::well() }).await;
    assert_eq!(ended.unwrap().exit, ExitCode::Internal);
    bench.assert_whole(1, "never stopped");
}

#[tokio::test(start_paused = true)]
async fn a_printer_at_work_gets_no_job() {
    let printing = Answer::Does(Activity::Printing(Job { file: "benchy.gcode".into(), percent: Some(42) }));
    for quiesce in [Quiesce::Sidecar, Quiesce::Token, Quiesce::None] {
        let bench = Bench::new().await;
        bench.says(Some(printing.clone()));
        let (ended, _) = bench.run(&order(quiesce), &Script::well()).await;
        let error = ended.unwrap_err();
        assert_eq!(
            (error.exit(), &*error.to_string()),
            (ExitCode::Busy, "the printer is printing benchy.gcode (42 %)")
        );
        assert!(bench.server.jobs().is_empty());

        let waiting = Order { wait: Duration::from_secs(3600), ..order(quiesce) };
        let script = Script::well();
        let ((ended, _), ()) = tokio::join!(bench.run(&waiting, &script), async {
            time::sleep(Duration::from_secs(1800)).await;
            assert!(bench.server.jobs().is_empty());
            bench.says(None);
        });
        assert_eq!(ended.unwrap().exit, ExitCode::Ok);
        bench.assert_whole(1, "waited");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_to_be_started_is_started_only_while_the_gate_is_open() {
    for quiesce in [Quiesce::Token, Quiesce::Sidecar] {
        let bench = Bench::new().await;
        let (order, script) = (order(quiesce), Script::well());
        // Applied by hand, without its inputs; or a run died that had just made it.
        let jobs: Api<KubernetesJob> = Api::namespaced(bench.admin().client, NAMESPACE);
        let mut job = order.job.clone();
        job.spec.as_mut().unwrap().suspend = Some(true);
        jobs.create(&PostParams::default(), &job).await.unwrap();
        bench.says(Some(Answer::Does(Activity::Moving)));
        let (ended, _) = bench.run(&order, &script).await;
        assert_eq!(ended.unwrap_err().exit(), ExitCode::Busy);
        assert_eq!((&bench.server.jobs()[0]["spec"]["suspend"], bench.server.job_pods().len()), (&json!(true), 0));

        bench.says(None);
        let (ended, _) = bench.run(&order, &script).await;
        assert_eq!(ended.unwrap(), Ending { exit: ExitCode::Ok, summary: flashed("v2") });
        let name = order.job.metadata.name.unwrap();
        assert_eq!((bench.server.jobs().len(), &bench.server.config_map(&name)["metadata"]["name"]), (1, &json!(name)));
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_asks_in_the_cluster_silence_is_no_leave() {
    let bench = Bench::new().await;
    bench.says(Some(silence()));
    let (ended, _) = bench.run(&order(Quiesce::Token), &Script::well()).await;
    let error = ended.unwrap_err();
    assert!(error.to_string().starts_with("cannot tell whether the printer prints, and pod voron-klipper-"), "{error}");
    assert!(bench.server.jobs().is_empty());
    let trusting = Order { trusting: true, ..order(Quiesce::Token) };
    assert_eq!(bench.run(&trusting, &Script::well()).await.0.unwrap().exit, ExitCode::Ok);
    assert!(bench.server.log().contains(&"patch priorityclasses kflash".to_owned()));

    // A sidecar asks by itself: what it says counts.
    let bench = Bench::new().await;
    bench.says(Some(silence()));
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    let Ending { exit, summary } = ended.unwrap();
    assert_eq!((exit, summary.result), (ExitCode::Busy, Outcome::Refused));
    bench.assert_whole(1, "refused");
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_is_given_back_before_any_gate() {
    let bench = Bench::new().await;
    bench.server.plan(vec![Fault { at: 12, how: How::KillAfter }]);
    assert!(bench.pod("dead").await.killed);
    assert_eq!((bench.owed(), bench.server.replicas(&bench.klipper)), (Some(1), 0));
    bench.server.plan(Vec::new());
    time::sleep(Duration::from_secs(150)).await;
    // Moonraker is down with Klipper, and prints as soon as it is up.
    bench.says(Some(Answer::Does(Activity::Moving)));
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    assert_eq!(ended.unwrap_err().exit(), ExitCode::Busy);
    bench.assert_whole(1, "given back");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_going_is_waited_for_and_made_anew() {
    // It goes once what a flash owes is paid that died.
    let bench = Bench::new().await;
    bench.server.plan(vec![Fault { at: 12, how: How::KillAfter }]);
    assert!(bench.pod("dead").await.killed);
    bench.server.plan(Vec::new());
    bench.server.delete_lease(LEASE);
    assert_eq!(bench.owed(), Some(1));
    let old = bench.server.lease(LEASE)["metadata"]["uid"].clone();
    time::sleep(Duration::from_secs(150)).await;
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    assert_eq!(ended.unwrap().exit, ExitCode::Ok);
    bench.assert_whole(1, "made anew");
    assert_ne!(bench.server.lease(LEASE)["metadata"]["uid"], old);

    // Or that is under way, and has half a minute to go.
    let bench = Bench::new().await;
    let ((first, ended), ()) = tokio::join!(
        async {
            tokio::join!(bench.pod("first"), async {
                time::sleep(FLASH / 2).await;
                bench.run(&order(Quiesce::Sidecar), &Script::well()).await
            })
        },
        async {
            time::sleep(FLASH / 4).await;
            bench.server.delete_lease(LEASE);
        }
    );
    first.result.unwrap();
    assert_eq!(ended.0.unwrap(), Ending { exit: ExitCode::Ok, summary: flashed("v2") });
    let text = "Lease kflash-voron is being deleted, is held by Job first (uid-of-first), last heard of at ";
    let told = |one: &Told| matches!(one, Told::Note { text: note } if note.starts_with(text));
    assert_eq!(ended.1.iter().filter(|one| told(one)).count(), 1, "{:#?}", ended.1);
    bench.assert_whole(1, "under way");

    // Somebody else holds it up: nothing is stopped, and it is told what to do.
    let bench = Bench::new().await;
    bench.server.hold_up_lease(LEASE, "example.com/backup");
    bench.server.delete_lease(LEASE);
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    let error = ended.unwrap_err();
    assert_eq!(
        (error.exit(), &*error.to_string()),
        (ExitCode::Usage, "Lease kflash-voron is being deleted: apply setup.yaml once more when it is gone")
    );
    assert!(bench.server.jobs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_goes_on_without_being_followed_and_can_be_followed_again() {
    let bench = Bench::new().await;
    let (stopper, stop) = stop::channel();
    let (sidecar, script) = (order(Quiesce::Sidecar), Script::well());
    let kubelet = Box::pin(bench.kubelet(&script));
    let both = Box::pin(async {
        let cluster = bench.admin();
        let (steps, tell) = (|_: Step| {}, |_: Told| {});
        let run = Run { cluster: &cluster, printer: &bench, order: &sidecar, stop: &stop, steps: &steps, tell: &tell };
        let (ended, ()) = tokio::join!(run.run(), async {
            time::sleep(Duration::from_secs(10)).await;
            stopper.request();
        });
        let error = ended.unwrap_err();
        assert_eq!(error.exit(), ExitCode::Cancelled);
        assert!(error.to_string().contains("goes on without being followed"), "{error}");
        assert_eq!((bench.server.replicas(&bench.klipper), bench.owed()), (0, Some(1)));

        let (_stopper, stop) = stop::channel();
        let run = Run { stop: &stop, ..run };
        let ended = run.run().await.unwrap();
        assert_eq!(ended, Ending { exit: ExitCode::Ok, summary: flashed("v2") });
    });
    tokio::select! {
        () = both => {}
        () = kubelet => unreachable!("it never ends"),
    }
    bench.assert_whole(1, "followed again");
}

#[tokio::test(start_paused = true)]
async fn what_a_sidecar_whose_account_is_gone_could_not_give_back_is_given_back() {
    let bench = Bench::new().await;
    let (sidecar, script) = (order(Quiesce::Sidecar), Script::well());
    let ((ended, told), ()) = tokio::join!(bench.run(&sidecar, &script), async {
        time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.owed(), Some(1));
        bench.server.forget_user("flasher");
    });
    assert_eq!(ended.unwrap(), Ending { exit: ExitCode::Ok, summary: flashed("v2") });
    let noted = |told: &Told| matches!(told, Told::Note { text } if text.contains("was left: giving it back"));
    assert!(told.iter().any(noted), "{told:#?}");
    bench.assert_whole(1, "by a person");
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_is_not_there_costs_no_build() {
    let bench = Bench::new().await;
    bench.server.remove_klipper(&bench.klipper);
    let (ended, _) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
    let error = ended.unwrap_err();
    assert!(error.exit() == ExitCode::Usage && error.to_string().contains("voron-klipper"), "{error}");
    assert!(bench.server.jobs().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_deleted_is_told_of() {
    let bench = Bench::new().await;
    let (sidecar, script) = (order(Quiesce::Sidecar), Script::well());
    let name = sidecar.job.metadata.name.clone().unwrap();
    let ((ended, _), ()) = tokio::join!(bench.run(&sidecar, &script), async {
        time::sleep(Duration::from_secs(10)).await;
        bench.server.delete_job(&name);
    });
    let Ending { exit, summary } = ended.unwrap();
    assert_eq!(exit, ExitCode::Internal);
    assert!(summary.message.unwrap().contains("the state of the board is unknown"));
}

#[tokio::test(start_paused = true)]
async fn what_the_cluster_warns_of_is_told_once_and_so_is_each_line() {
    let bench = Bench::new().await;
    bench.server.cut_logs(Some(1));
    let (sidecar, script) = (order(Quiesce::Sidecar), Script::well());
    let ((ended, told), ()) = tokio::join!(bench.run(&sidecar, &script), async {
        time::sleep(Duration::from_secs(5)).await;
        let pod = bench.server.job_pods()[0]["metadata"]["name"].as_str().unwrap().to_owned();
        bench.server.report(&pod, "FailedMount", "MountVolume.SetUp failed");
    });
    assert_eq!(ended.unwrap().exit, ExitCode::Ok);
    let warning = Told::Warning { reason: "FailedMount".into(), message: "MountVolume.SetUp failed".into() };
    assert_eq!(told.iter().filter(|one| **one == warning).count(), 1, "{told:#?}");
    let mut said = said(&told);
    let all = said.len();
    said.sort();
    said.dedup();
    assert_eq!(said.len(), all);
    assert!(all > 6, "{said:#?}");
}

#[tokio::test(start_paused = true)]
async fn any_request_may_break() {
    let bench = Bench::new().await;
    let script = Script { flash: Duration::from_secs(1), ..Script::well() };
    bench.run(&order(Quiesce::Sidecar), &script).await.0.unwrap();
    let requests = bench.server.log().len();
    assert!(requests > 30);
    for how in [How::CutBefore, How::CutAfter, How::Internal, How::Hang] {
        for at in 0..requests {
            let bench = Bench::new().await;
            bench.server.delete_lease(LEASE);
            bench.server.plan(vec![Fault { at, how }]);
            let (ended, _) = bench.run(&order(Quiesce::Sidecar), &script).await;
            let context = format!("{how:?} {at}: {:#?}", bench.server.log());
            assert_eq!(ended.unwrap_or_else(|error| panic!("{error}: {context}")).exit, ExitCode::Ok, "{context}");
            bench.assert_whole(1, &context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_dies_before_its_job_has_begun_is_taken_up_by_the_next() {
    let script = Script { flash: Duration::from_secs(1), ..Script::well() };
    for quiesce in [Quiesce::Sidecar, Quiesce::Token] {
        let bench = Bench::new().await;
        bench.run(&order(quiesce), &script).await.0.unwrap();
        let started = bench.server.log().iter().position(|line| line.starts_with("patch jobs")).unwrap();
        for at in 0..=started {
            for how in [How::KillBefore, How::KillAfter] {
                let bench = Bench::new().await;
                bench.server.delete_lease(LEASE);
                bench.server.plan(vec![Fault { at, how }]);
                let (order, context) = (order(quiesce), format!("{quiesce} {how:?} {at}"));
                tokio::select! {
                    biased;
                    () = bench.server.killed() => {}
                    (ended, _) = Box::pin(bench.run(&order, &script)) => panic!("{context}: {ended:?}"),
                }
                bench.server.plan(Vec::new());
                let (ended, _) = bench.run(&order, &script).await;
                assert_eq!(ended.unwrap_or_else(|error| panic!("{context}: {error}")).exit, ExitCode::Ok, "{context}");
                assert_eq!((bench.server.jobs().len(), bench.server.job_pods().len()), (1, 1), "{context}");
                bench.server.config_map(order.job.metadata.name.as_deref().unwrap());
                if quiesce == Quiesce::Sidecar {
                    bench.assert_whole(1, &context);
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_may_not_set_up_may_flash_all_the_same() {
    let bench = Bench::new().await;
    let rule = |groups: &str, resources: &[&str], verbs: &[&str]| json!({"apiGroups": [groups], "resources": resources, "verbs": verbs});
    let rules = vec![
        rule("batch", &["jobs"], &["get", "create", "patch", "delete"]),
        rule("", &["configmaps"], &["create"]),
        rule("", &["pods", "pods/log", "events"], &["get", "list"]),
        rule("coordination.k8s.io", &["leases"], &["get"]),
    ];
    let (sidecar, script) = (order(Quiesce::Sidecar), Script::well());
    bench.admin();
    bench.server.user("printer-owner", "eve", Some(rules));
    let clock = bench.server.clone();
    let client = Client::new(bench.server.in_process("printer-owner"), NAMESPACE);
    let cluster = Cluster::new(client, NAMESPACE, move || clock.with(|store| store.now()));
    let told = Mutex::new(Vec::new());
    let (_stopper, stop) = stop::channel();
    let tell = |one: Told| told.lock().unwrap().push(one);
    let run = Run { cluster: &cluster, printer: &bench, order: &sidecar, stop: &stop, steps: &|_| {}, tell: &tell };
    let ended = tokio::select! {
        ended = Box::pin(run.run()) => ended,
        () = Box::pin(bench.kubelet(&script)) => unreachable!("it never ends"),
    };
    assert_eq!(ended.unwrap().exit, ExitCode::Ok);
    let told = told.lock().unwrap().clone();
    let left = told
        .iter()
        .filter(|one| matches!(one, Told::Note { text } if text.starts_with("left as it is: may not apply")));
    assert_eq!(left.count(), 5, "{told:#?}");

    // Where the Lease is not there, somebody has to make it.
    bench.server.delete_lease(LEASE);
    let error = run.run().await.unwrap_err();
    assert_eq!(error.to_string(), "cannot read Lease kflash-voron: it does not exist");
    bench.server.set_minor("27");
    assert_eq!(run.run().await.unwrap_err(), RunError::TooOld { minor: 27 });
}

#[tokio::test(start_paused = true)]
async fn the_gate_of_the_pod_has_the_last_word() {
    let bench = Bench::new().await;
    let shared = TempDir::new().unwrap();
    let (stopper, stop) = stop::channel();
    let other = bench.order("other", shared.path());
    let flash = async {
        let gate = started(shared.path()).await;
        let (ended, told) = bench.run(&order(Quiesce::Sidecar), &Script::well()).await;
        let Ending { exit, summary } = ended.unwrap();
        assert_eq!((exit, summary.result), (ExitCode::Busy, Outcome::Refused), "{told:#?}");
        assert!(summary.message.unwrap().starts_with("Lease kflash-voron is held by Job other"));
        flashed("v3").write(&shared.path().join(file::RESULT)).unwrap();
        stopper.request();
        gate
    };
    Box::pin(bench.sidecar(&other, &stop, flash)).await.result.unwrap();
    bench.assert_whole(1, "the other goes on");
}
