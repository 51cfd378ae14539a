//! What the sidecar does where nothing dies.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::sync::PoisonError;
use std::time::Duration;

use kflash::cluster::{Confirmed, Gate, Outcome, Summary, annotation, file, label};
use kflash::exit::ExitCode;
use kflash::moonraker::{Activity, Job};
use kflash_kube::gate::{Answer, Shut};
use kflash_kube::quiesce::{Board, Order, Wanted};
use kflash_kube::step::Step;
use kflash_kube::stop;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time;

use crate::bench::{Bench, FLASH, LEASE, flashed, leave, silence, started};
use crate::double::{Fault, How, Server, Store};
use crate::lease::{hold, result};

pub fn printing() -> Answer {
    Answer::Does(Activity::Printing(Job { file: "benchy.gcode".into(), percent: Some(42) }))
}

#[track_caller]
pub fn refused(gate: Option<&Gate>) -> (ExitCode, &str) {
    match gate {
        Some(Gate::Refused { exit, reason }) => (*exit, reason),
        other => panic!("not refused: {other:?}"),
    }
}

/// Requests that change anything.
fn writes(server: &Server) -> Vec<String> {
    let log = server.log();
    log.into_iter().filter(|line| !line.starts_with(['g', 'l', 'w']) && !line.contains("events")).collect()
}

#[tokio::test(start_paused = true)]
async fn klipper_is_stopped_for_the_flash_and_given_back() {
    for klipper in ["deployment/voron-klipper", "statefulset/voron-klipper"] {
        for replicas in [1, 2] {
            let bench = Bench::of(klipper, replicas).await;
            let ended = bench.pod("first").await;
            assert_eq!(ended.gate, Some(Gate::Open), "{:?}", bench.steps());
            ended.result.unwrap();
            bench.assert_whole(replicas.into(), klipper);
            assert_eq!(result(&bench), flashed("v2"));
            let lease = bench.server.lease(LEASE);
            let annotations = &lease["metadata"]["annotations"];
            assert_eq!(annotations[annotation::JOB], "first");
            assert_eq!(annotations[annotation::WORKLOAD], klipper);
            let confirmed = annotations[annotation::CONFIRMED].as_str().unwrap();
            assert_eq!(serde_json::from_str::<Value>(confirmed).unwrap()["mcu"]["version"], "v2");
            assert_eq!(bench.server.events(), ["StoppingKlipper", "KlipperStopped", "KlipperRestored", "Flashed"]);
            // The record stands before anything is scaled, and until it is scaled back.
            let plural = bench.klipper.kind.plural();
            let scale = format!("patch {plural}/scale voron-klipper");
            let lease = "update leases kflash-voron".to_owned();
            let writes = writes(&bench.server);
            assert_eq!(writes[..2], [lease.clone(), scale.clone()]);
            assert_eq!(writes[writes.len() - 2..], [scale, lease.clone()]);
            assert!(writes[2..writes.len() - 2].iter().all(|write| *write == lease), "renewals: {writes:?}");
        }
    }
}

/// All that a run writes which stops nothing: its result.
const NOTED: [&str; 1] = ["update leases kflash-voron"];

