//! What is copied of a tree, and what tells it from another.

use super::*;

fn text(snapshot: &Snapshot, path: &str) -> Option<String> {
    fs::read_to_string(snapshot.dir().join(path)).ok()
}

#[test]
fn a_clean_tree_is_its_commit() {
    let bench = Bench::new();
    bench.git("remote add fork https://me:secret@example.org/fork");
    bench.git("remote add origin https://me:secret@example.org/klipper.git");
    bench.write("out/klipper.elf", "an old build");
    bench.write(".config", "CONFIG_OLD=y");
    bench.write("klippy/__pycache__/msgproto.cpython-313.pyc", "");
    let commit = bench.git("rev-parse HEAD");
    let (tree, snapshot) = bench.copy();
    assert_eq!((tree.app(), tree.commit(), tree.sha256()), ("Klipper", Some(commit.as_str()), None));
    assert_eq!(tree.origin(), Some("https://example.org/klipper.git"));
    assert_eq!(tree.version(), format!("v1.0-0-g{}", &commit[..7]));
    assert!(!tree.is_dirty());
    assert_eq!(tree.id(), format!("commit {commit} changes none version {}", tree.version()));
    let mut wanted = files(&bench.tree());
    wanted.retain(|path, _| !["out/", ".config", "klippy/__pycache__"].iter().any(|left| path.starts_with(left)));
    assert_eq!(files(snapshot.dir()), wanted);
    let mode = |path: &str| fs::metadata(snapshot.dir().join(path)).unwrap().mode() & 0o111;
    assert_eq!((mode("scripts/run.sh") & 0o100, mode("Makefile")), (0o100, 0));
    let dir = snapshot.dir().to_owned();
    drop(snapshot);
    assert!(!dir.exists());
    assert_eq!(fs::read_dir(bench.path("cache").join("tmp")).unwrap().count(), 0);
}

/// Every way in which a work tree can differ. Sizes stay, and all happens within a second: times tell nothing.
#[test]
fn a_dirty_tree_is_copied_as_it_is() {
    let bench = Bench::new();
    bench.write("src/a", "a file that becomes a directory");
    bench.write("src/d/b", "a directory that becomes a file");
    bench.write("src/e/b", "a directory that becomes a link");
    bench.write("src/renamed \"1\"\n", "x");
    bench.commit("second");
    let clean = bench.copy().0;
    let (main, other) = ("int main(void) { return 0; }\n", "int main(void) { return 1; }\n");
    bench.write("src/stm32/main.c", other);
    let (tree, snapshot) = bench.copy();
    assert_eq!(text(&snapshot, "src/stm32/main.c").unwrap(), other);
    assert!(tree.is_dirty() && tree.version().ends_with("-dirty"));
    assert_eq!(tree.commit(), clean.commit());
    assert_ne!(tree.id(), clean.id());
    assert_eq!(bench.look().id(), tree.id());

    let step = |change: &dyn Fn(), check: &dyn Fn(&Snapshot)| {
        let before = bench.look().id();
        change();
        let (tree, snapshot) = bench.copy();
        assert_ne!(tree.id(), before);
        assert!(tree.is_dirty());
        check(&snapshot);
    };
    let root = bench.tree();
    step(&|| fs::remove_file(root.join("klippy/extras/probe.py")).unwrap(), &|copy| {
        assert_eq!(text(copy, "klippy/extras/probe.py"), None);
    });
    let run = root.join("scripts/run.sh");
    step(&|| fs::set_permissions(&run, fs::Permissions::from_mode(0o644)).unwrap(), &|copy| {
        assert_eq!(fs::metadata(copy.dir().join("scripts/run.sh")).unwrap().mode() & 0o100, 0);
    });
    step(&|| bench.write("src/new.c", "new"), &|copy| assert_eq!(text(copy, "src/new.c").unwrap(), "new"));
    step(&|| bench.write("src/new.c", "NEW"), &|copy| assert_eq!(text(copy, "src/new.c").unwrap(), "NEW"));
    let become_directory = || {
        fs::remove_file(root.join("src/a")).unwrap();
        bench.write("src/a/b", "inside");
    };
    step(&become_directory, &|copy| assert_eq!(text(copy, "src/a/b").unwrap(), "inside"));
    let become_file = || {
        fs::remove_dir_all(root.join("src/d")).unwrap();
        bench.write("src/d", "file");
    };
    step(&become_file, &|copy| assert_eq!(text(copy, "src/d").unwrap(), "file"));
    let become_link = || {
        fs::remove_dir_all(root.join("src/e")).unwrap();
        std::os::unix::fs::symlink("stm32", root.join("src/e")).unwrap();
    };
    step(&become_link, &|copy| {
        assert_eq!(fs::read_link(copy.dir().join("src/e")).unwrap(), Path::new("stm32"));
        assert_eq!(text(copy, "src/e/main.c").unwrap(), other);
    });
    step(&|| bench.write("src/renamed \"1\"\n", "y"), &|copy| {
        assert_eq!(text(copy, "src/renamed \"1\"\n").unwrap(), "y");
    });
    bench.write("src/stm32/main.c", main);
    bench.git("checkout -q -f .");
    bench.git("clean -q -f -d");
    assert_eq!(bench.copy().0.id(), clean.id());
}

