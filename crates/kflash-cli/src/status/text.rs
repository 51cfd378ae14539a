//! The boards as a table, and below it what is to be said of each.

use std::fmt::Write as _;

use kflash::klipper::wire::{Needed, Verdict};

use super::row::Row;
use crate::sheet::{Sheet, shown};

/// Reasons that are listed; more are counted.
const MOST_REASONS: usize = 8;

pub(super) fn of(rows: &[Row]) -> String {
    let head = ["BOARD", "DEVICE", "RUNS", "WOULD RUN", "VERDICT"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..4).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}  ");
        }
        text += &line[4];
        text.push('\n');
    }
    for (row, line) in rows.iter().zip(&lines[1..]) {
        text += &more(row, line);
    }
    text
}

fn line(row: &Row) -> [String; 5] {
    let board = match (&row.name, &row.boards[..]) {
        (Some(name), _) => shown(name),
        (None, []) => "unknown".to_owned(),
        (None, [board]) => shown(&board.0),
        (None, boards) => format!("one of {}", boards.len()),
    };
    let device = match (&row.device, row.selectors.first()) {
        (Some(device), _) => shown(&device.place.to_string()),
        (None, Some(selector)) => selector.to_string(),
        (None, None) => "-".to_owned(),
    };
    let runs = row.runs.as_ref().map(|runs| firmware(runs.app.as_deref(), &runs.version));
    let offered = row.offered.as_ref().map(|offered| firmware(Some(&offered.app), &offered.version));
    let or_none = |firmware: Option<String>| firmware.unwrap_or_else(|| "-".to_owned());
    [board, device, or_none(runs), or_none(offered), row.verdict.words().to_owned()]
}

fn firmware(app: Option<&str>, version: &str) -> String {
    app.into_iter().chain([version]).map(shown).collect::<Vec<_>>().join(" ")
}

/// What the table has no room for; empty where nothing is to be done.
fn more(row: &Row, [board, device, ..]: &[String; 5]) -> String {
    if row.reasons.is_empty() && row.remedy.is_none() {
        return String::new();
    }
    let mut sheet = Sheet::new(&format!("\n{board} at {device}: {}", row.verdict.words()));
    if row.boards.len() > 1 {
        let boards: Vec<_> = row.boards.iter().map(|board| shown(&board.0)).collect();
        sheet.lines("may be", boards.chunks(4).map(|boards| boards.join(", ")));
    }
    sheet.lines("because", row.reasons.iter().take(MOST_REASONS).map(|reason| shown(reason)));
    if let Some(more @ 1..) = row.reasons.len().checked_sub(MOST_REASONS) {
        sheet.line("", &format!("and {more} more"));
    }
    match (row.verdict, row.needed) {
        (Verdict::MustFlash, Some(Needed::Always)) => sheet.line("concerns", "every printer: Klipper cannot start"),
        (Verdict::MustFlash, _) => {
            sheet.line("concerns", "printers whose printer.cfg uses what these are for; others work as they are");
        }
        _ => {}
    }
    sheet.lines("then", &row.remedy);
    sheet.into_text()
}
