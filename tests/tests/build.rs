//! Firmware built with the real compilers, from `tests/firmware-tree` or, with `KFLASH_TEST_KLIPPER=DIR`, from a real tree.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use kflash::board::BoardId;
use kflash::event::Verdict;
use kflash::exit::ExitCode;
use kflash::flash::Interrupt;
use kflash::image::Image;
use kflash::obtain::build::make::MakeError;
use kflash::obtain::build::{BuildError, BuildEvent, Builder, Environment, Firmware, Order, Outcome, Source};
use kflash::obtain::cache::{Key, Lookup};
use kflash::obtain::provenance::Origin;
use tests::firmware_tree::{FirmwareTree, is_real, order, order_of};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const SKR2: &str = "btt-skr-2-f407";
const PICO: &str = "btt-skr-pico";
const CREALITY: &str = "creality-v4.2.7";
/// A source file of every tree, compiled for every chip.
const SOURCE: &str = "src/command.c";

fn well(outcome: &Outcome) -> &Firmware {
    outcome.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

fn badly(outcome: &Outcome) -> &BuildError {
    outcome.as_ref().expect_err("it fails")
}

/// The order with symbols that a person sets.
fn with(order: Order, set: &[(&str, &str)]) -> Order {
    let set = set.iter().map(|(symbol, value)| ((*symbol).to_owned(), (*value).to_owned())).collect();
    Order { set, ..order }
}

/// Where the drift of a single order lies.
fn drifts(tree: &FirmwareTree, order: Order) -> (Vec<String>, ExitCode) {
    let (outcomes, _) = tree.build("cache", &[order]);
    let error = badly(&outcomes[0]);
    match error {
        BuildError::Drift { drifts, .. } => (drifts.iter().map(ToString::to_string).collect(), error.exit()),
        error => panic!("{error}"),
    }
}

/// How many images lie in a cache.
fn images(tree: &FirmwareTree, cache: &str) -> usize {
    tree.cache(cache).list().expect("the cache can be read").len()
}

/// How often make was run in a cache.
fn makes(tree: &FirmwareTree, cache: &str) -> usize {
    fs::read_dir(tree.root.path().join(cache).join("logs")).map_or(0, Iterator::count)
}

/// The keys of what the cache holds for these orders.
fn cached(tree: &FirmwareTree, orders: &[Order]) -> Vec<Option<Key>> {
    let (cache, interrupt) = (tree.cache("cache"), Interrupt::default());
    let builder = Builder { cache: &cache, environment: &tree.environment, interrupt: &interrupt, jobs: 1 };
    let found = builder.cached(&tree.look(), orders).into_iter();
    found.map(|found| found.unwrap_or_else(|error| panic!("{error}")).map(|firmware| firmware.entry.key)).collect()
}

/// The environment of this process, with these programs before all others on the PATH.
fn before_all_others(folder: &Path, programs: &[(&str, &str)]) -> Environment {
    fs::create_dir_all(folder).expect("there is room");
    for (name, script) in programs {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("there is room");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }
    let mut path = folder.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").expect("a PATH"));
    Environment::of(std::env::vars_os().filter(|(name, _)| name != "PATH").chain([("PATH".into(), path)]))
}

#[test]
fn every_kind_of_image_is_built_and_proves_itself() {
    let tree = FirmwareTree::new();
    let orders = [
        order(OCTOPUS, None),
        order(CREALITY, None),
        order(PICO, None),
        order_of(
            "rp2040",
            0x1000_0000,
            "usb",
            &["MACH_RPXXXX", "MACH_RP2040", "RPXXXX_USB", "RPXXXX_FLASH_START_0100"],
        ),
        order_of("atmega2560", 0, "uart", &["MACH_AVR", "MACH_atmega2560"]),
    ];
    let (outcomes, events) = tree.build("cache", &orders);
    let names: Vec<_> = outcomes.iter().map(|outcome| well(outcome).entry.provenance.image.name.as_str()).collect();
    assert_eq!(names, ["klipper.bin", "klipper.bin", "klipper.bin", "klipper.uf2", "klipper.elf.hex"]);
    for (order, firmware) in orders.iter().zip(outcomes.iter().map(well)) {
        assert!(matches!(firmware.source, Source::Built { .. }));
        let provenance = &firmware.entry.provenance;
        let Origin::Built(built) = &provenance.origin else { panic!("{provenance:?}") };
        assert!(order.chip.is(provenance.mcu.as_deref().expect("an MCU")));
        assert_eq!(provenance.start, order.profile.bootloaders.iter().map(|bootloader| bootloader.app_start).next());
        assert_eq!(provenance.version, tree.look().version(), "a clean tree");
        assert_eq!((built.commit.as_deref(), built.dirty), (tree.look().commit(), false));
        assert!(built.toolchain.keys().any(|tool| tool.ends_with("-gcc")) && built.toolchain.len() == 5, "{built:?}");
        assert!(firmware.proof.iter().all(|check| check.verdict == Verdict::Agrees));
        assert!(firmware.proof.len() >= 6, "{:?}", firmware.proof);
        progressed(&events, &firmware.board);
    }
}

/// The progress of a build goes from nothing to everything, and neither back nor beyond.
fn progressed(events: &[BuildEvent], board: &BoardId) {
    let progress = events.iter().filter_map(|event| match event {
        BuildEvent::Progress { boards, done, total } if boards.contains(board) => Some((*done, *total)),
        _ => None,
    });
    let progress: Vec<_> = progress.collect();
    let (_, total) = progress[0];
    assert!(total >= 5 && progress.iter().all(|&(done, all)| all == total && done <= total), "{progress:?}");
    assert!(progress.is_sorted() && progress[0].0 == 0 && progress.last() == Some(&(total, total)), "{progress:?}");
    assert_eq!(
        events
            .iter()
            .filter(|event| matches!(event, BuildEvent::Ended { board: of, well: true } if of == board))
            .count(),
        1
    );
}

#[test]
fn what_was_built_is_not_built_again() {
    let mut tree = FirmwareTree::new();
    let orders = [order(OCTOPUS, None), order(CREALITY, None)];
    assert_eq!(cached(&tree, &orders), [None, None]);
    assert_eq!(makes(&tree, "cache"), 0);
    let (first, _) = tree.build("cache", &orders[..1]);
    assert_eq!(cached(&tree, &orders), [Some(well(&first[0]).entry.key), None]);
    let (first, _) = tree.build("cache", &orders);
    // From now on whatever would build or configure fails.
    let forbidden = ["make", "python3", "cpp"].map(|name| (name, "exit 42"));
    tree.environment = before_all_others(&tree.root.path().join("forbidden"), &forbidden);
    let (second, events) = tree.build("cache", &orders);
    for (first, second) in first.iter().map(well).zip(second.iter().map(well)) {
        assert_eq!(second.source, Source::Cache);
        assert_eq!(first.entry.bytes, second.entry.bytes);
        assert_eq!(first.entry.provenance.time, second.entry.provenance.time);
    }
    assert!(events.iter().all(|event| matches!(event, BuildEvent::Ended { .. })), "{events:?}");
    assert_eq!(cached(&tree, &orders), second.iter().map(|outcome| Some(well(outcome).entry.key)).collect::<Vec<_>>());
    // Another cache knows nothing of it, and so they do fail there.
    let (other, _) = tree.build("other", &orders);
    assert!(matches!(badly(&other[0]), BuildError::Make(MakeError::Failed { .. })));
}

#[test]
fn routes_that_need_the_same_firmware_share_it() {
    let tree = FirmwareTree::new();
    let orders = ["katapult-usb", "katapult-dfu", "vendor-dfu", "dfu"].map(|route| order(OCTOPUS, Some(route)));
    let (outcomes, _) = tree.build("cache", &orders);
    let keys: Vec<_> = outcomes.iter().map(|outcome| well(outcome).entry.key).collect();
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3], "{keys:?}");
    assert_eq!((images(&tree, "cache"), makes(&tree, "cache")), (2, 2));
    let routes = |at: usize| well(&outcomes[at]).entry.provenance.start;
    assert_ne!(routes(0), routes(3));
    let Lookup::Found(entry) = tree.cache("cache").find(&keys[0]).expect("it can be read") else {
        panic!("it is there")
    };
    assert_eq!(entry.provenance.boards.len(), 3, "{:?}", entry.provenance.boards);
}

