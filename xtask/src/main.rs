//! The kflash command.
fn main() {}
