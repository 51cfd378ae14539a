#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A firmware of a dozen messages, as data to be changed.
fn firmware() -> Value {
    json!({
        "app": "Klipper",
        "version": "v0.13.0-1-gaaaaaaaa",
        "commands": {
            "identify offset=%u count=%c": 1,
            "get_clock": 5,
            "get_config": 7,
            "emergency_stop": 3,
            "debug_ping data=%*s": 9,
            "config_probe oid=%c sensor_pin=%u bus_kind=%c": 20,
            "set_probe oid=%c ticks=%u": 21,
        },
        "responses": {
            "identify_response offset=%u data=%.*s": 0,
            "clock clock=%u": -2,
            "shutdown clock=%u static_string_id=%hu": -5,
            "probe_state oid=%c bus_status=%c": 30,
        },
        "config": {
            "MCU": "stm32f446xx",
            "CLOCK_FREQ": 180_000_000,
            "STATS_SUMSQ_BASE": 256,
            "ADC_MAX": 4095,
            "RESERVE_PINS_USB": "PA11,PA12",
            "STEPPER_STEP_BOTH_EDGE": 1,
        },
        "enumerations": {
            "pin": { "PA0": [0, 16], "PB0": [16, 16], "ADC_TEMPERATURE": 254 },
            "bus_kind": { "spi": 0, "i2c": 1 },
            "bus_status": { "SUCCESS": 0, "NACK": 1 },
            "static_string_id": { "Timer too close": 3 },
            "probe_error:": { "OVERFLOW": 1 },
        },
    })
}

fn dictionary(firmware: &Value) -> Dictionary {
    Dictionary::from_json(firmware.to_string().as_bytes()).unwrap()
}

/// What is found where `change` was made to the running firmware; its version is another one, too.
fn after(change: impl FnOnce(&mut Value)) -> (Verdict, Vec<String>) {
    let mut running = firmware();
    running["version"] = "v0.12.0-9-gbbbbbbbb".into();
    change(&mut running);
    let Compatibility { verdict, reasons } = compare(&dictionary(&running), &dictionary(&firmware()));
    let needed = |reason: &Reason| if reason.needed == Needed::Always { "always: " } else { "" };
    (verdict, reasons.iter().map(|reason| format!("{}{}", needed(reason), reason.difference)).collect())
}

fn remove(firmware: &mut Value, table: &str, key: &str) {
    firmware[table].as_object_mut().unwrap().remove(key).unwrap();
}

/// Asserts that the host has to be told this, and nothing else.
#[track_caller]
fn must_flash(change: impl FnOnce(&mut Value), reason: &str) {
    assert_eq!(after(change), (Verdict::MustFlash, vec![reason.to_owned()]));
}

#[track_caller]
fn compatible(change: impl FnOnce(&mut Value)) {
    assert_eq!(after(change), (Verdict::Compatible, Vec::new()));
}

#[test]
fn equal_dictionaries_are_current_and_versions_do_not_count() {
    let current = compare(&dictionary(&firmware()), &dictionary(&firmware()));
    assert_eq!(current, Compatibility { verdict: Verdict::Current, reasons: vec![] });
    compatible(|_| ());
}

#[test]
fn what_the_host_does_not_look_up_may_differ() {
    compatible(|running| running["commands"]["get_clock"] = 77.into());
    compatible(|running| running["commands"]["new_thing oid=%c"] = 78.into());
    compatible(|running| running["responses"]["new_state oid=%c data=%*s"] = 79.into());
    compatible(|running| running["config"]["CLOCK_FREQ"] = 168_000_000.into());
    compatible(|running| running["config"]["CLOCK_FREQ"] = "168000000".into());
    compatible(|running| running["config"]["RESERVE_PINS_serial"] = "PA9".into());
    compatible(|running| running["enumerations"]["pin"]["PA0"] = json!([32, 20]));
    compatible(|running| running["enumerations"]["static_string_id"] = json!({ "ADC out of range": 9 }));
    compatible(|running| remove(running, "commands", "debug_ping data=%*s"));
    compatible(|running| remove(running, "config", "STEPPER_STEP_BOTH_EDGE"));
    compatible(|running| remove(running, "config", "RESERVE_PINS_USB"));
    compatible(|running| remove(running, "enumerations", "probe_error:"));
}

