#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const KCONFIG: &str = r#"
mainmenu "Test"
choice
    prompt "Micro-controller"
    config MACH_ONE
        bool "One"
        help
            config NOT_A_SYMBOL
              stands in this help text.
    config MACH_TWO
        bool "Two" if LOW_LEVEL
endchoice
config LOW_LEVEL
    bool "Low \
level"
if MACH_TWO
config OFFSET
    depends on LOW_LEVEL || MACH_ONE # which one
    hex "Offset"
config SPEED
	int
	prompt "Speed" if LOW_LEVEL
	range 1 9
endif
config MCU
    string
    default "one" if MACH_ONE
config PINS
    string "Pins"
"#;

fn symbols() -> Symbols {
    Symbols::parse(KCONFIG)
}

fn request(text: &[&str]) -> Request {
    Request::new(text.iter().map(|text| assignment(text).unwrap()), &BTreeMap::new()).unwrap()
}

fn drifts(request: &Request, config: &str) -> Vec<String> {
    let drifts = request.compare(&symbols(), &Config::parse(config).unwrap());
    drifts.iter().map(ToString::to_string).collect()
}

#[test]
fn kconfig_files_tell_kind_choice_and_conditions() {
    let symbols = symbols();
    let names: Vec<_> = symbols.names().collect();
    assert_eq!(names, ["LOW_LEVEL", "MACH_ONE", "MACH_TWO", "MCU", "OFFSET", "PINS", "SPEED"]);
    let kinds: Vec<_> = names.iter().map(|name| symbols.get(name).unwrap().kind.unwrap()).collect();
    assert_eq!(kinds, [Kind::Bool, Kind::Bool, Kind::Bool, Kind::Text, Kind::Hex, Kind::Text, Kind::Int]);
    let settable: Vec<_> = names.iter().filter(|name| symbols.get(name).unwrap().settable).collect();
    assert_eq!(settable, [&"LOW_LEVEL", &"MACH_ONE", &"MACH_TWO", &"OFFSET", &"PINS", &"SPEED"]);
    assert_eq!(symbols.get("OFFSET").unwrap().needs(), ["MACH_TWO && (LOW_LEVEL || MACH_ONE)"]);
    assert_eq!(symbols.get("SPEED").unwrap().needs(), ["MACH_TWO && LOW_LEVEL"]);
    assert_eq!(symbols.get("MACH_ONE").unwrap().needs(), [""; 0]);
}

#[test]
fn a_menu_has_conditions_and_what_cannot_be_set_gives_no_reason() {
    let symbols = Symbols::parse(
        "menu \"Features\"\ndepends on LIMITED\nconfig ADC\n  bool \"ADC\"\n  depends on HAVE_ADC\nif MORE\nconfig ALSO\n  \
         bool \"Also\"\nendif\nendmenu\nconfig ADC\n  bool\n  default y\n  depends on HAVE_ADC\nconfig FREE\n  \
         bool \"Free\"\n",
    );
    assert_eq!(symbols.get("ADC").unwrap().needs(), ["LIMITED && HAVE_ADC"]);
    assert_eq!(symbols.get("ALSO").unwrap().needs(), ["LIMITED && MORE"]);
    assert_eq!(symbols.get("FREE").unwrap().needs(), [""; 0]);
}