#[test]
fn the_same_tree_gives_the_same_bytes_wherever_it_is_built() {
    let mut tree = FirmwareTree::new();
    let orders = [order(OCTOPUS, None), order(PICO, None), order(CREALITY, None)];
    let (first, _) = tree.build("cache", &orders);
    // What a person has in their environment is not what is built.
    let hostile = [
        ("MAKEFLAGS", "-n"),
        ("MFLAGS", "-n"),
        ("GNUMAKEFLAGS", "--dry-run"),
        ("OUT", "/nonexistent/"),
        ("KCONFIG_CONFIG", "/nonexistent/config"),
        ("CROSS_PREFIX", "nonexistent-"),
        ("CC", "false"),
        ("CFLAGS", "-DNONSENSE -O0"),
        ("PYTHONPATH", "/nonexistent"),
        ("C_INCLUDE_PATH", "/nonexistent"),
        ("GIT_DIR", "/nonexistent"),
        ("V", "1"),
    ];
    let hostile = hostile.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    tree.environment = Environment::of(std::env::vars_os().chain(hostile));
    let (second, _) = tree.build("another/and-much/longer", &orders);
    for (first, second) in first.iter().map(well).zip(second.iter().map(well)) {
        assert!(matches!(second.source, Source::Built { .. }));
        assert_eq!(first.entry.bytes, second.entry.bytes, "{}", first.board);
        assert_eq!(first.entry.key, second.entry.key);
    }
}

