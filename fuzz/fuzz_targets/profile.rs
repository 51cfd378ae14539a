//! A profile file, the chip file beside it, and what a person writes after `--device`: no panic, and what is accepted keeps
//! what the stages rely on.

#![no_main]

use std::path::Path;

use kflash::boards;
use kflash::identify::Selector;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut chips = boards::builtin_chips().unwrap_or_default();
    if let Ok(chip) = boards::chip(Path::new("chip.toml"), data) {
        assert_eq!(chip.sectors().last().map(|sector| sector.end()), Some(chip.flash().end()));
        chips.push(chip);
    }
    if let Ok((profile, chip)) = boards::profile(Path::new("profile.toml"), data, &chips) {
        for route in &profile.routes {
            let bootloader = profile.bootloader_of(route).expect("a route names an installed bootloader");
            let sector = chip.sector_at(bootloader.app_start).expect("an application lies in the flash");
            assert_eq!(sector.start, bootloader.app_start);
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = text.parse::<Selector>().map(|selector| selector.to_string());
    }
});
