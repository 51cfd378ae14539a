//! Whatever dies or breaks at whichever request: the replicas are what they were, or the Lease says what is owed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::time::Duration;

use kflash::cluster::{Gate, annotation, file};
use kflash::exit::ExitCode;
use kflash_kube::restore::Restored;
use kflash_kube::stop;
use tempfile::TempDir;
use tokio::time;

use crate::bench::{Bench, FLASH, LEASE, flashed, leave, started};
use crate::double::{Fault, How};

/// Longer than a Lease lives after it was last renewed.
const EXPIRED: Duration = Duration::from_secs(150);

/// How many requests a flash takes from its beginning to its end, Events among them.
async fn requests() -> usize {
    let bench = Bench::new().await;
    bench.pod("first").await;
    let requests = bench.server.log().len();
    assert!((20..80).contains(&requests), "{:#?}", bench.server.log());
    requests
}

/// What has to hold at every moment.
#[track_caller]
fn assert_nothing_forgotten(bench: &Bench, context: &str) {
    let owed = bench.owed();
    assert!(bench.server.replicas(&bench.klipper) == 1 || owed == Some(1), "{context}: {:?}", bench.server.log());
    assert!(owed.is_none_or(|owed| owed == 1), "{context}: {owed:?}");
}

/// Kills the flash at every request, then does `next`, after which all has to be well.
async fn killed_everywhere(next: impl AsyncFn(&Bench, &str)) {
    for at in 0..requests().await {
        for how in [How::KillBefore, How::KillAfter] {
            let bench = Bench::new().await;
            let context = format!("{how:?} {at}");
            bench.server.plan(vec![Fault { at, how }]);
            let ended = bench.pod("first").await;
            // At the very end, an Event more or less.
            if ended.killed {
                assert_nothing_forgotten(&bench, &context);
            }
            bench.server.plan(Vec::new());
            next(&bench, &context).await;
            bench.assert_whole(1, &context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_flash_is_restored() {
    killed_everywhere(async |bench, context| {
        let owed = bench.owed();
        if owed.is_some() {
            // Not under the hands of one that may live.
            let error = bench.restore().await.unwrap_err();
            assert_eq!(error.exit(), ExitCode::Busy, "{context}");
            assert_nothing_forgotten(bench, context);
        }
        time::sleep(EXPIRED).await;
        let restored = bench.restore().await.unwrap();
        assert_eq!(matches!(restored, Restored::Paid(_)), owed.is_some(), "{context}: {restored:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_job_continues_a_killed_flash() {
    killed_everywhere(async |bench, context| {
        time::sleep(Duration::from_secs(10)).await;
        // Moonraker is in Klipper's pod: it cannot be asked, and need not be.
        let ended = bench.pod("first").await;
        assert_eq!(ended.gate, Some(Gate::Open), "{context}: {:?}", bench.steps());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_job_inherits_a_killed_flash() {
    killed_everywhere(async |bench, context| {
        time::sleep(EXPIRED).await;
        let ended = bench.pod("second").await;
        assert_eq!(ended.gate, Some(Gate::Open), "{context}: {:?}", bench.steps());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_is_killed_and_started_again_goes_on() {
    for at in 0..requests().await {
        for how in [How::KillBefore, How::KillAfter] {
            let bench = Bench::new().await;
            let context = format!("{how:?} {at}");
            bench.server.plan(vec![Fault { at, how }]);
            let shared = TempDir::new().unwrap();
            let order = bench.order("first", shared.path());
            let (stopper, stop) = stop::channel();
            let killed = bench.sidecar(&order, &stop, std::future::pending()).await;
            assert!(killed.killed, "{context}");
            assert_nothing_forgotten(&bench, &context);
            bench.server.plan(Vec::new());
            // The same directory, as the pod is the same; the flash may have begun.
            let begun = Gate::read(&shared.path().join(file::GATE)).unwrap() == Some(Gate::Open);
            let flash = async {
                time::sleep(Duration::from_secs(20)).await;
                let gate = started(shared.path()).await;
                if begun {
                    assert_eq!(bench.server.replicas(&bench.klipper), 0, "{context}: in the middle of a flash");
                    assert!(!bench.server.log().iter().any(|line| line.starts_with("patch")), "{context}");
                }
                stopper.request();
                gate
            };
            let ended = bench.sidecar(&order, &stop, flash).await;
            assert_eq!(ended.gate, Some(Gate::Open), "{context}: {:?}", bench.steps());
            ended.result.unwrap();
            bench.assert_whole(1, &context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_result_is_noted_by_a_sidecar_that_is_started_only_to_end() {
    let bench = Bench::new().await;
    let shared = TempDir::new().unwrap();
    let order = bench.order("first", shared.path());
    let (_stopper, stop) = stop::channel();
    bench.server.plan(vec![Fault { at: 14, how: How::KillAfter }]);
    assert!(bench.sidecar(&order, &stop, std::future::pending()).await.killed);
    assert_eq!(Gate::read(&shared.path().join(file::GATE)).unwrap(), Some(Gate::Open));
    bench.server.plan(Vec::new());
    leave(shared.path(), &flashed("v2"));
    let (stopper, stop) = stop::channel();
    stopper.request();
    bench.sidecar(&order, &stop, std::future::pending()).await.result.unwrap();
    bench.assert_whole(1, "at once");
    let lease = bench.server.lease(LEASE);
    assert!(
        lease["metadata"]["annotations"][annotation::RESULT].as_str().unwrap().contains("\"result\":\"flashed\""),
        "{lease}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_flash_that_is_deleted_gives_klipper_back_from_every_phase() {
    // A request is looked at by the server for 3 ms, and the flash lasts 40 s.
    let phases = (0..400).map(|step| Duration::from_millis(5 * step));
    let phases =
        phases.chain((0..FLASH.as_secs()).map(|second| Duration::from_secs(second) + Duration::from_millis(2700)));
    for after in phases {
        let bench = Bench::new().await;
        let shared = TempDir::new().unwrap();
        let order = bench.order("first", shared.path());
        let (stopper, stop) = stop::channel();
        let deleted = async {
            time::sleep(after).await;
            stopper.request();
            std::future::pending().await
        };
        let began = time::Instant::now();
        bench.sidecar(&order, &stop, deleted).await.result.unwrap();
        assert!(began.elapsed() < after + Duration::from_secs(5), "{after:?}: {:?}", bench.server.log());
        bench.assert_whole(1, &format!("{after:?}"));
    }
}

/// What `kubectl delete -f setup.yaml -f flash-job.yaml` takes away, one after another.
#[derive(Clone, Copy, Debug)]
enum Deleted {
    /// Account, Role and RoleBinding: nothing is answered any more.
    Account,
    /// The Role alone.
    Rights,
    Lease,
    /// Its pod is told to end.
    Job,
}

#[tokio::test(start_paused = true)]
async fn what_a_flash_stands_on_is_deleted_in_any_phase_and_what_is_owed_is_not_forgotten() {
    use Deleted::{Account, Job, Lease, Rights};
    // Before the hold, between that and the scaling, while Klipper ends, while it is flashed, and at its end.
    let phases = (0..30).map(|step| Duration::from_millis(4 * step));
    let phases = phases.chain((0..6).map(|step| Duration::from_millis(150 + 400 * step)));
    let phases: Vec<_> = phases.chain((0..4).map(|step| Duration::from_secs(3 + 9 * step))).collect();
    let (mut stayed, mut whole) = (0, 0);
    for order in [
        [Account, Lease, Job],
        [Rights, Lease, Job],
        [Lease, Job, Account],
        [Job, Account, Lease],
        [Job, Lease, Rights],
    ] {
        for gap in [0, 3, 5, 8, 14] {
            for after in &phases {
                let bench = Bench::new().await;
                let context = format!("{order:?} {gap} {after:?}");
                let shared = TempDir::new().unwrap();
                let (stopper, stop) = stop::channel();
                let deletes = async {
                    time::sleep(*after).await;
                    for what in order {
                        match what {
                            Account => bench.server.forget_user("flasher"),
                            Rights => bench.server.user("flasher", "flasher", Some(Vec::new())),
                            Lease => bench.server.delete_lease(LEASE),
                            Job => stopper.request(),
                        }
                        time::sleep(Duration::from_millis(gap)).await;
                    }
                    std::future::pending().await
                };
                let ended = bench.sidecar(&bench.order("first", shared.path()), &stop, deletes).await;
                // It may have ended before it came to that.
                bench.server.delete_lease(LEASE);
                assert_nothing_forgotten(&bench, &context);
                if bench.owed().is_some() {
                    // The log names the way out.
                    ended.result.unwrap_err();
                    time::sleep(EXPIRED).await;
                    assert!(matches!(bench.restore().await.unwrap(), Restored::Paid(_)), "{context}");
                    stayed += 1;
                } else {
                    whole += 1;
                }
                bench.assert_gone(1, &context);
            }
        }
    }
    assert!(stayed > 100 && whole > 100, "{stayed} {whole}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_deleted_goes_once_a_flash_that_died_is_paid() {
    // By a person.
    killed_and_deleted(async |bench, context| {
        time::sleep(EXPIRED).await;
        assert!(matches!(bench.restore().await.unwrap(), Restored::Paid(_)), "{context}");
    })
    .await;
    // By the Job's next pod, or by another Job, which finish what was begun. If nothing was, there is no Lease for it.
    for job in ["first", "second"] {
        killed_and_deleted(async |bench, context| {
            time::sleep(EXPIRED).await;
            let begun = bench.server.replicas(&bench.klipper) == 0;
            let ended = bench.pod(job).await;
            let opened = ended.gate == Some(Gate::Open);
            assert_eq!(opened, begun, "{context}: {:?}", bench.steps());
            ended.result.unwrap();
        })
        .await;
    }
}

/// Kills the flash at every request, and deletes the Lease in the middle, before or after that; where something is owed then,
/// `next` pays it.
async fn killed_and_deleted(next: impl AsyncFn(&Bench, &str)) {
    for at in 0..requests().await {
        for how in [How::KillBefore, How::KillAfter] {
            let bench = Bench::new().await;
            let context = format!("{how:?} {at}");
            bench.server.plan(vec![Fault { at, how }]);
            tokio::join!(bench.pod("first"), async {
                time::sleep(FLASH / 2).await;
                bench.server.delete_lease(LEASE);
            });
            bench.server.plan(Vec::new());
            assert_nothing_forgotten(&bench, &context);
            if bench.owed().is_some() {
                next(&bench, &context).await;
            }
            bench.assert_gone(1, &context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_that_breaks_costs_nothing_but_time() {
    let requests = requests().await;
    for how in [How::CutBefore, How::CutAfter, How::Hang, How::TooMany, How::Internal, How::Unavailable] {
        for at in 0..requests {
            let bench = Bench::new().await;
            bench.server.plan(vec![Fault { at, how }]);
            let context = format!("{how:?} {at}");
            let ended = bench.pod("first").await;
            assert_eq!(ended.gate, Some(Gate::Open), "{context}: {:?}", bench.steps());
            ended.result.unwrap();
            bench.assert_whole(1, &context);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_out_of_reach_for_a_while_is_waited_for() {
    for (from, many) in [(0, 6), (3, 6), (10, 10), (14, 30)] {
        for how in [How::CutBefore, How::CutAfter, How::Internal] {
            let bench = Bench::new().await;
            bench.server.plan((from..from + many).map(|at| Fault { at, how }).collect());
            let ended = bench.pod("first").await;
            assert_eq!(ended.gate, Some(Gate::Open), "{how:?} {from}: {:?}", bench.steps());
            bench.assert_whole(1, &format!("{how:?} {from}"));
        }
    }
    // Slow, but not out of reach.
    let bench = Bench::new().await;
    bench.server.set_latency(Duration::from_secs(4));
    assert_eq!(bench.pod("first").await.gate, Some(Gate::Open), "{:?}", bench.steps());
    bench.assert_whole(1, "slow");
    // For too long: nothing was stopped.
    let bench = Bench::new().await;
    bench.server.plan((0..1000).map(|at| Fault { at, how: How::Unavailable }).collect());
    let ended = bench.pod("first").await;
    let Some(Gate::Refused { exit, reason }) = ended.gate else { panic!("{:?}", ended.gate) };
    assert!(exit == ExitCode::Busy && reason.contains("the API server answers 503"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_the_account_for_nobody_for_a_while_costs_a_flash_at_most() {
    for from in 0..requests().await {
        let bench = Bench::new().await;
        bench.server.plan((from..from + 4).map(|at| Fault { at, how: How::Forbidden }).collect());
        let context = format!("{from}");
        bench.pod("first").await.result.unwrap_or_else(|error| panic!("{context}: {error}"));
        bench.assert_whole(1, &context);
    }
}

#[tokio::test(start_paused = true)]
async fn restoring_twice_restores_once() {
    let bench = Bench::new().await;
    assert_eq!(bench.restore().await.unwrap(), Restored::NothingOwed);
    for deleted in [false, true] {
        let bench = Bench::new().await;
        bench.server.plan(vec![Fault { at: 12, how: How::KillAfter }]);
        assert!(bench.pod("first").await.killed);
        assert_eq!(bench.owed(), Some(1));
        time::sleep(EXPIRED).await;
        bench.server.plan(Vec::new());
        if deleted {
            bench.server.delete_lease(LEASE);
        }
        let (first, second) = tokio::join!(bench.restore(), bench.restore());
        let restored = [first.unwrap(), second.unwrap()];
        assert!(restored.iter().any(|restored| matches!(restored, Restored::Paid(_))), "{restored:?}");
        let scaled = bench.server.log().iter().filter(|line| line.starts_with("patch")).count();
        assert_eq!(scaled, 1);
        if deleted {
            bench.assert_gone(1, "deleted");
        } else {
            bench.assert_whole(1, "twice");
            assert_eq!(bench.restore().await.unwrap(), Restored::NothingOwed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn restoring_may_break_anywhere() {
    for how in [How::CutBefore, How::CutAfter, How::Internal] {
        for at in 0..8 {
            for deleted in [false, true] {
                let bench = Bench::new().await;
                let context = format!("{how:?} {at} {deleted}");
                bench.server.plan(vec![Fault { at: 12, how: How::KillAfter }]);
                assert!(bench.pod("first").await.killed);
                time::sleep(EXPIRED).await;
                bench.server.plan(vec![Fault { at, how }]);
                if deleted {
                    bench.server.delete_lease(LEASE);
                }
                assert!(matches!(bench.restore().await.unwrap(), Restored::Paid(_)), "{context}");
                if deleted { bench.assert_gone(1, &context) } else { bench.assert_whole(1, &context) }
            }
        }
    }
    // What is owed to a workload that is gone is owed no more; so the namespace that is deleted can go.
    for deleted in [false, true] {
        let bench = Bench::new().await;
        bench.server.plan(vec![Fault { at: 12, how: How::KillAfter }]);
        assert!(bench.pod("first").await.killed);
        bench.server.remove_klipper(&bench.klipper);
        if deleted {
            bench.server.delete_lease(LEASE);
        }
        time::sleep(EXPIRED).await;
        assert!(matches!(bench.restore().await.unwrap(), Restored::Paid(_)));
        assert_eq!((bench.owed(), bench.server.find_lease(LEASE).is_some()), (None, !deleted));
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_cannot_be_written_stops_nothing() {
    let bench = Bench::new().await;
    let shared = TempDir::new().unwrap();
    let order = bench.order("first", &shared.path().join("absent"));
    let (stopper, stop) = stop::channel();
    let later = async {
        time::sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.server.replicas(&bench.klipper), 1);
        stopper.request();
        std::future::pending().await
    };
    bench.sidecar(&order, &stop, later).await.result.unwrap();
    assert!(!bench.server.log().iter().any(|line| line.starts_with("patch")));
    bench.assert_whole(1, "absent");

    // It goes away later: Klipper is given back at once.
    let bench = Bench::new().await;
    let shared = TempDir::new().unwrap();
    let order = bench.order("first", shared.path());
    let (stopper, stop) = stop::channel();
    let gone = async {
        time::sleep(Duration::from_millis(500)).await;
        fs::remove_dir_all(shared.path()).unwrap();
        time::sleep(Duration::from_secs(60)).await;
        bench.assert_whole(1, "gone");
        stopper.request();
        std::future::pending().await
    };
    bench.sidecar(&order, &stop, gone).await.result.unwrap();
    assert!(bench.server.log().iter().any(|line| line.starts_with("patch")));
}
