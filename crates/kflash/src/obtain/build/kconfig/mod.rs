//! Kconfig: the request, written for the tree's own `olddefconfig`, and compared with what came of it.
//!
//! `olddefconfig` never fails: a symbol that is unknown, not settable or out of range silently becomes something else.
//! So every requested symbol is compared with the result, and each that did not hold is a [`Drift`].

mod config;
mod drift;
mod symbols;

use std::collections::{BTreeMap, BTreeSet};

pub use config::{Config, ConfigError};
pub use drift::{Became, Drift};
pub use symbols::{Kind, Symbol, Symbols, SymbolsError};

use crate::board::{Profile, Route};
use crate::boards::nearest;
use crate::chip::Chip;

/// Longest value that is taken.
const LONGEST_VALUE: usize = 1024;

/// Why a symbol cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It has no `=`.
    #[error("{0:?} is no SYMBOL=VALUE")]
    NoAssignment(String),
    /// It is no name such as `MACH_STM32`.
    #[error("{0:?} is no symbol such as MACH_STM32")]
    NoSymbol(String),
    /// A line break, a control character, or too long.
    #[error("{symbol}: {value:?} is no value: it is one line of at most {LONGEST_VALUE} bytes")]
    NoValue {
        /// The symbol.
        symbol: String,
        /// Its value.
        value: String,
    },
}

/// Symbols that a firmware is wanted to be configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    symbols: BTreeMap<String, String>,
    formerly: BTreeMap<String, String>,
}

/// `SYMBOL=VALUE`, as a person writes it; `CONFIG_` before it and quotes around the value are allowed.
pub fn assignment(text: &str) -> Result<(String, String), RequestError> {
    let (symbol, value) = text.split_once('=').ok_or_else(|| RequestError::NoAssignment(text.to_owned()))?;
    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    valid(symbol, quoted.unwrap_or(value))
}

/// Whether `name` is a symbol as Kconfig files have them, without `CONFIG_`.
pub(crate) fn is_symbol(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with("CONFIG_")
}

