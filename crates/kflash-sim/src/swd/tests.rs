#![expect(clippy::unwrap_used, reason = "tests")]

mod controllers;
mod core;
mod debugger;
mod wire;

use kflash::boards;
use kflash::chip::Chip;

fn chip(id: &str) -> Chip {
    boards::builtin_chips().unwrap().into_iter().find(|chip| chip.id == id).unwrap()
}
