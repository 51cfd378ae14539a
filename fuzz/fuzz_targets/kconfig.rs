//! A Kconfig file, and the `.config` that was made of it: no panic, and whatever did not hold is told in one line.

#![no_main]

use std::collections::BTreeMap;

use kflash::obtain::build::kconfig::{Config, Request, Symbols};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|texts: (&str, &str)| {
    let (kconfig, config) = texts;
    let symbols = Symbols::parse(kconfig);
    let config = Config::parse(config).unwrap_or_default();
    let asked = symbols.names().map(|name| (name.to_owned(), "y".to_owned()));
    let request = Request::new(asked, &BTreeMap::new()).expect("the name of a symbol is one");
    for drift in request.compare(&symbols, &config) {
        assert!(!drift.to_string().contains('\n'), "{drift}");
    }
    // What the tree has no such symbol for is left out.
    let written = Config::parse(&request.text(&symbols)).expect("a request is a configuration");
    assert!(symbols.names().all(|name| written.get(name).is_none_or(|value| value == "y")));
});
