//! The pod's containers in their order, as processes, on a simulated board: quiesce, flash, restore.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::boards;
use kflash::cluster::{Confirmed, Gate, Outcome, Summary, annotation};
use kflash::exit::ExitCode;
use kflash_job::{Access, Kubernetes, Quiesce, Shape, Via};
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::usbip::server::Server;
use kflash_sim::mount::{self, Message, Mount, QUEUE};
use serde_json::Value;
use tests::binary::{debug_binary, dynamic_binary};

use crate::bench::LEASE;
use crate::process::{Served, Sidecar, send};
use crate::run::order_of;

pub const BOARD: &str = "btt-octopus-v1.1-f446";
const OLD: &str = "v0.12.0-1-g0ldf1rmw";
const NEW: &str = "v0.13.0-2-gnewf1rmw";
/// Where the application starts behind Katapult.
const START: u32 = 0x0800_8000;

/// A place on the network for a board behind Katapult, which erases and writes as slowly as a real one.
pub struct Socket {
    server: Server,
    controls: SyncSender<Message>,
    queue: Receiver<Message>,
}

/// A node with such a board.
struct Node {
    served: Served,
    board: SocketAddr,
    controls: SyncSender<Message>,
    firmware: PathBuf,
}

/// The container with the device.
struct Flasher {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Socket {
    pub fn new() -> Self {
        let (controls, queue) = sync_channel(QUEUE);
        let server = Server::listen("127.0.0.1:0".parse().unwrap(), &controls).unwrap();
        Self { server, controls, queue }
    }

    /// As `device` in a configuration.
    pub fn device(&self) -> String {
        format!("usbip://{}/1-1", self.server.address())
    }

    /// From now on it holds a board that runs [`OLD`] and would run `known`.
    pub fn hold(self, known: Vec<u8>, options: Options) {
        let Self { server, controls, queue } = self;
        let (profile, chip) = boards::find(BOARD).unwrap();
        let contents = Contents {
            bootloader: "katapult".into(),
            application: Some((START, TestImage::klipper(&chip.mcu[0], START).version(OLD).build())),
            known: vec![(START, known)],
            uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
        };
        thread::spawn(move || {
            let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
            board.power(Duration::ZERO, true);
            let port = "1-1".parse().unwrap();
            let mut live = Live::new(board, chip, Duration::from_secs(1), port, None, Box::new(|_| ()));
            mount::serve(&mut live, Mount::Usbip(server), &controls, &queue).unwrap();
        });
    }
}

impl Node {
    async fn new() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let served = Served::new().await;
        let image = TestImage::klipper("stm32f446xx", START).version(NEW).build();
        let firmware = served.file("klipper.bin");
        fs::write(&firmware, &image).unwrap();
        fs::create_dir(served.file("run")).unwrap();
        let socket = Socket::new();
        let (board, controls) = (socket.server.address(), socket.controls.clone());
        socket.hold(image, options);
        Self { served, board, controls, firmware }
    }

    /// Somebody at the board does this.
    fn control(&self, what: &str) {
        self.controls.send(Message::Control(what.into())).unwrap();
    }

    /// A pod's beginning, with an empty directory: what quiesce decides.
    async fn begin(&self, arguments: &[&str]) -> (Sidecar, Gate) {
        fs::remove_dir_all(self.served.shared()).unwrap();
        fs::create_dir(self.served.shared()).unwrap();
        let sidecar = self.served.quiesce(&[&["--trust-silence"], arguments].concat());
        let gate = self.served.started().await;
        (sidecar, gate)
    }

