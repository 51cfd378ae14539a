//! Firmware that `kflash flash` obtains by itself: built for what the device shows, else fetched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Output;

use kflash::boards;
use serde_json::{Value, json};
use tests::firmware_tree::FirmwareTree;

use crate::desk::{Desk, NEW, Ran, Served, moonraker, printer};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const EBB: &str = "btt-ebb36-v1.2";

/// A board of a printer, its firmware to be obtained.
fn board(served: &Served, name: &str, more: &str) -> String {
    let (id, address) = (served.id, served.address);
    format!("[[printers.boards]]\nname = {name:?}\nboard = {id:?}\ndevice = [\"usbip://{address}/1-1\"]\n{more}\n")
}

/// The configuration's line that names a tree.
fn klipper(tree: &FirmwareTree) -> String {
    format!("klipper = \"{}\"\n", tree.dir.display())
}

/// The image that `kflash build` makes of a tree for a route.
fn built(desk: &Desk, tree: &FirmwareTree, id: &str, route: &str) -> (u32, Vec<u8>) {
    let ran = desk.kflash("", &["build", "--board", id, "--route", route, "--klipper", tree.dir.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    let board = &ran.result["boards"][0];
    let (profile, _) = boards::find(id).unwrap();
    let route = profile.routes.iter().find(|it| it.id == route).unwrap();
    (profile.bootloader_of(route).unwrap().app_start.0, fs::read(board["path"].as_str().unwrap()).unwrap())
}

/// How often make compiled something.
fn makes(desk: &Desk) -> usize {
    let logs = fs::read_dir(desk.0.path().join("kflash/logs")).into_iter().flatten();
    logs.filter(|log| log.as_ref().unwrap().metadata().unwrap().len() > 0).count()
}

/// An index with one image, which nobody signed.
fn index(desk: &Desk, id: &str, image: &[u8], start: u32) -> PathBuf {
    let folder = desk.0.path().join("index");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("klipper.bin"), image).unwrap();
    let entry = json!({
        "board": id,
        "app": "Klipper",
        "version": NEW,
        "mcu": boards::find(id).unwrap().1.mcu[0],
        "start": start,
        "size": image.len(),
        "sha256": kflash::digest::Sha256::of(image).to_string(),
        "url": "klipper.bin",
    });
    let index = json!({ "format": 1, "serial": 1, "created": "2026-11-01T00:00:00Z", "images": [entry] });
    let file = folder.join("index.json");
    fs::write(&file, index.to_string()).unwrap();
    file
}

fn run_without(desk: &Desk, programs: &[&str], config: &str, arguments: &[&str]) -> Ran {
    let path = desk.0.path().join(format!("without-{}", programs.join("-")));
    fs::create_dir_all(&path).unwrap();
    for folder in std::env::split_paths(&std::env::var_os("PATH").unwrap()) {
        for program in fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
            let name = program.file_name();
            if !programs.iter().any(|without| name.to_string_lossy().starts_with(without)) {
                let _ = symlink(program.path(), path.join(name));
            }
        }
    }
    let output: Output = desk.command(config, arguments).env("PATH", &path).output().unwrap();
    Ran::of(&output)
}

fn version(ended: &Value) -> &str {
    ended["now"]["version"].as_str().unwrap_or_else(|| panic!("{ended:#}"))
}

#[test]
fn it_is_built_for_what_the_device_shows() {
    let (desk, tree) = (Desk::new(), FirmwareTree::new());
    // One behind Katapult, one without any bootloader of its own, where the board's first route would not fit.
    let first = desk.serve_with(OCTOPUS, "katapult", vec![built(&desk, &tree, OCTOPUS, "katapult-usb")]);
    let bare = desk.serve_with(EBB, "none", vec![built(&desk, &tree, EBB, "dfu")]);
    let made = makes(&desk);
    let config = klipper(&tree) + &printer("voron", None) + &board(&first, "mcu", "") + &board(&bare, "toolhead", "");
    let ran = desk.kflash(&config, &["flash", "--printer", "voron"]);
    assert_eq!(ran.code, 0, "{ran:#?}");
    for name in ["voron/mcu", "voron/toolhead"] {
        let ended = ran.of_board(name);
        assert_eq!(ended["result"], "flashed", "{ran:#?}");
        assert_eq!(version(ended), tree.look().version());
    }
    assert_eq!(makes(&desk), made, "both were in the cache");
    let verified = desk.kflash(&config, &["verify", "--printer", "voron"]);
    assert_eq!(verified.of_board("voron/toolhead")["result"], "dictionary-matches", "{verified:#?}");
}

