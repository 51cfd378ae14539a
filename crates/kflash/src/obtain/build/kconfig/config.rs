//! A resolved configuration: the `.config` that `olddefconfig` wrote.

use std::collections::BTreeMap;

use super::is_symbol;

/// Largest file that is read; Klipper's has 4 KiB.
pub(super) const LARGEST: usize = 1 << 20;

/// What every symbol of a tree became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<String, String>,
}

/// Why a text is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is larger than any configuration.
    #[error("it is larger than 1 MiB, which no configuration is")]
    TooLarge,
    /// A line is neither an assignment nor a comment.
    #[error("line {line}: neither CONFIG_SYMBOL=VALUE nor a comment")]
    Malformed {
        /// From 1.
        line: usize,
    },
}

impl Config {
    /// Parses the text of a `.config`.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > LARGEST {
            return Err(ConfigError::TooLarge);
        }
        let mut values = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let (symbol, value) = match line.strip_prefix('#') {
                Some(comment) => match not_set(comment) {
                    Some(symbol) => (symbol, "n".to_owned()),
                    None => continue,
                },
                None if line.trim().is_empty() => continue,
                None => assignment(line).ok_or(ConfigError::Malformed { line: index + 1 })?,
            };
            values.insert(symbol.to_owned(), value);
        }
        Ok(Self { values })
    }

    /// The value of `symbol` (without `CONFIG_`), unquoted; `n` where the file says that it is not set. `None` where it
    /// says nothing: what the symbol depends on is not given.
    pub fn get(&self, symbol: &str) -> Option<&str> {
        self.values.get(symbol).map(String::as_str)
    }

    /// Each symbol that the file names, and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(symbol, value)| (symbol.as_str(), value.as_str()))
    }
}

/// ` CONFIG_X is not set`, the form in which Kconfig writes that X is off.
fn not_set(comment: &str) -> Option<&str> {
    let symbol = comment.strip_prefix(" CONFIG_")?.strip_suffix(" is not set")?;
    is_symbol(symbol).then_some(symbol)
}

fn assignment(line: &str) -> Option<(&str, String)> {
    let (symbol, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    if !is_symbol(symbol) || value.chars().any(char::is_control) {
        return None;
    }
    let value = match value.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None => value.to_owned(),
    };
    Some((symbol, value))
}

/// What stands before the closing quote, which ends the line; a backslash makes the next character a plain one.
fn unquoted(quoted: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(value),
            '\\' => value.push(chars.next()?),
            plain => value.push(plain),
        }
    }
}

/// `value` as a `.config` quotes a string.
pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