#[test]
fn a_request_is_written_as_kconfig_reads_it() {
    let request = request(&["CONFIG_MACH_TWO=y", "MACH_ONE=n", "OFFSET=8000", "SPEED=07", r#"PINS="!PA1,\"""#]);
    let text = "# CONFIG_MACH_ONE is not set\nCONFIG_MACH_TWO=y\nCONFIG_OFFSET=0x8000\n\
                CONFIG_PINS=\"!PA1,\\\\\\\"\"\nCONFIG_SPEED=7\n";
    assert_eq!(request.text(&symbols()), text);
    assert_eq!(drifts(&request, text), [""; 0]);
    let mixed = text.replace("0x8000", "0x08000");
    assert_eq!(drifts(&request, &mixed), [""; 0]);
}

#[test]
fn every_symbol_that_did_not_hold_is_told_with_what_it_became() {
    let request = request(&["MACH_TWO=y", "OFFSET=0x8000", "SPEED=12", "MCU=two", "LOW_LEVL=y", "LOW_LEVEL=1"]);
    assert_eq!(
        request.text(&symbols()),
        "CONFIG_MACH_TWO=y\nCONFIG_MCU=\"two\"\nCONFIG_OFFSET=0x8000\nCONFIG_SPEED=12\n"
    );
    assert_eq!(
        drifts(&request, "CONFIG_MACH_ONE=y\n# CONFIG_MACH_TWO is not set\nCONFIG_MCU=\"one\"\nCONFIG_SPEED=9\n"),
        [
            "LOW_LEVEL: wanted \"1\", but it takes y or n",
            "LOW_LEVL: wanted \"y\", but this tree has no such symbol; did you mean LOW_LEVEL?",
            "MACH_TWO: wanted \"y\", became \"n\"; MACH_ONE was chosen in its place; it needs LOW_LEVEL",
            "MCU: wanted \"two\", but this tree computes it and lets nobody set it",
            "OFFSET: wanted \"0x8000\", was dropped; it needs MACH_TWO && (LOW_LEVEL || MACH_ONE)",
            "SPEED: wanted \"12\", became \"9\"; it needs MACH_TWO && LOW_LEVEL",
        ]
    );
}

#[test]
fn off_is_off_whether_the_file_says_so_or_not() {
    let request = request(&["LOW_LEVEL=n"]);
    assert_eq!(drifts(&request, ""), [""; 0]);
    assert_eq!(drifts(&request, "# CONFIG_LOW_LEVEL is not set\n"), [""; 0]);
    assert_eq!(drifts(&request, "CONFIG_LOW_LEVEL=y\n"), ["LOW_LEVEL: wanted \"n\", became \"y\""]);
}

/// The generations of the RP2040's symbols, as Klipper had them before and has had them since its commit 906431bb.
#[test]
fn a_renamed_symbol_is_asked_for_by_the_name_that_the_tree_has() {
    let (profile, chip) = crate::boards::find("btt-skr-pico").unwrap();
    let request = Request::of_route(&profile, &chip, &profile.routes[0], &[]).unwrap();
    let lines = |names: &[&str], line: &dyn Fn(&str) -> String| names.iter().map(|name| line(name)).collect::<String>();
    let bools = |names: &[&str]| lines(names, &|name| format!("config {name}\n  bool \"{name}\"\n"));
    let older = Symbols::parse(&bools(&["MACH_RP2040", "RP2040_USB", "RP2040_FLASH_START_4000"]));
    let text = "CONFIG_RP2040_FLASH_START_4000=y\nCONFIG_RP2040_USB=y\nCONFIG_MACH_RP2040=y\n";
    assert_eq!(sorted(&request.text(&older)), sorted(text));
    assert_eq!(request.compare(&older, &Config::parse(text).unwrap()), []);
    let without = Config::parse("CONFIG_MACH_RP2040=y\nCONFIG_RP2040_FLASH_START_4000=y\n").unwrap();
    let drift = request.compare(&older, &without);
    assert_eq!(drift[0].to_string(), "RPXXXX_USB (here RP2040_USB): wanted \"y\", was dropped");

    let newer = ["MACH_RPXXXX", "MACH_RP2040", "RPXXXX_USB", "RPXXXX_FLASH_START_4000"];
    let text = lines(&newer, &|name| format!("CONFIG_{name}=y\n"));
    let newer = Symbols::parse(&bools(&newer));
    assert_eq!(sorted(&request.text(&newer)), sorted(&text));
    // The old name is not taken for the new one silently, where a person sets it.
    let set = Request::of_route(&profile, &chip, &profile.routes[0], &[("RP2040_USB".to_owned(), "y".to_owned())]);
    let drift = set.unwrap().compare(&newer, &Config::parse(&text).unwrap());
    assert_eq!(drift.len(), 1);
    assert_eq!(drift[0].became, Became::Unknown { instead: Some("RPXXXX_USB".to_owned()) });
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn another_number_is_no_suggestion() {
    let symbols = Symbols::parse("config STM32_FLASH_START_8000\n  bool \"32KiB bootloader\"\n");
    let drift = request(&["STM32_FLASH_START_7000=y"]).compare(&symbols, &Config::default());
    assert_eq!(drift[0].became, Became::Unknown { instead: None });
}

#[test]
fn what_a_person_sets_goes_before_the_profile() {
    let (profile, chip) = crate::boards::find("btt-octopus-v1.1-f446").unwrap();
    let set = [("STM32_CLOCK_REF_12M".to_owned(), "n".to_owned()), ("WANT_SENSORS".to_owned(), "n".to_owned())];
    let request = Request::of_route(&profile, &chip, &profile.routes[0], &set).unwrap();
    let value = |symbol| request.symbols().get(symbol).map(String::as_str);
    assert_eq!(value("STM32_CLOCK_REF_12M"), Some("n"));
    assert_eq!(value("WANT_SENSORS"), Some("n"));
    assert_eq!(value("STM32_FLASH_START_8000"), Some("y"));
}

#[test]
fn what_is_no_assignment_is_refused() {
    assert_eq!(assignment("CONFIG_A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
    let refused = |text| assignment(text).unwrap_err().to_string();
    assert_eq!(refused("MACH_STM32"), r#""MACH_STM32" is no SYMBOL=VALUE"#);
    assert_eq!(refused("$(shell reboot)=y"), r#""$(shell reboot)" is no symbol such as MACH_STM32"#);
    assert!(refused("PINS=a\nCONFIG_B=y").starts_with(r#"PINS: "a\nCONFIG_B=y" is no value"#));
    assert!(refused(&format!("PINS={}", "a".repeat(2000))).contains("is no value"));
}

#[test]
fn a_resolved_file_is_read_strictly() {
    let config =
        Config::parse("#\n# Comment\n#\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"a \\\"b\\\" \\\\\"\n").unwrap();
    assert_eq!(config.iter().collect::<Vec<_>>(), [("A", "y"), ("B", "n"), ("C", "a \"b\" \\")]);
    for (text, line) in [("A=y", 1), ("\nCONFIG_A", 2), ("CONFIG_A=\"b", 1), ("CONFIG_A=\"b\" c", 1), ("CONFIG_=y", 1)]
    {
        assert_eq!(Config::parse(text), Err(ConfigError::Malformed { line }), "{text:?}");
    }
    assert_eq!(Config::parse(&"\n".repeat(2 << 20)), Err(ConfigError::TooLarge));
}

#[test]
fn symbols_are_collected_from_every_kconfig_file_below_src() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("src/one")).unwrap();
    std::fs::write(dir.path().join("src/Kconfig"), "config A\n bool\n").unwrap();
    std::fs::write(dir.path().join("src/one/Kconfig"), "config B\n bool\n").unwrap();
    std::fs::write(dir.path().join("src/one/Makefile"), "config C\n bool\n").unwrap();
    std::os::unix::fs::symlink("/", dir.path().join("src/everything")).unwrap();
    assert_eq!(Symbols::scan(dir.path()).unwrap().names().collect::<Vec<_>>(), ["A", "B"]);
    std::fs::write(dir.path().join("src/Kconfig"), vec![b'#'; 2 << 20]).unwrap();
    assert!(matches!(Symbols::scan(dir.path()), Err(SymbolsError::TooLarge(_))));
    assert!(matches!(Symbols::scan(&dir.path().join("src")), Err(SymbolsError::Unreadable { .. })));
}

proptest! {
    #[test]
    fn every_value_survives_the_file(value in "\\PC{0,40}") {
        let request = Request::new([("PINS".to_owned(), value.clone())], &BTreeMap::new()).unwrap();
        let config = Config::parse(&request.text(&symbols())).unwrap();
        prop_assert_eq!(config.get("PINS"), Some(value.as_str()));
        prop_assert!(request.compare(&symbols(), &config).is_empty());
    }

    #[test]
    fn numbers_are_equal_however_they_are_written(number in 0_u32.., zeros in 0_usize..4) {
        let hex = format!("0x{}{number:X}", "0".repeat(zeros));
        let request = Request::new([("OFFSET".to_owned(), hex.clone())], &BTreeMap::new()).unwrap();
        let config = Config::parse(&request.text(&symbols())).unwrap();
        prop_assert!(request.compare(&symbols(), &config).is_empty());
        let other = Config::parse(&format!("CONFIG_OFFSET=0x{:x}\n", u64::from(number) + 1)).unwrap();
        prop_assert_eq!(request.compare(&symbols(), &other).len(), 1);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,200}", lines in proptest::collection::vec(
        "(config|if|endif|choice|help|bool|hex|prompt|depends on|CONFIG_A=|# CONFIG_A is not set)? ?[\\PC\"'\\\\\t]{0,12}", 0..20
    )) {
        let lines = lines.join("\n");
        for text in [&text, &lines] {
            let symbols = Symbols::parse(text);
            let config = Config::parse(text).unwrap_or_default();
            let _ = assignment(text);
            for name in symbols.names() {
                prop_assert!(is_symbol(name));
                let drift = request(&[&format!("{name}=y")]).compare(&symbols, &config);
                prop_assert!(drift.iter().all(|drift| !drift.to_string().contains('\n')));
            }
        }
    }
}
