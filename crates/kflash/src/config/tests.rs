#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const FILE: &str = "/etc/kflash/config.toml";
const EXAMPLE: &str = include_str!("../../../../docs/config.toml");

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new(FILE), text.as_bytes(), Some(Path::new("/home/pi")))
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string().replace(FILE, "F")
}

/// A printer with one board, and more lines for the board.
fn board(more: &str) -> String {
    format!("[[printers]]\nname = \"a\"\n[[printers.boards]]\nboard = \"btt-skr-pico\"\n{more}")
}

#[test]
fn the_example_says_what_it_says() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.klipper, Some(Tree::Directory("/home/pi/klipper".into())));
    let names: Vec<_> = config.printers.iter().map(|printer| printer.name.as_str()).collect();
    assert_eq!(names, ["voron", "ender", "bench"]);

    let voron = config.printer("voron").unwrap();
    assert_eq!(voron.moonraker.as_ref().unwrap().api_key_file, Some("/etc/kflash/voron.key".into()));
    let [mcu, toolhead] = &voron.boards[..] else { panic!("{voron:?}") };
    assert_eq!((mcu.name.as_str(), mcu.board.as_str()), ("mcu", "btt-octopus-v1.1-f446"));
    let selectors = ["1-1.4", "290034001751333038363536"].map(|text| text.parse::<Selector>().unwrap());
    assert_eq!(mcu.device, selectors);
    assert_eq!(mcu.symbols["INITIAL_PINS"], "PA8");
    assert_eq!((&mcu.firmware, &toolhead.firmware), (&None, &Some(Source::Fetch)));
    assert_eq!(config.tree_of(Some(voron)), config.klipper.as_ref());

    let ender = config.printer("ender").unwrap();
    let git = "https://github.com/Klipper3d/klipper.git".to_owned();
    assert_eq!(config.tree_of(Some(ender)), Some(&Tree::Git(GitTree { git, reference: Some("host".to_owned()) })));
    assert_eq!(ender.boards[0].name, "creality-v4.2.7");

    let bench = &config.printer("bench").unwrap().boards[0];
    assert_eq!((bench.name.as_str(), bench.board.as_str()), ("my-board", "/etc/kflash/./my-board.toml"));
    assert_eq!(bench.firmware, Some(Source::File("/etc/kflash/my-board.bin".into())));
    for printer in &config.printers {
        for board in printer.boards.iter().filter(|board| !board.board.contains('/')) {
            crate::boards::find(&board.board).unwrap();
        }
    }
}

#[test]
fn nothing_is_a_configuration_too() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn what_is_wrong_is_named_by_line_and_key() {
    for (text, said) in [
        (
            "kliper = \"x\"",
            "F:1: unknown field `kliper`, expected one of `klipper`, `fetch`, `printers` (did you mean `klipper`?)",
        ),
        (
            "\n[fetch]\nindx = \"x\"",
            "F:3: unknown field `indx`, expected one of `index`, `key`, `ca` (did you mean `index`?)",
        ),
        ("[[printers]]\nname = \"a\"\nboards = []", "F: printers.a.boards: none"),
        (
            "[[printers]]\nname = \"Voron 2.4\"\nboards = []",
            "F: printers.name: \"Voron 2.4\" is no name: lower-case letters, digits, dots, dashes and underscores",
        ),
        ("[[printers]]\nname = \"a\"", "F:1: missing field `boards`"),
        (
            "klipper = 5",
            "F:1: invalid type: integer `5`, expected a directory, or a table such as { git = \"URL\", ref = \"v0.13.0\" }",
        ),
        (
            "klipper = { git = \"x\", reff = \"y\" }",
            "F:1: unknown field `reff`, expected `git` or `ref` (did you mean `ref`?)",
        ),
        ("klipper = { git = \"klipper.git\" }", "F: klipper.git: \"klipper.git\" is neither a URL nor a path"),
        (
            "klipper = { git = \"--upload-pack=x:\" }",
            "F: klipper.git: \"--upload-pack=x:\" is neither a URL nor a path",
        ),
        (
            "klipper = { git = \"https://x/y\", ref = \"--all\" }",
            "F: klipper.ref: \"--all\" is no branch, tag or commit",
        ),
        ("klipper = \"~root/klipper\"", "F: klipper: ~root/klipper: only ~/ is understood, no other user's home"),
        ("klipper = \"\"", "F: klipper: \"\" is no path"),
        ("fetch = { index = \"ftp://x\" }", "F: fetch.index: \"ftp://x\" is no https:// or file:// URL"),
    ] {
        assert_eq!(refused(text), said);
    }
}

