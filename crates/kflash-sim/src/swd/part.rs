//! What a debugger sees of a chip before any of its code runs: identities and where its parts lie.

use kflash::chip::Chip;

/// The processor core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoreKind {
    /// ARMv6-M.
    M0Plus,
    /// ARMv7-M.
    M3,
    /// ARMv7E-M.
    M4,
}

/// The flash controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    F1,
    F4,
    G0,
}

/// A chip as its debug port shows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub core: CoreKind,
    pub family: Family,
    /// DPIDR (ADIv5.2 §B2.2.5).
    pub dpidr: u32,
    /// IDR of the AHB-AP.
    pub ap_idr: u32,
    /// Where the ROM table lies.
    pub rom_table: u32,
    pub cpuid: u32,
    /// DBGMCU_IDCODE: its address and what it reads.
    pub idcode: (u32, u32),
    /// Base of the flash controller's registers.
    pub controller: u32,
}

impl Part {
    /// The part that a chip file describes; `None` where its debug port is not modelled.
    ///
    /// Values: RM0008 §31.6, RM0090 §38.6 and RM0390 §33.6 (DBGMCU_IDCODE, SW-DP), RM0444 §40 (the same for G0), the
    /// Cortex-M technical reference manuals (CPUID, ROM table).
    pub fn of(chip: &Chip) -> Option<Self> {
        let cortex_m4 = |idcode| Self {
            core: CoreKind::M4,
            family: Family::F4,
            dpidr: 0x2ba0_1477,
            ap_idr: 0x2477_0011,
            rom_table: 0xe00f_f000,
            cpuid: 0x410f_c241,
            idcode: (0xe004_2000, idcode),
            controller: 0x4002_3c00,
        };
        Some(match chip.id.as_str() {
            "stm32f407xg" => cortex_m4(0x1007_6413),
            // On no board, but the chip of the recordings.
            "stm32f429xi" => cortex_m4(0x1007_6419),
            "stm32f446xe" => cortex_m4(0x1000_6421),
            // High density; xC is sold from the same die.
            "stm32f103xc" | "stm32f103xe" => Self {
                core: CoreKind::M3,
                family: Family::F1,
                dpidr: 0x1ba0_1477,
                ap_idr: 0x1477_0011,
                rom_table: 0xe00f_f000,
                cpuid: 0x411f_c231,
                idcode: (0xe004_2000, 0x1003_6414),
                controller: 0x4002_2000,
            },
            "stm32g0b1xb" | "stm32g0b1xe" => Self {
                core: CoreKind::M0Plus,
                family: Family::G0,
                dpidr: 0x0bc1_1477,
                ap_idr: 0x0477_0031,
                rom_table: 0xf000_0000,
                cpuid: 0x410c_c601,
                idcode: (0x4001_5800, 0x1000_6467),
                controller: 0x4002_2000,
            },
            _ => return None,
        })
    }
}
