//! A configuration: no panic, and what is accepted keeps what the stages rely on.

#![no_main]

use std::path::Path;

use kflash::config::{Config, Source, Tree};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let file = Path::new("/etc/kflash/config.toml");
    let Ok(config) = Config::parse(file, data, Some(Path::new("/home/pi"))) else { return };
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0', '\n']);
    for printer in &config.printers {
        assert!(plain(&printer.name) && !printer.boards.is_empty());
        if let Some(Tree::Git(git)) = config.tree_of(Some(printer)) {
            assert!(!git.git.starts_with('-'));
            assert!(git.reference.as_ref().is_none_or(|reference| !reference.starts_with('-')));
        }
        for board in &printer.boards {
            assert!(plain(&board.name));
            assert!(board.symbols.iter().all(|(symbol, value)| !symbol.contains('=') && !value.contains(['"', '\n'])));
            if let Some(Source::File(file)) = &board.firmware {
                assert!(file.is_absolute());
            }
        }
    }
});