#[test]
fn messages_that_are_missing_or_other() {
    must_flash(|running| remove(running, "commands", "get_clock"), "always: no command get_clock");
    must_flash(|running| remove(running, "responses", "clock clock=%u"), "always: no response clock clock=%u");
    must_flash(
        |running| remove(running, "commands", "set_probe oid=%c ticks=%u"),
        "no command set_probe oid=%c ticks=%u",
    );
    must_flash(
        |running| {
            remove(running, "commands", "set_probe oid=%c ticks=%u");
            running["commands"]["set_probe oid=%c ticks=%hu"] = 21.into();
        },
        "command set_probe oid=%c ticks=%hu is set_probe oid=%c ticks=%u in the tree",
    );
    // klippy takes whichever of the two comes last.
    must_flash(
        |running| running["responses"]["get_clock"] = 91.into(),
        "always: command get_clock exists twice, or as the other of command and response",
    );
    must_flash(
        |running| {
            remove(running, "commands", "get_clock");
            running["responses"]["get_clock"] = 5.into();
        },
        "always: command get_clock exists twice, or as the other of command and response",
    );
}

#[test]
fn one_message_that_the_host_cannot_read_spoils_all() {
    for format in ["new_thing oid=%lu", "new_thing oid", "new_thing a=%c=%c", ""] {
        let (verdict, reasons) = after(|running| running["commands"][format] = 80.into());
        assert_eq!(verdict, Verdict::MustFlash, "{format}");
        assert_eq!(reasons, [format!("always: {format} is of a form that the host does not know")]);
    }
}

#[test]
fn constants_that_are_missing_or_unreadable() {
    must_flash(|running| remove(running, "config", "STATS_SUMSQ_BASE"), "always: no constant STATS_SUMSQ_BASE");
    must_flash(|running| remove(running, "config", "ADC_MAX"), "no constant ADC_MAX");
    must_flash(
        |running| running["config"]["ADC_MAX"] = "much".into(),
        "the constant ADC_MAX is not what the host expects",
    );
    must_flash(
        |running| running["config"]["RESERVE_PINS_x"] = 5.into(),
        "always: the constant RESERVE_PINS_x is not what the host expects",
    );
    must_flash(
        |running| running["config"]["SERIAL_BAUD"] = "fast".into(),
        "always: the constant SERIAL_BAUD is not what the host expects",
    );
}

#[test]
fn values_that_are_missing() {
    must_flash(
        |running| running["enumerations"]["pin"]["PB0"] = json!([16, 4]),
        "no pin PB4, PB5, PB6, PB7, PB8, PB9 and 6 more",
    );
    must_flash(
        |running| running["enumerations"]["pin"].as_object_mut().unwrap().clear(),
        "no pin ADC_TEMPERATURE, PA0, PA1, PA2, PA3, PA4 and 27 more",
    );
    must_flash(|running| running["enumerations"]["bus_kind"] = json!({ "spi": 0 }), "no bus_kind i2c");
    // What a response tells by name, too: klippy compares it.
    must_flash(|running| running["enumerations"]["bus_status"] = json!({ "NACK": 1 }), "no bus_status SUCCESS");
    must_flash(|running| remove(running, "enumerations", "bus_kind"), "the parameter bus_kind takes other values");
    // klippy then looks the number that it wants to send up among the names.
    must_flash(
        |running| running["enumerations"]["ticks"] = json!({ "many": 9 }),
        "the parameter ticks takes other values",
    );
    must_flash(
        |running| running["enumerations"]["new"] = json!({ "x": 1.5 }),
        "always: the enumeration new is not what the host expects",
    );
    // Of a message that is missing anyhow, nothing more is said.
    must_flash(
        |running| {
            remove(running, "commands", "config_probe oid=%c sensor_pin=%u bus_kind=%c");
            remove(running, "enumerations", "bus_kind");
            remove(running, "enumerations", "pin");
        },
        "no command config_probe oid=%c sensor_pin=%u bus_kind=%c",
    );
}

