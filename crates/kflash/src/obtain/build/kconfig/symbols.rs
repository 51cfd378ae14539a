//! The symbols that a tree's Kconfig files define: read for facts about them, never evaluated.
//!
//! The tree's own Kconfig decides what a configuration becomes. This only tells an unknown symbol from a dropped one,
//! how a value is written, and what a message can say of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::{Config, LARGEST, quoted};
use super::is_symbol;

/// Most Kconfig files that are read; Klipper has 12.
const MOST_FILES: usize = 1000;

/// The kind of a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `y` or `n`.
    Bool,
    /// Any text.
    Text,
    /// A decimal number.
    Int,
    /// A hexadecimal number.
    Hex,
}

/// What a tree's Kconfig files say of a symbol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbol {
    /// Its kind, where a definition states it.
    pub kind: Option<Kind>,
    /// Whether it has a prompt: others are computed.
    pub settable: bool,
    /// The choice that it belongs to, counted over all files.
    choice: Option<usize>,
    definitions: Vec<Definition>,
}

/// One of a symbol's definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Definition {
    /// Whether it has a prompt.
    settable: bool,
    /// All that has to hold for it: of itself, and of the menus and blocks that it stands in.
    conditions: Vec<String>,
}

/// The symbols of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols {
    symbols: BTreeMap<String, Symbol>,
    choices: usize,
}

/// Why the symbols of a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SymbolsError {
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// No tree has so many, or so large ones.
    #[error("{}: more than any tree has", .0.display())]
    TooLarge(PathBuf),
}

impl Symbols {
    /// Reads every `Kconfig` file below `src` of the tree in `dir`. Symbolic links are not followed.
    pub fn scan(dir: &Path) -> Result<Self, SymbolsError> {
        let mut found = Self::default();
        let mut folders = vec![dir.join("src")];
        let mut files = 0;
        while let Some(folder) = folders.pop() {
            let unreadable = |source| SymbolsError::Unreadable { path: folder.clone(), source };
            let entries: Result<Vec<_>, _> = fs::read_dir(&folder).map_err(unreadable)?.collect();
            let mut entries = entries.map_err(unreadable)?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                let kind = entry.file_type().map_err(unreadable)?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() && entry.file_name().as_encoded_bytes().starts_with(b"Kconfig") {
                    files += 1;
                    if files > MOST_FILES {
                        return Err(SymbolsError::TooLarge(folder));
                    }
                    found.read(&text_of(&entry.path())?);
                }
            }
            if folders.len() > MOST_FILES {
                return Err(SymbolsError::TooLarge(folder));
            }
        }
        Ok(found)
    }

    /// The symbols of one Kconfig file.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        found.read(text);
        found
    }

    /// What is known of `name`, without `CONFIG_`.
    pub fn get(&self, name: &str) -> Option<&Symbol> {
        self.symbols.get(name)
    }

    /// Every symbol's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.symbols.keys().map(String::as_str)
    }

    /// The member of `name`'s choice that `config` has set, if it is another.
    pub(crate) fn chosen_beside<'a>(&'a self, name: &str, config: &Config) -> Option<&'a str> {
        let choice = self.get(name)?.choice?;
        let mut members = self.symbols.iter().filter(|(_, symbol)| symbol.choice == Some(choice));
        let chosen = members.find(|(member, _)| config.get(member) == Some("y"))?.0;
        (chosen != name).then_some(chosen)
    }

    fn read(&mut self, text: &str) {
        let mut reader =
            Reader { symbols: self, blocks: Vec::new(), choice: None, current: Current::Nothing, help: Help::No };
        // A backslash at the end of a line joins the next one to it.
        let mut joined = String::new();
        for line in text.lines() {
            match line.strip_suffix('\\') {
                Some(start) => joined.push_str(start),
                None if joined.is_empty() => reader.line(line),
                None => {
                    joined.push_str(line);
                    reader.line(&joined);
                    joined.clear();
                }
            }
        }
    }
}

impl Symbol {
    /// What the files ask for before it can be set, one line for each of the definitions that let it be.
    pub(super) fn needs(&self) -> Vec<String> {
        let settable = self.definitions.iter().filter(|definition| definition.settable);
        let lines = settable.map(|definition| match definition.conditions.as_slice() {
            [one] => one.clone(),
            several => several.iter().map(|one| wrapped(one)).collect::<Vec<_>>().join(" && "),
        });
        let mut lines: Vec<_> = lines.collect();
        lines.dedup();
        // One definition without conditions is enough.
        if lines.iter().any(String::is_empty) {
            lines.clear();
        }
        lines
    }
}

fn wrapped(condition: &str) -> String {
    if condition.contains("||") { format!("({condition})") } else { condition.to_owned() }
}

/// Where in a help text the reader is.
enum Help {
    No,
    /// After the keyword.
    Begins,
    /// Inside, indented by so much.
    Inside(usize),
}

/// What the next lines are about.
enum Current {
    Nothing,
    Symbol(String),
    /// The innermost block.
    Menu,
}

