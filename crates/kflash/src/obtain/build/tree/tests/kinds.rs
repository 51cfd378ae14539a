//! The kinds of trees that people have.

use super::*;

fn refused(bench: &Bench, dir: &Path) -> (String, u8) {
    let error = bench.at(dir).unwrap_err();
    (error.to_string().replace(bench.dir.path().to_str().unwrap(), ""), error.exit().code())
}

#[test]
fn what_is_no_tree_is_told_what_it_lacks() {
    let bench = Bench::new();
    let no = |problem: &str| (format!("/tree: no Klipper or Kalico tree: {problem}"), 2);
    bench.write("src/Kconfig", "mainmenu \"Katapult Configuration $(VERSION)\"\n");
    let katapult = "it is a Katapult tree, which holds the bootloader and no application";
    assert_eq!(refused(&bench, &bench.tree()), no(katapult));
    fs::remove_file(bench.tree().join("src/Kconfig")).unwrap();
    assert_eq!(refused(&bench, &bench.tree()), no("it has no src/Kconfig"));
    fs::create_dir(bench.tree().join("src/Kconfig")).unwrap();
    assert_eq!(refused(&bench, &bench.tree()), no("it has no src/Kconfig"));
    fs::remove_dir_all(bench.tree()).unwrap();
    assert_eq!(refused(&bench, &bench.tree()), no("there is no such directory"));
    fs::write(bench.tree(), "").unwrap();
    assert_eq!(refused(&bench, &bench.tree()), no("it is no directory"));
}

#[test]
fn the_first_candidate_that_is_a_tree_is_taken() {
    let bench = Bench::new();
    let first_of = |candidates: &[PathBuf]| Tree::first_of(candidates, &bench.environment, &bench.interrupt);
    let (klipper, empty) = (bench.path("klipper"), bench.path("home"));
    assert_eq!(first_of(&[klipper.clone(), empty.clone(), bench.tree()]).unwrap(), bench.look());
    let error = first_of(&[klipper.clone(), empty.clone()]).unwrap_err();
    let message = format!("no Klipper or Kalico tree at {}, {}", klipper.display(), empty.display());
    assert_eq!((error.to_string(), error.exit().code()), (message, 2));
    // A tree that git cannot read is no reason to build another one.
    fs::write(bench.tree().join(".git/HEAD"), "rubbish").unwrap();
    assert!(matches!(first_of(&[bench.tree()]), Err(TreeError::Git { .. })));
}

#[test]
fn a_tree_without_git_is_all_of_its_files() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.tree().join(".git")).unwrap();
    let before = everything(&bench.tree());
    let tree = bench.look();
    assert_eq!((tree.version(), tree.commit(), tree.origin()), ("?", None, None));
    let snapshot = bench.snapshot(&tree).unwrap();
    assert_eq!(files(snapshot.dir()), files(&bench.tree()));
    assert!(!snapshot.dir().join(".git").exists());
    untouched(&before, &bench.tree());

    bench.write("klippy/.version", "v0.12.0-439-g1fe54bd5-prind\n");
    let versioned = bench.look();
    assert_eq!(versioned.version(), "v0.12.0-439-g1fe54bd5-prind");
    assert_ne!(versioned.sha256(), tree.sha256());
    for left in [".config", "out/klipper.elf", "klippy/chelper/c_helper.so", "klippy/__pycache__/a.pyc"] {
        bench.write(left, "left by a build");
    }
    assert_eq!(bench.look(), versioned);
    let snapshot = bench.snapshot(&versioned).unwrap();
    assert!(snapshot.dir().join("klippy/.version").exists() && !snapshot.dir().join("out").exists());
    bench.write("src/Kconfig", "mainmenu \"other\"");
    assert_ne!(bench.look().id(), versioned.id());
    let error = bench.snapshot(&versioned).unwrap_err();
    assert!(error.to_string().contains(&format!("it was {}", versioned.sha256().unwrap())), "{error}");
}

#[test]
fn git_is_told_to_be_missing_where_it_is_needed() {
    let mut bench = Bench::new();
    bench.environment = Environment::of([("PATH".into(), bench.path("home").into_os_string())]);
    assert_eq!(refused(&bench, &bench.tree()), ("git is not installed".to_owned(), 7));
    fs::remove_dir_all(bench.tree().join(".git")).unwrap();
    assert!(bench.at(&bench.tree()).is_ok());
}

