//! A desk with boards on USB/IP, a configuration that names them, and kflash, which flashes them.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
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

/// The version that boards run.
pub const OLD: &str = "v0.12.0-1-g0ldf1rmw";
/// The version in their firmware files.
pub const NEW: &str = "v0.13.0-2-gnewf1rmw";
/// Nobody listens there: the port is the kernel's own (RFC 863), and no container runs its service.
pub const NOBODY: &str = "127.0.0.1:9";

/// A board behind Katapult on a USB/IP server of its own, and the firmware for it in a file.
pub struct Served {
    pub id: &'static str,
    pub address: SocketAddr,
    pub firmware: PathBuf,
    events: Receiver<String>,
}

/// A folder for firmware and configuration.
pub struct Desk(pub TempDir);

impl Desk {
    pub fn new() -> Self {
        let desk = Self(TempDir::new().unwrap());
        // For locks.
        fs::create_dir(desk.0.path().join("run")).unwrap();
        desk
    }

    /// Serves a board that runs the old firmware behind Katapult; the new one lies in a file.
    pub fn serve(&self, id: &'static str) -> Served {
        let (profile, chip) = boards::find(id).unwrap();
        let start = profile.bootloaders.iter().find(|bootloader| bootloader.id == "katapult").unwrap().app_start.0;
        let new = TestImage::klipper(&chip.mcu[0], start).version(NEW).build();
        self.serve_with(id, "katapult", vec![(start, new)])
    }

    /// Serves a board that runs the old firmware behind this bootloader, and can run `known`, each at its address. The
    /// first of them lies in a file.
    pub fn serve_with(&self, id: &'static str, bootloader: &str, known: Vec<(u32, Vec<u8>)>) -> Served {
        let (profile, chip) = boards::find(id).unwrap();
        let start = profile.bootloaders.iter().find(|installed| installed.id == bootloader).unwrap().app_start.0;
        let firmware = self.0.path().join(format!("{id}.bin"));
        fs::write(&firmware, &known[0].1).unwrap();
        let contents = Contents {
            bootloader: bootloader.into(),
            application: Some((start, TestImage::klipper(&chip.mcu[0], start).version(OLD).build())),
            known,
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

    /// Runs kflash with a configuration, in a home of its own.
    pub fn kflash(&self, config: &str, arguments: &[&str]) -> Ran {
        Ran::of(&self.command(config, arguments).output().unwrap())
    }

    /// The same, to be run.
    pub fn command(&self, config: &str, arguments: &[&str]) -> Command {
        let file = self.0.path().join("config.toml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kflash"));
        command
            .args(arguments)
            .args(["--json", "--config", file.to_str().unwrap(), "--host-root", self.0.path().to_str().unwrap()])
            .env("HOME", self.0.path())
            .env("XDG_CACHE_HOME", self.0.path())
            .stdin(Stdio::null());
        command
    }
}

/// How a run of kflash ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub events: Vec<Value>,
    pub result: Value,
    pub said: String,
}

impl Ran {
    pub fn of(output: &Output) -> Self {
        let stdout = str::from_utf8(&output.stdout).unwrap();
        let mut events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let result = events.pop().unwrap_or_default();
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        Self { code: output.status.code().unwrap(), events, result, said }
    }

    /// How the run on a board ended.
    pub fn of_board(&self, name: &str) -> &Value {
        let boards = self.result["boards"].as_array().unwrap_or_else(|| panic!("{self:#?}"));
        &boards.iter().find(|board| board["board"] == name).unwrap()["ended"]
    }
}

impl Served {
    pub fn wait_for(&self, start: &str) {
        let next = || self.events.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("no {start:?}"));
        while !next().starts_with(start) {}
    }

    /// Its lines in a configuration.
    pub fn configured(&self, name: &str) -> String {
        let (id, address, firmware) = (self.id, self.address, self.firmware.display());
        format!(
            "[[printers.boards]]\nname = {name:?}\nboard = {id:?}\ndevice = [\"usbip://{address}/1-1\"]\n\
             firmware = {{ file = \"{firmware}\" }}\n"
        )
    }

    /// Whether nothing happened to it.
    pub fn untouched(&self) -> bool {
        self.events.try_iter().all(|event| !["gone", "erased", "written"].iter().any(|what| event.starts_with(what)))
    }
}

/// The lines of a printer in a configuration.
pub fn printer(name: &str, moonraker: Option<&str>) -> String {
    let mut text = format!("[[printers]]\nname = {name:?}\n");
    if let Some(url) = moonraker {
        let _ = writeln!(text, "moonraker = {{ url = {url:?}, api-key = \"5ec4e7\" }}");
    }
    text
}

/// A Moonraker of a printer that does this; the keys that it is shown come through the channel.
pub fn moonraker(print: &'static str, idle: &'static str) -> (String, Receiver<String>) {
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
