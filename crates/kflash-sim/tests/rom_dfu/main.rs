//! The ROM DFU model against what real chips were seen doing (`tests/data/silicon`).

#![expect(clippy::unwrap_used, reason = "tests")]

mod client;
mod listings;
mod recording;
mod rules;
mod sequences;

use std::path::Path;

/// A file of `tests/data/silicon`.
fn silicon(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/silicon").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
