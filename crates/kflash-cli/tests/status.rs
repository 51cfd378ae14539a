//! `kflash status` on a host with several boards, on ptys in a folder that looks like their /sys and /dev.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use kflash_sim::firmware::TestImage;
use serde_json::{Value, json};
use tests::firmware_tree::FirmwareTree;
use tests::room::Room;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const EBB36: &str = "btt-ebb36-v1.2";

/// A host with boards on USB, and kflash at home in its root.
struct Host {
    room: Room,
}

impl Host {
    fn new() -> Self {
        Self { room: Room::new() }
    }

    fn root(&self) -> &Path {
        self.room.root.path()
    }

    /// Plugs in a board that runs this.
    fn plug(&mut self, board: &str, image: impl FnOnce(TestImage) -> TestImage) {
        self.room.plug(board, image(Room::image(board)).build());
    }

    fn status(&self, arguments: &[&str]) -> Output {
        self.kflash().arg("status").args(arguments).output().unwrap()
    }

    /// kflash on this host, at home in its root.
    fn kflash(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kflash"));
        command.arg("--host-root").arg(self.root()).env("HOME", self.root()).stdin(Stdio::null());
        command.env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME");
        command
    }

    /// Writes the configuration.
    fn configure(&self, text: &str) {
        let folder = self.root().join(".config/kflash");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.toml"), text).unwrap();
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.status(&[&["--json"], arguments].concat());
        let text = str::from_utf8(&output.stdout).unwrap();
        let result = text.lines().last().and_then(|line| serde_json::from_str(line).ok());
        result.unwrap_or_else(|| panic!("{output:?}"))
    }