/// git refuses repositories of other users, unless it is told where they are.
#[test]
fn a_tree_of_another_user_is_read() {
    let mut bench = Bench::new();
    bench.write("src/stm32/main.c", "dirty");
    let own = bench.look();
    // git's own tests make it believe so.
    bench.with_git("export GIT_TEST_ASSUME_DIFFERENT_OWNER=1");
    let output = bench.environment.command("git").current_dir(bench.tree()).arg("status").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("dubious ownership"), "{output:?}");
    let tree = bench.look();
    assert_eq!(tree, own);
    assert!(bench.snapshot(&tree).is_ok());
    let url = bench.tree().display().to_string();
    let fetch = Tree::fetch(&url, None, &bench.cache(), &bench.environment, &bench.interrupt, &mut |_| {});
    assert_eq!(fetch.unwrap().commit(), own.commit());
}

#[test]
fn a_tree_that_nobody_may_write_to_is_read() {
    let bench = Bench::new();
    bench.write("src/stm32/main.c", "dirty");
    let all = |writable: bool| {
        let mut paths: Vec<_> = everything(&bench.tree()).into_keys().chain([bench.tree()]).collect();
        paths.sort();
        for path in paths {
            let mode = fs::metadata(&path).unwrap().mode() & 0o555;
            let mode = if writable { mode | 0o200 } else { mode };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    all(false);
    let (_, snapshot) = bench.copy();
    assert_eq!(fs::read_to_string(snapshot.dir().join("src/stm32/main.c")).unwrap(), "dirty");
    all(true);
}

#[test]
fn a_linked_worktree_and_a_submodule_are_trees_of_their_own() {
    let bench = Bench::new();
    let main = bench.tree();
    bench.git("worktree add -q ../linked -b linked");
    let umbrella = bench.path("umbrella");
    fs::create_dir(&umbrella).unwrap();
    bench.git_in(&umbrella, "init -q");
    bench.git_in(&umbrella, &format!("submodule add -q {} klipper", main.display()));
    for dir in [bench.path("linked"), umbrella.join("klipper")] {
        assert!(dir.join(".git").is_file());
        fs::write(dir.join("src/stm32/main.c"), "dirty").unwrap();
        let before = everything(bench.dir.path());
        let tree = bench.at(&dir).unwrap();
        untouched(&before, bench.dir.path());
        assert_eq!(tree.version(), bench.describe(&dir));
        assert_eq!(tree.commit(), bench.look().commit());
        let snapshot = bench.snapshot(&tree).unwrap();
        assert_eq!(bench.describe(snapshot.dir()), tree.version());
        assert_eq!(fs::read_to_string(snapshot.dir().join("src/stm32/main.c")).unwrap(), "dirty");
    }
    assert!(!bench.look().is_dirty());
    // Its repository is elsewhere, and not there (a container with the work tree alone).
    fs::remove_dir_all(bench.tree()).unwrap();
    let error = bench.at(&bench.path("linked")).unwrap_err();
    assert!(error.to_string().contains("not a git repository"), "{error}");
}

#[test]
fn a_shallow_clone_has_no_tags_and_other_firmware() {
    let bench = Bench::new();
    bench.write("src/stm32/main.c", "second");
    bench.commit("second");
    bench.git("branch old HEAD~");
    bench.git_in(bench.dir.path(), &format!("clone -q --depth 1 file://{} shallow", bench.tree().display()));
    let shallow = bench.at(&bench.path("shallow")).unwrap();
    let full = bench.look();
    assert_eq!(shallow.commit(), full.commit());
    assert_eq!(shallow.version(), &full.commit().unwrap()[..7]);
    assert_ne!(shallow.id(), full.id());
    for (tree, dir) in [(&shallow, bench.path("shallow")), (&full, bench.tree())] {
        let snapshot = bench.snapshot(tree).unwrap();
        assert_eq!(bench.describe(snapshot.dir()), bench.describe(&dir));
    }
}

/// As a work tree without the pictures of the documentation, whose repository never had them.
#[test]
fn a_sparse_tree_is_built_without_the_files_that_it_does_not_have() {
    let bench = Bench::new();
    bench.write("docs/img/photo.jpg", "large");
    bench.commit("photo");
    let (full, _) = bench.copy();
    let photo = bench.git("rev-parse HEAD:docs/img/photo.jpg");
    for cone in ["--no-cone", "--cone"] {
        let patterns = if cone == "--cone" { "src scripts klippy" } else { "/* !/docs/" };
        bench.git(&format!("sparse-checkout set {cone} {patterns}"));
        assert!(!bench.tree().join("docs").exists());
        let _ = fs::remove_file(bench.tree().join(".git/objects").join(&photo[..2]).join(&photo[2..]));
        let (tree, snapshot) = bench.copy();
        assert_eq!(tree.id(), full.id());
        assert!(!snapshot.dir().join("docs").exists());
        assert_eq!(fs::read_to_string(snapshot.dir().join("Makefile")).unwrap(), "all:\n");
        bench.write("src/stm32/main.c", "dirty");
        let (tree, snapshot) = bench.copy();
        assert!(tree.is_dirty());
        assert_eq!(fs::read_to_string(snapshot.dir().join("src/stm32/main.c")).unwrap(), "dirty");
        bench.git("checkout -q -- src");
    }
    // Another commit than the one that is checked out is whole, or not at all.
    fs::remove_dir_all(bench.path("cache")).unwrap();
    let whole = Tree::at_reference(&bench.tree(), "master", &bench.environment, &bench.interrupt).unwrap();
    let error = bench.snapshot(&whole).unwrap_err();
    assert!(error.to_string().contains("read-tree fails: "), "{error}");
}

#[test]
fn versions_follow_the_tags_and_the_digits_of_the_repository() {
    let bench = Bench::new();
    let before = bench.look();
    bench.git("tag -a v2.0-g-rc -m annotated");
    bench.git("config core.abbrev 12");
    let (after, _) = bench.copy();
    assert_eq!(after.version(), format!("v2.0-g-rc-0-g{}", &after.commit().unwrap()[..12]));
    assert_ne!(after.id(), before.id());
    let other = bench.path("sha256");
    fs::create_dir(&other).unwrap();
    bench.git_in(&other, "init -q --object-format=sha256");
    for path in ["Makefile", "src/Kconfig", "scripts/buildcommands.py"] {
        fs::create_dir_all(other.join(path).parent().unwrap()).unwrap();
        fs::copy(bench.tree().join(path), other.join(path)).unwrap();
    }
    bench.git_in(&other, "add -A");
    bench.git_in(&other, "commit -q -m x");
    let tree = bench.at(&other).unwrap();
    assert_eq!(tree.commit().unwrap().len(), 64);
    assert_eq!(bench.describe(bench.snapshot(&tree).unwrap().dir()), bench.describe(&other));
}

/// The repository's own configuration runs no program of its owner's choice.
#[test]
fn of_tags_on_merged_branches_the_one_that_git_takes_is_taken() {
    let bench = Bench::new();
    bench.git("checkout -q -b side");
    for commit in ["one", "two", "three"] {
        bench.write(commit, commit);
        bench.commit(commit);
    }
    bench.git("tag side");
    bench.git("checkout -q master");
    bench.write("four", "four");
    bench.commit("four");
    bench.git("tag trunk");
    bench.git("merge -q --no-edit side");
    // Only where the first tag that git meets is not the one that it takes, this shows anything.
    assert_ne!(bench.git("describe --tags --long --candidates=1"), bench.describe(&bench.tree()));
    bench.copy();
}

#[test]
fn a_repository_cannot_make_git_run_a_program() {
    let bench = Bench::new();
    let ran = bench.path("ran");
    let script = bench.path("home/hostile");
    fs::write(&script, format!("#!/bin/sh\necho x >>{}\n", ran.display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    bench.git(&format!("config core.fsmonitor {}", script.display()));
    bench.git(&format!("config core.hooksPath {}", bench.path("home").display()));
    fs::copy(&script, bench.path("home/post-index-change")).unwrap();
    bench.write("src/stm32/main.c", "dirty");
    let _ = fs::remove_file(&ran);
    let tree = bench.look();
    bench.snapshot(&tree).unwrap();
    assert!(!ran.exists());
    bench.git("status");
    assert!(ran.exists(), "a git that is not told otherwise runs it");
}