#[test]
fn a_changed_source_is_other_firmware() {
    let tree = FirmwareTree::new();
    let (before, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    change(&tree);
    tree.commit("change");
    let (after, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    let (before, after) = (well(&before[0]), well(&after[0]));
    assert!(matches!(after.source, Source::Built { .. }));
    assert_ne!(before.entry.provenance.image.sha256, after.entry.provenance.image.sha256);
    assert_ne!(before.entry.provenance.version, after.entry.provenance.version);
}

/// Changes a line of a source, and so the dictionary.
fn change(tree: &FirmwareTree) {
    if is_real() {
        tree.replace("src/basecmd.c", "SUMSQ_BASE 256", "SUMSQ_BASE 512");
    } else {
        tree.replace("src/main.c", "\"STATS_SUMSQ_BASE\", 256", "\"STATS_SUMSQ_BASE\", 512");
    }
}

#[test]
fn a_dirty_tree_is_said_to_be_one() {
    let tree = FirmwareTree::new();
    change(&tree);
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    let first = well(&outcomes[0]);
    let provenance = &first.entry.provenance;
    let Origin::Built(built) = &provenance.origin else { panic!("{provenance:?}") };
    assert!(built.dirty && built.tree_sha256.is_some() && built.describe.ends_with("-dirty"), "{built:?}");
    assert!(provenance.version.starts_with(&format!("{}-", built.describe)), "time and host follow: {provenance:?}");
    let dictionary = first.entry.image.dictionary.as_ref().expect("a dictionary");
    assert_eq!(dictionary.config["STATS_SUMSQ_BASE"], 512);

    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    assert_eq!(well(&outcomes[0]).source, Source::Cache, "the same change");
    fs::write(tree.dir.join(SOURCE), fs::read_to_string(tree.dir.join(SOURCE)).expect("a source") + "\n// more\n")
        .expect("it can be written to");
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    assert!(matches!(well(&outcomes[0]).source, Source::Built { .. }), "another change");
}

#[test]
fn a_tree_without_git_is_built_too() {
    let tree = FirmwareTree::new();
    fs::remove_dir_all(tree.dir.join(".git")).expect("it is ours");
    let version = |outcomes: &[Outcome]| well(&outcomes[0]).entry.provenance.version.clone();
    let (unknown, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    assert!(version(&unknown).starts_with("?-"), "{}", version(&unknown));
    fs::write(tree.dir.join("klippy/.version"), "v0.13.0-7-gabcdef0-prind\n").expect("it is ours");
    let (known, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    assert!(version(&known).starts_with("v0.13.0-7-gabcdef0-prind-"), "{}", version(&known));
}

#[test]
fn every_symbol_that_does_not_hold_is_named() {
    let tree = FirmwareTree::new();
    let set = |set: &[(&str, &str)]| drifts(&tree, with(order(OCTOPUS, None), set));
    let (dropped, exit) = set(&[("SERIAL_BAUD", "115200")]);
    assert_eq!((dropped.len(), exit), (1, ExitCode::Usage), "{dropped:?}");
    assert!(dropped[0].starts_with("SERIAL_BAUD: wanted \"115200\", was dropped"), "{dropped:?}");
    let (computed, _) = set(&[("CLOCK_FREQ", "1")]);
    assert!(computed[0].contains("this tree computes it"), "{computed:?}");
    let (unknown, _) = set(&[("MACH_STM32F447", "y")]);
    assert!(unknown[0].contains("this tree has no such symbol"), "{unknown:?}");
    let (unfit, _) = set(&[("INITIAL_PINS", "PA1"), ("USB_VENDOR_ID", "many")]);
    assert!(unfit.len() == 1 && unfit[0].starts_with("USB_VENDOR_ID"), "{unfit:?}");

    // The board's own: a member of a choice, of which only one can be.
    let mut order = order(OCTOPUS, None);
    order.profile.kconfig.insert("MACH_STM32F407".to_owned(), "y".to_owned());
    let (changed, exit) = drifts(&tree, order);
    assert_eq!((changed.len(), exit), (1, ExitCode::Build), "{changed:?}");
    assert!(changed[0].contains("was chosen in its place"), "{changed:?}");
    assert_eq!((images(&tree, "cache"), makes(&tree, "cache")), (0, 0));
}

#[test]
fn symbols_of_another_generation_of_the_tree_are_found() {
    if is_real() {
        return;
    }
    let tree = FirmwareTree::new();
    for file in ["src/Kconfig", "src/rp2040/Kconfig", "src/rp2040/Makefile"] {
        tree.replace(file, "RPXXXX", "RP2040");
    }
    tree.replace(
        "src/rp2040/Kconfig",
        "choice\n    prompt \"Model\"\n    config MACH_RP2040\n        bool \"RP2040\"\nendchoice\n",
        "",
    );
    tree.commit("as it was before the RP2350");
    let (outcomes, _) = tree.build("cache", &[order(PICO, None)]);
    assert_eq!(well(&outcomes[0]).entry.provenance.mcu.as_deref(), Some("rp2040"));
}

#[test]
fn what_is_missing_is_named_before_anything_is_built() {
    let mut tree = FirmwareTree::new();
    let folder = tree.root.path().join("bin");
    fs::create_dir(&folder).expect("there is room");
    for program in fs::read_dir("/usr/bin").expect("programs").flatten() {
        let name = program.file_name();
        if !name.to_string_lossy().starts_with("arm-none-eabi-") && !name.to_string_lossy().starts_with("g++") {
            std::os::unix::fs::symlink(program.path(), folder.join(name)).expect("there is room");
        }
    }
    let others = std::env::vars_os().filter(|(name, _)| name != "PATH");
    tree.environment = Environment::of(others.chain([("PATH".into(), folder.clone().into())]));
    let avr = order_of("atmega2560", 0, "uart", &["MACH_AVR", "MACH_atmega2560"]);
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None), order(PICO, None), avr]);
    let packages = |outcome| match badly(outcome) {
        BuildError::Toolchain(error) => error.packages().into_iter().collect::<Vec<_>>(),
        error => panic!("{error}"),
    };
    let arm = ["binutils-arm-none-eabi", "gcc-arm-none-eabi", "libnewlib-arm-none-eabi"];
    assert_eq!(packages(&outcomes[0]), arm);
    assert_eq!(packages(&outcomes[1]), [arm[0], "g++", arm[1], arm[2]]);
    assert_eq!(badly(&outcomes[0]).exit(), ExitCode::Build);
    // One failure does not stop another's build.
    well(&outcomes[2]);
    assert_eq!(makes(&tree, "cache"), 1);

    // With nothing there at all, one message names everything.
    tree.environment = Environment::of([("PATH".into(), tree.root.path().into())]);
    let interrupt = Interrupt::default();
    let looked = FirmwareTree::new();
    let cache = tree.cache("empty");
    let builder = Builder { cache: &cache, environment: &tree.environment, interrupt: &interrupt, jobs: 1 };
    let outcomes = builder.build(&looked.look(), &[order(OCTOPUS, None)], &mut |_| ());
    assert_eq!(
        packages(&outcomes[0]),
        ["binutils-arm-none-eabi", "gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "make", "python3"]
    );
}

#[test]
fn a_compile_that_fails_shows_its_last_lines_and_its_log() {
    let tree = FirmwareTree::new();
    let source = fs::read_to_string(tree.dir.join(SOURCE)).expect("a source");
    fs::write(tree.dir.join(SOURCE), source + "\n#ifdef __AVR__\n#else\n#error the \x1b[2J end\n#endif\n")
        .expect("ours");
    tree.commit("broken");
    let avr = order_of("atmega2560", 0, "uart", &["MACH_AVR", "MACH_atmega2560"]);
    let (outcomes, events) = tree.build("cache", &[order(OCTOPUS, None), avr]);
    match badly(&outcomes[0]) {
        error @ BuildError::Make(MakeError::Failed { last, log, .. }) => {
            assert!(last.iter().any(|line| line.contains("#error the \x1b[2J end")), "{last:?}");
            assert!(fs::read_to_string(log).expect("a log").contains("#error the"), "{}", log.display());
            assert!(error.to_string().contains(log.to_str().expect("a path")) && error.exit() == ExitCode::Build);
        }
        error => panic!("{error}"),
    }
    well(&outcomes[1]);
    assert_eq!(images(&tree, "cache"), 1, "of the one that is well");
    let failed = |event: &&BuildEvent| matches!(event, BuildEvent::Ended { board, well: false } if board.0 == OCTOPUS);
    assert_eq!(events.iter().filter(failed).count(), 1);
}

#[test]
fn an_image_that_is_not_what_was_wanted_is_not_stored() {
    let tree = FirmwareTree::new();
    let disproved = |order: Order, check: &str| {
        let (outcomes, _) = tree.build("cache", &[order]);
        let error = badly(&outcomes[0]);
        let BuildError::Disproved { checks, .. } = error else { panic!("{error}") };
        let wrong: Vec<_> = checks.iter().filter(|check| check.verdict == Verdict::Disagrees).collect();
        assert!(wrong.iter().any(|wrong| wrong.name == check), "{wrong:?}");
        assert_eq!((error.exit(), images(&tree, "cache")), (ExitCode::Build, 0));
    };
    let mut small = order(OCTOPUS, Some("dfu"));
    small.chip.sectors = "1*1K".to_owned().try_into().expect("sectors");
    // Of which 256 bytes are left: some compilers make an image of half a kilobyte.
    small.chip.flash_start.0 -= 768;
    disproved(small, "image fits the application region");
    let mut other = order(OCTOPUS, None);
    other.chip.mcu = vec!["stm32f429xx".to_owned()];
    disproved(other, "image is for this board's MCU");
    // The profile says one thing, its symbols another.
    let mut elsewhere = order(SKR2, None);
    for bootloader in &mut elsewhere.profile.bootloaders {
        bootloader.kconfig = [("STM32_FLASH_START_0000".to_owned(), "y".to_owned())].into();
    }
    disproved(elsewhere, "image starts where the bootloader starts it");
    let mut uart = order(OCTOPUS, None);
    uart.route.kconfig = [("STM32_SERIAL_USART1".to_owned(), "y".to_owned())].into();
    disproved(uart, "image talks over the cable in use");
    // Stored for the one board, it is still not for the other.
    well(&tree.build("other", &[order(OCTOPUS, None)]).0[0]);
    let mut other = order(OCTOPUS, None);
    other.chip.mcu = vec!["stm32f429xx".to_owned()];
    let (outcomes, _) = tree.build("other", &[other]);
    assert!(matches!(badly(&outcomes[0]), BuildError::Disproved { .. }));
}

#[test]
fn a_build_that_says_another_version_is_not_believed() {
    if is_real() {
        return;
    }
    let tree = FirmwareTree::new();
    tree.replace("scripts/buildcommands.py", "print(\"Version:\", version)", "version += \"x\"");
    tree.commit("a version that is not the tree's");
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    let error = badly(&outcomes[0]).to_string();
    assert!(error.contains("version is the tree's"), "{error}");
    tree.replace("scripts/buildcommands.py", "version += \"x\"", "pass");
    tree.replace("scripts/buildcommands.py", "write_text(text)", "write_text(text + \" \")");
    tree.commit("a dictionary that is not the image's");
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    let error = badly(&outcomes[0]).to_string();
    assert!(error.contains("dictionary in the image is the build's"), "{error}");
    assert_eq!(images(&tree, "cache"), 0);
}

#[test]
fn a_build_that_changes_its_configuration_or_leaves_nothing_is_refused() {
    if is_real() {
        return;
    }
    let tree = FirmwareTree::new();
    tree.replace("src/stm32/Makefile", "images-y +=", "images-n +=");
    tree.commit("no image");
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    assert!(badly(&outcomes[0]).to_string().starts_with("make left no image behind"), "{}", badly(&outcomes[0]));
    tree.replace("src/stm32/Makefile", "images-n +=", "images-y +=");
    tree.replace("Makefile", "@echo \"  Linking $@\"", "@echo '# more' >>$(KCONFIG_CONFIG)");
    tree.commit("another configuration");
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    assert!(matches!(badly(&outcomes[0]), BuildError::Make(MakeError::Reconfigured { .. })), "{}", badly(&outcomes[0]));
    assert_eq!(images(&tree, "cache"), 0);
}

#[test]
fn builds_at_once_from_one_tree_do_not_disturb_each_other() {
    let tree = Arc::new(FirmwareTree::new());
    let looked = tree.look();
    let run = |boards: &'static [&'static str]| {
        let (tree, looked) = (Arc::clone(&tree), looked.clone());
        thread::spawn(move || {
            let (cache, interrupt) = (tree.cache("cache"), Interrupt::default());
            let builder = Builder { cache: &cache, environment: &tree.environment, interrupt: &interrupt, jobs: 2 };
            let orders: Vec<_> = boards.iter().map(|board| order(board, None)).collect();
            builder.build(&looked, &orders, &mut |_| ())
        })
    };
    let runs = [&[OCTOPUS, PICO][..], &[OCTOPUS, CREALITY], &[PICO, OCTOPUS], &[CREALITY]].map(run);
    let outcomes: Vec<_> = runs.into_iter().flat_map(|run| run.join().expect("no panic")).collect();
    let of = |board: &str| {
        let of = outcomes.iter().map(well).filter(|firmware| firmware.board.0 == board);
        of.map(|firmware| firmware.entry.provenance.image.sha256).collect::<Vec<_>>()
    };
    for (board, count) in [(OCTOPUS, 3), (PICO, 2), (CREALITY, 2)] {
        assert_eq!(of(board).len(), count);
        assert!(of(board).windows(2).all(|two| two[0] == two[1]));
    }
    assert_eq!((images(&tree, "cache"), makes(&tree, "cache")), (3, 3), "each was built once");
    let left: Vec<_> = fs::read_dir(tree.root.path().join("cache/tmp")).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_tree_that_nobody_may_write_to_is_built() {
    let tree = FirmwareTree::new();
    let writable = |mode: u32| {
        for path in tests::firmware_tree::fingerprint(&tree.dir).into_keys().chain([tree.dir.clone()]) {
            let meta = fs::symlink_metadata(&path).expect("it is there");
            if !meta.is_symlink() {
                let mode = meta.permissions().mode() & 0o555 | mode;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            }
        }
    };
    writable(0);
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    writable(0o200);
    well(&outcomes[0]);
}

#[test]
fn a_tree_of_another_user_is_built() {
    let tree = FirmwareTree::new();
    if std::os::unix::fs::MetadataExt::uid(&fs::metadata(&tree.dir).expect("it is there")) != 0 {
        // Only root can give a tree to another user.
        return;
    }
    for path in tests::firmware_tree::fingerprint(&tree.dir).into_keys().chain([tree.dir.clone()]) {
        std::os::unix::fs::lchown(&path, Some(65534), Some(65534)).expect("root may");
    }
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None), order(PICO, None)]);
    for outcome in &outcomes {
        well(outcome);
    }
}