    /// The container with the device begins.
    fn flash(&self, port: &str, firmware: &str) -> Flasher {
        let mut command = Command::new(debug_binary("kflash", "kflash-cli"));
        command
            .args(["flash", "--json", "--no-moonraker", "--board", BOARD, "--firmware", firmware])
            .arg(format!("--device=usbip://{}/{port}", self.board))
            .arg("--shared")
            .arg(self.served.shared())
            .arg("--termination-message")
            .arg(self.served.file("termination"))
            .arg("--host-root")
            .arg(self.served.file("run").parent().unwrap())
            .arg("--cache-dir")
            .arg(self.served.file("cache"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Flasher { child, said }
    }

    fn flash_well(&self) -> Flasher {
        self.flash("1-1", self.firmware.to_str().unwrap())
    }

    /// A pod from its beginning to its end; what its flash came to.
    async fn pod(&self, port: &str, firmware: &str) -> Summary {
        let (sidecar, gate) = self.begin(&[]).await;
        assert_eq!(gate, Gate::Open);
        let code = self.flash(port, firmware).end();
        self.end(sidecar, code).await
    }

    /// The kubelet ends the sidecar once the container with the device has ended with `code`.
    async fn end(&self, sidecar: Sidecar, code: Option<i32>) -> Summary {
        let left: Summary = serde_json::from_slice(&fs::read(self.served.file("termination")).unwrap()).unwrap();
        assert_eq!(code, Some(left.exit_code.into()), "{left:?}");
        assert_eq!(self.served.server.replicas(&self.served.klipper), 0, "Klipper is back too early");
        sidecar.signal("TERM");
        let output = sidecar.end().await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        self.assert_given_back();
        assert_eq!(self.assert_noted(), left);
        left
    }

    /// What the container with the device said last is on the Lease.
    #[track_caller]
    fn assert_noted(&self) -> Summary {
        let left: Summary = serde_json::from_slice(&fs::read(self.served.file("termination")).unwrap()).unwrap();
        let noted = self.annotation(annotation::RESULT);
        assert_eq!(serde_json::from_value::<Summary>(noted).unwrap(), left);
        left
    }

    #[track_caller]
    fn assert_given_back(&self) {
        assert_eq!((self.served.server.replicas(&self.served.klipper), self.served.owed()), (1, Value::Null));
    }

    fn annotation(&self, name: &str) -> Value {
        let lease = self.served.server.lease(LEASE);
        lease["metadata"]["annotations"][name]
            .as_str()
            .map(|json| serde_json::from_str(json).unwrap())
            .unwrap_or_default()
    }

    fn confirmed(&self) -> Option<Confirmed> {
        serde_json::from_value(self.annotation(annotation::CONFIRMED)["mcu"].clone()).ok()
    }
}

impl Flasher {
    /// Reads on until a line holds `text`.
    fn until(&mut self, text: &str) {
        let found = self.said.by_ref().map(Result::unwrap).any(|line| line.contains(text));
        assert!(found, "no line holds {text}");
    }

    /// How it ended.
    fn end(mut self) -> Option<i32> {
        self.said.by_ref().for_each(drop);
        self.child.wait().unwrap().code()
    }
}

#[test]
fn what_the_manifests_tell_the_containers_is_understood() {
    let shapes = [Quiesce::Sidecar, Quiesce::Token, Quiesce::None].map(|quiesce| Shape { quiesce, ..Shape::default() });
    let waits = Shape { wait: 7200, trusting: true, ..Shape::default() };
    let through = Shape { via: Via::Swd { probe: Some("0483:374b:066F".into()) }, ..Shape::default() };
    let phased = [Kubernetes::V1_29, Kubernetes::V1_35].map(|kubernetes| Shape {
        access: Access::Unprivileged,
        phased: true,
        kubernetes,
        ..Shape::default()
    });
    for shape in shapes.into_iter().chain([waits, through]).chain(phased) {
        let pod = order_of(&shape).job.spec.unwrap().template.spec.unwrap();
        let containers: Vec<_> = pod.init_containers.into_iter().flatten().chain(pod.containers).collect();
        let init_phases = shape.phased && shape.kubernetes == Kubernetes::V1_29;
        let more = if init_phases { 2 } else { 0 };
        assert_eq!(containers.len(), more + if shape.quiesce == Quiesce::Sidecar { 2 } else { 1 });
        for container in containers {
            let program = match &*container.name {
                "quiesce" => PathBuf::from(env!("CARGO_BIN_EXE_kubectl-kflash")),
                _ => dynamic_binary("kflash"),
            };
            let mut lines = vec![container.args.unwrap()];
            lines.extend(container.startup_probe.map(|probe| probe.exec.unwrap().command.unwrap().split_off(1)));
            for line in lines {
                // Everything before it has to be understood first.
                let output = Command::new(&program).args(&line).arg("--help").env_clear().output().unwrap();
                assert_eq!(output.status.code(), Some(0), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
}

#[tokio::test]
async fn the_board_is_flashed_and_klipper_given_back() {
    let node = Node::new().await;
    let firmware = node.firmware.to_str().unwrap();
    let left = node.pod("1-1", firmware).await;
    assert_eq!((left.result, left.before.as_deref(), left.now.as_deref()), (Outcome::Flashed, Some(OLD), Some(NEW)));
    let confirmed = node.confirmed().unwrap();
    assert_eq!((confirmed.version.as_str(), Some(confirmed.sha256)), (NEW, left.sha256));
    assert_eq!(node.pod("1-1", firmware).await.result, Outcome::AlreadyCurrent);
    assert_eq!(node.confirmed().unwrap().version, NEW);
}

#[tokio::test]
async fn klipper_is_given_back_however_the_flash_fails() {
    let node = Node::new().await;
    let firmware = node.firmware.to_str().unwrap();
    let garbage = node.served.file("garbage.bin");
    fs::write(&garbage, vec![0x55; 9000]).unwrap();
    let wrong = node.served.file("wrong.bin");
    fs::write(&wrong, TestImage::klipper("stm32g0b1xx", 0x0800_2000).build()).unwrap();
    for (port, firmware, exit) in [
        ("1-9", firmware, ExitCode::NotFound),
        ("1-1", "/absent", ExitCode::Usage),
        ("1-1", garbage.to_str().unwrap(), ExitCode::Usage),
        ("1-1", wrong.to_str().unwrap(), ExitCode::Refused),
    ] {
        let left = node.pod(port, firmware).await;
        assert_eq!((left.result, left.exit), (Outcome::Failed, exit), "{left:?}");
        assert_eq!(node.confirmed(), None);
    }
    assert_eq!(node.pod("1-1", firmware).await.result, Outcome::Flashed);
}

#[tokio::test]
async fn a_flash_that_breaks_off_is_told_and_the_next_pod_makes_it_good() {
    for (happens, exit, cure, next) in [
        ("unplug", ExitCode::Write, &["plug"][..], Outcome::Flashed),
        // It comes back in its ROM, with everything written.
        ("boot0 on", ExitCode::Lost, &["boot0 off", "reset"], Outcome::AlreadyCurrent),
    ] {
        let node = Node::new().await;
        let (sidecar, gate) = node.begin(&[]).await;
        assert_eq!(gate, Gate::Open);
        let mut flasher = node.flash_well();
        flasher.until(r#""phase":"write","done""#);
        node.control(happens);
        let code = flasher.end();
        let left = node.end(sidecar, code).await;
        assert_eq!((left.result, left.exit, node.confirmed()), (Outcome::Failed, exit, None), "{happens}: {left:?}");
        for what in cure {
            node.control(what);
        }
        let left = node.pod("1-1", node.firmware.to_str().unwrap()).await;
        assert_eq!((left.result, left.now.as_deref()), (next, Some(NEW)), "{happens}: {left:?}");
        assert_eq!(node.confirmed().unwrap().version, NEW);
    }
}

#[tokio::test]
async fn a_board_that_takes_no_write_costs_klipper_nothing() {
    let write_protected = vec![FlashRange { start: FlashAddr(START), size: FlashSize(0x4000) }];
    let node = Node::with(Options { write_protected, ..Options::default() }).await;
    for _ in 0..2 {
        let left = node.pod("1-1", node.firmware.to_str().unwrap()).await;
        assert_eq!((left.result, left.exit, node.confirmed()), (Outcome::Failed, ExitCode::Write, None), "{left:?}");
        assert!(left.message.as_deref().unwrap().contains("0x08008000"), "{left:?}");
    }
}

#[tokio::test]
async fn a_refusal_opens_no_device() {
    let node = Node::new().await;
    // The pod is ready by then, and nobody answers.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let sidecar = node.served.quiesce(&[]);
    let gate = node.served.started().await;
    assert!(matches!(gate, Gate::Refused { exit: ExitCode::Busy, .. }), "{gate:?}");
    let code = node.flash("1-9", "/absent").end();
    assert_eq!(code, Some(ExitCode::Busy.code().into()));
    sidecar.signal("TERM");
    assert_eq!(sidecar.end().await.status.code(), Some(0));
    node.assert_given_back();
    node.assert_noted();
}

#[tokio::test]
async fn a_pod_that_is_told_to_end_leaves_the_board_whole_and_gives_klipper_back() {
    for (phase, exit, result) in [
        (r#""phase":"enter""#, ExitCode::Cancelled, Outcome::Failed),
        (r#""phase":"write","done""#, ExitCode::Ok, Outcome::Flashed),
        (r#""phase":"confirm""#, ExitCode::Ok, Outcome::Flashed),
    ] {
        let node = Node::new().await;
        let (sidecar, gate) = node.begin(&[]).await;
        assert_eq!(gate, Gate::Open);
        let mut flasher = node.flash_well();
        flasher.until(phase);
        send("TERM", flasher.child.id());
        let code = flasher.end();
        let left = node.end(sidecar, code).await;
        assert_eq!((left.result, left.exit), (result, exit), "{phase}: {left:?}");
        assert_eq!(node.confirmed().is_some(), result == Outcome::Flashed);
    }
    // While the sidecar waits for Klipper's end, or just has decided.
    let node = Node::new().await;
    let sidecar = node.served.quiesce(&["--trust-silence"]);
    tokio::time::sleep(Duration::from_millis(150)).await;
    sidecar.signal("TERM");
    assert_eq!(sidecar.end().await.status.code(), Some(0));
    node.assert_given_back();
}

#[tokio::test]
async fn a_node_that_dies_after_the_first_erase_is_continued_by_a_new_pod() {
    let node = Node::new().await;
    let (sidecar, _) = node.begin(&[]).await;
    let mut flasher = node.flash_well();
    flasher.until(r#""phase":"write","done""#);
    send("KILL", flasher.child.id());
    sidecar.signal("KILL");
    flasher.end();
    sidecar.end().await;
    assert_eq!((node.served.server.replicas(&node.served.klipper), node.served.owed()), (0, "1".into()));

    // The same Job, an empty directory, and a board in its bootloader.
    let left = node.pod("1-1", node.firmware.to_str().unwrap()).await;
    assert_eq!((left.result, left.now.as_deref()), (Outcome::Flashed, Some(NEW)), "{left:?}");
    assert_eq!(left.before, None);
    assert_eq!(node.confirmed().unwrap().version, NEW);
}
