//! Printers of a configuration: their boards flashed at once, on USB/IP, and their Moonrakers asked first.

#![cfg(feature = "moonraker")]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread;
use std::time::Duration;

use kflash::boards;
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::usbip::server::Server;
use kflash_sim::mount::{self, Mount, QUEUE};
use serde_json::{Value, json};
use tempfile::TempDir;

const OLD: &str = "v0.12.0-1-g0ldf1rmw";
const NEW: &str = "v0.13.0-2-gnewf1rmw";
/// Nobody listens there: the port is the kernel's own (RFC 863), and no container runs its service.
const NOBODY: &str = "127.0.0.1:9";

/// A board behind Katapult on a USB/IP server of its own, and the firmware for it in a file.
struct Served {
    id: &'static str,
    address: SocketAddr,
    firmware: PathBuf,
    events: Receiver<String>,
}

/// A folder for firmware and configuration.
struct Desk(TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(TempDir::new().unwrap());
        // For locks.
        fs::create_dir(desk.0.path().join("run")).unwrap();
        desk
    }

    /// Serves a board that runs the old firmware.
    fn serve(&self, id: &'static str) -> Served {
        let (profile, chip) = boards::find(id).unwrap();
        let katapult = profile.bootloaders.iter().find(|bootloader| bootloader.id == "katapult").unwrap();
        let start = katapult.app_start.0;
        let image = |version| TestImage::klipper(&chip.mcu[0], start).version(version).build();
        let firmware = self.0.path().join(format!("{id}.bin"));
        fs::write(&firmware, image(NEW)).unwrap();
        let contents = Contents {
            bootloader: "katapult".into(),
            application: Some((start, image(OLD))),
            known: vec![(start, image(NEW))],
            uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
        };
        let (tell, events) = channel();
        let (controls, queue) = sync_channel(QUEUE);
        let server = Server::listen("127.0.0.1:0".parse().unwrap(), &controls).unwrap();
        let address = server.address();
        thread::spawn(move || {
            let options = Options { timing: Timing::Zero, ..Options::default() };
            let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
            board.power(Duration::ZERO, true);
            let tell = Box::new(move |event: &str| drop(tell.send(event.to_owned())));
            let mut live = Live::new(board, chip, Duration::from_secs(1), "1-1".parse().unwrap(), None, tell);
            mount::serve(&mut live, Mount::Usbip(server), &controls, &queue).unwrap();
        });
        let served = Served { id, address, firmware, events };
        served.wait_for("enumerated");
        served
    }

    /// Runs kflash with a configuration; the exit code, the last line of its JSON, all of its output.
    fn kflash(&self, config: &str, arguments: &[&str]) -> Ran {
        let file = self.0.path().join("config.toml");
        fs::write(&file, config).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kflash"))
            .args(arguments)
            .args(["--json", "--config", file.to_str().unwrap(), "--host-root", self.0.path().to_str().unwrap()])
            .env("XDG_CACHE_HOME", self.0.path())
            .output()
            .unwrap();
        Ran::of(&output)
    }
}

#[derive(Debug)]
struct Ran {
    code: i32,
    events: Vec<Value>,
    result: Value,
    said: String,
}

impl Ran {
    fn of(output: &Output) -> Self {
        let stdout = str::from_utf8(&output.stdout).unwrap();
        let mut events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let result = events.pop().unwrap_or_default();
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        Self { code: output.status.code().unwrap(), events, result, said }
    }

    /// How the run on a board ended.
    fn of_board(&self, name: &str) -> &Value {
        let boards = self.result["boards"].as_array().unwrap_or_else(|| panic!("{self:#?}"));
        &boards.iter().find(|board| board["board"] == name).unwrap()["ended"]
    }
}

impl Served {
    fn wait_for(&self, start: &str) {
        let next = || self.events.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no {start:?}"));
        while !next().starts_with(start) {}
    }

    /// Its lines in a configuration.
    fn configured(&self, name: &str) -> String {
        let (id, address, firmware) = (self.id, self.address, self.firmware.display());
        format!(
            "[[printers.boards]]\nname = {name:?}\nboard = {id:?}\ndevice = [\"usbip://{address}/1-1\"]\n\
             firmware = {{ file = \"{firmware}\" }}\n"
        )
    }

    /// Whether nothing happened to it.
    fn untouched(&self) -> bool {
        self.events.try_iter().all(|event| !["gone", "erased", "written"].iter().any(|what| event.starts_with(what)))
    }
}

fn printer(name: &str, moonraker: Option<&str>) -> String {
    let mut text = format!("[[printers]]\nname = {name:?}\n");
    if let Some(url) = moonraker {
        let _ = writeln!(text, "moonraker = {{ url = {url:?}, api-key = \"5ec4e7\" }}");
    }
    text
}

/// A Moonraker of a printer that does this; the keys that it is shown come through the channel.
fn moonraker(print: &'static str, idle: &'static str) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, keys) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(&stream).lines().map(Result::unwrap);
            let request: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
            let key = request.iter().find_map(|line| line.strip_prefix("x-api-key: ")).unwrap_or_default();
            let _ = tell.send(key.to_owned());
            let result = if request[0].contains("/server/info") {
                json!({ "klippy_connected": true, "klippy_state": "ready" })
            } else {
                let print = json!({ "state": print, "filename": "benchy.gcode" });
                let (card, idle) = (json!({ "progress": 0.42 }), json!({ "state": idle }));
                json!({ "status": { "print_stats": print, "virtual_sdcard": card, "idle_timeout": idle } })
            };
            let body = json!({ "result": result }).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    (url, keys)
}

