//! The double of the API server satisfies a client that knows nothing of it: PyPI's `kubernetes`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use jiff::Timestamp;
use kflash::cluster::rules;
use tokio::{task, time};

use crate::double::{NAMESPACE, Server, Store, Timing};

#[tokio::test]
async fn an_independent_client_finds_no_difference() {
    let timing = Timing { end: Duration::from_millis(400), bookmark: Duration::from_secs(1), ..Timing::default() };
    let server = Server::start(timing, Timestamp::now());
    let voron = "deployment/voron-klipper".parse().expect("a workload");
    server.add_klipper(&voron, 1);
    server.add_klipper(&"statefulset/trident-klipper".parse().expect("a workload"), 0);
    server.add_lease("kflash-voron");
    let rules = rules("kflash-voron", &voron).iter().map(|rule| serde_json::to_value(rule).expect("JSON")).collect();
    server.user("admin", "admin", None);
    server.user("flasher", &format!("system:serviceaccount:{NAMESPACE}:flasher"), Some(rules));
    while !server.pods(&voron).iter().any(|pod| pod["status"]["containerStatuses"][0]["ready"] == true) {
        time::sleep(Duration::from_millis(20)).await;
    }
    // What happened so far is forgotten, so that a watch from version 1 comes too late.
    server.with(Store::compact);
    let address = server.listen().await.expect("a port");

    let mut python = Command::new(python());
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/python_client.py"));
    python.arg(format!("http://{address}")).env_clear();
    let output = task::spawn_blocking(move || python.output()).await.expect("no panic");
    let output = output.expect("`tools/debian-packages test` installs Python and its packages");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "ok\n", "{wrong}");
}

/// The Python of the tests, with what `tests/python/requirements.txt` names.
pub fn python() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_kubectl-kflash"));
    let target = program.ancestors().nth(2).expect("target/debug/kubectl-kflash");
    target.join("python/bin/python")
}
