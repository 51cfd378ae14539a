//! The command line as text: commands with what they print, and their exit codes. `TRYCMD=overwrite` writes what is
//! printed now.

#[test]
fn commands_print_what_is_written_down() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd");
}
