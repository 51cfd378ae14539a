//! `kflash fetch` and `kflash publish` as they ship, with what they take from options, configuration and environment.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use kflash::digest::Sha256;
use serde_json::Value;
use tempfile::TempDir;
use tests::binary::static_binary;

use super::farm::{BOARD, IMAGE, INDEX, Key, LOCKED, entry, firmware, index, publish};
use super::server::{NAME, Proxy, Reply, Server};

/// A user with a home of their own.
struct User {
    home: TempDir,
    variables: Vec<(&'static str, String)>,
}

/// How a run ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    /// The last line of standard output.
    result: Value,
    lines: Vec<Value>,
    messages: String,
}

impl Ran {
    /// What came of it for the only board.
    fn board(&self) -> &Value {
        let [board] = &self.result["boards"].as_array().unwrap()[..] else { panic!("{self:?}") };
        board
    }
}

impl User {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self.path(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(static_binary("kflash"));
        command.args(arguments).env_clear().env("HOME", self.home.path()).stdin(Stdio::null());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn json(&self, arguments: &[&str]) -> Ran {
        let output = self.command(arguments).arg("--json").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let messages = String::from_utf8(output.stderr).unwrap();
        let result = lines.last().cloned().unwrap_or_else(|| panic!("{messages}"));
        Ran { code: output.status.code().unwrap(), result, lines, messages }
    }

    fn text(&self, arguments: &[&str]) -> (String, String) {
        let output = self.command(arguments).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

fn published() -> (Server, Key, Vec<u8>) {
    let (server, key, image) = (Server::https(), Key::new(), firmware());
    publish(&server, &key, &index(7, &[entry(&image)]));
    server.reply(IMAGE, Reply::file(image.as_slice()));
    (server, key, image)
}

#[test]
fn fetch_says_what_it_fetched_and_from_whom() {
    let (server, key, image) = published();
    let user = User::new();
    let ca = user.write("ca.pem", &server.ca);
    let (from, key_line) = (server.url(INDEX), key.parsed().to_base64());
    let arguments = ["fetch", "--board", BOARD, "--from", &from, "--key", &key_line, "--ca", &ca];
    let ran = user.json(&arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    let index = &ran.result["index"];
    assert_eq!((&index["serial"], &index["old"]), (&7.into(), &false.into()));
    assert_eq!((&index["signed_by"], &ran.result["warnings"]), (&key.parsed().id.into(), &Value::Array(Vec::new())));
    let result = ran.board();
    assert_eq!((&result["result"], &result["cached"]), (&"fetched".into(), &false.into()));
    assert_eq!((&result["board"], &result["route"]), (&BOARD.into(), &"katapult-usb".into()));
    assert_eq!(result["provenance"]["origin"]["fetched"]["index"], from.as_str());
    assert!(result["checks"].as_array().unwrap().iter().all(|check| check["verdict"] == "agrees"), "{result}");
    let file = fs::read(result["path"].as_str().unwrap()).unwrap();
    assert_eq!(file, image);
    assert!(ran.lines.iter().any(|line| line["event"] == "progress" && line["done"] == image.len()), "{ran:?}");

    let again = user.json(&arguments);
    assert_eq!((&again.board()["cached"], &again.board()["path"]), (&true.into(), &result["path"]));

    let (text, messages) = user.text(&arguments);
    assert!(text.starts_with("In the cache already: Klipper v0.13.0-730-g84104bbbd\n"), "{text}");
    assert!(text.contains(&format!("serial 7, signed by key {}", key.parsed().id)), "{text}");
    assert_eq!(messages, format!("fetching the index {from}\n"));
}

#[test]
fn an_unsigned_index_is_loud() {
    let (server, key, _) = published();
    let user = User::new();
    let ca = user.write("ca.pem", &server.ca);
    let from = server.url(INDEX);
    let ran = user.json(&["fetch", "-b", BOARD, "--from", &from, "--ca", &ca]);
    assert_eq!(ran.code, 2, "without a key nothing is asked for: {ran:?}");
    assert!(ran.messages.contains("--allow-unsigned"), "{ran:?}");
    assert_eq!(server.requests(), []);

    server.forget(&format!("{INDEX}.minisig"));
    let ran = user.json(&["fetch", "-b", BOARD, "--from", &from, "--ca", &ca, "--key", &key.parsed().to_base64()]);
    assert_eq!((ran.code, &ran.result["exit"]), (3, &"refused".into()), "{ran:?}");

    let unsigned = ["fetch", "-b", BOARD, "--from", &from, "--ca", &ca, "--allow-unsigned"];
    let (text, messages) = user.text(&unsigned);
    assert!(text.contains("WARNING       the index is not signed: nobody vouches for this firmware"), "{text}");
    assert!(messages.contains("warning: "), "{messages}");
    let ran = user.json(&unsigned);
    assert_eq!(ran.result["warnings"][0], "the index is not signed: nobody vouches for this firmware");
    assert_eq!(ran.result["index"]["signed_by"], Value::Null);

    let both = user.json(&["fetch", "-b", BOARD, "--from", &from, "--allow-unsigned", "--key", "RW"]);
    assert_eq!(both.code, 2, "{both:?}");
}

#[test]
fn an_old_index_takes_a_word() {
    let (server, key, image) = published();
    let user = User::new();
    let (ca, from) = (user.write("ca.pem", &server.ca), server.url(INDEX));
    let key_file = key.public().display().to_string();
    let arguments = ["fetch", "-b", BOARD, "--from", &from, "--ca", &ca, "--key", &key_file];
    assert_eq!(user.json(&arguments).code, 0);
    publish(&server, &key, &index(6, &[entry(&image)]));
    let ran = user.json(&arguments);
    assert_eq!((ran.code, &ran.result["again"]), (3, &"no".into()), "{ran:?}");
    assert!(ran.messages.contains("--allow-old"), "{ran:?}");
    let ran = user.json(&[&arguments[..], &["--allow-old"]].concat());
    assert_eq!((ran.code, &ran.result["index"]["old"]), (0, &true.into()), "{ran:?}");
}

#[test]
fn the_configuration_names_index_key_and_authorities() {
    let (server, key, _) = published();
    let user = User::new();
    user.write("farm/ca.pem", &server.ca);
    let configuration = format!(
        "[fetch]\nindex = {:?}\nkey = {:?}\nca = \"~/farm/ca.pem\"\n",
        server.url(INDEX),
        key.parsed().to_base64()
    );
    user.write(".config/kflash/config.toml", &configuration);
    assert_eq!(user.json(&["fetch", "-b", BOARD]).code, 0);
    // What vouches for one index vouches for no other.
    let elsewhere = server.url("/other/index.json");
    assert_eq!(user.json(&["fetch", "-b", BOARD, "--from", &elsewhere]).code, 2);
}

#[test]
fn the_boards_of_a_printer_are_fetched_together() {
    let (server, key, _) = published();
    let user = User::new();
    let ca = user.write("ca.pem", &server.ca);
    let fetch =
        format!("[fetch]\nindex = {:?}\nkey = {:?}\nca = {ca:?}\n", server.url(INDEX), key.parsed().to_base64());
    let board = |name: &str, rest: &str| format!("[[printers.boards]]\nname = {name:?}\nboard = {BOARD:?}\n{rest}\n");
    let boards = [board("mcu", ""), board("usb", "route = \"dfu\""), board("own", "firmware = \"build\"")];
    let printer = |boards: &[String]| format!("{fetch}[[printers]]\nname = \"voron\"\n{}", boards.concat());
    user.write(".config/kflash/config.toml", &printer(&boards));

    let ran = user.json(&["fetch", "--printer", "voron"]);
    let ended: Vec<_> = ran.result["boards"].as_array().unwrap().iter().collect();
    assert_eq!((ended.len(), ran.code, &ran.result["result"]), (2, 8, &"failed".into()), "{ran:?}");
    assert_eq!((&ended[0]["name"], &ended[0]["result"]), (&"voron/mcu".into(), &"fetched".into()));
    assert_eq!((&ended[1]["name"], &ended[1]["exit"]), (&"voron/usb".into(), &"fetch".into()));
    assert!(ran.messages.contains("voron/own: left out, its firmware comes from the tree"), "{ran:?}");

    // What is named is fetched wherever it usually comes from.
    let ran = user.json(&["fetch", "--printer", "voron", "--board", "own"]);
    assert_eq!((ran.code, &ran.board()["cached"]), (0, &true.into()), "{ran:?}");
    let ran = user.json(&["fetch", "--printer", "voron", "--board", "owm"]);
    assert!(ran.messages.contains("voron has no board \"owm\"; it has mcu, usb, own"), "{ran:?}");
    user.write(".config/kflash/config.toml", &printer(&boards[2..]));
    let ran = user.json(&["fetch", "--printer", "voron"]);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.messages.contains("all firmware for voron comes from elsewhere"), "{ran:?}");
}

#[test]
fn the_environment_names_proxies_and_authorities() {
    let (server, key, _) = published();
    let proxy = Proxy::to(&server);
    let mut user = User::new();
    let ca = user.write("ca.pem", &server.ca);
    let (from, key) = (format!("https://{NAME}{INDEX}"), key.parsed().to_base64());
    let arguments = ["fetch", "-b", BOARD, "--from", &from, "--key", &key];
    user.variables = vec![("SSL_CERT_FILE", ca), ("HTTPS_PROXY", proxy.url())];
    let ran = user.json(&arguments);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(proxy.asked().iter().all(|line| line == &format!("CONNECT {NAME}:443 HTTP/1.1")), "{:?}", proxy.asked());
    user.variables[1] = ("ALL_PROXY", "socks5://127.0.0.1:1080".into());
    let ran = user.json(&arguments);
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.messages.contains("ALL_PROXY: a SOCKS proxy"), "{ran:?}");
    // This machine is reached without a proxy.
    let asked = proxy.asked().len();
    user.variables[1] = ("https_proxy", proxy.url());
    let ran = user.json(&["fetch", "-b", BOARD, "--from", &server.url(INDEX), "--key", &key]);
    assert_eq!((ran.code, proxy.asked().len()), (0, asked), "{ran:?}");
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let (server, key, _) = published();
    let user = User::new();
    let (ca, from, key) = (user.write("ca.pem", &server.ca), server.url(INDEX), key.parsed().to_base64());
    let fetch = |more: &[&str]| user.json(&[&["fetch", "--from", &from, "--key", &key, "--ca", &ca], more].concat());
    let ran = fetch(&["-b", "fysetc-spider"]);
    assert_eq!(ran.code, 8);
    assert!(ran.messages.contains("has nothing for fysetc-spider; it has images for btt-octopus-v1.1-f446"), "{ran:?}");
    let ran = fetch(&["-b", BOARD, "--version", "v9"]);
    assert_eq!(ran.code, 8);
    assert!(ran.messages.contains("nothing of version v9"), "{ran:?}");
    let ran = fetch(&["-b", BOARD, "--route", "dfuu"]);
    assert_eq!(ran.code, 2);
    assert!(ran.messages.contains("it has katapult-usb, katapult-dfu, dfu, vendor-dfu"), "{ran:?}");
}

#[test]
fn a_farm_has_one_machine_that_builds() {
    let (server, key, image) = published();
    let (builder, printer) = (User::new(), User::new());
    let ca = builder.write("ca.pem", &server.ca);
    let from = server.url(INDEX);
    let fetch = ["fetch", "-b", BOARD, "--from", &from, "--key", &key.parsed().to_base64(), "--ca", &ca];
    assert_eq!(builder.json(&fetch).code, 0);
    let (out, own) = (builder.path("out"), Key::new());
    let secret = own.secret().display().to_string();
    let ran = builder.json(&["publish", "--out", &out, "--sign", &secret]);
    assert_eq!((ran.code, &ran.result["result"]), (0, &"published".into()), "{ran:?}");
    let public = ran.result["key"]["base64"].as_str().unwrap().to_owned();
    assert_eq!(public, own.parsed().to_base64());

    let index = format!("{out}/index.json");
    let ran = printer.json(&["fetch", "-b", BOARD, "--from", &index, "--key", &public]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let file = fs::read(ran.board()["path"].as_str().unwrap()).unwrap();
    assert_eq!(Sha256::of(&file), Sha256::of(&image));

    let (text, _) = builder.text(&["publish", "--out", &out]);
    assert!(text.contains("WARNING       not signed: fetching it takes --allow-unsigned"), "{text}");
    let ran = printer.json(&["fetch", "-b", BOARD, "--from", &index, "--key", &public]);
    assert_eq!(ran.code, 3, "{ran:?}");
}

#[test]
fn a_passphrase_is_asked_for_on_the_terminal() {
    let user = User::new();
    let secret = user.write("key.sec", LOCKED);
    // `script` gives it a terminal; `setsid` takes away that of the tests.
    let kflash = static_binary("kflash").display().to_string();
    let run = format!("{kflash} publish --out out --sign key.sec");
    let answered = |passphrase: &str| {
        let line = format!("printf '{passphrase}\\n' | script -qec '{run}' /dev/null");
        shell(&line, user.home.path())
    };
    let asked = answered("secret");
    assert!(asked.contains("Passphrase of key.sec: "), "{asked}");
    assert!(asked.contains("holds no image to publish"), "the key was opened: {asked}");
    let refused = answered("wrong");
    assert!(refused.contains("passphrase") && !refused.contains("holds no image"), "{refused}");
    let nobody = shell(&format!("setsid --wait {run} 2>&1"), user.home.path());
    assert!(nobody.contains("its passphrase cannot be asked for"), "{nobody}");
    let missing = user.json(&["publish", "--out", "out", "--sign", &format!("{secret}.not")]);
    assert_eq!(missing.code, 2, "{missing:?}");
}

fn shell(line: &str, home: &Path) -> String {
    let output = Command::new("sh").args(["-c", line]).current_dir(home).env("HOME", home).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
