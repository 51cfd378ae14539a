//! A title, and lines of a name and a value below it.

use std::fmt::Write as _;

/// Lines of a name and a value, the values aligned.
pub struct Sheet(String);

impl Sheet {
    /// A sheet with its title.
    pub fn new(title: &str) -> Self {
        Self(format!("{title}\n"))
    }

    /// Adds a line.
    pub fn line(&mut self, name: &str, value: &str) {
        let _ = writeln!(self.0, "  {name:<14}{value}");
    }

    /// Adds lines that share a name; none without a value.
    pub fn lines(&mut self, name: &str, values: impl IntoIterator<Item = impl AsRef<str>>) {
        for (n, value) in values.into_iter().enumerate() {
            self.line(if n == 0 { name } else { "" }, value.as_ref());
        }
    }

    /// Adds an empty line.
    pub fn gap(&mut self) {
        self.0.push('\n');
    }

    /// The sheet as text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A string that a file or a device made up, so that it can neither steer a terminal nor fill it.
pub fn shown(text: &str) -> String {
    const MAX: usize = 160;
    let mut shown: String = text.chars().take(MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}
