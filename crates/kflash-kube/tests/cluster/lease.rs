//! What a run leaves on the Lease, and what somebody else does to that.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use kflash::cluster::{FINALIZER, Gate, Outcome, Summary, annotation};
use kflash::exit::ExitCode;
use kflash_kube::api::Patience;
use kflash_kube::quiesce::Order;
use kflash_kube::restore::Restored;
use kflash_kube::step::Step;
use kflash_kube::stop;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time;

use crate::bench::{Bench, FLASH, LEASE, flashed, started};
use crate::double::{Fault, How};
use crate::quiesce::{printing, refused};

/// What the last run came to.
pub fn result(bench: &Bench) -> Summary {
    let lease = bench.server.lease(LEASE);
    let json = lease["metadata"]["annotations"][annotation::RESULT].as_str().expect("a result");
    serde_json::from_str(json).expect("a summary")
}

/// The Lease, held by Job `job` that was last heard of `seconds` from now, owing `replicas`.
pub fn hold(bench: &Bench, job: &str, replicas: i32, seconds: i64) {
    let renewed =
        (bench.now() + jiff::SignedDuration::from_secs(seconds)).strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
    let annotations = json!({
        annotation::JOB: job, annotation::RESTORE_WORKLOAD: bench.klipper.to_string(),
        annotation::RESTORE_REPLICAS: replicas.to_string(),
    });
    let spec = json!({"holderIdentity": format!("uid-of-{job}"), "renewTime": renewed, "leaseDurationSeconds": 60});
    bench.server.set_lease(LEASE, annotations, spec);
    bench.server.hold_up_lease(LEASE, FINALIZER);
}