    /// The firmware that boards of this kind would be given.
    fn firmware(&self, board: &str) -> String {
        let path = self.root().join("klipper.bin");
        fs::write(&path, Room::image(board).build()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn every_board_gets_its_verdict() {
    let mut host = Host::new();
    let older = |image: TestImage| image.version("v0.12.0-439-g1fe54bd5");
    host.plug(OCTOPUS, |image| image);
    host.plug(OCTOPUS, older);
    host.plug(OCTOPUS, |image| TestImage { lacks: vec!["get_clock".into()], ..older(image) });
    host.plug(EBB36, older);
    let firmware = host.firmware(OCTOPUS);
    let status = host.json(&["--firmware", &firmware]);
    let boards = status["boards"].as_array().unwrap();
    let verdicts: Vec<_> = boards.iter().map(|board| board["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["current", "compatible", "must-flash", "unknown"], "{status:#}");
    assert_eq!(boards[2]["reasons"][0], "no command get_clock");
    assert_eq!(boards[2]["needed"], "always");
    assert_eq!(boards[3]["reasons"][0], "the running firmware is for stm32g0b1xx, the tree's for stm32f446xx");
    assert_eq!((&status["exit_code"], &status["result"]), (&0.into(), &"status".into()));

    // One board, by its id and its port; and once more, since nobody holds it.
    for _ in 0..2 {
        let one = host.json(&["--board", OCTOPUS, "--device", "1-3", "--firmware", &firmware]);
        assert_eq!(one["boards"].as_array().unwrap().len(), 1);
        assert_eq!(one["boards"][0]["verdict"], "must-flash");
        let remedy = one["boards"][0]["remedy"].as_str().unwrap();
        assert!(remedy.starts_with("kflash flash --board btt-octopus-v1.1-f446 --device 1-3 --firmware "), "{remedy}");
    }
}

#[test]
fn what_is_not_there_or_not_named_ends_with_its_own_code() {
    let mut host = Host::new();
    let empty = host.status(&[]);
    assert_eq!(empty.status.code(), Some(4), "{empty:?}");
    host.plug(OCTOPUS, |image| image);
    host.plug(OCTOPUS, |image| image);
    let away = host.status(&["--board", OCTOPUS, "--device", "1-7"]);
    assert_eq!(away.status.code(), Some(4), "{away:?}");
    let ambiguous = host.status(&["--board", OCTOPUS]);
    assert_eq!(ambiguous.status.code(), Some(3), "{ambiguous:?}");
    let text = String::from_utf8(ambiguous.stdout).unwrap();
    assert!(text.contains("1-1: Klipper on stm32f446xx") && text.contains("1-2: Klipper on stm32f446xx"), "{text}");
}

#[test]
fn firmware_that_is_none_is_said_to_be_none() {
    let host = Host::new();
    let path = host.root().join("katapult.bin");
    fs::write(&path, TestImage::katapult("stm32f446xx", 0x0800_0000).build()).unwrap();
    let status = host.status(&["--firmware", path.to_str().unwrap()]);
    assert_eq!(status.status.code(), Some(2), "{status:?}");
    let said = String::from_utf8(status.stderr).unwrap();
    assert!(said.contains("it holds no data dictionary"), "{said}");
}

/// The verdict of the only board, and what it rests on.
fn verdict(status: &Value) -> (String, Vec<String>) {
    let [board] = &status["boards"].as_array().unwrap()[..] else { panic!("{status:#}") };
    let reasons = board["reasons"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap().to_owned());
    (board["verdict"].as_str().unwrap().to_owned(), reasons.collect())
}

#[test]
fn what_runs_is_compared_with_what_the_tree_builds() {
    let tree = FirmwareTree::new();
    let klipper = tree.dir.to_str().unwrap();
    let mut host = Host::new();
    let one = ["--board", OCTOPUS, "--klipper", klipper];
    let built = host.kflash().args(["build", "--json"]).args(one).output().unwrap();
    let built: Value = serde_json::from_str(str::from_utf8(&built.stdout).unwrap().lines().last().unwrap()).unwrap();
    host.room.plug(OCTOPUS, fs::read(built["boards"][0]["path"].as_str().unwrap()).unwrap());

    let status = host.json(&[&one[..], &["--no-build"]].concat());
    assert_eq!(verdict(&status), ("current".into(), vec![]), "{status:#}");

    // Another commit, the same wire: only a build can tell.
    tree.replace("src/main.c", "256", "256 /* as ever */");
    tree.commit("a comment");
    let status = host.json(&[&one[..], &["--no-build"]].concat());
    let none =
        "nothing to compare it with: the cache holds no firmware of this tree for it; without --no-build it is built";
    assert_eq!(verdict(&status), ("unknown".into(), vec![none.into()]), "{status:#}");
    assert_eq!(status["exit_code"], 0);
    let status = host.json(&one);
    assert_eq!(verdict(&status), ("compatible".into(), vec![]), "{status:#}");
    let remedy = format!("kflash flash --board {OCTOPUS} --klipper {klipper}");
    assert_eq!(status["boards"][0]["remedy"], remedy);

    tree.replace("src/command.c", "DECLARE_COMMAND(\"get_uptime\");", "DECLARE_COMMAND(\"get_uptime form=%c\");");
    tree.commit("another form");
    let (was, reasons) = verdict(&host.json(&one));
    assert_eq!(
        (was.as_str(), &reasons[..]),
        ("must-flash", &["command get_uptime is get_uptime form=%c in the tree".to_owned()][..])
    );
    // It is in the cache now.
    assert_eq!(verdict(&host.json(&[&one[..], &["--no-build"]].concat())).0, "must-flash");

    // A tree that does not compile.
    tree.replace("src/main.c", "DECLARE_NUMBER", "no C at all; DECLARE_NUMBER");
    tree.commit("a mistake");
    let failed = host.status(&one);
    assert_eq!(failed.status.code(), Some(7), "{failed:?}");
}

#[test]
fn without_a_tree_what_runs_is_still_said() {
    let mut host = Host::new();
    host.plug(OCTOPUS, |image| image);
    let status = host.json(&["--board", OCTOPUS]);
    let (was, reasons) = verdict(&status);
    assert_eq!((was.as_str(), reasons.len()), ("unknown", 1));
    assert!(reasons[0].starts_with("nothing to compare it with: "), "{reasons:?}");
    assert_eq!(status["boards"][0]["runs"]["version"], "v0.13.0-730-g84104bbbd");
    assert_eq!(status["exit_code"], 0, "{status:#}");
    // Which was named is a mistake if it is not there.
    assert_eq!(host.json(&["--board", OCTOPUS, "--klipper", "/nonexistent"])["exit_code"], 2);
}

#[test]
fn boards_of_the_configuration_and_others() {
    let mut host = Host::new();
    let firmware = host.firmware(OCTOPUS);
    host.plug(OCTOPUS, |image| image.version("v0.12.0-439-g1fe54bd5"));
    host.plug(EBB36, |image| image);
    host.configure(&format!(
        "[[printers]]
        name = \"voron\"
        [[printers.boards]]
        name = \"mcu\"
        board = \"{OCTOPUS}\"
        device = [\"1-1\"]
        firmware = {{ file = \"{firmware}\" }}
        [[printers]]
        name = \"away\"
        [[printers.boards]]
        board = \"{OCTOPUS}\"
        device = [\"1-9\"]"
    ));
    let names = |status: &Value| {
        let names = status["boards"].as_array().unwrap().iter().map(|board| board["name"].clone());
        (names.collect::<Vec<_>>(), status["exit_code"].as_u64().unwrap())
    };
    let voron = host.json(&["--printer", "voron"]);
    assert_eq!(names(&voron), (vec![json!("voron/mcu")], 0));
    assert_eq!(verdict(&voron).0, "compatible");
    assert_eq!(voron["boards"][0]["remedy"], "kflash flash --printer voron --board mcu");
    assert_eq!(names(&host.json(&[])), (vec![json!("voron/mcu"), json!("away/btt-octopus-v1.1-f446")], 4));
    let all = host.json(&["--all"]);
    assert_eq!(names(&all), (vec![json!("voron/mcu"), json!("away/btt-octopus-v1.1-f446"), Value::Null], 4));
    assert_eq!(all["boards"][2]["device"]["place"]["usb"], "1-2");
    let wrong = host.status(&["--printer", "vorn"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(str::from_utf8(&wrong.stderr).unwrap().contains("did you mean \"voron\"?"), "{wrong:?}");
}

/// Answers like Moonraker, one connection after another; returns its URL.
#[cfg(feature = "moonraker")]
fn moonraker(mcus: &Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let status = json!({ "result": { "status": mcus } }).to_string();
    let list = json!({ "result": { "objects": mcus.as_object().unwrap().keys().collect::<Vec<_>>() } }).to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let request: Vec<_> = request.collect();
            let body = if request[0].contains("/list") { &list } else { &status };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    url
}

#[test]
#[cfg(feature = "moonraker")]
fn a_port_that_klipper_has_is_not_opened_and_moonraker_is_asked() {
    let mut host = Host::new();
    let firmware = host.firmware(OCTOPUS);
    host.plug(OCTOPUS, |image| image);
    let klippy = host.root().join("proc/812");
    fs::create_dir_all(klippy.join("fd")).unwrap();
    fs::write(klippy.join("comm"), "klippy\n").unwrap();
    symlink(fs::canonicalize(host.root().join("dev/ttyACM0")).unwrap(), klippy.join("fd/5")).unwrap();
    let held = host.json(&["--board", OCTOPUS, "--firmware", &firmware]);
    assert_eq!(verdict(&held), ("unknown".into(), vec!["held by klippy (pid 812)".into()]));
    assert_eq!(held["exit_code"], 5);

    host.plug(OCTOPUS, |image| image);
    let configure = |url: &str| {
        host.configure(&format!(
            "[[printers]]
            name = \"voron\"
            moonraker = {{ url = \"{url}\" }}
            [[printers.boards]]
            name = \"mcu\"
            board = \"{OCTOPUS}\"
            device = [\"1-1\"]"
        ));
    };
    let mcu = |version: &str| json!({ "mcu_version": version, "mcu_constants": { "MCU": "stm32f446xx" } });
    let settings =
        json!({ "settings": { "mcu": { "serial": "/dev/ttyACM0" }, "mcu b": { "serial": "/dev/ttyACM9" } } });
    configure(&moonraker(&json!({
        "mcu": mcu("v0.13.0-730-g84104bbbd"), "mcu b": mcu("v0.12.0-1-gaaaaaaaa"), "configfile": settings,
    })));
    let status = host.json(&["--firmware", &firmware]);
    let why = "by its version alone, as Klipper read it: Klipper has the port";
    assert_eq!(verdict(&status), ("current".into(), vec![why.into()]), "{status:#}");
    configure(&moonraker(&json!({ "mcu": mcu("v0.12.0-1-gaaaaaaaa") })));
    let status = host.json(&["--firmware", &firmware]);
    assert_eq!((verdict(&status).0.as_str(), &status["exit_code"]), ("unknown", &json!(0)), "{status:#}");
    assert_eq!(status["boards"][0]["runs"]["version"], "v0.12.0-1-gaaaaaaaa");
    // The only one of a kind, and it is another device.
    let elsewhere = json!({ "settings": { "mcu": { "serial": "/dev/ttyACM1" } } });
    configure(&moonraker(&json!({ "mcu": mcu("v1"), "configfile": elsewhere })));
    let status = host.json(&["--firmware", &firmware]);
    assert_eq!(verdict(&status).1[1], "which of Klipper's micro-controllers it is is not known");
    // Two of a kind, and nothing tells which is which.
    configure(&moonraker(&json!({ "mcu": mcu("v1"), "mcu b": mcu("v2") })));
    let status = host.json(&["--firmware", &firmware]);
    assert_eq!(verdict(&status).1[1], "which of Klipper's micro-controllers it is is not known");
    // Nobody there.
    configure("http://127.0.0.1:1");
    let status = host.json(&["--firmware", &firmware]);
    assert_eq!(status["exit_code"], 5);
    assert!(verdict(&status).1[1].starts_with("Moonraker at http://127.0.0.1:1 does not answer"), "{status:#}");
}

#[test]
#[cfg(feature = "fetch")]
fn where_there_is_no_tree_the_index_is_asked() {
    let tree = FirmwareTree::new();
    let mut host = Host::new();
    let built =
        host.kflash().args(["build", "--json", "--board", OCTOPUS, "--klipper"]).arg(&tree.dir).output().unwrap();
    let built: Value = serde_json::from_str(str::from_utf8(&built.stdout).unwrap().lines().last().unwrap()).unwrap();
    let image = fs::read(built["boards"][0]["path"].as_str().unwrap()).unwrap();
    let (public, secret) = (host.root().join("farm.pub"), host.root().join("farm.key"));
    let made = Command::new("minisign").arg("-GW").arg("-p").arg(&public).arg("-s").arg(&secret).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let out = host.root().join("firmware");
    let published = host.kflash().arg("publish").arg("--out").arg(&out).arg("--sign").arg(&secret).output().unwrap();
    assert!(published.status.success(), "{published:?}");
    fs::remove_dir_all(host.root().join(".cache")).unwrap();
    host.room.plug(OCTOPUS, image);

    let key = fs::read_to_string(&public).unwrap().lines().last().unwrap().to_owned();
    host.configure(&format!("[fetch]\nindex = \"file://{}/index.json\"\nkey = \"{key}\"", out.display()));
    let status = host.json(&["--board", OCTOPUS]);
    assert_eq!(verdict(&status), ("current".into(), vec![]), "{status:#}");
    fs::remove_file(out.join("index.json.minisig")).unwrap();
    let unsigned = host.json(&["--board", OCTOPUS]);
    assert_eq!((verdict(&unsigned).0.as_str(), &unsigned["exit_code"]), ("unknown", &json!(3)), "{unsigned:#}");
}
