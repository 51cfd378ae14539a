//! What a device is, by its USB ids and names.

use super::{Mode, UsbId};

/// A USB id that kflash knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownId {
    /// The id.
    pub id: UsbId,
    /// What shows itself by it, unless its manufacturer string says more.
    pub mode: Mode,
    /// Whose id it is.
    pub name: &'static str,
}

/// Every USB id that kflash knows; `udev/60-kflash.rules` names them all.
pub const KNOWN_IDS: &[KnownId] = &[
    known(0x1d50, 0x614e, Mode::Klipper, "Klipper"),
    // candleLight adapters share it: the manufacturer tells them apart.
    known(0x1d50, 0x606f, Mode::Unknown, "gs_usb CAN adapter"),
    known(0x1d50, 0x6177, Mode::Katapult, "Katapult"),
    known(0x0483, 0xdf11, Mode::Dfu, "STM32 ROM bootloader"),
    known(0x28e9, 0x0189, Mode::Dfu, "GD32 ROM bootloader"),
    known(0x314b, 0x0106, Mode::Dfu, "APM32 ROM bootloader"),
    known(0x2e8a, 0x0003, Mode::Rp2Boot, "RP2040 boot ROM"),
    known(0x2e8a, 0x000f, Mode::Rp2Boot, "RP2350 boot ROM"),
    known(0x1a86, 0x7523, Mode::UartBridge, "CH340"),
    known(0x1a86, 0x5523, Mode::UartBridge, "CH341"),
    known(0x1a86, 0x55d3, Mode::UartBridge, "CH343"),
    known(0x1a86, 0x55d4, Mode::UartBridge, "CH9102"),
    known(0x10c4, 0xea60, Mode::UartBridge, "CP210x"),
    known(0x10c4, 0xea70, Mode::UartBridge, "CP2105"),
    known(0x0403, 0x6001, Mode::UartBridge, "FT232"),
    known(0x0403, 0x6010, Mode::UartBridge, "FT2232"),
    known(0x0403, 0x6011, Mode::UartBridge, "FT4232"),
    known(0x0403, 0x6014, Mode::UartBridge, "FT232H"),
    known(0x0403, 0x6015, Mode::UartBridge, "FT230X"),
    known(0x067b, 0x2303, Mode::UartBridge, "PL2303"),
    known(0x067b, 0x23a3, Mode::UartBridge, "PL2303GS"),
    known(0x2341, 0x0010, Mode::UartBridge, "Arduino Mega 2560"),
    known(0x2341, 0x0042, Mode::UartBridge, "Arduino Mega 2560 R3"),
    known(0x2c99, 0x0001, Mode::UartBridge, "Prusa RAMBo"),
    known(0x2c99, 0x0002, Mode::UartBridge, "Prusa Einsy RAMBo"),
];

const CAN_ADAPTER: UsbId = UsbId::new(0x1d50, 0x606f);

const fn known(vendor: u16, product: u16, mode: Mode, name: &'static str) -> KnownId {
    KnownId { id: UsbId::new(vendor, product), mode, name }
}

/// What a device of this id and manufacturer string is.
///
/// The firmware's own word goes before the id, which a build may choose; Kalico may choose the manufacturer, too, and is
/// then known by its id.
pub fn mode_of(id: UsbId, manufacturer: Option<&str>) -> Mode {
    match manufacturer {
        Some("Klipper" | "Kalico") if id == CAN_ADAPTER => Mode::KlipperCanBridge,
        Some("Klipper" | "Kalico") => Mode::Klipper,
        Some("katapult" | "CanBoot") => Mode::Katapult,
        _ => KNOWN_IDS.iter().find(|known| known.id == id).map_or(Mode::Unknown, |known| known.mode),
    }
}

/// The MCU that a product string names. Klipper and Katapult put nothing else there; old Klipper says "Klipper firmware".
pub(super) fn mcu_of(mode: Mode, product: Option<&str>) -> Option<String> {
    let speaks = matches!(mode, Mode::Klipper | Mode::KlipperCanBridge | Mode::Katapult);
    let name = |text: &str| {
        (3..=24).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    product.filter(|product| speaks && name(product)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_go_before_ids() {
        let klipper = UsbId::new(0x1d50, 0x614e);
        let cases = [
            (klipper, Some("Klipper"), Mode::Klipper),
            (klipper, None, Mode::Klipper),
            (klipper, Some("My printer (Kalico)"), Mode::Klipper),
            (klipper, Some("katapult"), Mode::Katapult),
            (UsbId::new(0x1234, 0x5678), Some("Klipper"), Mode::Klipper),
            (UsbId::new(0x1234, 0x5678), Some("Logitech"), Mode::Unknown),
            (CAN_ADAPTER, Some("Klipper"), Mode::KlipperCanBridge),
            (CAN_ADAPTER, Some("bytewerk"), Mode::Unknown),
            (UsbId::new(0x1d50, 0x6177), Some("CanBoot"), Mode::Katapult),
            (UsbId::new(0x28e9, 0x0189), None, Mode::Dfu),
            (UsbId::new(0x1a86, 0x7523), None, Mode::UartBridge),
            (UsbId::new(0x2e8a, 0x000f), None, Mode::Rp2Boot),
        ];
        for (id, manufacturer, mode) in cases {
            assert_eq!(mode_of(id, manufacturer), mode, "{id} {manufacturer:?}");
        }
    }

    #[test]
    fn only_firmware_that_names_its_mcu_is_believed() {
        assert_eq!(mcu_of(Mode::Klipper, Some("stm32f446xx")).as_deref(), Some("stm32f446xx"));
        assert_eq!(mcu_of(Mode::Katapult, Some("rp2040")).as_deref(), Some("rp2040"));
        assert_eq!(mcu_of(Mode::Klipper, Some("Klipper firmware")), None);
        assert_eq!(mcu_of(Mode::Klipper, Some("x\u{1b}[2J")), None);
        assert_eq!(mcu_of(Mode::UartBridge, Some("ft232r")), None);
    }
}