struct Reader<'a> {
    symbols: &'a mut Symbols,
    /// The menus and `if`s around, each with its conditions.
    blocks: Vec<Vec<String>>,
    choice: Option<usize>,
    current: Current,
    help: Help,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) {
        let text = line.trim_start();
        if text.is_empty() {
            return;
        }
        let indent = line[..line.len() - text.len()].chars().map(|c| if c == '\t' { 8 } else { 1 }).sum();
        // The first line of a help text gives its indentation, any line with less ends it.
        match self.help {
            Help::Begins if indent > 0 => return self.help = Help::Inside(indent),
            Help::Inside(least) if indent >= least => return,
            _ => self.help = Help::No,
        }
        let (word, rest) = text.split_once(|c: char| c.is_whitespace()).unwrap_or((text, ""));
        self.entry(word.trim_end(), rest.trim());
    }

    fn entry(&mut self, word: &str, rest: &str) {
        match word {
            "config" | "menuconfig" => self.define(rest),
            "choice" => {
                self.symbols.choices += 1;
                self.choice = Some(self.symbols.choices);
                self.current = Current::Nothing;
            }
            "endchoice" => (self.choice, self.current) = (None, Current::Nothing),
            "if" => {
                self.blocks.push(vec![plain(rest)]);
                self.current = Current::Nothing;
            }
            "menu" => {
                self.blocks.push(Vec::new());
                self.current = Current::Menu;
            }
            "endif" | "endmenu" => {
                self.blocks.pop();
                self.current = Current::Nothing;
            }
            "mainmenu" | "comment" | "source" | "rsource" | "osource" => self.current = Current::Nothing,
            "help" | "---help---" => self.help = Help::Begins,
            "bool" | "tristate" | "def_bool" | "def_tristate" => self.kind(Kind::Bool, word, rest),
            "string" | "def_string" => self.kind(Kind::Text, word, rest),
            "int" | "def_int" => self.kind(Kind::Int, word, rest),
            "hex" | "def_hex" => self.kind(Kind::Hex, word, rest),
            "prompt" => self.prompt(rest),
            "depends" => {
                if let Some(condition) = rest.strip_prefix("on") {
                    self.condition(condition);
                }
            }
            _ => {}
        }
    }

    fn define(&mut self, name: &str) {
        if !is_symbol(name) {
            return self.current = Current::Nothing;
        }
        let symbol = self.symbols.symbols.entry(name.to_owned()).or_default();
        symbol.definitions.push(Definition { settable: false, conditions: self.blocks.concat() });
        symbol.choice = self.choice.or(symbol.choice);
        self.current = Current::Symbol(name.to_owned());
    }

    fn kind(&mut self, kind: Kind, word: &str, rest: &str) {
        if let Some(symbol) = self.current() {
            symbol.kind = Some(kind);
        }
        if !word.starts_with("def_") {
            self.prompt(rest);
        }
    }

    /// `"Text" if CONDITION`.
    fn prompt(&mut self, rest: &str) {
        let quote = rest.chars().next().filter(|first| ['"', '\''].contains(first));
        let Some((_, after)) = quote.and_then(|quote| rest[1..].split_once(quote)) else { return };
        if let Some(symbol) = self.current() {
            symbol.settable = true;
        }
        if let Some(definition) = self.definition() {
            definition.settable = true;
        }
        if let Some(condition) = after.trim_start().strip_prefix("if") {
            self.condition(condition);
        }
    }

    fn condition(&mut self, condition: &str) {
        let condition = plain(condition);
        let conditions = match &self.current {
            Current::Nothing => None,
            Current::Symbol(_) => self.definition().map(|definition| &mut definition.conditions),
            Current::Menu => self.blocks.last_mut(),
        };
        if let Some(conditions) = conditions {
            conditions.push(condition);
        }
    }

    fn current(&mut self) -> Option<&mut Symbol> {
        let Current::Symbol(name) = &self.current else { return None };
        self.symbols.symbols.get_mut(name)
    }

    fn definition(&mut self) -> Option<&mut Definition> {
        self.current()?.definitions.last_mut()
    }
}

/// A condition as a message shows it: without a comment, control characters or great length.
fn plain(condition: &str) -> String {
    let condition = condition.split('#').next().unwrap_or_default().trim();
    condition.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

fn text_of(path: &Path) -> Result<String, SymbolsError> {
    let unreadable = |source| SymbolsError::Unreadable { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > LARGEST {
        return Err(SymbolsError::TooLarge(path.to_owned()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Kind {
    /// The kind of a symbol; where no definition states it, the one that `value` looks like.
    pub(super) fn of(symbol: &Symbol, value: &str) -> Self {
        symbol.kind.unwrap_or_else(|| match value {
            "y" | "n" => Self::Bool,
            _ if Self::Int.number(value).is_some() => Self::Int,
            _ if value.starts_with("0x") && Self::Hex.number(value).is_some() => Self::Hex,
            _ => Self::Text,
        })
    }

    /// `value` as a `.config` holds it; `None` where it is not of this kind.
    pub(super) fn written(self, value: &str) -> Option<String> {
        match self {
            Self::Bool => ["y", "n"].contains(&value).then(|| value.to_owned()),
            Self::Text => Some(quoted(value)),
            Self::Int => self.number(value).map(|number| number.to_string()),
            Self::Hex => self.number(value).map(|number| format!("{number:#x}")),
        }
    }

    /// Whether `written` says the same as `resolved`, which was read from a `.config`.
    pub(super) fn equal(self, written: &str, resolved: &str) -> bool {
        match self {
            Self::Bool => written == resolved,
            Self::Text => written == quoted(resolved),
            Self::Int | Self::Hex => self.number(written).is_some_and(|number| self.number(resolved) == Some(number)),
        }
    }

    fn number(self, value: &str) -> Option<i64> {
        let digits = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
        match self {
            Self::Hex => digits
                .or(Some(value))
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
                .and_then(|digits| i64::from_str_radix(digits, 16).ok()),
            _ => value.parse().ok(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "y or n",
            Self::Text => "a text",
            Self::Int => "a decimal number",
            Self::Hex => "a hexadecimal number",
        })
    }
}