#[test]
fn what_cannot_be_compared() {
    let other = after(|running| running["config"]["MCU"] = "stm32f407xx".into());
    let why = "always: the running firmware is for stm32f407xx, the tree's for stm32f446xx";
    assert_eq!(other, (Verdict::Unknown, vec![why.to_owned()]));
    let fork = after(|running| running["app"] = "Kalico".into());
    let why = "always: Kalico runs, the tree is Klipper's: what they mean by their formats may differ";
    assert_eq!(fork, (Verdict::Unknown, vec![why.to_owned()]));
    let (verdict, _) = after(|running| {
        running["app"] = "Kalico".into();
        remove(running, "commands", "get_clock");
    });
    assert_eq!(verdict, Verdict::Unknown);
}

#[test]
fn ranges_are_never_spelled_out() {
    let huge = |running: &mut Value| {
        running["enumerations"]["pin"] = json!({ "P0": [0, i64::MAX], "P7": [0, i64::MAX], "PA0": [0, 16] });
    };
    let (verdict, reasons) = after(huge);
    assert_eq!((verdict, reasons.len()), (Verdict::MustFlash, 1));
    let mut tree = firmware();
    huge(&mut tree);
    let compared = compare(&dictionary(&firmware()), &dictionary(&tree));
    let told = compared.reasons[0].difference.to_string();
    assert_eq!(told, format!("no pin P0, P1, P2, P3, P4, P5 and {} more", i64::MAX as u64 + 7 - 6));
    let tree = |value: Value| {
        dictionary(&json!({
            "version": "", "commands": { "set pin=%c": 1 }, "config": {}, "enumerations": { "pin": value },
        }))
    };
    let verdict = |running: Value, wanted: Value| compare(&tree(running), &tree(wanted)).verdict;
    // A range counts on from its number; a leading zero makes another name.
    assert_eq!(verdict(json!({ "PA3": [0, 3] }), json!({ "PA3": 0, "PA4": 0, "PA5": 0 })), Verdict::Compatible);
    assert_eq!(verdict(json!({ "PA": [0, 3] }), json!({ "PA0": 0, "PA2": 0 })), Verdict::Compatible);
    assert_eq!(verdict(json!({ "PA3": [0, 3] }), json!({ "PA03": 0 })), Verdict::MustFlash);
    assert_eq!(verdict(json!({ "PA0": 0, "PA1": 1, "PA2": [2, 2] }), json!({ "PA": [0, 4] })), Verdict::Compatible);
    assert_eq!(verdict(json!({ "PA0": 0, "PA2": [2, 2] }), json!({ "PA": [0, 4] })), Verdict::MustFlash);
    assert_eq!(verdict(json!({ "PA0": [0, -5] }), json!({ "PA0": 0 })), Verdict::MustFlash);
    assert_eq!(verdict(json!({}), json!({ "PA99999999999999999999": [0, 4] })), Verdict::MustFlash);
}

/// A message with parameters of known types, some of them with values by name.
fn format(prefix: &'static str) -> impl Strategy<Value = String> {
    let field = ("[a-z]{1,4}(_kind|_pin|_status)?", "%(u|i|hu|hi|c|s|\\.\\*s|\\*s)");
    let fields = prop::collection::vec(field.prop_map(|(name, of)| format!(" {name}={of}")), 0..4);
    ("[a-z]{1,8}", fields).prop_map(move |(name, fields)| format!("{prefix}{name}{}", fields.concat()))
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i32>().prop_map(Value::from),
        (0_i64..300, 0_i64..300).prop_map(|(first, count)| json!([first, count]))
    ]
}