#[test]
fn all_boards_are_flashed_at_once_and_one_that_fails_stops_no_other() {
    let desk = Desk::new();
    let (mcu, toolhead) = (desk.serve("btt-octopus-v1.1-f446"), desk.serve("btt-ebb36-v1.2"));
    let (first, second) = (mcu.configured("mcu"), toolhead.configured("toolhead"));
    let gone = mcu.configured("gone").replace(&mcu.address.to_string(), NOBODY);
    let config = printer("voron", None) + &first + &gone + &printer("trident", None) + &second;
    let ran = desk.kflash(&config, &["flash", "--all"]);
    assert_eq!(ran.code, 4, "{ran:#?}");
    assert_eq!((&ran.result["result"], &ran.result["exit_code"]), (&json!("summary"), &json!(4)));
    for (name, served) in [("voron/mcu", &mcu), ("trident/toolhead", &toolhead)] {
        let ended = ran.of_board(name);
        assert_eq!((&ended["result"], &ended["exit_code"]), (&json!("flashed"), &json!(0)), "{ran:#?}");
        assert_eq!((&ended["before"]["version"], &ended["now"]["version"]), (&json!(OLD), &json!(NEW)));
        served.wait_for(&format!("running application version={NEW:?}"));
        let phases = ran.events.iter().filter(|event| event["board"] == name && event["event"] == "phase");
        assert_eq!(phases.clone().next().unwrap()["phase"], "look");
        assert!(phases.clone().any(|event| event["phase"] == "write"));
    }
    let failed = ran.of_board("voron/gone");
    assert_eq!((&failed["exit_code"], &failed["board"]), (&json!(4), &json!("untouched")), "{ran:#?}");
    assert!(ran.said.contains("voron/gone: error: "), "{}", ran.said);

    // What runs already is not written again, and so the run is as good as its other boards.
    let again = desk.kflash(&(printer("voron", None) + &first), &["flash", "--printer", "voron"]);
    assert_eq!((again.code, &again.of_board("voron/mcu")["result"]), (0, &json!("already-current")), "{again:#?}");
    let verified = desk.kflash(&(printer("voron", None) + &first), &["verify", "--printer", "voron"]);
    assert_eq!(verified.of_board("voron/mcu")["result"], "dictionary-matches", "{verified:#?}");
}

#[test]
fn while_it_prints_nothing_is_done_to_any_of_its_boards() {
    let desk = Desk::new();
    let mcu = desk.serve("btt-octopus-v1.1-f446");
    let (url, keys) = moonraker("printing", "Printing");
    let config = printer("voron", Some(&url)) + &mcu.configured("mcu");
    let device = format!("usbip://{}/1-1", mcu.address);
    let firmware = mcu.firmware.to_str().unwrap();
    // By its printer's name or without, it is the same board.
    let by_device = ["flash", "--board", mcu.id, "--device", &device, "--firmware", firmware];
    for arguments in [&["flash", "--printer", "voron"][..], &by_device] {
        let ran = desk.kflash(&config, arguments);
        assert_eq!(ran.code, 5, "{ran:#?}");
        let ended = if ran.result["result"] == "summary" { ran.of_board("voron/mcu") } else { &ran.result };
        assert_eq!(ended["message"], "voron prints benchy.gcode, 42 %", "{ran:#?}");
        assert_eq!((&ended["kind"], &ended["board"]), (&json!("printing"), &json!("untouched")));
        assert_eq!(keys.try_iter().collect::<Vec<_>>(), ["5ec4e7", "5ec4e7"]);
        assert!(mcu.untouched());
        assert!(!format!("{ran:?}").contains("5ec4e7"));
    }
    let other = desk.kflash(
        &config,
        &["flash", "--board", mcu.id, "--device", &device, "--firmware", firmware, "--moonraker", &url],
    );
    assert_eq!(other.result["message"], "the printer prints benchy.gcode, 42 %", "{other:#?}");

    // A plan touches nothing, so nobody is asked; and who takes it upon himself is not stopped.
    let plan = desk.kflash(&config, &["plan", "--printer", "voron"]);
    assert_eq!(plan.code, 0, "{plan:#?}");
    let forced = desk.kflash(&config, &["flash", "--printer", "voron", "--no-moonraker"]);
    assert_eq!((forced.code, &forced.of_board("voron/mcu")["result"]), (0, &json!("flashed")), "{forced:#?}");
}

#[test]
fn who_does_not_answer_may_be_printing() {
    let desk = Desk::new();
    let mcu = desk.serve("btt-octopus-v1.1-f446");
    let config = printer("voron", Some(&format!("http://{NOBODY}"))) + &mcu.configured("mcu");
    let ran = desk.kflash(&config, &["flash", "--printer", "voron"]);
    let ended = ran.of_board("voron/mcu");
    assert_eq!((ran.code, &ended["kind"]), (5, &json!("not-asked")), "{ran:#?}");
    let start = format!("whether voron prints is not known: Moonraker at http://{NOBODY} does not answer: ");
    assert!(ended["message"].as_str().unwrap().starts_with(&start), "{ran:#?}");
    assert!(ended["hint"].as_str().unwrap().contains("--no-moonraker"), "{ran:#?}");
    assert!(mcu.untouched());
}

#[test]
fn a_printer_that_does_nothing_is_flashed() {
    let desk = Desk::new();
    let mcu = desk.serve("btt-octopus-v1.1-f446");
    let (url, keys) = moonraker("complete", "Idle");
    let config = printer("voron", Some(&url)) + &mcu.configured("mcu");
    let ran = desk.kflash(&config, &["flash", "--printer", "voron"]);
    assert_eq!((ran.code, &ran.of_board("voron/mcu")["result"]), (0, &json!("flashed")), "{ran:#?}");
    assert_eq!(keys.try_iter().count(), 2);
}
