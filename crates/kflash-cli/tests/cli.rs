//! The command line as text: commands with what they print, and their exit codes. `TRYCMD=overwrite` writes what is
//! printed now.

#[test]
fn commands_print_what_is_written_down() {
    // Nobody's own configuration.
    trycmd::TestCases::new().env("XDG_CONFIG_HOME", "/nonexistent").case("tests/cmd/*.trycmd");
}