/// Firmware in which no two messages share a name.
fn any_firmware() -> impl Strategy<Value = Value> {
    let by_name = |formats: Vec<String>| {
        let formats: BTreeMap<_, _> = formats.into_iter().map(|format| (name(&format).to_owned(), format)).collect();
        formats
            .into_values()
            .enumerate()
            .map(|(id, format)| (format, Value::from(id)))
            .collect::<serde_json::Map<_, _>>()
    };
    let values = || prop::collection::btree_map("P[A-C][0-9]{0,3}", any_value(), 0..6);
    (
        prop::collection::vec(format("config_"), 1..12).prop_map(by_name),
        prop::collection::vec(format("told_"), 0..8).prop_map(by_name),
        prop::collection::btree_map("[A-Z]{1,6}", any::<u32>(), 0..5),
        prop::collection::btree_map("kind|pin|status", values(), 0..3),
    )
        .prop_map(|(commands, responses, mut config, enumerations)| {
            config.remove("MCU");
            json!({ "version": "v1", "commands": commands, "responses": responses, "config": config, "enumerations": enumerations })
        })
}

proptest! {
    #[test]
    fn firmware_serves_the_host_of_its_own_tree(firmware in any_firmware(), version in ".{0,20}") {
        let tree = dictionary(&firmware);
        prop_assert_eq!(compare(&tree, &tree).verdict, Verdict::Current);
        let mut other = firmware;
        other["version"] = format!("other {version}").into();
        let compared = compare(&dictionary(&other), &tree);
        prop_assert_eq!(compared, Compatibility { verdict: Verdict::Compatible, reasons: vec![] });
    }

    #[test]
    fn whatever_is_taken_away_is_missed(firmware in any_firmware(), pick in any::<prop::sample::Index>()) {
        let tree = dictionary(&firmware);
        let keys = |table: &str| firmware[table].as_object().unwrap().keys().map(|key| (table.to_owned(), key.clone())).collect::<Vec<_>>();
        let all = [keys("commands"), keys("responses"), keys("config")].concat();
        let (table, key) = &all[pick.index(all.len())];
        let mut running = firmware.clone();
        remove(&mut running, table, key);
        let compared = compare(&dictionary(&running), &tree);
        prop_assert_eq!(compared.verdict, Verdict::MustFlash, "without {} {}", table, key);
        prop_assert!(!compared.reasons.is_empty());
        // The other way round it is something on top.
        prop_assert_eq!(compare(&tree, &dictionary(&running)).verdict, Verdict::Compatible);
    }

    #[test]
    fn one_other_letter_in_a_format_is_noticed(firmware in any_firmware(), pick in any::<prop::sample::Index>(), more in "[a-z]") {
        let tree = dictionary(&firmware);
        let commands = firmware["commands"].as_object().unwrap();
        let format = commands.keys().nth(pick.index(commands.len())).unwrap().clone();
        let mut running = firmware.clone();
        remove(&mut running, "commands", &format);
        running["commands"][format!("{format} {more}=%u")] = 200.into();
        prop_assert_eq!(compare(&dictionary(&running), &tree).verdict, Verdict::MustFlash);
    }

    #[test]
    fn no_two_dictionaries_make_it_panic(
        formats in prop::collection::vec("[ a-b_=%u]{0,12}", 0..8),
        values in prop::collection::btree_map("[a-b_0-9]{0,6}", prop::collection::btree_map("[a-b0-9]{0,22}", prop_oneof![
            any_value(), any::<u64>().prop_map(Value::from), (any::<u64>(), any::<u64>()).prop_map(|(a, b)| json!([a, b])), Just(Value::Null),
        ], 0..5), 0..4),
        other in any_firmware(),
    ) {
        let commands: serde_json::Map<_, _> = formats.iter().map(|format| (format.clone(), 1.into())).collect();
        let odd = dictionary(&json!({ "version": "odd", "commands": commands, "config": { "a": null }, "enumerations": values }));
        let other = dictionary(&other);
        for (running, tree) in [(&odd, &other), (&other, &odd)] {
            let compared = compare(running, tree);
            let lines: Vec<_> = compared.reasons.iter().map(|reason| reason.difference.to_string()).collect();
            prop_assert_eq!(lines.is_empty(), compared.verdict <= Verdict::Compatible);
        }
    }
}