#[test]
fn a_build_that_fails_stops_no_other_board() {
    let (desk, tree) = (Desk::new(), FirmwareTree::new());
    let good = desk.serve_with(OCTOPUS, "katapult", vec![built(&desk, &tree, OCTOPUS, "katapult-usb")]);
    let bad = desk.serve(EBB);
    let config = klipper(&tree)
        + &printer("voron", None)
        + &board(&good, "mcu", "")
        + &board(&bad, "toolhead", "symbols = { NO_SUCH_SYMBOL = \"y\" }");
    let ran = desk.kflash(&config, &["flash", "--all"]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    assert_eq!(ran.of_board("voron/mcu")["result"], "flashed");
    let failed = ran.of_board("voron/toolhead");
    assert!(failed["details"][0].as_str().unwrap().contains("NO_SUCH_SYMBOL"), "{ran:#?}");
    assert!(bad.untouched());
}

#[test]
fn while_it_prints_nothing_is_built() {
    let (desk, tree) = (Desk::new(), FirmwareTree::new());
    let served = desk.serve(OCTOPUS);
    let (url, asked) = moonraker("printing", "Printing");
    let config = klipper(&tree) + &printer("voron", Some(&url)) + &board(&served, "mcu", "");
    let ran = desk.kflash(&config, &["flash", "--printer", "voron"]);
    assert_eq!((ran.code, &ran.of_board("voron/mcu")["kind"]), (5, &json!("printing")), "{ran:#?}");
    assert!(asked.try_iter().count() > 0);
    assert_eq!(makes(&desk), 0);
    assert!(served.untouched());
}

#[test]
fn without_compilers_it_is_fetched_and_without_an_index_they_are_named() {
    let (desk, tree) = (Desk::new(), FirmwareTree::new());
    let served = desk.serve(OCTOPUS);
    let new = fs::read(&served.firmware).unwrap();
    let boards = printer("voron", None) + &board(&served, "mcu", "");
    let flash = ["flash", "--printer", "voron"];
    let without =
        |config: &str, more: &[&str]| run_without(&desk, &["arm-none-eabi-"], config, &[&flash, more].concat());

    let ran = without(&(klipper(&tree) + &boards), &[]);
    let failed = ran.of_board("voron/mcu");
    assert_eq!(ran.code, 7, "{ran:#?}");
    assert!(failed["hint"].as_str().unwrap().contains("gcc-arm-none-eabi"), "{ran:#?}");
    assert!(served.untouched());

    let start = boards::find(OCTOPUS).unwrap().0.bootloaders[0].app_start.0;
    let index = index(&desk, OCTOPUS, &new, start);
    let fetch = ["--from", index.to_str().unwrap(), "--allow-unsigned"];
    // Who names an index wants it, whether or not there are compilers.
    let plan = desk.kflash(&(klipper(&tree) + &boards), &[&["plan", "--printer", "voron"], &fetch[..]].concat());
    assert_eq!((plan.code, makes(&desk)), (0, 0), "{plan:#?}");
    let configured = format!("fetch = {{ index = \"file://{}\" }}\n", index.display()) + &klipper(&tree) + &boards;
    let unsigned = without(&configured, &[]);
    assert_eq!(unsigned.code, 2, "nobody vouches for it: {unsigned:#?}");
    assert!(unsigned.said.contains("; it is fetched"), "{unsigned:#?}");
    let without_git = run_without(&desk, &["git"], &configured, &["plan", "--printer", "voron", "--allow-unsigned"]);
    assert!(without_git.said.contains("git is not installed; it is fetched"), "{without_git:#?}");
    let ran = without(&configured, &["--allow-unsigned"]);
    assert_eq!((ran.code, version(ran.of_board("voron/mcu"))), (0, NEW), "{ran:#?}");
}

#[test]
fn without_tree_and_index_both_are_named() {
    let desk = Desk::new();
    let served = desk.serve(OCTOPUS);
    let device = format!("usbip://{}/1-1", served.address);
    let ran = desk.kflash("", &["flash", "--board", OCTOPUS, "--device", &device]);
    assert_eq!(ran.code, 2, "{ran:#?}");
    let message = ran.result["message"].as_str().unwrap();
    assert!(message.contains("no Klipper or Kalico tree") && message.contains("no index"), "{message}");
    for option in ["--klipper", "--git", "--from", "--firmware"] {
        assert!(ran.result["hint"].as_str().unwrap().contains(option), "{ran:#?}");
    }
    assert!(served.untouched());
}

#[test]
fn a_rehearsal_goes_from_a_tree_to_a_confirmed_flash() {
    let (desk, tree) = (Desk::new(), FirmwareTree::new());
    let klipper = tree.dir.to_str().unwrap();
    for (board, more) in [
        (OCTOPUS, &[][..]),
        (OCTOPUS, &["--route", "dfu"]),
        ("btt-skr-pico", &[]),
        ("creality-v4.2.7", &["--set", "LOW_LEVEL_OPTIONS=y", "--set", "SERIAL_BAUD=115200"]),
    ] {
        let simulate = if more == ["--route", "dfu"] { "--simulate=none" } else { "--simulate" };
        let arguments = [&["flash", "--board", board, simulate, "--klipper", klipper], more].concat();
        let ran = desk.kflash("", &arguments);
        assert_eq!((ran.code, &ran.result["result"]), (0, &json!("flashed")), "{ran:#?}");
        assert_eq!((version(&ran.result), &ran.result["simulated"]), (tree.look().version(), &json!(true)));
    }
    // Without being asked, nothing is built for a virtual board.
    fs::rename(&tree.dir, desk.0.path().join("klipper")).unwrap();
    let before = makes(&desk);
    let ran = desk.kflash("", &["flash", "--board", OCTOPUS, "--simulate"]);
    assert_eq!((ran.code, makes(&desk)), (0, before), "{ran:#?}");
    // Nor for a board that is not there.
    let gone = desk.kflash("", &["plan", "--board", OCTOPUS, "--set", "WANT_SENSORS=n"]);
    assert_eq!((gone.code, makes(&desk)), (4, before), "{gone:#?}");
}
