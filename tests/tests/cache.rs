//! A cache that many processes work on, and that are killed at any moment.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kflash::obtain::cache::{Cache, Key, Lookup};
use kflash::timestamp::Timestamp;
use tempfile::TempDir;
use tests::binary::example;

/// Processes that work at once: more than the machine has processors.
const WORKERS: u32 = 6;
/// How often each is killed and replaced.
const TURNS: u32 = 20;

/// A cache and the processes on it.
struct Yard {
    folder: TempDir,
    cache: Cache,
}

struct Worker(Child, BufReader<ChildStdout>);

/// Tells others that it is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Yard {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cache: Cache::at(folder.path().join("cache")), folder }
    }

    fn start(&self, work: &str, number: u32) -> Worker {
        let mut command = Command::new(example("cache_worker"));
        command.arg(self.cache.dir()).args([work, &number.to_string()]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        // Starting takes longer than most of what it does.
        let mut ready = String::new();
        output.read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        Worker(child, output)
    }

    /// Reads everything, over and over, until `done`: nobody may ever see half an entry. How many were read.
    fn read_until(&self, done: &AtomicBool) -> u32 {
        let mut reads = 0;
        while !done.load(Ordering::SeqCst) {
            for listed in self.cache.list().unwrap() {
                assert_eq!(listed.damage, None);
                if let Lookup::Damaged(damage) = self.cache.find(&listed.key.unwrap()).unwrap() {
                    panic!("{damage}");
                }
                reads += 1;
            }
            assert_eq!(self.cache.devices().unwrap().damage, []);
        }
        reads
    }

    /// What killed processes left behind is all gone after a sweep, and the cache is good for more.
    fn sweep(&self) {
        let swept = self.cache.gc(Duration::from_secs(3600), Timestamp::now(), false).unwrap();
        assert!(swept.failed.is_empty(), "{swept:?}");
        assert_eq!(names(&self.cache.dir().join("tmp")), [""; 0]);
        assert_eq!(names(&self.cache.dir().join("locks")), ["write.lock"]);
        let mut worker = self.start("build", 0);
        assert!(worker.0.wait().unwrap().success());
    }
}

impl Worker {
    /// Lets it work for a while and kills it. What it said is done.
    fn kill_after(mut self, time: Duration) -> Vec<String> {
        thread::sleep(time);
        self.0.kill().unwrap();
        self.said(false)
    }

    /// What it said once it has ended by itself, or was `killed`: it must not have failed.
    fn said(mut self, by_itself: bool) -> Vec<String> {
        let (mut said, mut errors) = (String::new(), String::new());
        self.1.read_to_string(&mut said).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        let status = self.0.wait().unwrap();
        assert_eq!((status.code(), errors.as_str()), (by_itself.then_some(0), ""), "{status}");
        // The last line may have been cut.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        whole.lines().map(str::to_owned).collect()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Up to 80 ms, in steps of a fraction of what a change takes.
fn time(n: u32) -> Duration {
    Duration::from_micros(u64::from((n * 7919) % 80_000))
}

#[test]
fn boards_that_many_add_to_one_image_are_all_there() {
    let yard = Yard::new();
    let mut added: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    let said: Vec<_> = thread::scope(|scope| {
        let workers = (0..WORKERS).map(|number| {
            // Killed as soon as the last.
            let worker = yard.start("grow", number);
            scope.spawn(move || worker.kill_after(Duration::from_millis(1200)))
        });
        let workers: Vec<_> = workers.collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    for line in said {
        let (key, board) = line.split_once(' ').unwrap();
        added.entry(key.parse().unwrap()).or_default().insert(board.to_owned());
    }
    assert!(!added.is_empty());
    for (key, boards) in added {
        let Lookup::Found(entry) = yard.cache.find(&key).unwrap() else { panic!("{key} is gone") };
        let kept: BTreeSet<_> = entry.provenance.boards.into_iter().map(|made_for| made_for.board.0).collect();
        assert!(kept.is_superset(&boards), "lost: {:?}", boards.difference(&kept));
    }
    yard.sweep();
}

#[test]
fn an_image_is_made_once_however_many_want_it() {
    let yard = Yard::new();
    let workers: Vec<_> = (0..WORKERS).map(|number| yard.start("build", number)).collect();
    let mut made: Vec<_> = workers.into_iter().flat_map(|worker| worker.said(true)).collect();
    made.sort();
    let keys: Vec<_> = yard.cache.list().unwrap().iter().map(|listed| listed.key.unwrap().to_string()).collect();
    assert_eq!(made, keys);
    assert_eq!(made.len(), 4);
}

#[test]
fn killed_at_any_moment_it_leaves_whole_entries_and_no_lock() {
    let yard = Yard::new();
    let done = AtomicBool::new(false);
    let (reads, killed) = thread::scope(|scope| {
        let reader = scope.spawn(|| yard.read_until(&done));
        let over = Over(&done);
        let lines = (0..WORKERS).map(|row| {
            let yard = &yard;
            scope.spawn(move || {
                let mut lines = 0;
                for turn in 0..TURNS {
                    let number = row * TURNS + turn;
                    let work = if number.is_multiple_of(3) { "grow" } else { "churn" };
                    lines += yard.start(work, number).kill_after(time(number)).len();
                }
                lines
            })
        });
        let lines: Vec<_> = lines.collect();
        let killed: usize = lines.into_iter().map(|lines| lines.join().unwrap()).sum();
        drop(over);
        (reader.join().unwrap(), killed)
    });
    assert!(reads > 0 && killed > 0, "{reads} reads, {killed} changes");
    yard.sweep();
}

#[test]
fn who_is_killed_while_making_an_image_holds_up_nobody() {
    let yard = Yard::new();
    for number in 0..12 {
        let first = yard.start("build", number);
        let second = yard.start("build", number + 100);
        first.kill_after(time(number) / 4);
        let said = second.said(true);
        assert!(said.len() <= 4);
        assert_eq!(yard.cache.list().unwrap().len(), 4);
        for listed in yard.cache.list().unwrap() {
            assert_eq!(listed.damage, None);
            yard.cache.remove(&listed.key.unwrap()).unwrap();
        }
    }
    assert!(names(yard.folder.path()).iter().any(|name| name == "cache"));
    yard.sweep();
}
