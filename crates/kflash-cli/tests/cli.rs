//! The command line as text: commands with what they print, and their exit codes. `TRYCMD=overwrite` writes what is
//! printed now.

#[test]
fn commands_print_what_is_written_down() {
    // Nobody's own configuration, and nobody's own tree.
    let cases = trycmd::TestCases::new();
    cases.env("HOME", "/nonexistent").env("XDG_CONFIG_HOME", "/nonexistent").case("tests/cmd/*.trycmd");
}
