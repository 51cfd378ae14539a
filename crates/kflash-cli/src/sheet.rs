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
    let mut shown = String::new();
    for c in text.chars().take(MAX) {
        if is_plain(c) { shown.push(c) } else { shown.extend(c.escape_debug()) }
    }
    if text.chars().nth(MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A word for a shell to copy, whoever made it up.
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Whether a character stands for itself on a terminal: neither a control character nor one that hides or turns what is
/// around it (U+202E).
pub fn is_plain(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || c.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one_word() {
        assert_eq!(word("/dev/serial/by-id/usb-Klipper_x-if00"), "/dev/serial/by-id/usb-Klipper_x-if00");
        assert_eq!(word("a b; rm -rf $HOME"), "'a b; rm -rf $HOME'");
        assert_eq!(word("it's"), "'it'\\''s'");
        assert_eq!(word(""), "''");
    }

    #[test]
    fn what_a_device_says_is_shown_but_does_nothing() {
        assert_eq!(shown("no answer to Katapult's \"CONNECT\", µ 5 €"), "no answer to Katapult's \"CONNECT\", µ 5 €");
        assert_eq!(shown("\u{1b}[31mred\u{7}\n\u{202e}dne"), "\\u{1b}[31mred\\u{7}\\n\\u{202e}dne");
        assert_eq!(shown(&"x".repeat(4096)).chars().count(), 161);
    }
}