fn valid(symbol: &str, value: &str) -> Result<(String, String), RequestError> {
    let name = symbol.strip_prefix("CONFIG_").unwrap_or(symbol);
    if !is_symbol(name) {
        return Err(RequestError::NoSymbol(symbol.to_owned()));
    }
    if value.len() > LONGEST_VALUE || value.chars().any(char::is_control) {
        return Err(RequestError::NoValue { symbol: name.to_owned(), value: value.to_owned() });
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl Request {
    /// A request for these symbols and values; where one comes twice, the last counts. `formerly` as in
    /// [`Chip::kconfig_formerly`].
    pub fn new(
        symbols: impl IntoIterator<Item = (String, String)>,
        formerly: &BTreeMap<String, String>,
    ) -> Result<Self, RequestError> {
        let symbols: Result<_, _> = symbols.into_iter().map(|(symbol, value)| valid(&symbol, &value)).collect();
        Ok(Self { symbols: symbols?, formerly: formerly.clone() })
    }

    /// What `route` of a board asks for, and what a person `set`s beside it or instead.
    pub fn of_route(
        profile: &Profile,
        chip: &Chip,
        route: &Route,
        set: &[(String, String)],
    ) -> Result<Self, RequestError> {
        let bootloader = profile.bootloader_of(route).map(|bootloader| &bootloader.kconfig);
        let tables = [Some(&profile.kconfig), bootloader, Some(&route.kconfig)].into_iter().flatten().flatten();
        let of_profile = tables.map(|(symbol, value)| (symbol.clone(), value.clone()));
        Self::new(of_profile.chain(set.iter().cloned()), &chip.kconfig_formerly)
    }

    /// Each symbol, without `CONFIG_`, and its value.
    pub fn symbols(&self) -> &BTreeMap<String, String> {
        &self.symbols
    }

    /// The text of a `.config` for `olddefconfig` of the tree that has `symbols`. What the tree does not have, or not so,
    /// is left out: [`compare`](Self::compare) reports it.
    pub fn text(&self, symbols: &Symbols) -> String {
        let mut text = String::new();
        let mut written = BTreeSet::new();
        for (symbol, value) in &self.symbols {
            let Some((name, known)) = self.in_tree(symbols, symbol) else { continue };
            let Some(value) = Kind::of(known, value).written(value) else { continue };
            let line = match value.as_str() {
                "n" => format!("# CONFIG_{name} is not set"),
                value => format!("CONFIG_{name}={value}"),
            };
            if written.insert(name) {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }

    /// Every symbol of the request that does not hold in `config`, which `olddefconfig` made of [`text`](Self::text).
    pub fn compare(&self, symbols: &Symbols, config: &Config) -> Vec<Drift> {
        let drift = |(symbol, wanted): (&String, &String)| {
            let drift = |name: &str, became| Drift {
                symbol: symbol.clone(),
                name: name.to_owned(),
                wanted: wanted.clone(),
                became,
                chosen: symbols.chosen_beside(name, config).map(str::to_owned),
                needs: symbols.get(name).map(Symbol::needs).unwrap_or_default(),
            };
            let Some((name, known)) = self.in_tree(symbols, symbol) else {
                return Some(drift(symbol, Became::Unknown { instead: self.instead_of(symbol, symbols) }));
            };
            let kind = Kind::of(known, wanted);
            let Some(written) = kind.written(wanted) else { return Some(drift(&name, Became::Unfit(kind))) };
            match config.get(&name) {
                Some(value) if kind.equal(&written, value) => None,
                None if written == "n" => None,
                Some(_) if !known.settable => Some(drift(&name, Became::Computed)),
                Some(value) => Some(drift(&name, Became::Changed(value.to_owned()))),
                None => Some(drift(&name, Became::Dropped)),
            }
        };
        self.symbols.iter().filter_map(drift).collect()
    }

    /// The name that `symbol` has in the tree of `symbols`: its own, else its former one.
    fn in_tree<'a>(&self, symbols: &'a Symbols, symbol: &str) -> Option<(String, &'a Symbol)> {
        let own = symbols.get(symbol).map(|known| (symbol.to_owned(), known));
        own.or_else(|| {
            let former = formerly(&self.formerly, symbol)?;
            symbols.get(&former).map(|known| (former, known))
        })
    }

    /// What the tree may call `symbol`: its new name, else the most similar one.
    fn instead_of(&self, symbol: &str, symbols: &Symbols) -> Option<String> {
        let new = self.formerly.iter().filter_map(|(now, then)| renamed(then, now, symbol));
        // Another number in the name is another offset or clock, not a slip of the pen.
        let digits = |name: &str| name.chars().filter(char::is_ascii_digit).collect::<String>();
        let same_numbers = symbols.names().filter(|name| digits(name) == digits(symbol));
        let new = new.filter(|name| symbols.get(name).is_some()).min();
        new.or_else(|| nearest::nearest(symbol, same_numbers).map(str::to_owned))
    }
}

/// What `symbol` was called before, by the table of [`Chip::kconfig_formerly`]. A whole name goes before a beginning.
fn formerly(table: &BTreeMap<String, String>, symbol: &str) -> Option<String> {
    let whole = table.get(symbol).cloned();
    whole.or_else(|| table.iter().rev().find_map(|(now, then)| renamed(now, then, symbol)))
}

/// `symbol` with the pattern `from` replaced by `to`; both are a name, or a beginning and `*`.
fn renamed(from: &str, to: &str, symbol: &str) -> Option<String> {
    match (from.strip_suffix('*'), to.strip_suffix('*')) {
        (Some(from), Some(to)) => symbol.strip_prefix(from).map(|rest| format!("{to}{rest}")),
        _ => (symbol == from).then(|| to.to_owned()),
    }
}

#[cfg(test)]
mod tests;