#[test]
fn where_klipper_runs_in_a_cluster_is_checked() {
    let cluster = |more: &str| {
        let cluster = format!("[printers.cluster]\nnode = \"pi4\"\nworkload = \"deploy/voron\"\n{more}");
        format!("[[printers]]\nname = \"a\"\n{cluster}\n[[printers.boards]]\nboard = \"btt-skr-pico\"\n")
    };
    let read = parse(&cluster("")).unwrap().printers[0].cluster.clone().unwrap();
    assert_eq!((read.namespace.as_str(), read.workload.to_string().as_str()), ("default", "deployment/voron"));
    for (more, said) in [
        ("namespace = \"A b\"", "F: printers.a.cluster.namespace: \"A b\" is no namespace"),
        (
            "resource = \"cpu\"",
            "F: printers.a.cluster.resource: \"cpu\" is no extended resource such as example.com/board",
        ),
        ("api-key-secret = \"a: b\"", "F: printers.a.cluster.api-key-secret: \"a: b\" is no name of a Secret"),
    ] {
        assert_eq!(refused(&cluster(more)), said);
    }
}

#[test]
fn what_is_wrong_with_a_board_is_named() {
    for (more, said) in [
        (
            "device = [\"0483:df11\"]",
            "F:5: 0483:df11 is the id of a kind of device, not of one: name its port path, serial number or tty",
        ),
        (
            "firmware = \"bild\"",
            "F:5: unknown variant `bild`, expected one of `build`, `fetch`, `file` (did you mean `build`?)",
        ),
        (
            "symbols = { CONFIG_X = \"y\" }",
            "F: printers.a.boards.btt-skr-pico.symbols: \"CONFIG_X\" is no symbol such as MACH_STM32",
        ),
        (
            "symbols = { X = \"a\\nCONFIG_Y=y\" }",
            "F: printers.a.boards.btt-skr-pico.symbols: X: \"a\\nCONFIG_Y=y\" is no value",
        ),
        (
            "route = \"../x\"",
            "F: printers.a.boards.btt-skr-pico.route: \"../x\" is no name: lower-case letters, digits, dots, dashes and underscores",
        ),
        (
            "[[printers.boards]]\nboard = \"btt-skr-pico\"",
            "F: printers.a.boards: \"btt-skr-pico\" twice: give each a name of its own",
        ),
        ("[[printers]]\nname = \"a\"\n[[printers.boards]]\nboard = \"btt-skr-pico\"", "F: printers: \"a\" twice"),
    ] {
        assert_eq!(refused(&board(more)), said);
    }
}

#[test]
fn a_key_is_never_shown() {
    let with = |moonraker: &str| board(&format!("[printers.moonraker]\n{moonraker}"));
    let config = parse(&with("url = \"http://x\"\napi-key = \" 5ec4e7 \"")).unwrap();
    assert!(!format!("{config:?}").contains("5ec4e7"));
    assert_eq!(config.printers[0].moonraker.as_ref().unwrap().api_key, ApiKey::new("5ec4e7"));
    for text in [
        "url = \"http://x\"\napi-key = 53637265",
        "url = \"http://x\"\napi-key = \"53637265\\u0000\"",
        "url = \"http://x\"\napi-key = \"53637265\"\napi-key-file = \"x\"",
        "url = \"http://me:53637265@x\"",
    ] {
        let said = refused(&with(text));
        assert!(!said.contains("53637265"), "{said}");
    }
}

#[test]
fn a_printer_of_another_name_is_suggested() {
    let config = parse(EXAMPLE).unwrap();
    let said = config.printer("vorn").unwrap_err().to_string();
    assert_eq!(said, "no printer named \"vorn\" (did you mean \"voron\"?)");
}

#[test]
fn a_file_that_is_none_is_an_error_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let said = |path: &Path| Config::read(path, None).unwrap_err().to_string();
    assert!(said(&path).ends_with("No such file or directory (os error 2)"));
    assert!(said(dir.path()).ends_with(": not a file"));
    assert!(said(Path::new("/dev/zero")).ends_with(": not a file"));
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(said(&path).ends_with("larger than 1024 KiB: no configuration"));
    std::fs::write(&path, "klipper = \"tree\"").unwrap();
    assert_eq!(Config::read(&path, None).unwrap().klipper, Some(Tree::Directory(dir.path().join("tree"))));
    std::fs::write(&path, "klipper = \"~/klipper\"").unwrap();
    assert!(said(&path).ends_with("klipper: ~/klipper: no home directory is known"));
}

proptest! {
    /// Whatever a file holds: no panic, and what is accepted keeps what the stages rely on.
    #[test]
    fn any_bytes(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Config::parse(Path::new(FILE), &text, None);
    }

    #[test]
    fn a_mutilated_example(at in 0..EXAMPLE.len(), cut in 0..40_usize, by in "[ -~\n]{0,12}") {
        let mut text = EXAMPLE.as_bytes().to_vec();
        text.splice(at..(at + cut).min(EXAMPLE.len()), by.bytes());
        if let Ok(config) = Config::parse(Path::new(FILE), &text, Some(Path::new("/home/pi"))) {
            for printer in &config.printers {
                prop_assert!(crate::boards::check::is_id(&printer.name));
                prop_assert!(!printer.boards.is_empty());
                for board in &printer.boards {
                    prop_assert!(crate::boards::check::is_id(&board.name));
                    if let Some(Source::File(file)) = &board.firmware {
                        prop_assert!(file.is_absolute());
                    }
                }
            }
        }
    }
}