#[test]
fn an_interrupted_build_leaves_nothing_and_stops_its_make() {
    let mut tree = FirmwareTree::new();
    let stuck = tree.root.path().join("stuck");
    let script = format!(
        "[ $1 = --version ] && exec /usr/bin/arm-none-eabi-gcc \"$@\"; case $* in *-E*|*-S*) exec /usr/bin/arm-none-eabi-gcc \"$@\";; esac; echo $$ >>{}; exec sleep 1000",
        stuck.display()
    );
    tree.environment = before_all_others(&tree.root.path().join("slow"), &[("arm-none-eabi-gcc", &script)]);
    let (cache, interrupt) = (tree.cache("cache"), Interrupt::default());
    let builder = Builder { cache: &cache, environment: &tree.environment, interrupt: &interrupt, jobs: 2 };
    let looked = tree.look();
    let outcomes = thread::scope(|scope| {
        let run = scope.spawn(|| builder.build(&looked, &[order(OCTOPUS, None), order(CREALITY, None)], &mut |_| ()));
        while fs::read_to_string(&stuck).map_or(0, |pids| pids.lines().count()) < 2 {
            thread::sleep(std::time::Duration::from_millis(5));
        }
        interrupt.request();
        run.join().expect("no panic")
    });
    assert!(outcomes.iter().all(|outcome| badly(outcome).exit() == ExitCode::Cancelled), "{outcomes:?}");
    for pid in fs::read_to_string(&stuck).expect("it is there").lines() {
        assert!(!Path::new("/proc").join(pid).join("cwd").exists(), "{pid} still runs");
    }
    assert_eq!(images(&tree, "cache"), 0);
    // The next run is not disturbed.
    tree.environment = Environment::of(std::env::vars_os());
    well(&tree.build("cache", &[order(OCTOPUS, None)]).0[0]);
}

#[test]
fn a_damaged_image_is_built_again() {
    let tree = FirmwareTree::new();
    let (outcomes, _) = tree.build("cache", &[order(OCTOPUS, None)]);
    let first = well(&outcomes[0]);
    let file = first.entry.path.join("klipper.bin");
    let mut bytes = fs::read(&file).expect("it is there");
    bytes[100] ^= 1;
    fs::write(&file, &bytes).expect("it is ours");
    let (outcomes, events) = tree.build("cache", &[order(OCTOPUS, None)]);
    let second = well(&outcomes[0]);
    assert!(matches!(second.source, Source::Built { .. }));
    assert_eq!(Image::parse(&fs::read(&file).expect("it is there")), Image::parse(&first.entry.bytes));
    assert!(events.iter().any(|event| matches!(event, BuildEvent::Warning { text } if text.contains("damaged"))));
}

#[test]
fn where_make_cannot_work_it_is_said_why() {
    let tree = FirmwareTree::new();
    let (outcomes, _) = tree.build("a cache", &[order(OCTOPUS, None)]);
    let error = badly(&outcomes[0]).to_string();
    assert!(error.starts_with("make cannot work in ") && error.ends_with(": ' ' has a meaning to it"), "{error}");
}