#[tokio::test(start_paused = true)]
async fn a_result_is_no_reason_to_wait_or_to_fail() {
    // Somebody flashes: the Lease is theirs.
    let bench = Bench::new().await;
    let (first, second) = tokio::join!(bench.pod("first"), async {
        time::sleep(Duration::from_secs(20)).await;
        let ended = bench.pod("second").await;
        let lease = bench.server.lease(LEASE);
        assert_eq!(lease["metadata"]["annotations"][annotation::RESULT], Value::Null, "{lease}");
        ended
    });
    refused(second.gate.as_ref());
    second.result.unwrap();
    first.result.unwrap();
    assert_eq!(result(&bench), flashed("v2"));

    // Whatever happens to the one write, or if none comes through: it is told, and the sidecar ends well.
    let refuse = async |faults: Vec<Fault>| {
        let bench = Bench::new().await;
        bench.says(Some(printing()));
        bench.server.plan(faults);
        let ended = bench.pod("first").await;
        refused(ended.gate.as_ref());
        ended.result.unwrap();
        bench
    };
    let log = refuse(Vec::new()).await.server.log();
    let at = log.iter().position(|line| line.starts_with("update")).unwrap();
    for how in [How::CutBefore, How::CutAfter, How::Hang, How::TooMany, How::Internal] {
        let bench = refuse(vec![Fault { at, how }]).await;
        // A request that hangs is given as long as it may take in all.
        assert_eq!(result(&bench).result, Outcome::Refused, "{how:?}");
    }
    let bench = refuse((at..at + 100).map(|at| Fault { at, how: How::Unavailable }).collect()).await;
    assert!(bench.steps().iter().any(|step| matches!(step, Step::Unnoted { .. })), "{:?}", bench.steps());

    // The container that flashes never began: what was said counts.
    let bench = Bench::new().await;
    bench.says(Some(printing()));
    let shared = TempDir::new().unwrap();
    let order = bench.order("first", shared.path());
    let (stopper, stop) = stop::channel();
    let ends = async {
        let gate = started(shared.path()).await;
        stopper.request();
        gate
    };
    bench.sidecar(&order, &stop, ends).await.result.unwrap();
    assert_eq!(result(&bench).message.unwrap(), "the printer is printing benchy.gcode (42 %)");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_away_is_not_touched_again() {
    let bench = Bench::new().await;
    let (ended, ()) = tokio::join!(bench.pod("first"), async {
        time::sleep(FLASH / 2).await;
        hold(&bench, "thief", 1, 3600);
    });
    assert_eq!(ended.gate, Some(Gate::Open));
    ended.result.unwrap();
    assert!(bench.steps().contains(&Step::LeaseLost { by: "Job thief (uid-of-thief)".into() }), "{:?}", bench.steps());
    assert_eq!((bench.owed(), bench.server.replicas(&bench.klipper)), (Some(1), 0), "the thief has inherited the debt");
}

#[tokio::test(start_paused = true)]
async fn klipper_is_given_back_whatever_somebody_does_to_the_lease() {
    // Long before the end, and so late that it is not renewed any more.
    for after in [FLASH / 2, FLASH + Duration::from_secs(1)] {
        let flash = async |happens: &dyn Fn(&Bench)| {
            let bench = Bench::new().await;
            let (ended, ()) = tokio::join!(bench.pod("first"), async {
                time::sleep(after).await;
                happens(&bench);
            });
            assert_eq!(ended.gate, Some(Gate::Open));
            ended.result.unwrap();
            bench
        };
        let deleted = flash(&|bench| bench.server.delete_lease(LEASE)).await;
        deleted.assert_gone(1, "deleted");
        assert!(!deleted.steps().iter().any(|step| matches!(step, Step::LeaseLost { .. })), "{:?}", deleted.steps());
        // As `kubectl replace` does it: nothing is left of what was noted.
        let replaced = flash(&|bench| bench.server.set_lease(LEASE, Value::Null, json!({}))).await;
        replaced.assert_whole(1, "replaced");
        assert_eq!(result(&replaced), flashed("v2"));
        // By whoever is tired of waiting for it to go.
        let removed = flash(&|bench| bench.server.remove_lease(LEASE)).await;
        removed.assert_gone(1, "removed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_applied_again_with_another_workload_changes_no_debt() {
    let trident = "deployment/trident-klipper".parse().unwrap();
    let bench = Bench::new().await;
    bench.server.add_klipper(&trident, 0);
    let edited = |bench: &Bench| bench.server.annotate_lease(LEASE, annotation::WORKLOAD, "deployment/trident-klipper");
    let (ended, ()) = tokio::join!(bench.pod("first"), async {
        time::sleep(FLASH / 2).await;
        edited(&bench);
    });
    ended.result.unwrap();
    bench.assert_whole(1, "during a flash");
    // What the manifest says stays, too.
    let annotations = &bench.server.lease(LEASE)["metadata"]["annotations"];
    assert_eq!(annotations[annotation::WORKLOAD], "deployment/trident-klipper", "{annotations}");

    bench.server.plan(vec![Fault { at: 12, how: How::KillAfter }]);
    assert!(bench.pod("second").await.killed);
    assert_eq!((bench.owed(), bench.server.replicas(&bench.klipper)), (Some(1), 0));
    edited(&bench);
    let patience = Patience { until: None, stop: None, steps: &|_| {} };
    let status = bench.admin().status(LEASE, &patience).await.unwrap();
    assert_eq!((status.workload.as_ref(), status.owed), (Some(&bench.klipper), Some(1)));
    time::sleep(Duration::from_secs(150)).await;
    bench.server.plan(Vec::new());
    assert!(matches!(bench.restore().await.unwrap(), Restored::Paid(debt) if debt.workload == bench.klipper));
    bench.assert_whole(1, "after a flash that died");
    assert_eq!(bench.server.replicas(&trident), 0);
    let status = bench.admin().status(LEASE, &patience).await.unwrap();
    assert_eq!((status.workload, status.owed), (Some(trident), None));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_going_stops_nothing() {
    let bench = Bench::new().await;
    bench.server.hold_up_lease(LEASE, "example.com/backup");
    bench.server.delete_lease(LEASE);
    // Whatever the gate says: there is nothing to wait for.
    for says in [None, Some(printing())] {
        bench.says(says);
        bench.server.plan(Vec::new());
        let shared = TempDir::new().unwrap();
        let order = Order { wait: Duration::from_secs(3600), ..bench.order("first", shared.path()) };
        let ended = bench.pod_with(order).await;
        let said = "Lease kflash-voron is being deleted: apply setup.yaml once more when it is gone";
        assert_eq!(refused(ended.gate.as_ref()), (ExitCode::Usage, said));
        ended.result.unwrap();
        assert!(!bench.server.log().iter().any(|line| line.starts_with("patch")), "{:?}", bench.server.log());
        bench.assert_whole(1, said);
    }
}
