//! How runs on several boards ended: a table, or the last line of JSON.

use std::fmt::Write as _;

use kflash::exit::ExitCode;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::failure::Failure;
use crate::hint;
use crate::render;

/// How the run on a board ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code that it would have alone.
    pub exit: ExitCode,
    /// How, in a line.
    pub line: String,
    /// What it would print alone as its last line of JSON.
    pub json: Box<RawValue>,
}

/// The last line of JSON.
#[derive(Serialize)]
struct Summary<'a> {
    result: &'static str,
    exit_code: u8,
    exit: ExitCode,
    boards: Vec<OfBoard<'a>>,
}

#[derive(Serialize)]
struct OfBoard<'a> {
    board: &'a str,
    ended: &'a RawValue,
}

impl Ended {
    /// A run that failed.
    pub fn failed(failure: &Failure) -> Self {
        let how = if failure.exit == ExitCode::Phase { "UNDER WAY" } else { "FAILED" };
        let mut line = format!("{how}, exit code {}: {}", failure.exit.code(), failure.message);
        if let Some(board) = &failure.board {
            let _ = write!(line, "; board: {}", hint::state(board.state));
        }
        let json = raw(&failure.json());
        Self { exit: failure.exit, line, json }
    }
}

/// `value` as JSON, its keys in their order.
pub fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Prints how the run on each board (by its name) ended. Returns the exit code of all: that of the worst.
pub fn print(boards: &[(String, Ended)], json: bool) -> ExitCode {
    let exit = ExitCode::worst(boards.iter().map(|(_, ended)| ended.exit));
    if json {
        let boards = boards.iter().map(|(board, ended)| OfBoard { board, ended: &ended.json }).collect();
        render::result_json(&Summary { result: "summary", exit_code: exit.code(), exit, boards });
    } else {
        render::result(&table(boards, exit));
    }
    exit
}

fn table(boards: &[(String, Ended)], exit: ExitCode) -> String {
    let width = boards.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for (name, ended) in boards {
        let _ = writeln!(table, "{name:<width$}  {}", ended.line);
    }
    let well = [ExitCode::Ok, ExitCode::Phase];
    let failed = boards.iter().filter(|(_, ended)| !well.contains(&ended.exit)).count();
    if failed > 0 {
        let _ = writeln!(table, "{failed} of {} failed; exit code {}, of the worst", boards.len(), exit.code());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_tells_the_worst() {
        let flashed = Ended { exit: ExitCode::Ok, line: "flashed".into(), json: raw(&()) };
        let failure = Failure::new(ExitCode::NotFound, "no such device");
        let boards = [("voron/toolhead".to_owned(), flashed), ("ender/mcu".to_owned(), Ended::failed(&failure))];
        assert_eq!(
            table(&boards, ExitCode::NotFound),
            "\
voron/toolhead  flashed
ender/mcu       FAILED, exit code 4: no such device
1 of 2 failed; exit code 4, of the worst
"
        );
        assert_eq!(table(&boards[..1], ExitCode::Ok), "voron/toolhead  flashed\n");
    }
}
