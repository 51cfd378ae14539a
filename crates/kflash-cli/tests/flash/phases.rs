//! Containers that keep the device node that they were created with, on a board that becomes another with each enumeration.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kflash::cluster::{Gate, Outcome, Summary, file};
use kflash::exit::ExitCode;
use kflash::klipper::dictionary::BuiltFor;
use kflash_sim::board::Options;
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use tempfile::TempDir;
use tests::node::{BOARD, Board, Node, START};

use crate::desk::{NEW, OLD, Ran};

/// A pod on a node: what its containers share.
struct Pod {
    node: Node,
    folder: TempDir,
}

impl Pod {
    fn new() -> Self {
        let pod = Self { node: Node::new(), folder: TempDir::new().unwrap() };
        fs::create_dir(pod.path("shared")).unwrap();
        Gate::Open.write(&pod.path("shared").join(file::GATE)).unwrap();
        fs::write(pod.path("klipper.bin"), Self::image()).unwrap();
        pod
    }

    fn image() -> Vec<u8> {
        TestImage::klipper("stm32f446xx", START).built_for(BuiltFor::Usb).version(NEW).build()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plug(&self, port: &str, tty: &str) -> Board {
        self.node.plug(port, tty, &Self::image(), Options { timing: Timing::Zero, ..Options::default() })
    }

    /// A container that was created with the node of what is in `port`; what it says, and what it leaves.
    fn created(&self, port: &str, arguments: &[&str]) -> (Ran, Option<Summary>) {
        self.node.create(&self.path("root"), port);
        self.run(arguments)
    }

    fn run(&self, arguments: &[&str]) -> (Ran, Option<Summary>) {
        let at = |name: &str| self.path(name).to_str().unwrap().to_owned();
        fs::write(self.path("termination"), "").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kflash"))
            .args(["flash", "--json", "--board", BOARD, "--firmware", &at("klipper.bin"), "--host-root", &at("root")])
            .args(["--shared", &at("shared"), "--termination-message", &at("termination"), "--cache-dir", &at("cache")])
            .args(["--phased", &at("journal"), "--no-moonraker"])
            .args(arguments)
            .env("HOME", self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let left = serde_json::from_slice(&fs::read(self.path("termination")).unwrap()).ok();
        (Ran::of(&output), left)
    }
}

#[test]
fn a_board_that_becomes_another_node_is_flashed_by_three_containers() {
    for (follows, code) in [(&[][..], 75), (&["--another-follows"], 0)] {
        let pod = Pod::new();
        let board = pod.plug("1-1", "ttyACM0");
        for (tty, done) in
            [("ttyACM1", "Klipper left for its bootloader"), ("ttyACM2", "written, verified and started")]
        {
            board.moves_to(tty);
            let (ran, left) = pod.created("1-1", &[&["--device", "1-1"], follows].concat());
            let left = left.unwrap();
            assert_eq!((ran.code, &ran.result["result"]), (code, &"phase".into()), "{ran:#?}");
            assert_eq!((left.result, left.exit), (Outcome::Phase, ExitCode::Phase));
            assert!(left.message.as_ref().unwrap().starts_with(done), "{left:?}");
            assert_eq!(Summary::read(&pod.path("shared").join(file::RESULT)).unwrap(), Some(left));
        }
        board.moves_to("ttyACM3");
        for _ in 0..2 {
            let (ran, left) = pod.created("1-1", &["--device", "1-1"]);
            let left = left.unwrap();
            assert_eq!((ran.code, left.result, left.exit), (0, Outcome::Flashed, ExitCode::Ok), "{ran:#?}");
            assert_eq!((left.before.as_deref(), left.now.as_deref()), (Some(OLD), Some(NEW)));
            assert!(
                ["enter", "write", "confirm"].iter().all(|phase| left.durations_ms.contains_key(*phase)),
                "{left:?}"
            );
        }
    }
}

#[test]
fn a_node_that_is_another_boards_by_now_is_never_opened() {
    let pod = Pod::new();
    let (ours, other) = (pod.plug("1-1", "ttyACM0"), pod.plug("1-2", "ttyACM1"));
    for (code, kind) in [(75, "phase"), (4, "no-node")] {
        let (ran, left) = pod.created("1-2", &["--device", "1-1"]);
        assert_eq!((ran.code, &ran.result["kind"], &ran.result["board"]), (code, &kind.into(), &"untouched".into()));
        assert!(left.unwrap().message.unwrap().starts_with("no node in this container is the device at 1-1 ("));
    }
    assert!(ours.untouched() && other.untouched());

    // Its name in the container is that of another from the second on.
    fs::remove_dir_all(pod.path("journal")).unwrap();
    ours.moves_to("ttyACM2");
    let (ran, _) = pod.created("1-1", &["--device", "/dev/mcu"]);
    assert_eq!(ran.code, 75, "{ran:#?}");
    for code in [75, 4] {
        let (ran, _) = pod.created("1-2", &["--device", "/dev/mcu"]);
        assert_eq!((ran.code, &ran.result["place"]), (code, &serde_json::json!({"usb": "1-1"})), "{ran:#?}");
    }
    assert!(other.untouched());
    ours.moves_to("ttyACM3");
    let [written, confirmed] = [(), ()].map(|()| pod.created("1-1", &["--device", "/dev/mcu"]).0);
    assert_eq!((written.code, confirmed.code, &confirmed.result["result"]), (75, 0, &"flashed".into()));
    assert!(other.untouched());
}

#[test]
fn what_is_not_to_be_flashed_is_left_to_the_container_that_tells_it() {
    let pod = Pod::new();
    let board = pod.plug("1-1", "ttyACM0");
    let reason = "the printer is printing benchy.gcode (42 %)".to_owned();
    let refused = Gate::Refused { exit: ExitCode::Busy, reason: reason.clone() };
    refused.write(&pod.path("shared").join(file::GATE)).unwrap();
    let (ran, left) = pod.created("1-1", &["--device", "1-1", "--another-follows"]);
    assert_eq!((ran.code, left), (0, None), "{ran:#?}");
    let (ran, left) = pod.created("1-1", &["--device", "1-1"]);
    assert_eq!((ran.code, left.unwrap().message), (5, Some(reason)));
    assert!(board.untouched());
}

#[test]
fn phases_that_cannot_leave_a_journal_do_not_follow_each_other() {
    let pod = Pod::new();
    let board = pod.plug("1-1", "ttyACM0");
    board.moves_to("ttyACM1");
    fs::write(pod.path("journal"), "").unwrap();
    let (ran, left) = pod.created("1-1", &["--device", "1-1"]);
    assert_eq!((ran.code, left.unwrap().exit), (1, ExitCode::Internal), "{ran:#?}");
    assert!(board.untouched());
    fs::remove_file(pod.path("journal")).unwrap();
    symlink("/proc/journal", pod.path("journal")).unwrap();
    let (ran, _) = pod.created("1-1", &["--device", "1-1"]);
    assert_eq!((ran.code, &ran.result["board"]), (1, &"in-bootloader".into()), "{ran:#?}");
}