#[test]
fn what_is_staged_counts_as_git_counts_it() {
    let bench = Bench::new();
    bench.write("src/staged.c", "staged");
    bench.git("add src/staged.c");
    let (tree, snapshot) = bench.copy();
    assert!(tree.is_dirty());
    assert_eq!(text(&snapshot, "src/staged.c").unwrap(), "staged");
    bench.git("reset -q --hard");
    // Changed, staged, and changed back: the files are the commit's, and Klipper calls it dirty all the same.
    let makefile = fs::read_to_string(bench.tree().join("Makefile")).unwrap();
    bench.write("Makefile", "changed");
    bench.git("add Makefile");
    bench.write("Makefile", &makefile);
    let (tree, snapshot) = bench.copy();
    assert!(tree.is_dirty());
    assert_eq!(text(&snapshot, "Makefile").unwrap(), makefile);
}

#[test]
fn files_that_git_does_not_know_count_but_are_not_dirty() {
    let bench = Bench::new();
    let clean = bench.look();
    bench.write("src/sensor.c", "1");
    let (tree, snapshot) = bench.copy();
    assert!(!tree.is_dirty());
    assert_eq!(text(&snapshot, "src/sensor.c").unwrap(), "1");
    assert_ne!(tree.id(), clean.id());
    // An installer hides its sources from git; the build would take them.
    bench.write(".git/info/exclude", "sensor.c\n");
    assert_eq!(bench.copy().0.id(), tree.id());
    bench.write("src/sensor.c", "2");
    assert_ne!(bench.copy().0.id(), tree.id());
    fs::remove_file(bench.tree().join("src/sensor.c")).unwrap();
    assert_eq!(bench.look().id(), clean.id());
}

/// Kalico's `src/extras`, where every file is ignored by git and every folder with a Kconfig is built.
#[test]
fn firmware_modules_that_a_person_added_count() {
    let bench = Bench::new();
    bench.write("src/extras/.gitignore", "*\n");
    bench.git("add -f src/extras/.gitignore");
    bench.commit("extras");
    let clean = bench.copy().0;
    bench.write("src/extras/Kconfig", "made by make\n");
    assert_eq!(bench.look().id(), clean.id());
    bench.write("src/extras/mine/Kconfig", "config MINE\n");
    let (tree, snapshot) = bench.copy();
    assert_ne!(tree.id(), clean.id());
    assert_eq!(text(&snapshot, "src/extras/mine/Kconfig").unwrap(), "config MINE\n");
    assert_eq!(text(&snapshot, "src/extras/Kconfig"), None);
    // A clone in the tree, of which git lists the folder alone.
    bench.git_in(&bench.tree().join("src/extras/mine"), "init -q");
    let (cloned, snapshot) = bench.copy();
    assert_eq!(cloned.id(), tree.id());
    assert!(!snapshot.dir().join("src/extras/mine/.git").exists());
}

