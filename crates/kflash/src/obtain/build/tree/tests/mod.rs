//! Trees made here, with the git that is installed; each test has a home and a cache of its own.
#![expect(clippy::unwrap_used, reason = "tests")]

mod contents;
mod fetched;
mod kinds;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;
use crate::klipper::dictionary::hex;

/// A directory to work in, with `tree/`, `home/` and `cache/`.
struct Bench {
    dir: TempDir,
    environment: Environment,
    interrupt: Interrupt,
}

impl Bench {
    /// With a small tree of one commit, tagged `v1.0`.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join(".gitconfig"), "[user]\n\tname = T\n\temail = t@example.org\n").unwrap();
        let variables = [("PATH".into(), std::env::var_os("PATH").unwrap()), ("HOME".into(), home.into_os_string())];
        let bench = Self { dir, environment: Environment::of(variables), interrupt: Interrupt::default() };
        bench.write("Makefile", "all:\n");
        bench.write("src/Kconfig", "mainmenu \"Klipper Firmware Configuration\"\n");
        bench.write("src/stm32/main.c", "int main(void) { return 0; }\n");
        bench.write("scripts/buildcommands.py", "data['app'] = 'Klipper'\n");
        bench.write("scripts/run.sh", "#!/bin/sh\n");
        bench.write("klippy/msgproto.py", "import zlib\n");
        bench.write("klippy/extras/probe.py", "pass\n");
        bench.write(".gitignore", "out\n*.so\n*.pyc\n.config\nklippy/.version\n");
        fs::set_permissions(bench.tree().join("scripts/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        bench.git("init -q -b master");
        bench.commit("first");
        bench.git("tag v1.0");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tree(&self) -> PathBuf {
        self.path("tree")
    }

    fn cache(&self) -> Cache {
        Cache::at(self.path("cache"))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.tree().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn git(&self, command: &str) -> String {
        self.git_in(&self.tree(), command)
    }

    fn git_in(&self, dir: &Path, command: &str) -> String {
        let mut git = self.environment.command("git");
        git.args(["-c", "protocol.file.allow=always", "-c", "init.defaultBranch=master"]);
        let output = git.arg("-C").arg(dir).args(command.split(' ')).output().unwrap();
        assert!(output.status.success(), "git {command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, message: &str) -> String {
        self.git("add -A");
        self.git(&format!("commit -q -m {message}"));
        self.git("rev-parse HEAD")
    }

    fn at(&self, dir: &Path) -> Result<Tree, TreeError> {
        Tree::at(dir, &self.environment, &self.interrupt)
    }

    fn look(&self) -> Tree {
        self.at(&self.tree()).unwrap()
    }

    fn snapshot(&self, tree: &Tree) -> Result<Snapshot, TreeError> {
        tree.snapshot(&self.cache(), &self.environment, &self.interrupt)
    }

    /// What Klipper asks git for in the directory that it is built in.
    fn describe(&self, dir: &Path) -> String {
        self.git_in(dir, "describe --always --tags --long --dirty")
    }

    /// Looks at the tree and copies it. Its version must be git's in both places, and the tree must be untouched.
    fn copy(&self) -> (Tree, Snapshot) {
        let before = everything(&self.tree());
        let tree = self.look();
        let snapshot = self.snapshot(&tree).unwrap();
        untouched(&before, &self.tree());
        assert_eq!(tree.version(), self.describe(&self.tree()));
        assert_eq!(tree.version(), self.describe(snapshot.dir()));
        (tree, snapshot)
    }

    /// The PATH, with a `git` before all others that runs `script` and then git.
    fn with_git(&mut self, script: &str) {
        let bin = self.path("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = std::env::var_os("PATH").unwrap();
        let find = Command::new("sh").args(["-c", "command -v git"]).output().unwrap();
        let git = String::from_utf8(find.stdout).unwrap();
        fs::write(bin.join("git"), format!("#!/bin/sh\n{script}\nexec {} \"$@\"\n", git.trim())).unwrap();
        fs::set_permissions(bin.join("git"), fs::Permissions::from_mode(0o755)).unwrap();
        let mut both = OsString::from(&bin);
        both.push(":");
        both.push(path);
        self.environment =
            Environment::of([("PATH".into(), both), ("HOME".into(), self.path("home").into_os_string())]);
    }
}

/// Path, kind, mode, times and content of everything below `dir`, `.git` included.
fn everything(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                folders.push(path.clone());
                String::new()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                hex(&fs::read(&path).unwrap())
            };
            let content = hex(&Sha256::digest(content));
            let times = (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec());
            found.insert(path, format!("{:o} {times:?} {} {content}", stat.mode(), stat.ino()));
        }
    }
    found
}

/// Fails if anything below `dir` is not as it was.
fn untouched(before: &BTreeMap<PathBuf, String>, dir: &Path) {
    let now = everything(dir);
    let differ: Vec<_> = before.iter().filter(|&(path, was)| now.get(path) != Some(was)).collect();
    let new: Vec<_> = now.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(differ.is_empty() && new.is_empty(), "{differ:?} {new:?}");
}

/// The files of a snapshot but for its git directory: path and content.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let all = files::all_below(dir).unwrap().into_iter().filter(|path| !path.starts_with(".git"));
    all.map(|path| {
        let whole = dir.join(&path);
        let content = match fs::read_link(&whole) {
            Ok(target) => format!("-> {}", target.display()),
            Err(_) => fs::read_to_string(&whole).unwrap(),
        };
        (path.display().to_string(), content)
    })
    .collect()
}
