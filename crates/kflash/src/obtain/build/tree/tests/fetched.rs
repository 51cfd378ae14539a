//! Trees of repositories that are fetched, and of other commits than the one that is checked out.

use std::time::Duration;

use super::*;
use crate::timestamp::Timestamp;

impl Bench {
    fn fetch(&self, reference: Option<&str>) -> Result<Tree, TreeError> {
        let url = format!("file://{}", self.tree().display());
        Tree::fetch(&url, reference, &self.cache(), &self.environment, &self.interrupt, &mut |_| {})
    }

    fn at_reference(&self, reference: &str) -> Result<Tree, TreeError> {
        Tree::at_reference(&self.tree(), reference, &self.environment, &self.interrupt)
    }
}

#[test]
fn every_kind_of_reference_names_its_commit() {
    let bench = Bench::new();
    let first = bench.git("rev-parse HEAD");
    bench.write("src/stm32/main.c", "second");
    let second = bench.commit("second");
    bench.git("branch feature/x HEAD~");
    bench.git("tag -a -m annotated v2.0");
    bench.write("src/stm32/main.c", "dirty");
    for (reference, commit) in [
        ("master", &second),
        ("feature/x", &first),
        ("v1.0", &first),
        ("v2.0", &second),
        (first.as_str(), &first),
        (&first[..8], &first),
    ] {
        for tree in [bench.fetch(Some(reference)).unwrap(), bench.at_reference(reference).unwrap()] {
            assert_eq!(tree.commit(), Some(commit.as_str()), "{reference}");
            assert_eq!(tree.version(), bench.git(&format!("describe --always --tags --long {commit}")));
            assert_eq!((tree.app(), tree.sha256(), tree.is_dirty()), ("Klipper", None, false));
        }
    }
    let tree = bench.fetch(None).unwrap();
    assert_eq!(tree.commit(), Some(second.as_str()));
    let place = format!("file://{}", bench.tree().display());
    assert_eq!((tree.origin(), tree.place()), (Some(place.as_str()), place.as_str()));
    let snapshot = bench.snapshot(&tree).unwrap();
    assert_eq!(fs::read_to_string(snapshot.dir().join("src/stm32/main.c")).unwrap(), "second");
    assert_eq!(bench.describe(snapshot.dir()), tree.version());
}

#[test]
fn the_server_is_asked_again_for_branches_and_unknown_commits_alone() {
    let bench = Bench::new();
    let first = bench.fetch(Some("master")).unwrap();
    bench.write("src/stm32/main.c", "second");
    let second = bench.commit("second");
    bench.git("tag v2.0");
    assert_eq!(bench.fetch(Some("v2.0")).unwrap().commit(), Some(second.as_str()));
    bench.write("src/stm32/main.c", "third");
    let third = bench.commit("third");
    assert_eq!(bench.fetch(Some("master")).unwrap().commit(), Some(third.as_str()));
    // On no branch any more.
    bench.git("config uploadpack.allowAnySHA1InWant true");
    bench.write("src/stm32/main.c", "lost");
    let lost = bench.commit("lost");
    bench.git("reset -q --hard HEAD~");
    assert_eq!(bench.fetch(Some(&lost)).unwrap().commit(), Some(lost.as_str()));

    fs::rename(bench.tree(), bench.path("gone")).unwrap();
    for known in ["v1.0", "v2.0", first.commit().unwrap(), &second[..9], &lost] {
        let tree = bench.fetch(Some(known)).unwrap();
        assert!(bench.snapshot(&tree).is_ok());
    }
    for asked in [None, Some("master"), Some("v3.0")] {
        let error = bench.fetch(asked).unwrap_err();
        assert_eq!(error.exit().code(), 8);
        assert!(error.to_string().starts_with("cannot fetch file:///"), "{error}");
    }
}

#[test]
fn what_is_no_reference_and_what_is_not_there_is_refused() {
    let bench = Bench::new();
    for reference in
        ["", "-x", "--upload-pack=reboot", "a..b", "HEAD^{/x}", "@{-1}", ":/x", "/etc", "a b", "a\nb", "~1"]
    {
        for error in [bench.fetch(Some(reference)).unwrap_err(), bench.at_reference(reference).unwrap_err()] {
            assert_eq!(error.to_string(), format!("{reference:?} is no branch, tag or commit"));
            assert_eq!(error.exit().code(), 2);
        }
    }
    assert!(!bench.path("cache").exists());
    for reference in ["none", "abcdef0", "refs"] {
        for error in [bench.fetch(Some(reference)).unwrap_err(), bench.at_reference(reference).unwrap_err()] {
            assert!(error.to_string().ends_with(&format!("no branch, tag or commit {reference:?}")), "{error}");
            assert_eq!(error.exit().code(), 2);
        }
    }
    let error = Tree::at_reference(&bench.path("home"), "x", &bench.environment, &bench.interrupt).unwrap_err();
    assert!(error.to_string().contains("it is no git repository"), "{error}");
    bench.git("rm -q src/Kconfig");
    bench.git("commit -q -m without");
    let error = bench.fetch(Some("master")).unwrap_err();
    assert!(error.to_string().ends_with("no Klipper or Kalico tree: it has no src/Kconfig"), "{error}");
}

#[test]
fn several_runs_fetch_at_once_and_a_half_made_mirror_is_finished() {
    let bench = Bench::new();
    // As a run leaves it that was killed right after git's `init`, or in the middle of it.
    let mirror = bench.fetch(None).unwrap();
    let git = bench.path("cache").join("git");
    let dir = fs::read_dir(&git).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir_all(dir.join("objects")).unwrap();
    let all: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.fetch(Some("master")).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|tree| tree == &mirror));
}

#[test]
fn fetching_tells_its_progress_and_can_be_stopped() {
    let mut bench = Bench::new();
    let mut lines = Vec::new();
    let url = bench.tree().display().to_string();
    let progress = &mut |line: &str| lines.push(line.to_owned());
    Tree::fetch(&url, None, &bench.cache(), &bench.environment, &bench.interrupt, progress).unwrap();
    assert!(lines.iter().any(|line| line.contains("->") || line.contains('%')), "{lines:?}");

    bench.with_git("case \"$*\" in *fetch*) sleep 1000;; esac");
    bench.interrupt.request();
    assert!(matches!(bench.fetch(Some("other")), Err(TreeError::Interrupted)));
}

#[test]
fn gc_leaves_alone_what_a_snapshot_needs() {
    let bench = Bench::new();
    let tree = bench.fetch(None).unwrap();
    let snapshot = bench.snapshot(&tree).unwrap();
    // A lock that is let go of is still held by what another thread forks meanwhile, until that runs a program.
    let removed_first = || {
        for _ in 0..500 {
            let swept = bench.cache().gc(Duration::ZERO, Timestamp::now(), false).unwrap();
            assert!(swept.failed.is_empty(), "{swept:?}");
            if let [removed, ..] = &swept.removed[..] {
                assert_eq!(swept.removed.len(), 1, "{swept:?}");
                return removed.path.components().next().unwrap().as_os_str().to_owned();
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("nothing is removed");
    };
    assert_eq!(removed_first(), "trees");
    assert_eq!(bench.describe(snapshot.dir()), tree.version());
    assert_eq!(fs::read_to_string(snapshot.dir().join("Makefile")).unwrap(), "all:\n");
    drop(snapshot);
    assert_eq!(removed_first(), "git");
    assert_eq!(fs::read_dir(bench.path("cache/tmp")).unwrap().count(), 0);
}