#[test]
fn links_out_of_the_tree_are_never_followed() {
    let bench = Bench::new();
    let outside = bench.path("secret");
    fs::write(&outside, "secret").unwrap();
    // Host plugins are installed so. They stay links, whether git knows the place or not.
    std::os::unix::fs::symlink(&outside, bench.tree().join("klippy/extras/plugin.py")).unwrap();
    fs::remove_file(bench.tree().join("klippy/extras/probe.py")).unwrap();
    std::os::unix::fs::symlink(&outside, bench.tree().join("klippy/extras/probe.py")).unwrap();
    let (_, snapshot) = bench.copy();
    assert_eq!(fs::read_link(snapshot.dir().join("klippy/extras/plugin.py")).unwrap(), outside);
    bench.git("reset -q --hard");
    for (link, target) in [
        ("src/sensor.c", outside.to_str().unwrap()),
        ("src/sensor.c", "../../secret"),
        ("src/stm32/sensor.c", "../main/../../../secret"),
        ("src/extras/module", "/tmp"),
        ("klippy/msgproto.py", "/etc/hosts"),
    ] {
        let path = bench.tree().join(link);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, &path).unwrap();
        let error = bench.at(&bench.tree()).unwrap_err();
        let place = fs::canonicalize(bench.tree()).unwrap();
        let message = format!("{}: {link} is a symbolic link out of the tree, to {target:?}", place.display());
        assert_eq!((error.to_string(), error.exit().code()), (message, 7));
        fs::remove_file(&path).unwrap();
        bench.git("reset -q --hard");
    }
    // A commit may hold such a link, too.
    std::os::unix::fs::symlink("/etc", bench.tree().join("src/etc")).unwrap();
    bench.commit("hostile");
    let tree = bench.look();
    assert!(matches!(bench.snapshot(&tree), Err(TreeError::LinkOutside { .. })));
    assert!(!bench.path("cache").join("trees").join(tree.commit().unwrap()).exists());
}

#[test]
fn a_tree_that_changes_meanwhile_is_found_out() {
    let bench = Bench::new();
    bench.write("src/stm32/main.c", "1");
    let tree = bench.look();
    bench.write("src/stm32/main.c", "2");
    let error = bench.snapshot(&tree).unwrap_err();
    assert!(matches!(error, TreeError::Changed { .. }), "{error}");
    assert_eq!(error.exit().code(), 7);
    bench.write("src/stm32/main.c", "1");
    assert!(bench.snapshot(&tree).is_ok());
    bench.write("src/more.c", "");
    assert!(matches!(bench.snapshot(&tree), Err(TreeError::Changed { .. })));
    fs::remove_file(bench.tree().join("src/more.c")).unwrap();
    bench.git("commit -q -a -m other");
    assert!(matches!(bench.snapshot(&tree), Err(TreeError::Changed { .. })));
    // A clean tree is its commit, whatever happens to the files.
    let tree = bench.look();
    bench.write("src/stm32/main.c", "3");
    let snapshot = bench.snapshot(&tree).unwrap();
    assert_eq!(text(&snapshot, "src/stm32/main.c").unwrap(), "1");
    assert_eq!(bench.describe(snapshot.dir()), tree.version());
}

#[test]
fn a_checkout_that_was_written_into_is_made_anew() {
    let bench = Bench::new();
    let tree = bench.look();
    let first = bench.snapshot(&tree).unwrap();
    let checkout = bench.path("cache").join("trees").join(tree.commit().unwrap());
    let makefile = checkout.join("tree/Makefile");
    assert_eq!(fs::metadata(&makefile).unwrap().ino(), fs::metadata(first.dir().join("Makefile")).unwrap().ino());
    fs::set_permissions(&makefile, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&makefile, "hostile:\n").unwrap();
    assert_eq!(text(&bench.snapshot(&tree).unwrap(), "Makefile").unwrap(), "all:\n");
    fs::remove_file(checkout.join("tree/src/Kconfig")).unwrap();
    assert!(text(&bench.snapshot(&tree).unwrap(), "src/Kconfig").is_some());
    fs::remove_file(checkout.join("index")).unwrap();
    assert!(bench.snapshot(&tree).is_ok());
}

#[test]
fn many_copies_at_once() {
    let bench = Bench::new();
    let tree = bench.look();
    let all = thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| bench.snapshot(&tree).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let dirs: std::collections::BTreeSet<_> = all.iter().map(|snapshot| snapshot.dir().to_owned()).collect();
    assert_eq!(dirs.len(), 6);
    for dir in dirs {
        assert_eq!(bench.describe(&dir), tree.version());
        assert_eq!(files(&dir), files(&bench.tree()));
    }
}
