//! `kflash build` with the real compilers, as a person runs it.

#![expect(clippy::unwrap_used, reason = "tests")]
#![expect(clippy::needless_raw_string_hashes, reason = "as snapbox writes them")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use snapbox::{IntoData as _, assert_data_eq, str};
use tests::firmware_tree::{FirmwareTree, fingerprint};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const PICO: &str = "btt-skr-pico";

/// `kflash` in a home of its own, in which the tree is `~/klipper`.
fn kflash(tree: &FirmwareTree, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kflash"));
    command.arg("build").args(arguments).env("HOME", tree.root.path());
    command.env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME").stdin(Stdio::null());
    command
}

fn run(tree: &FirmwareTree, arguments: &[&str]) -> Output {
    kflash(tree, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn result(output: &Output) -> Value {
    serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap()
}

/// What was printed, with what differs from run to run replaced.
fn plain(tree: &FirmwareTree, printed: &[u8]) -> String {
    let look = tree.look();
    let text = text(printed)
        .replace(tree.root.path().to_str().unwrap(), "HOME")
        .replace(look.version(), "VERSION")
        .replace(look.commit().map_or("no commit", |commit| &commit[..12]), "COMMIT");
    let word = |word: &str| {
        let hex = |digits: usize| word.len() == digits && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        match word.rsplit_once('/') {
            _ if hex(64) => "DIGEST".to_owned(),
            Some((folder, log)) if Path::new(log).extension().is_some_and(|it| it == "log") => format!("{folder}/LOG"),
            Some((_, file)) if word.starts_with("HOME/.cache/kflash/images/") => {
                format!("HOME/.cache/kflash/images/KEY/{file}")
            }
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| match line.trim_start().strip_prefix("size ").and_then(|size| size.split_once(" from ")) {
        // As large as this compiler makes it.
        Some((_, start)) => format!("  size          SIZE from {start}"),
        None => line.split(' ').map(word).collect::<Vec<_>>().join(" "),
    };
    let lines: Vec<_> =
        text.lines().map(line).filter(|line| !line.contains("built in") && !line.contains("objects")).collect();
    lines.join("\n") + "\n"
}

#[test]
fn a_build_says_what_it_made_and_the_next_one_where_it_is() {
    let tree = FirmwareTree::new();
    let first = run(&tree, &["--board", OCTOPUS]);
    assert_data_eq!(
        plain(&tree, &first.stdout),
        str![[r#"
btt-octopus-v1.1-f446 (katapult-usb)
  version       Klipper VERSION
  tree          HOME/klipper at COMMIT
  size          SIZE from 0x08008000
  sha256        DIGEST
  file          HOME/.cache/kflash/images/KEY/klipper.bin
  proof         7 checks agree
  log           HOME/.cache/kflash/logs/LOG

"#]]
        .raw()
    );
    assert_data_eq!(
        plain(&tree, &first.stderr),
        str![[r#"
btt-octopus-v1.1-f446: configuring
btt-octopus-v1.1-f446: building; log HOME/.cache/kflash/logs/LOG
btt-octopus-v1.1-f446: done

"#]]
        .raw()
    );
    let second = run(&tree, &["--board", "octopus-v1.1", "--board", OCTOPUS]);
    assert_data_eq!(
        plain(&tree, &second.stdout),
        str![[r#"
btt-octopus-v1.1-f446 (katapult-usb)
  version       Klipper VERSION
  tree          HOME/klipper at COMMIT
  size          SIZE from 0x08008000
  sha256        DIGEST
  file          HOME/.cache/kflash/images/KEY/klipper.bin
  proof         7 checks agree
  from          the cache: it was built before

"#]]
        .raw()
    );
    assert_eq!((first.status.code(), second.status.code()), (Some(0), Some(0)));
}

#[test]
fn files_are_written_where_they_are_asked_for() {
    let tree = FirmwareTree::new();
    tree.git(&["tag", "-a", "-m", "", "a/b$(id)"]);
    let out = tree.root.path().join("new/out");
    let output = run(&tree, &["-b", OCTOPUS, "-b", PICO, "--out", out.to_str().unwrap(), "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let names: Vec<_> = fingerprint(&out).into_keys().map(|path| path.strip_prefix(&out).unwrap().to_owned()).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    let result = result(&output);
    for board in result["boards"].as_array().unwrap() {
        let image = PathBuf::from(board["path"].as_str().unwrap());
        let folder = out.join(board["board"].as_str().unwrap());
        assert_eq!(image.parent(), Some(&*folder));
        assert_eq!(fs::read(&image).unwrap().len() as u64, board["size"].as_u64().unwrap());
        let json = |name| serde_json::from_slice::<Value>(&fs::read(folder.join(name)).unwrap()).unwrap();
        let (dictionary, provenance) = (json("klipper.dict"), json("provenance.json"));
        assert_eq!(dictionary["version"], provenance["version"]);
        assert_eq!(provenance["image"]["sha256"], board["sha256"]);
        // The directory is firmware, and so is the one that holds several.
        for firmware in [&folder, &out] {
            let id = board["board"].as_str().unwrap();
            let firmware = firmware.to_str().unwrap();
            let mut rehearsal = Command::new(env!("CARGO_BIN_EXE_kflash"));
            rehearsal.args(["flash", "--simulate", "-b", id, "-f", firmware, "--json"]).env("HOME", tree.root.path());
            let rehearsed = rehearsal.output().unwrap();
            assert_eq!(rehearsed.status.code(), Some(0), "{}", text(&rehearsed.stderr));
            assert_eq!(self::result(&rehearsed)["now"]["version"], board["version"]);
        }
    }
}

#[test]
fn a_failure_is_of_its_board_and_the_others_are_there() {
    let tree = FirmwareTree::new();
    tree.replace("src/rp2040/boot.c", "#include \"firmware.h\"", "#error no \x1b[2J RP2040");
    tree.commit("broken");
    let output = run(&tree, &["-b", OCTOPUS, "-b", PICO, "--json"]);
    assert_eq!(output.status.code(), Some(7));
    let said = text(&output.stderr);
    assert!(said.contains("btt-skr-pico: error: make failed (exit status: 2); its output is in "), "{said}");
    assert!(said.contains(r"#error no \u{1b}[2J RP2040") && !said.contains('\u{1b}'), "{said}");
    let result = result(&output);
    assert_eq!(
        (&result["result"], &result["exit_code"], &result["exit"]),
        (&"failed".into(), &7.into(), &"build".into())
    );
    assert_eq!(result["boards"][0]["result"], "built");
    assert_eq!(result["boards"][1]["result"], "failed");
    assert!(
        result["boards"][1]["details"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains("#error"))
    );
    let events: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for event in ["configuring", "building", "progress", "ended"] {
        assert!(events.iter().any(|line| line["event"] == event), "no {event}");
    }
}

#[test]
fn what_cannot_be_built_says_why_and_what_helps() {
    let tree = FirmwareTree::new();
    let failure = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = kflash(&tree, arguments).envs(environment.iter().copied()).output().unwrap();
        format!("exit {}\n{}", output.status.code().unwrap(), plain(&tree, &output.stderr))
    };
    assert_data_eq!(
        failure(&["-b", OCTOPUS, "--set", "STM32_FLASH_START_2000=y"], &[]),
        str![[r#"
exit 2
btt-octopus-v1.1-f446: configuring
btt-octopus-v1.1-f446: failed
btt-octopus-v1.1-f446: error: this tree does not give the configuration that is asked for
...
"#]]
    );
    assert_data_eq!(
        failure(&["-b", OCTOPUS, "--route", "canbus"], &[]),
        str![[r#"
exit 2
error: btt-octopus-v1.1-f446: no route named "canbus"; its routes: katapult-usb, katapult-dfu, dfu, vendor-dfu

"#]]
        .raw()
    );
    assert_data_eq!(
        failure(&["-b", OCTOPUS, "--set", "BAUD"], &[]),
        str![[r#"
exit 2
error: invalid value 'BAUD' for '--set <SYMBOL=VALUE>': "BAUD" is no SYMBOL=VALUE
...
"#]]
    );
    assert_data_eq!(
        failure(&["-b", OCTOPUS], &[("PATH", "/nonexistent")]),
        str![[r#"
exit 7
error: git is not installed
hint: on Debian and its kin: `sudo apt install git`

"#]]
        .raw()
    );
    assert_data_eq!(
        failure(&["-b", OCTOPUS], &[("HOME", "/nonexistent"), ("XDG_CACHE_HOME", "/nonexistent")]),
        str![[r#"
exit 2
error: no Klipper or Kalico tree at /nonexistent/klipper, /nonexistent/kalico
hint: --klipper names the directory of a tree; --git https://github.com/Klipper3d/klipper clones one into the cache

"#]]
        .raw()
    );
    assert_data_eq!(
        failure(&["-b", OCTOPUS, "--menuconfig"], &[]),
        str![[r#"
exit 2
error: --menuconfig needs a terminal

"#]]
        .raw()
    );
    assert_data_eq!(
        failure(&["-b", OCTOPUS, "--out", "/proc/kflash"], &[]),
        str![[r#"
exit 2
error: cannot make /proc/kflash: No such file or directory (os error 2)

"#]]
        .raw()
    );
}

#[test]
fn the_configuration_is_shown() {
    let tree = FirmwareTree::new();
    let output = run(
        &tree,
        &["-b", "creality-v4.2.7", "--set", "LOW_LEVEL_OPTIONS=y", "--set", "SERIAL_BAUD=115200", "--show-config"],
    );
    let shown = text(&output.stdout);
    for line in ["CONFIG_MACH_STM32F103=y", "CONFIG_SERIAL_BAUD=115200", "CONFIG_FLASH_APPLICATION_ADDRESS=0x8002000"] {
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
    let output = run(&tree, &["-b", OCTOPUS, "-b", PICO, "--show-config", "--json"]);
    let result = result(&output);
    assert_eq!(result["boards"][1]["symbols"]["MCU"], "rp2040", "{result}");
    assert!(!tree.root.path().join(".cache/kflash/images").exists(), "nothing was built");
}

#[test]
fn what_was_changed_in_the_menu_is_offered() {
    let tree = FirmwareTree::new();
    // What a person does in the menu, without a person.
    let menu = "sed -i -e 's/^CONFIG_STM32_USB_PA11_PA12=y/# CONFIG_STM32_USB_PA11_PA12 is not set/' -e 's/.*CONFIG_STM32_SERIAL_USART1 .*/CONFIG_STM32_SERIAL_USART1=y/' -e \"s/^CONFIG_INITIAL_PINS=.*/CONFIG_INITIAL_PINS=\\\"!PA1, PA2\\\"/\" $(KCONFIG_CONFIG)\n\ttest -t 0";
    tree.replace("Makefile", "$(PYTHON) lib/kconfiglib/menuconfig.py src/Kconfig", menu);
    tree.commit("a menu");
    let command =
        format!("{} build --board {OCTOPUS} --set LOW_LEVEL_OPTIONS=y --menuconfig", env!("CARGO_BIN_EXE_kflash"));
    let output =
        Command::new("script").args(["-qec", &command, "/dev/null"]).env("HOME", tree.root.path()).output().unwrap();
    let said = text(&output.stdout);
    let offered: Vec<_> = said.lines().map(str::trim_end).filter(|line| line.starts_with("--set")).collect();
    let expected = ["--set LOW_LEVEL_OPTIONS=y", "--set INITIAL_PINS='!PA1, PA2'", "--set STM32_SERIAL_USART1=y"];
    assert_eq!(offered, expected, "{said}");
    assert_eq!(output.status.code(), Some(0));
}

/// A compiler that stops at the file `go`, and says in `compiling` that it did.
fn slow_compiler(tree: &FirmwareTree) -> (PathBuf, String) {
    let bin = tree.root.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let (go, compiling) = (tree.root.path().join("go"), tree.root.path().join("compiling"));
    let script = format!(
        "#!/bin/sh\ncase $* in *\\ -c\\ *) echo $$ >>{}; while [ ! -e {} ]; do sleep 0.02; done;; esac\nexec /usr/bin/arm-none-eabi-gcc \"$@\"\n",
        compiling.display(),
        go.display()
    );
    let compiler = bin.join("arm-none-eabi-gcc");
    fs::write(&compiler, script).unwrap();
    fs::set_permissions(&compiler, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    (compiling, format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
}

fn started(command: &mut Command, compiling: &Path) -> Child {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !fs::read_to_string(compiling).is_ok_and(|pids| pids.contains('\n')) {
        thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Waits until no process works below `folder` any more.
fn nobody_works_in(folder: &Path) {
    let works = || {
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|process| fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder)))
    };
    while works() {
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_build_that_was_killed_leaves_no_make_and_the_next_one_succeeds() {
    let tree = FirmwareTree::new();
    let (compiling, path) = slow_compiler(&tree);
    let mut first = started(kflash(&tree, &["-b", OCTOPUS, "-b", PICO]).env("PATH", &path), &compiling);
    first.kill().unwrap();
    assert_eq!(first.wait().unwrap().signal(), Some(9));
    // Another run waits for nobody.
    fs::write(tree.root.path().join("go"), "").unwrap();
    let second = kflash(&tree, &["-b", OCTOPUS, "-b", PICO, "--json"]).env("PATH", &path).output().unwrap();
    assert_eq!(second.status.code(), Some(0), "{}", text(&second.stderr));
    assert!(!text(&second.stdout).contains("waiting"), "{}", text(&second.stdout));
    nobody_works_in(&tree.root.path().join(".cache"));
    let gc = Command::new(env!("CARGO_BIN_EXE_kflash"))
        .args(["cache", "gc"])
        .env("HOME", tree.root.path())
        .output()
        .unwrap();
    assert_eq!(gc.status.code(), Some(0), "{}", text(&gc.stderr));
    let left: Vec<_> = fs::read_dir(tree.root.path().join(".cache/kflash/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_signal_stops_it_and_its_compilers() {
    let tree = FirmwareTree::new();
    let (compiling, path) = slow_compiler(&tree);
    let child = started(kflash(&tree, &["-b", OCTOPUS, "--json"]).env("PATH", &path), &compiling);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(14), "{}", text(&output.stderr));
    assert_eq!(result(&output)["exit"], "cancelled");
    nobody_works_in(&tree.root.path().join(".cache"));
}

#[test]
fn two_runs_build_the_same_once() {
    let tree = FirmwareTree::new();
    let (compiling, path) = slow_compiler(&tree);
    let first = started(kflash(&tree, &["-b", OCTOPUS, "--json"]).env("PATH", &path), &compiling);
    let mut second =
        kflash(&tree, &["-b", OCTOPUS, "--json"]).env("PATH", &path).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines().map(Result::unwrap);
    let waiting = lines.by_ref().find(|line| line.contains("\"waiting\"")).expect("it waits");
    assert!(waiting.contains(&format!("\"pid\":{}", first.id())), "{waiting}");
    fs::write(tree.root.path().join("go"), "").unwrap();
    let last: Value = serde_json::from_str(&lines.last().unwrap()).unwrap();
    assert_eq!(last["boards"][0]["source"], "cache");
    assert!(second.wait().unwrap().success());
    let first = result(&first.wait_with_output().unwrap());
    assert_eq!(first["boards"][0]["sha256"], last["boards"][0]["sha256"]);
}

#[test]
fn a_user_who_may_only_read_the_tree_builds_it() {
    let tree = FirmwareTree::new();
    if fs::metadata(&tree.dir).unwrap().uid() != 0 {
        // Only root can become another user.
        return;
    }
    let home = tree.root.path().join("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(65534), Some(65534)).unwrap();
    for folder in [tree.root.path(), &tree.dir] {
        fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    // The program may lie where nobody else may look.
    let program = tree.root.path().join("kflash");
    fs::copy(env!("CARGO_BIN_EXE_kflash"), &program).unwrap();
    let before = fingerprint(&tree.dir);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["build", "-b", OCTOPUS, "--json", "--klipper"])
        .arg(&tree.dir)
        .env("HOME", &home)
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(result(&output)["boards"][0]["version"], tree.look().version());
    assert_eq!(fingerprint(&tree.dir), before);
}

/// A Moonraker that answers one request, for what its host runs.
#[cfg(feature = "moonraker")]
fn moonraker(version: &str) -> String {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = format!(r#"{{"result": {{"state": "ready", "software_version": "{version}"}}}}"#);
    thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _ = connection.read(&mut request).unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.write_all((head + &body).as_bytes()).unwrap();
    });
    url
}

#[test]
#[cfg(feature = "moonraker")]
fn the_version_of_the_printers_host_can_be_built() {
    let tree = FirmwareTree::new();
    let of_host = tree.look();
    tree.replace("src/main.c", "256", "512");
    tree.commit("newer");
    let folder = tree.root.path().join(".config/kflash");
    fs::create_dir_all(&folder).unwrap();
    let configured = |url: &str| {
        let config = format!(
            "klipper = \"~/klipper\"\n[[printers]]\nname = \"voron\"\nmoonraker = {{ url = \"{url}\" }}\n[[printers.boards]]\nboard = \"{OCTOPUS}\"\n"
        );
        fs::write(folder.join("config.toml"), config).unwrap();
        run(&tree, &["-b", OCTOPUS, "--ref", "host", "--json"])
    };
    let output = configured(&moonraker(&format!("{}-prind", of_host.version())));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(result(&output)["boards"][0]["version"], of_host.version());
    let output = configured(&moonraker("?"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "error: the host runs \"?\", which names no commit\n");
    fs::remove_file(folder.join("config.toml")).unwrap();
    let output = run(&tree, &["-b", OCTOPUS, "--ref", "host"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).starts_with("error: --ref host: no Moonraker is configured"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_commit_is_built_from_a_repository_whatever_is_checked_out() {
    let tree = FirmwareTree::new();
    let released = tree.look();
    tree.replace("src/main.c", "256", "512");
    tree.commit("newer");
    for tree_of in [vec!["--ref", "v0.13.0"], vec!["--git", tree.dir.to_str().unwrap(), "--ref", "v0.13.0"]] {
        let output = run(&tree, &[&["-b", OCTOPUS, "--json"], tree_of.as_slice()].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(result(&output)["boards"][0]["version"], released.version());
    }
}

#[test]
fn the_boards_of_a_printer_are_built_as_the_configuration_has_them() {
    let tree = FirmwareTree::new();
    let other = FirmwareTree::new();
    other.replace("src/main.c", "256", "512");
    other.commit("newer");
    let folder = tree.root.path().join(".config/kflash");
    fs::create_dir_all(&folder).unwrap();
    let config = format!(
        "[[printers]]
        name = \"voron\"
        klipper = {:?}
        [[printers.boards]]
        name = \"mcu\"
        board = \"{OCTOPUS}\"
        [[printers.boards]]
        name = \"second\"
        board = \"octopus-v1.1\"
        route = \"dfu\"
        symbols = {{ INITIAL_PINS = \"PA1\" }}
        [[printers.boards]]
        board = \"{PICO}\"
        firmware = \"fetch\"",
        other.dir
    );
    fs::write(folder.join("config.toml"), config).unwrap();
    let out = tree.root.path().join("out");
    let built = |more: &[&str]| {
        let output = run(&tree, &[&["--printer", "voron", "--json"], more].concat());
        (result(&output), output.status.code(), text(&output.stderr).to_owned())
    };
    let (ended, code, notes) = built(&["--out", out.to_str().unwrap()]);
    let names: Vec<_> = ended["boards"].as_array().unwrap().iter().map(|board| board["name"].clone()).collect();
    assert_eq!((names, code), (vec!["voron/mcu".into(), "voron/second".into()], Some(0)), "{ended:#}");
    assert!(notes.contains("voron/btt-skr-pico: left out, its firmware comes from the index"), "{notes}");
    let [mcu, second] = [0, 1].map(|at| &ended["boards"][at]);
    // The tree is the printer's own.
    assert_eq!((&mcu["version"], &second["version"]), (&other.look().version().into(), &other.look().version().into()));
    assert_eq!(
        (&mcu["start"], &second["start"], &second["route"]),
        (&"0x08008000".into(), &"0x08000000".into(), &"dfu".into())
    );
    // Two boards of a kind do not overwrite each other's files.
    let path = second["path"].as_str().unwrap();
    assert_eq!(Path::new(path), out.join("second/klipper.bin"));
    let provenance: Value = serde_json::from_slice(&fs::read(out.join("second/provenance.json")).unwrap()).unwrap();
    assert_eq!(provenance["origin"]["built"]["requested"]["INITIAL_PINS"], "PA1");

    // The command line has the last word.
    let (ended, ..) = built(&["--board", "second", "--set", "INITIAL_PINS=PA2", "--show-config"]);
    assert_eq!(ended["boards"][0]["symbols"]["INITIAL_PINS"], "PA2", "{ended:#}");
    assert_eq!(ended["boards"].as_array().unwrap().len(), 1);
    // A board that is named is built wherever its firmware usually comes from.
    let (ended, code, _) = built(&["--board", "skr-pico"]);
    assert_eq!((&ended["boards"][0]["board"], code), (&PICO.into(), Some(0)), "{ended:#}");
    let (_, code, said) = built(&["--board", "creality-v4.2.7"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("voron has no board \"creality-v4.2.7\"; it has mcu, second, btt-skr-pico"), "{said}");
}
