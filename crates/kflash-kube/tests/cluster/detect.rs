//! `kubectl kflash detect`, with a kubelet on each node.

use std::time::Duration;

use kflash::exit::ExitCode;
use serde_json::{Value, json};
use tokio::time;

use crate::process::{Served, run};

const FOUND: &str = "usb 1-1.4  Klipper on an stm32f446xx\n  device: [\"1-1.4\", \"29003400\"]";

/// Runs the pods that detect, except on a node that is away.
async fn kubelets(served: &Served) {
    loop {
        for pod in served.server.job_pods() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let node = pod["spec"]["nodeSelector"]["kubernetes.io/hostname"].as_str().unwrap_or_default();
            if pod["status"] != json!({"phase": "Pending"}) {
                continue;
            }
            let container = &pod["spec"]["containers"][0];
            assert!(container["securityContext"]["privileged"].is_null(), "{pod}");
            let as_json = container["args"].as_array().is_some_and(|args| args.contains(&"--json".into()));
            match node {
                "away" => {
                    let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "no such image"}});
                    let status = json!({"name": "detect", "ready": false, "state": waiting});
                    served.server.set_status(name, &json!({"phase": "Pending", "containerStatuses": [status]}));
                }
                "broken" => {
                    served.server.log_line(name, "detect", Some("error: cannot read /sys"));
                    served.server.set_status(name, &json!({"phase": "Failed"}));
                }
                _ if as_json => {
                    served.server.log_line(name, "detect", Some(r#"{"boards":[],"others":3}"#));
                    served.server.set_status(name, &json!({"phase": "Succeeded"}));
                }
                _ => {
                    served.server.log_line(name, "detect", Some(FOUND));
                    served.server.set_status(name, &json!({"phase": "Succeeded"}));
                }
            }
        }
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn each_node_says_what_it_has() {
    let served = Served::new().await;
    let detect = async |arguments: &[&str]| {
        let all = [&["detect", "--context", "admin", "--namespace", "printers"], arguments].concat();
        tokio::select! {
            output = run(served.kflash(&all)) => output,
            () = kubelets(&served) => unreachable!("it never ends"),
        }
    };
    for node in ["pi4", "pi5"] {
        served.server.add_node(node);
    }
    let output = detect(&[]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let indented = FOUND.replace('\n', "\n  ");
    assert_eq!(said, format!("pi4\n  {indented}\npi5\n  {indented}\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    let output = detect(&["--node", "pi5", "--json"]).await;
    let line: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(line, json!({"node": "pi5", "detected": {"boards": [], "others": 3}}));

    let output = detect(&["--node", "away", "--node", "pi4", "--node", "broken", "--timeout", "3"]).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let away = "away FAILED\n  its pod is Pending: ErrImagePull: no such image\n";
    assert_eq!(said, format!("{away}pi4\n  {indented}\nbroken FAILED\n  error: cannot read /sys\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(ExitCode::NotFound.code().into()));
    assert!(served.server.jobs().iter().all(|job| !job["metadata"]["deletionTimestamp"].is_null()), "they are removed");

    // Who may not list nodes names one.
    let output = run(served.kflash(&["detect"])).await;
    assert_eq!(output.status.code(), Some(ExitCode::Denied.code().into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("with --node, nobody has to list them"), "{output:?}");
}
