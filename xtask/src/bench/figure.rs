//! Figures, and the table that shows them.

use std::fmt::Write;

use serde::Serialize;

/// What one benchmark found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub title: &'static str,
    /// What was measured how; every term of the figures.
    pub method: String,
    pub figures: Vec<Figure>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub measured: f64,
    /// What it is compared with, in the same unit.
    pub reference: Option<Reference>,
    /// Measured to reference.
    pub ratio: Option<f64>,
    /// The most that the ratio may be; where there is no reference, the most that may be measured.
    pub goal: Option<f64>,
    pub met: Option<bool>,
}

#[derive(Debug, Serialize)]
pub struct Reference {
    pub what: String,
    pub value: f64,
}

impl Figure {
    /// A figure that is only to be known.
    pub fn new(what: impl Into<String>, measured: f64, unit: &'static str) -> Self {
        Self { what: what.into(), unit, measured, reference: None, ratio: None, goal: None, met: None }
    }

    /// The same beside what it is compared with.
    pub fn against(self, what: impl Into<String>, value: f64) -> Self {
        let ratio = (value != 0.0).then_some(self.measured / value);
        Self { reference: Some(Reference { what: what.into(), value }), ratio, ..self }
    }

    /// The same with the most that its ratio, or without a reference itself, may be.
    pub fn at_most(self, goal: f64) -> Self {
        let judged = if self.reference.is_some() { self.ratio } else { Some(self.measured) };
        Self { goal: Some(goal), met: judged.map(|value| value <= goal), ..self }
    }
}

/// Every report as text.
pub fn table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let heading = ["", "goal", "measured", "against", "", "ratio", ""].map(str::to_owned);
        let rows: Vec<_> = [heading].into_iter().chain(report.figures.iter().map(row)).collect();
        let widths: Vec<_> =
            (0..7).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
        let _ = writeln!(text, "{}\n", report.title);
        for row in &rows {
            let mut line = String::new();
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                // Names to the left, numbers to the right.
                let _ = if matches!(at, 0 | 4 | 6) {
                    write!(line, "{cell:<width$}  ")
                } else {
                    write!(line, "{cell:>width$}  ")
                };
            }
            let _ = writeln!(text, "  {}", line.trim_end());
        }
        let _ = writeln!(text, "\n{}\n", wrapped(&report.method));
    }
    text
}

/// In lines of a width that is read easily.
fn wrapped(text: &str) -> String {
    const WIDTH: usize = 110;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.len() + word.len() < WIDTH);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn row(figure: &Figure) -> [String; 7] {
    let goal = |goal: f64| match figure.reference {
        Some(_) => format!("<= {goal:.2} x"),
        None => format!("<= {}", quantity(goal, figure.unit)),
    };
    [
        figure.what.clone(),
        figure.goal.map(goal).unwrap_or_default(),
        quantity(figure.measured, figure.unit),
        figure.reference.as_ref().map(|reference| quantity(reference.value, figure.unit)).unwrap_or_default(),
        figure.reference.as_ref().map(|reference| reference.what.clone()).unwrap_or_default(),
        figure.ratio.map(|ratio| format!("{ratio:.3}")).unwrap_or_default(),
        figure.met.map(|met| if met { "met" } else { "MISSED" }.to_owned()).unwrap_or_default(),
    ]
}

fn quantity(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0..100.0 => 1,
        1.0..10.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$} {unit}").trim_end().to_owned()
}
