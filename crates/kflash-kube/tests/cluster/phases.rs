//! The pods of a flash in phases on a node whose board becomes another node with each enumeration: containers have the one
//! that a device plugin gave them when they were created.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use kflash::cluster::{Outcome, Summary, container};
use kflash::exit::ExitCode;
use kflash::image::Image;
use kflash::obtain::{From, Obtained};
use kflash_job::{Access, Kubernetes, Shape};
use kflash_sim::board::Options;
use kflash_sim::firmware::TestImage;
use tests::bench::{NEW, OLD};
use tests::node::{Board, Node, START};
use tokio::task;

use crate::bench::Bench;
use crate::process::{Served, run, send};
use crate::rendered::Pod;
use crate::run::Script;

const CONFIG: &str = "
[[printers]]
name = 'voron'
moonraker = { url = 'http://127.0.0.1:9' }
[printers.cluster]
namespace = 'printers'
node = 'pi4'
workload = 'deployment/voron-klipper'
resource = 'squat.ai/serial'
[[printers.boards]]
name = 'mcu'
board = 'btt-octopus-v1.1-f446'
device = ['1-1']
";

/// Both ways to have a container for each phase.
const SHAPES: [Kubernetes; 2] = [Kubernetes::V1_29, Kubernetes::V1_35];

fn image() -> Vec<u8> {
    TestImage::klipper("stm32f446xx", START).version(NEW).build()
}

/// A pod with nothing in its volumes but its inputs.
fn pod(served: &Served, kubernetes: Kubernetes) -> Pod<'_> {
    let shape = Shape { access: Access::Unprivileged, phased: true, trusting: true, kubernetes, ..Shape::default() };
    let (bytes, from) = (image(), From::File("klipper.bin".into()));
    let firmware = Obtained { image: Image::parse(&bytes).unwrap(), bytes, from };
    Pod::of(served, CONFIG, &shape, Some(&firmware))
}

/// A container with the device is created: the board has been another tty before, and will be another one next.
fn create(pod: &Pod<'_>, node: &Node, board: &Board, count: &mut u32) {
    *count += 1;
    board.moves_to(&format!("ttyACM{count}"));
    node.create(pod.volumes.path(), "1-1");
}

/// The containers with the device as the kubelet runs them: how each ended, and what it left.
async fn flashed(pod: &Pod<'_>, node: &Node, board: &Board, count: &mut u32) -> (Vec<(String, i32)>, Vec<Summary>) {
    let (mut ended, mut left) = (Vec::new(), Vec::new());
    let init = pod.spec.init_containers.iter().flatten().map(|container| container.name.as_str());
    for name in init.filter(|name| name.starts_with("kflash")).chain([container::FLASHER]) {
        let rules = pod.container(name).restart_policy_rules.into_iter().flatten();
        let again: Vec<i32> = rules.flat_map(|rule| rule.exit_codes.unwrap().values.unwrap()).collect();
        loop {
            create(pod, node, board, count);
            let output = pod.run(name, None).await;
            let code = output.status.code().unwrap();
            ended.push((name.to_owned(), code));
            left.push(serde_json::from_slice(&fs::read(pod.termination()).unwrap()).unwrap());
            assert!(code == 0 || again.contains(&code), "the pod fails: {name} {output:?}");
            if code == 0 {
                break;
            }
        }
    }
    (ended, left)
}

#[tokio::test]
async fn a_board_is_flashed_by_containers_of_which_none_follows_it() {
    for kubernetes in SHAPES {
        let (served, node) = (Served::new().await, Node::new());
        let board = node.plug("1-1", "ttyACM0", &image(), Options::default());
        let pod = pod(&served, kubernetes);
        node.create(pod.volumes.path(), "1-1");
        let sidecar = pod.quiesced().await;
        let (ended, left) = flashed(&pod, &node, &board, &mut 0).await;
        let ended: Vec<_> = ended.iter().map(|(name, code)| (name.as_str(), *code)).collect();
        let phase = i32::from(ExitCode::Phase.code());
        match kubernetes {
            Kubernetes::V1_35 => assert_eq!(ended, [("kflash", phase), ("kflash", phase), ("kflash", 0)]),
            _ => assert_eq!(ended, [("kflash-enter", 0), ("kflash-write", 0), ("kflash", 0)]),
        }
        let results: Vec<_> = left.iter().map(|left| left.result).collect();
        assert_eq!(results, [Outcome::Phase, Outcome::Phase, Outcome::Flashed], "{left:?}");
        let left = &left[2];
        assert_eq!((left.before.as_deref(), left.now.as_deref()), (Some(OLD), Some(NEW)));
        pod.end(sidecar).await;
        assert_eq!(served.server.events().last().unwrap(), "Flashed");
    }
}

#[tokio::test]
async fn a_container_that_is_killed_while_it_writes_is_made_good_by_a_new_pod() {
    for (kubernetes, writes) in [(Kubernetes::V1_29, container::WRITE), (Kubernetes::V1_35, container::FLASHER)] {
        let (served, node) = (Served::new().await, Node::new());
        let board = node.plug("1-1", "ttyACM0", &image(), Options::default());
        let mut count = 0;
        let first = pod(&served, kubernetes);
        node.create(first.volumes.path(), "1-1");
        let sidecar = first.quiesced().await;
        create(&first, &node, &board, &mut count);
        let enters = if writes == container::WRITE { container::ENTER } else { container::FLASHER };
        first.run(enters, None).await;
        create(&first, &node, &board, &mut count);
        let mut writing = first.command(writes, None).spawn().unwrap();
        let mut said = BufReader::new(writing.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(said.any(|line| line.contains(r#""phase":"write","done""#)));
        send("KILL", writing.id());
        task::spawn_blocking(move || writing.wait()).await.unwrap().unwrap();
        first.end(sidecar).await;

        // Of the same Job, with an empty directory.
        let second = pod(&served, kubernetes);
        node.create(second.volumes.path(), "1-1");
        let sidecar = second.quiesced().await;
        let (_, left) = flashed(&second, &node, &board, &mut count).await;
        let left = left.last().unwrap();
        assert_eq!((left.result, left.now.as_deref(), &left.before), (Outcome::Flashed, Some(NEW), &None));
        second.end(sidecar).await;
    }
}

#[tokio::test]
async fn whoever_runs_it_need_not_know_the_version_of_the_cluster() {
    for (minor, again, init) in [("29", false, 2), ("35+", true, 0)] {
        let served = Served::new().await;
        served.server.set_minor(minor);
        let (config, firmware) = (served.file("config.toml"), served.file("klipper.bin"));
        fs::write(&config, CONFIG).unwrap();
        fs::write(&firmware, image()).unwrap();
        let mut command = served.kflash(&["run", "--context", "admin", "--printer", "voron"]);
        command.args(["--access", "unprivileged", "--phased", "--config"]).arg(&config);
        command.arg("--firmware").arg(&firmware);
        let bench = Bench::around(&served.server, &served.klipper);
        let well = Script { flash: Duration::from_millis(300), ..Script::well() };
        let output = tokio::select! {
            output = run(command) => output,
            () = Box::pin(bench.kubelet(&well)) => unreachable!("it never ends"),
        };
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let pod = &served.server.jobs()[0]["spec"]["template"]["spec"];
        assert_eq!(pod["containers"][0]["restartPolicyRules"].is_array(), again);
        let phases = pod["initContainers"].as_array().unwrap().iter();
        let phases = phases.filter(|container| container["name"].as_str().unwrap().starts_with("kflash-"));
        assert_eq!(phases.count(), init, "{minor}");
    }
}
