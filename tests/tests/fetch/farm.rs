//! A publisher with a minisign key, and a printer's host that fetches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use kflash::boards;
use kflash::clock::Clock;
use kflash::digest::Sha256;
use kflash::event::Event;
use kflash::flash::Interrupt;
use kflash::obtain::cache::Cache;
use kflash::obtain::fetch::{
    Believed, FetchError, FetchedImage, Fetcher, Location, Net, Patience, Proxies, PublicKey, Source, Wanted,
};
use kflash_sim::firmware::TestImage;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::server::{Reply, Server};

pub const BOARD: &str = "btt-octopus-v1.1-f446";
pub const INDEX: &str = "/stable/index.json";
pub const SIGNATURE: &str = "/stable/index.json.minisig";
pub const IMAGE: &str = "/stable/images/klipper.bin";

/// A secret key with the passphrase `secret`, and its public one, in minisign's format. Its scrypt takes the least that
/// the format allows (opslimit 32768, memlimit 16 MiB) in place of minisign's gigabyte and seconds.
pub const LOCKED: &str = "untrusted comment: minisign encrypted secret key\n\
    RWRTY0IyAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8AgAAAAAAAAAAAAAEAAAAAQF+ey+gJIRhlgmnaK5WC/8BOwGn7Ky5hDfk2WMxgsTa4hx3ScXJwdiuMCGfVm0nWuED3ZUTuyUZTbX3AVtyXCXCyGOpzva8kc+wwG/7fX3DPLk5HjUuop5pnKoT65TZ/vhPSQjFTay8=\n";
pub const LOCKED_PUBLIC: &str = "RWSeUwrnoeaCAeCQetMHF3e5icuKBisURo2rIs5TXqcN6tRinNjNKbLR";

/// A key pair of minisign's own making.
pub struct Key {
    dir: TempDir,
}

impl Key {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        minisign(dir.path(), &["-G", "-W", "-p", "key.pub", "-s", "key.sec"]);
        Self { dir }
    }

    pub fn secret(&self) -> PathBuf {
        self.dir.path().join("key.sec")
    }

    pub fn public(&self) -> PathBuf {
        self.dir.path().join("key.pub")
    }

    pub fn parsed(&self) -> PublicKey {
        PublicKey::parse(&fs::read_to_string(self.public()).unwrap()).unwrap()
    }

    /// minisign's signature of `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), bytes).unwrap();
        minisign(dir.path(), &["-S", "-s", self.secret().to_str().unwrap(), "-m", "file"]);
        fs::read(dir.path().join("file.minisig")).unwrap()
    }
}

/// Runs Debian's minisign, which ends well.
pub fn minisign(dir: &Path, arguments: &[&str]) {
    let output = Command::new("minisign").args(arguments).current_dir(dir).stdin(Stdio::null()).output();
    let output =
        output.unwrap_or_else(|error| panic!("cannot run minisign: {error}; run `tools/debian-packages test`"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The firmware of the octopus behind Katapult.
pub fn firmware() -> Vec<u8> {
    TestImage::klipper("stm32f446xx", 0x0800_8000).build()
}

pub const VERSION: &str = "v0.13.0-730-g84104bbbd";

/// What an index says of `image`.
pub fn entry(image: &[u8]) -> Value {
    json!({
        "board": BOARD,
        "route": "katapult-usb",
        "app": "Klipper",
        "version": VERSION,
        "mcu": "stm32f446xx",
        "start": "0x08008000",
        "size": image.len(),
        "sha256": Sha256::of(image),
        "url": "images/klipper.bin",
    })
}

/// An index of these entries.
pub fn index(serial: u64, images: &[Value]) -> Vec<u8> {
    json!({"format": 1, "created": "2026-01-31T12:00:00Z", "serial": serial, "images": images}).to_string().into_bytes()
}

/// Serves an index with its signature.
pub fn publish(server: &Server, key: &Key, index: &[u8]) {
    server.forget(INDEX).forget(SIGNATURE);
    server.reply(INDEX, Reply::file(index)).reply(SIGNATURE, Reply::file(key.sign(index)));
}

/// A clock that only goes on when somebody waits by it.
#[derive(Default)]
pub struct Waited(Mutex<Duration>);

impl Waited {
    pub fn now_in_tenths(&self) -> u128 {
        self.now().as_millis() / 100
    }
}

impl Clock for Waited {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
    }
}

/// A host that fetches from a server.
pub struct Host {
    pub net: Net,
    pub cache: Cache,
    pub clock: Waited,
    pub interrupt: Interrupt,
    pub source: Source,
    dir: TempDir,
    events: Mutex<Vec<Event>>,
}

impl Host {
    /// One that trusts the server's certificate and `key`.
    pub fn of(server: &Server, key: &Key) -> Self {
        Self::new(Some(server.ca.as_bytes()), Proxies::default(), &server.url(INDEX), key)
    }

    pub fn new(ca: Option<&[u8]>, proxies: Proxies, index: &str, key: &Key) -> Self {
        // Only what really stalls takes this long.
        let patience = Patience { stall: Duration::from_millis(300), ..Patience::default() };
        let dir = tempfile::tempdir().unwrap();
        Self {
            net: Net::new(ca, proxies, patience).unwrap(),
            cache: Cache::at(dir.path().join("cache")),
            clock: Waited::default(),
            interrupt: Interrupt::default(),
            source: Source { index: Location::parse(index).unwrap(), key: Some(key.parsed()), allow_old: false },
            dir,
            events: Mutex::default(),
        }
    }

    pub fn index(&self) -> Result<Believed, FetchError> {
        self.fetcher().index(&self.source, &mut |event| self.events.lock().unwrap().push(event))
    }

    pub fn fetch(&self) -> Result<FetchedImage, FetchError> {
        let believed = self.index()?;
        let (profile, chip) = boards::find(BOARD).unwrap();
        let wanted = Wanted { profile: &profile, route: None, version: None };
        let mut hear = |event| self.events.lock().unwrap().push(event);
        self.fetcher().image(&believed, &wanted, &chip, &mut hear)
    }

    /// The message and the exit code of a fetch that fails, with nothing in the cache.
    pub fn refused(&self) -> (String, u8) {
        let error = self.fetch().map(|fetched| fetched.entry.key).unwrap_err();
        assert_eq!(self.cache.list().unwrap(), [], "{error}");
        (error.to_string(), error.exit().code())
    }

    pub fn warnings(&self) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let warnings = events.iter().filter_map(|event| match event {
            Event::Warning { text } => Some(text.clone()),
            _ => None,
        });
        warnings.collect()
    }

    /// Every file below the host's own directory.
    pub fn files(&self) -> Vec<String> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() { walk(&entry.path(), found) } else { found.push(entry.path()) }
            }
        }
        let mut found = Vec::new();
        walk(self.dir.path(), &mut found);
        found.iter().map(|path| path.strip_prefix(self.dir.path()).unwrap().display().to_string()).collect()
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher { net: &self.net, cache: &self.cache, clock: &self.clock, interrupt: &self.interrupt }
    }
}
