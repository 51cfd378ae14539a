//! A firmware tree to build from: the small one of `tests/firmware-tree`, or with `KFLASH_TEST_KLIPPER=DIR` a copy of a
//! real one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kflash::board::Profile;
use kflash::boards;
use kflash::chip::Chip;
use kflash::flash::Interrupt;
use kflash::obtain::build::tree::Tree;
use kflash::obtain::build::{BuildEvent, Builder, Environment, Order, Outcome};
use kflash::obtain::cache::Cache;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A tree, and a cache to build it in.
pub struct FirmwareTree {
    /// Both, and whatever else a test wants.
    pub root: TempDir,
    /// The tree.
    pub dir: PathBuf,
    /// What builds see.
    pub environment: Environment,
}

/// Whether the tree is a real one, which takes longer and has more in it.
pub fn is_real() -> bool {
    real().is_some()
}

fn real() -> Option<OsString> {
    std::env::var_os("KFLASH_TEST_KLIPPER").filter(|dir| !dir.is_empty())
}

impl FirmwareTree {
    /// A tree as it is after `git clone`, with the tag v0.13.0 somewhere.
    pub fn new() -> Self {
        let tree = Self::without_git_first();
        if !is_real() {
            tree.git(&["init", "--quiet"]);
            tree.commit("tree");
            tree.git(&["tag", "-a", "-m", "release", "v0.13.0"]);
        }
        tree
    }

    /// The small tree as files alone; a real one, as it was cloned.
    fn without_git_first() -> Self {
        let root = tempfile::tempdir().expect("there is room for a tree");
        let dir = root.path().join("klipper");
        match real() {
            Some(real) => run(Command::new("git").args(["clone", "--quiet", "--shared", "--"]).arg(real).arg(&dir)),
            None => run(Command::new("cp")
                .arg("-r")
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-tree"))
                .arg(&dir)),
        }
        Self { root, dir, environment: Environment::of(std::env::vars_os()) }
    }

    /// Commits whatever was changed.
    pub fn commit(&self, message: &str) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
    }

    /// Runs git in the tree.
    pub fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        git.current_dir(&self.dir).args(["-c", "user.name=Test", "-c", "user.email=test@localhost"]).args(arguments);
        run(&mut git);
    }

    /// Replaces `from` by `to` in a file of the tree; it has to be there.
    pub fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.dir.join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(from), "{file} does not hold {from:?}");
        fs::write(path, text.replace(from, to)).expect("the tree can be written to");
    }

    /// A cache of this name beside the tree.
    pub fn cache(&self, name: &str) -> Cache {
        Cache::at(self.root.path().join(name))
    }

    /// The tree as kflash sees it now.
    pub fn look(&self) -> Tree {
        Tree::at(&self.dir, &self.environment, &Interrupt::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Builds in the cache `cache`, which must leave every byte and time of the tree as it is. Returns what came of each
    /// order, and what happened.
    pub fn build(&self, cache: &str, orders: &[Order]) -> (Vec<Outcome>, Vec<BuildEvent>) {
        let before = fingerprint(&self.dir);
        let tree = self.look();
        let (cache, interrupt) = (self.cache(cache), Interrupt::default());
        let builder = Builder { cache: &cache, environment: &self.environment, interrupt: &interrupt, jobs: 2 };
        let mut events = Vec::new();
        let outcomes = builder.build(&tree, orders, &mut |event| events.push(event));
        assert_eq!(fingerprint(&self.dir), before, "the tree was changed");
        (outcomes, events)
    }
}

impl Default for FirmwareTree {
    fn default() -> Self {
        Self::new()
    }
}

/// Every file, link and directory below `dir`: its kind, permissions, owner, time and content.
pub fn fingerprint(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a directory can be read") {
            let path = entry.expect("a directory can be read").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let content = match () {
                () if meta.is_dir() => {
                    folders.push(path.clone());
                    String::new()
                }
                () if meta.is_symlink() => fs::read_link(&path).expect("it is a link").display().to_string(),
                () => {
                    let digest = Sha256::digest(fs::read(&path).expect("a file can be read"));
                    format!("{digest:?}")
                }
            };
            let (mode, owner, time) = (meta.mode(), meta.uid(), (meta.mtime(), meta.mtime_nsec()));
            found.insert(path, format!("{mode:o} {owner} {time:?} {content}"));
        }
    }
    found
}

/// An order for a built-in board, for a route or its first.
pub fn order(board: &str, route: Option<&str>) -> Order {
    let (profile, chip) = boards::find(board).unwrap_or_else(|error| panic!("{error}"));
    Order::new(profile, chip, route, Vec::new()).unwrap_or_else(|error| panic!("{error}"))
}

/// An order for a board that no profile describes: one of this MCU, with these symbols, whose application starts at
/// `start` and talks over `cable`.
pub fn order_of(mcu: &str, start: u32, cable: &str, symbols: &[&str]) -> Order {
    let symbols: BTreeMap<_, _> = symbols.iter().map(|symbol| (*symbol, "y")).collect();
    let profile: Profile = serde_json::from_value(serde_json::json!({
        "id": format!("test-{mcu}"),
        "name": mcu,
        "chip": mcu,
        "verified": "simulated",
        "kconfig": symbols,
        "bootloaders": [{"id": "none", "kind": "none", "app-start": start}],
        "routes": [{"id": "only", "bootloader": "none", "cable": cable, "protocol": "dfuse", "enter": ["boot0"]}],
        "hands": {},
        "sources": [],
    }))
    .expect("a profile");
    let chip: Chip = serde_json::from_value(serde_json::json!({
        "id": mcu,
        "mcu": [mcu],
        "flash-start": start,
        "sectors": "248*1K",
        "ram": [{"start": 0x2000_0000, "size": 0x4_2000}],
        "program-unit": 256,
    }))
    .expect("a chip");
    Order::new(profile, chip, None, Vec::new()).unwrap_or_else(|error| panic!("{error}"))
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