#[tokio::test(start_paused = true)]
async fn a_printer_at_work_is_left_alone() {
    let bench = Bench::new().await;
    let before = bench.server.lease(LEASE);
    bench.says(Some(printing()));
    let ended = bench.pod("first").await;
    let (exit, reason) = refused(ended.gate.as_ref());
    assert_eq!((exit, reason), (ExitCode::Busy, "the printer is printing benchy.gcode (42 %)"));
    assert_eq!(writes(&bench.server), NOTED);
    let after = bench.server.lease(LEASE);
    assert_eq!(result(&bench), Summary::new(Outcome::Refused, exit, Some(reason.into())));
    assert_eq!((&after["spec"], bench.owed()), (&before["spec"], None));
    assert_eq!(bench.server.events(), ["FlashRefused"]);
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_the_end_of_a_print_where_it_is_told_to() {
    let bench = Bench::new().await;
    bench.says(Some(printing()));
    let shared = TempDir::new().unwrap();
    let mut order = bench.order("first", shared.path());
    order.wait = Duration::from_secs(3600);
    let (ended, ()) = tokio::join!(bench.pod_with(order), async {
        time::sleep(Duration::from_secs(1800)).await;
        assert_eq!(bench.server.replicas(&bench.klipper), 1);
        assert_eq!(bench.server.lease(LEASE)["spec"]["holderIdentity"], Value::Null, "it waits without the Lease");
        bench.says(None);
    });
    assert_eq!(ended.gate, Some(Gate::Open));
    bench.assert_whole(1, "waited");
    let waited = bench.steps().iter().filter(|step| matches!(step, Step::Waiting { .. })).count();
    assert_eq!(waited, 2, "it says so every twenty minutes");

    bench.says(Some(printing()));
    let mut order = bench.order("second", shared.path());
    order.wait = Duration::from_secs(600);
    fs::remove_file(shared.path().join(file::GATE)).unwrap();
    let began = time::Instant::now();
    assert_eq!(refused(bench.pod_with(order).await.gate.as_ref()).0, ExitCode::Busy);
    assert_eq!(began.elapsed().as_secs(), 600);
}

#[tokio::test(start_paused = true)]
async fn silence_is_no_leave_while_klipper_may_print() {
    let bench = Bench::new().await;
    bench.says(Some(silence()));
    let ended = bench.pod("first").await;
    let (exit, reason) = refused(ended.gate.as_ref());
    assert_eq!(exit, ExitCode::Busy);
    assert!(reason.starts_with("cannot tell whether the printer prints, and pod voron-klipper-"), "{reason}");
    assert_eq!(writes(&bench.server), NOTED);

    let shared = TempDir::new().unwrap();
    let mut order = bench.order("second", shared.path());
    order.trusting = true;
    assert_eq!(bench.pod_with(order).await.gate, Some(Gate::Open));
    bench.assert_whole(1, "told to trust");

    // A pod that is there, but in which nothing is ready: Klipper crashes at its start, which a flash may mend.
    let bench = Bench::of("deployment/voron-klipper", 0).await;
    bench.says(Some(silence()));
    let labels = json!({"app.kubernetes.io/instance": "voron", "app.kubernetes.io/name": "klipper"});
    let crashing = json!({"phase": "Running", "containerStatuses": [{"name": "klipper", "ready": false}]});
    bench.server.add_pod("crashing", labels.clone(), crashing);
    let pod = bench.pod("first");
    let (ended, ()) = tokio::join!(pod, async {
        time::sleep(Duration::from_secs(30)).await;
        bench.server.add_pod("crashing", labels, json!({"phase": "Failed"}));
    });
    assert_eq!(ended.gate, Some(Gate::Open));
}

#[tokio::test(start_paused = true)]
async fn a_corpse_holds_no_device() {
    let bench = Bench::new().await;
    // As the kubelet leaves it where a device plugin came up later than the pod (node restart).
    let labels = json!({"app.kubernetes.io/instance": "voron", "app.kubernetes.io/name": "klipper"});
    bench.server.add_pod("corpse", labels, json!({"phase": "Failed", "reason": "UnexpectedAdmissionError"}));
    assert_eq!(bench.pod("first").await.gate, Some(Gate::Open));
    bench.assert_whole(1, "corpse");
}

#[tokio::test(start_paused = true)]
async fn a_klipper_that_does_not_end_is_given_back() {
    let bench = Bench::new().await;
    bench.server.with(|store| store.timing.end = Duration::from_secs(3600));
    let ended = bench.pod("first").await;
    let (exit, reason) = refused(ended.gate.as_ref());
    assert_eq!(exit, ExitCode::Busy);
    assert!(reason.contains("on node pi4, which was told to end still runs 120 s after"), "{reason}");
    bench.assert_whole(1, "stuck");
    // Given back together with the word of why.
    assert_eq!(result(&bench), Summary::new(Outcome::Refused, exit, Some(reason.into())));
    assert_eq!(writes(&bench.server).last().unwrap(), NOTED[0]);
    assert_eq!(writes(&bench.server).iter().filter(|write| write.starts_with("patch")).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_klipper_is_given_the_time_that_its_pod_asks_for() {
    let bench = Bench::new().await;
    bench.server.set_grace(&bench.klipper, 600);
    bench.server.with(|store| store.timing.end = Duration::from_secs(590));
    assert_eq!(bench.pod("first").await.gate, Some(Gate::Open));
    bench.assert_whole(1, "slow");
}

#[tokio::test(start_paused = true)]
async fn another_flash_is_left_alone_and_named() {
    let bench = Bench::new().await;
    let (first, second) = tokio::join!(bench.pod("first"), async {
        time::sleep(Duration::from_secs(20)).await;
        let ended = bench.pod("second").await;
        assert_eq!(bench.server.replicas(&bench.klipper), 0, "the first goes on");
        ended
    });
    assert_eq!(first.gate, Some(Gate::Open));
    let (exit, reason) = refused(second.gate.as_ref());
    assert_eq!(exit, ExitCode::Busy);
    assert!(
        reason.starts_with("Lease kflash-voron is held by Job first (uid-of-first), last heard of at 2026-"),
        "{reason}"
    );
    bench.assert_whole(1, "both");
}

#[tokio::test(start_paused = true)]
async fn of_two_jobs_at_once_one_goes_and_the_other_waits_or_is_refused() {
    for offset in 0..40 {
        let bench = Bench::new().await;
        let shared = TempDir::new().unwrap();
        let mut order = bench.order("second", shared.path());
        order.wait = if offset % 2 == 0 { Duration::from_secs(600) } else { Duration::ZERO };
        let (first, second) = tokio::join!(bench.pod("first"), async {
            time::sleep(Duration::from_millis(offset)).await;
            bench.pod_with(order).await
        });
        let opened = [&first, &second].iter().filter(|ended| ended.gate == Some(Gate::Open)).count();
        assert_eq!(opened, if offset % 2 == 0 { 2 } else { 1 }, "{offset}: {:?}", bench.steps());
        bench.assert_whole(1, &format!("{offset}"));
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_that_somebody_sets_back_are_noticed() {
    let bench = Bench::new().await;
    let (ended, ()) = tokio::join!(bench.pod("first"), async {
        for _ in 0..2 {
            time::sleep(Duration::from_secs(12)).await;
            bench.server.set_replicas(&bench.klipper, 1);
        }
    });
    assert_eq!(ended.gate, Some(Gate::Open));
    bench.assert_whole(1, "set back");
    let notes = result(&bench).notes;
    assert!(
        notes[0].starts_with("somebody scaled deployment/voron-klipper to 1 during the flash, 2 times"),
        "{notes:?}"
    );
    assert_eq!(bench.server.events().iter().filter(|reason| *reason == "ReplicasSetBack").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_the_board_runs_already_stops_nothing() {
    let bench = Bench::new().await;
    assert_eq!(bench.pod("first").await.gate, Some(Gate::Open));
    time::sleep(Duration::from_secs(10)).await;
    bench.server.plan(Vec::new());
    let order = |mcu: &str, version: &str, sha256: String| {
        let shared = TempDir::new().unwrap();
        let board = Board { mcu: mcu.into(), image: Wanted { sha256, version: version.into() } };
        (Order { boards: Ok(vec![board]), ..bench.order("second", shared.path()) }, shared)
    };
    let reports = |version: Option<&str>| {
        *bench.firmware.lock().unwrap_or_else(PoisonError::into_inner) = version.map(str::to_owned);
    };
    reports(Some("v2"));
    let (same, _shared) = order("mcu", "v2", "ab".repeat(32));
    let runs = Confirmed { version: "v2".into(), sha256: "ab".repeat(32) };
    let current = Gate::AlreadyCurrent { boards: [("mcu".to_owned(), runs)].into() };
    let confirmed = bench.server.lease(LEASE)["metadata"]["annotations"][annotation::CONFIRMED].clone();
    assert_eq!(bench.pod_with(same).await.gate, Some(current));
    assert_eq!(writes(&bench.server), NOTED);
    assert_eq!(result(&bench).result, Outcome::AlreadyCurrent);
    assert_eq!(bench.server.lease(LEASE)["metadata"]["annotations"][annotation::CONFIRMED], confirmed);

    // Another board of the printer, for which the same image was built: nothing is known of it.
    let (other, _shared) = order("mcu EBB", "v2", "ab".repeat(32));
    assert_eq!(bench.pod_with(other).await.gate, Some(Gate::Open));
    time::sleep(Duration::from_secs(10)).await;
    let lease = bench.server.lease(LEASE);
    let confirmed = lease["metadata"]["annotations"][annotation::CONFIRMED].as_str().unwrap();
    let confirmed: Value = serde_json::from_str(confirmed).unwrap();
    assert_eq!(confirmed.as_object().unwrap().keys().collect::<Vec<_>>(), ["mcu", "mcu EBB"]);

    // The Lease and Moonraker have to say so both.
    for (version, sha256, running) in
        [("v2", "cd".repeat(32), Some("v2")), ("v2", "ab".repeat(32), Some("v3")), ("v2", "ab".repeat(32), None)]
    {
        reports(running);
        let (other, _shared) = order("mcu", version, sha256);
        assert_eq!(bench.pod_with(other).await.gate, Some(Gate::Open));
        time::sleep(Duration::from_secs(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_board_runs_is_not_known_once_a_flash_failed() {
    let bench = Bench::new().await;
    bench.pod("first").await.result.unwrap();
    let shared = TempDir::new().unwrap();
    let order = bench.order("second", shared.path());
    let (stopper, stop) = stop::channel();
    let failed = Summary::new(Outcome::Failed, ExitCode::Write, Some("cannot write 0x08008000".into()));
    let flash = async {
        let gate = started(shared.path()).await;
        leave(shared.path(), &failed);
        stopper.request();
        gate
    };
    bench.sidecar(&order, &stop, flash).await.result.unwrap();
    bench.assert_whole(1, "failed");
    assert_eq!(result(&bench), failed);
    let lease = bench.server.lease(LEASE);
    assert_eq!(lease["metadata"]["annotations"][annotation::CONFIRMED], "{}");
    assert_eq!(bench.server.events().last().unwrap(), "FlashFailed");

    // Nor where the flash said nothing at all.
    let shared = TempDir::new().unwrap();
    let order = bench.order("third", shared.path());
    let (stopper, stop) = stop::channel();
    let flash = async {
        let gate = started(shared.path()).await;
        stopper.request();
        gate
    };
    bench.sidecar(&order, &stop, flash).await.result.unwrap();
    assert_eq!(
        result(&bench).message.unwrap(),
        "the container that flashes left no result: the state of the board is unknown"
    );
}

#[tokio::test(start_paused = true)]
async fn of_several_boards_each_is_remembered() {
    let bench = Bench::new().await;
    bench.pod("first").await.result.unwrap();
    let failed = Summary::new(Outcome::Failed, ExitCode::Write, Some("it stalls".into()));
    let boards = [("voron/EBB".to_owned(), flashed("v3")), ("voron/nozzle".to_owned(), failed)].into();
    let several = Summary::of_boards(boards);
    let shared = TempDir::new().unwrap();
    let board = |mcu: &str| Board { mcu: mcu.into(), image: Wanted { sha256: "ab".repeat(32), version: "v3".into() } };
    let boards = ["mcu EBB", "mcu nozzle"].map(board);
    let order = Order { boards: Ok(boards.into()), ..bench.order("second", shared.path()) };
    let (stopper, stop) = stop::channel();
    let flash = async {
        let gate = started(shared.path()).await;
        leave(shared.path(), &several);
        stopper.request();
        gate
    };
    bench.sidecar(&order, &stop, flash).await.result.unwrap();
    bench.assert_whole(1, "several");
    assert_eq!(result(&bench), several);
    let lease = bench.server.lease(LEASE);
    let confirmed = lease["metadata"]["annotations"][annotation::CONFIRMED].as_str().unwrap();
    let confirmed: Value = serde_json::from_str(confirmed).unwrap();
    let runs = |version: &str| json!({"sha256": "ab".repeat(32), "version": version});
    assert_eq!(confirmed, json!({"mcu": runs("v2"), "mcu EBB": runs("v3")}));
}

#[tokio::test(start_paused = true)]
async fn what_all_of_several_boards_run_already_stops_nothing() {
    let bench = Bench::new().await;
    *bench.firmware.lock().unwrap_or_else(PoisonError::into_inner) = Some("v2".into());
    let wanted = |mcu: &str, image: &str| {
        let image = Wanted { sha256: image.repeat(32), version: "v2".into() };
        Board { mcu: mcu.into(), image }
    };
    let flash = async |boards: Vec<Board>, summary: Summary| {
        let shared = TempDir::new().unwrap();
        let order = Order { boards: Ok(boards), ..bench.order("several", shared.path()) };
        bench.server.plan(Vec::new());
        let (stopper, stop) = stop::channel();
        let flash = async {
            let gate = started(shared.path()).await;
            if gate == Gate::Open {
                leave(shared.path(), &summary);
            }
            stopper.request();
            gate
        };
        let gate = bench.sidecar(&order, &stop, flash).await.gate.unwrap();
        time::sleep(Duration::from_secs(10)).await;
        gate
    };
    // The board that printer.cfg has as [mcu] is named by its kind.
    let both = || vec![wanted("mcu", "ab"), wanted("mcu EBB", "ab")];
    let boards = [("voron/octopus".to_owned(), flashed("v2")), ("voron/EBB".to_owned(), flashed("v2"))];
    let well = || Summary::of_boards(boards.clone().into());
    assert_eq!(flash(both(), well()).await, Gate::Open, "nothing is known of them");
    let runs = Confirmed { version: "v2".into(), sha256: "ab".repeat(32) };
    let current = [("mcu".to_owned(), runs.clone()), ("mcu EBB".to_owned(), runs)];
    assert_eq!(flash(both(), well()).await, Gate::AlreadyCurrent { boards: current.into() });
    assert_eq!(writes(&bench.server), [""; 0]);
    assert_eq!(bench.server.events().last().unwrap(), "AlreadyCurrent");

    for boards in [
        vec![wanted("mcu", "ab"), wanted("mcu EBB", "cd")],
        // Moonraker knows one board of that name, and nobody which.
        vec![wanted("mcu", "ab"), wanted("mcu", "ab")],
    ] {
        assert_eq!(flash(boards.clone(), well()).await, Gate::Open, "{boards:?}");
    }

    // One of them fails: of the other it is known all the same, and of a third what was known.
    assert_eq!(flash(vec![wanted("mcu nozzle", "ab")], flashed("v2")).await, Gate::Open);
    let failed = Summary::new(Outcome::Failed, ExitCode::Write, Some("it stalls".into()));
    let boards = [("voron/octopus".to_owned(), flashed("v2")), ("voron/EBB".to_owned(), failed)];
    let other = vec![wanted("mcu", "cd"), wanted("mcu EBB", "cd")];
    assert_eq!(flash(other, Summary::of_boards(boards.into())).await, Gate::Open);
    let lease = bench.server.lease(LEASE);
    let confirmed = lease["metadata"]["annotations"][annotation::CONFIRMED].as_str().unwrap();
    let confirmed: Value = serde_json::from_str(confirmed).unwrap();
    assert_eq!(confirmed.as_object().unwrap().keys().collect::<Vec<_>>(), ["mcu", "mcu nozzle"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_is_given_back_where_no_flash_can_be() {
    let bench = Bench::new().await;
    hold(&bench, "dead", 1, -120);
    bench.server.set_replicas(&bench.klipper, 0);
    time::sleep(Duration::from_secs(5)).await;
    let shared = TempDir::new().unwrap();
    let mut order = bench.order("second", shared.path());
    order.boards = Err(Shut { exit: ExitCode::NotFound, reason: "voron/mcu: no device found for 1-1.4".into() });
    refused(bench.pod_with(order).await.gate.as_ref());
    bench.assert_whole(1, "given back");
    assert_eq!(result(&bench).message.unwrap(), "voron/mcu: no device found for 1-1.4");
}

#[tokio::test(start_paused = true)]
async fn what_was_said_stands_when_the_sidecar_is_restarted() {
    let bench = Bench::new().await;
    let shared = TempDir::new().unwrap();
    bench.says(Some(printing()));
    refused(bench.pod_with(bench.order("first", shared.path())).await.gate.as_ref());
    bench.says(None);
    bench.server.plan(Vec::new());
    refused(bench.pod_with(bench.order("first", shared.path())).await.gate.as_ref());
    assert_eq!(writes(&bench.server), [""; 0], "the flash has ended: Klipper is not stopped now");

    // A gate that was left open by a pod before a restart of the node is not ours.
    Gate::Open.write(&shared.path().join(file::GATE)).unwrap();
    bench.says(Some(printing()));
    let (stopper, stop) = stop::channel();
    let later = async {
        time::sleep(Duration::from_secs(1)).await;
        let gate = started(shared.path()).await;
        stopper.request();
        gate
    };
    let order = bench.order("first", shared.path());
    refused(bench.sidecar(&order, &stop, later).await.gate.as_ref());
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_is_restarted_holds_on_though_the_server_takes_it_for_nobody_at_first() {
    let bench = Bench::new().await;
    hold(&bench, "first", 1, 0);
    bench.server.set_replicas(&bench.klipper, 0);
    time::sleep(Duration::from_secs(5)).await;
    let shared = TempDir::new().unwrap();
    Gate::Open.write(&shared.path().join(file::GATE)).unwrap();
    bench.server.plan((0..2).map(|at| Fault { at, how: How::Forbidden }).collect());
    let (stopper, stop) = stop::channel();
    let flash = async {
        time::sleep(FLASH).await;
        assert_eq!(bench.server.replicas(&bench.klipper), 0, "the flash is under way");
        leave(shared.path(), &flashed("v2"));
        stopper.request();
        Gate::Open
    };
    let order = bench.order("first", shared.path());
    bench.sidecar(&order, &stop, flash).await.result.unwrap();
    bench.assert_whole(1, "restarted");
    assert_eq!(result(&bench), flashed("v2"));
}

#[tokio::test(start_paused = true)]
async fn a_dead_flash_is_inherited() {
    let bench = Bench::of("deployment/voron-klipper", 2).await;
    hold(&bench, "dead", 2, -120);
    bench.server.set_replicas(&bench.klipper, 0);
    time::sleep(Duration::from_secs(5)).await;
    let ended = bench.pod("second").await;
    assert_eq!(ended.gate, Some(Gate::Open), "{:?}", bench.steps());
    bench.assert_whole(2, "inherited");
    assert_eq!(bench.server.events()[0], "TakenOver");

    // Its pod still runs: it may be flashing, whatever its clock says.
    hold(&bench, "alive", 2, -120);
    let labels = json!({label::JOB_UID: "uid-of-alive"});
    bench.server.add_pod("alive-pod", labels.clone(), json!({"phase": "Running"}));
    let ended = bench.pod("third").await;
    let (exit, reason) = refused(ended.gate.as_ref());
    assert!(exit == ExitCode::Busy && reason.contains("whose pod alive-pod on node pi4 still runs"), "{reason}");
    bench.server.add_pod("alive-pod", labels, json!({"phase": "Failed"}));
    assert_eq!(bench.pod("third").await.gate, Some(Gate::Open));

    // A clock that is ahead: it is not known to be dead.
    hold(&bench, "ahead", 2, 30);
    refused(bench.pod("fourth").await.gate.as_ref());
    // By more than clocks are: only its pods count.
    hold(&bench, "future", 2, 86400);
    assert_eq!(bench.pod("fourth").await.gate, Some(Gate::Open));
    bench.assert_whole(2, "all");
}

#[tokio::test(start_paused = true)]
async fn a_debt_is_paid_whatever_the_gate_says() {
    // Somebody gave Klipper back already, and it prints.
    let bench = Bench::new().await;
    hold(&bench, "dead", 1, -120);
    bench.says(Some(printing()));
    refused(bench.pod("second").await.gate.as_ref());
    bench.assert_whole(1, "it is paid already");

    // Klipper is down for a flash of another workload.
    let trident = "deployment/trident-klipper".parse().unwrap();
    bench.server.add_klipper(&trident, 0);
    hold(&bench, "dead", 1, -120);
    bench.server.annotate_lease(LEASE, annotation::RESTORE_WORKLOAD, "deployment/trident-klipper");
    bench.server.user("flasher", "admin", None);
    refused(bench.pod("third").await.gate.as_ref());
    assert_eq!(bench.server.replicas(&trident), 1);
    bench.assert_whole(1, "another workload");
}

#[tokio::test(start_paused = true)]
async fn a_klipper_that_was_down_stays_down() {
    let bench = Bench::of("deployment/voron-klipper", 0).await;
    assert_eq!(bench.pod("first").await.gate, Some(Gate::Open));
    bench.assert_whole(0, "down");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_stops_nothing() {
    let bench = Bench::new().await;
    for (annotations, problem) in [
        (
            json!({annotation::RESTORE_REPLICAS: "many", annotation::RESTORE_WORKLOAD: "deployment/a"}),
            "'many', which is no number",
        ),
        (
            json!({annotation::RESTORE_REPLICAS: "-1", annotation::RESTORE_WORKLOAD: "deployment/a"}),
            "'-1', which is no number",
        ),
        (json!({annotation::RESTORE_REPLICAS: "1"}), "kflash.dev/restore-workload is not"),
        (json!({annotation::RESTORE_REPLICAS: "1", annotation::RESTORE_WORKLOAD: "pod/a"}), "'pod/a' is no workload"),
    ] {
        bench.server.set_lease(LEASE, annotations, json!({}));
        bench.server.plan(Vec::new());
        let ended = bench.pod("first").await;
        let (exit, reason) = refused(ended.gate.as_ref());
        assert!(exit == ExitCode::Usage && reason.contains(problem), "{reason}");
        assert_eq!(writes(&bench.server), [""; 0]);
    }
    bench.server.set_lease(LEASE, Value::Null, json!({}));

    let shared = TempDir::new().unwrap();
    let mut order = bench.order("first", shared.path());
    order.boards = Err(Shut { exit: ExitCode::NotFound, reason: "voron/mcu: no device found for 1-1.4".into() });
    let ended = bench.pod_with(order).await;
    assert_eq!(refused(ended.gate.as_ref()), (ExitCode::NotFound, "voron/mcu: no device found for 1-1.4"));

    let shared = TempDir::new().unwrap();
    let mut order = bench.order("first", shared.path());
    order.lease = "kflash-absent".into();
    let ended = bench.pod_with(order).await;
    let (exit, reason) = refused(ended.gate.as_ref());
    // The Role names one Lease: of another the account does not even learn that it is not there.
    assert!(exit == ExitCode::Denied && reason.contains("cannot get resource \"leases\""), "{reason}");
    assert_eq!(writes(&bench.server), NOTED, "of the one before");

    bench.server.user("flasher", "flasher", Some(Vec::new()));
    assert_eq!(refused(bench.pod("first").await.gate.as_ref()).0, ExitCode::Denied);
    bench.server.user("flasher", "flasher", None);
    bench.server.remove_lease(LEASE);
    let ended = bench.pod("first").await;
    assert_eq!(refused(ended.gate.as_ref()), (ExitCode::Usage, "cannot read Lease kflash-voron: it does not exist"));
    ended.result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn watches_that_break_off_are_made_again() {
    let bench = Bench::new().await;
    bench.server.cut_watches(Some(1));
    assert_eq!(bench.pod("first").await.gate, Some(Gate::Open));
    time::sleep(Duration::from_secs(10)).await;
    bench.server.cut_watches(Some(0));
    assert_eq!(bench.pod("second").await.gate, Some(Gate::Open));
    time::sleep(Duration::from_secs(10)).await;
    bench.server.cut_watches(None);
    // What the list saw is forgotten before the watch begins.
    let (ended, ()) = tokio::join!(bench.pod("third"), async {
        for _ in 0..400 {
            time::sleep(Duration::from_millis(5)).await;
            bench.server.with(Store::compact);
        }
    });
    assert_eq!(ended.gate, Some(Gate::Open));
    bench.assert_whole(1, "watches");
}
