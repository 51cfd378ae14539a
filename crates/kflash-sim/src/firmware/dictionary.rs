//! The data dictionary that a made firmware carries: keys, order and compression as in real ones.

use std::io::Write as _;

use flate2::{Compression, write::ZlibEncoder};
use kflash::klipper::dictionary::BuiltFor;
use serde_json::{Map, Value, json};

use super::TestImage;

/// Commands that every Klipper has, with the ids of a build for the STM32F446.
const COMMANDS: &[(&str, i64)] = &[
    ("allocate_oids count=%c", 8),
    ("clear_shutdown", 2),
    ("debug_read order=%c addr=%u", 12),
    ("debug_write order=%c addr=%u val=%u", 11),
    ("emergency_stop", 3),
    ("finalize_config crc=%u", 6),
    ("get_clock", 5),
    ("get_config", 7),
    ("get_uptime", 4),
    ("identify offset=%u count=%c", 1),
    ("reset", -8),
];

/// Responses that every Klipper has.
const RESPONSES: &[(&str, i64)] = &[
    ("clock clock=%u", -2),
    ("config is_config=%c crc=%u is_shutdown=%c move_count=%hu", -1),
    ("debug_result val=%u", 129),
    ("identify_response offset=%u data=%.*s", 0),
    ("is_shutdown static_string_id=%hu", -6),
    ("shutdown clock=%u static_string_id=%hu", -5),
    ("starting", -7),
    ("stats count=%u sum=%u sumsq=%u", -4),
    ("uptime high=%u clock=%u", -3),
];

/// The JSON text: compact, keys sorted.
pub(super) fn json(image: &TestImage, full: bool) -> Vec<u8> {
    let ids = |entries: &[(&str, i64)]| -> Map<String, Value> {
        entries.iter().map(|&(format, id)| (format.to_owned(), id.into())).collect()
    };
    let mut commands = ids(COMMANDS);
    commands.retain(|format, _| !image.lacks.contains(format));
    let mut enumerations = json!({ "pin": pins(&image.mcu), "static_string_id": { "Timer too close": 3 } });
    if full {
        for n in 0..60 {
            let format = format!("config_sensor{n} oid=%c spi_oid=%c data_ready_pin=%u rest_ticks=%u kind{}=%c", n % 7);
            commands.insert(format, (13 + n).into());
            let text =
                format!("Sensor {n} sent a block of {} bytes, more than {} were asked for", n * 37 % 101, n % 23);
            enumerations["static_string_id"][text] = (4 + n).into();
        }
    }
    let dictionary = json!({
        "app": image.app,
        "build_versions": "gcc: (15:12.2.rel1-1) 12.2.1 20221205 binutils: (2.40-2+18+b1) 2.40",
        "commands": commands,
        "config": config(image),
        "enumerations": enumerations,
        "license": "GNU GPLv3",
        "responses": ids(RESPONSES),
        "version": image.version,
    });
    dictionary.to_string().into_bytes()
}

/// As a running firmware and an image hold it.
pub(super) fn deflate(json: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(json).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

fn config(image: &TestImage) -> Map<String, Value> {
    let rp2040 = image.mcu.starts_with("rp2");
    let mut config = Map::new();
    let mut set = |name: &str, value: Value| config.insert(name.to_owned(), value);
    set("ADC_MAX", 4095.into());
    set("BUS_PINS_spi1", if rp2040 { "gpio12,gpio11,gpio10" } else { "PA6,PA7,PA5" }.into());
    set("CLOCK_FREQ", image.clock_freq.into());
    set("MCU", image.mcu.as_str().into());
    set("PWM_MAX", 32768.into());
    set("STATS_SUMSQ_BASE", 256.into());
    set("STEPPER_STEP_BOTH_EDGE", 1.into());
    match image.built_for {
        BuiltFor::Usb if rp2040 => {}
        BuiltFor::Usb => {
            set("RESERVE_PINS_USB", "PA11,PA12".into());
        }
        BuiltFor::Uart(baud) => {
            set("RECEIVE_WINDOW", 192.into());
            set("RESERVE_PINS_serial", if rp2040 { "gpio0,gpio1" } else { "PA10,PA9" }.into());
            set("SERIAL_BAUD", baud.into());
        }
        BuiltFor::Can => {
            set("CANBUS_FREQUENCY", 1_000_000.into());
            set("RESERVE_PINS_CAN", "PB0,PB1".into());
        }
        BuiltFor::CanBridge => {
            set("CANBUS_BRIDGE", 1.into());
            set("CANBUS_FREQUENCY", 1_000_000.into());
            set("RESERVE_PINS_CAN", "PB0,PB1".into());
            set("RESERVE_PINS_USB", "PA11,PA12".into());
        }
    }
    config
}

fn pins(mcu: &str) -> Value {
    if mcu.starts_with("rp2") {
        return json!({ "ADC_TEMPERATURE": 254, "gpio0": [0, 30] });
    }
    let ports = ('A'..='H').enumerate().map(|(n, port)| (format!("P{port}0"), json!([n * 16, 16])));
    Value::Object(ports.chain([("ADC_TEMPERATURE".to_owned(), 254.into())]).collect())
}
