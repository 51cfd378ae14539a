//! A symbol that did not hold.

use std::fmt;

use serde::Serialize;

use super::Kind;

/// A requested symbol that does not have the requested value in the resolved configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// As requested, without `CONFIG_`.
    pub symbol: String,
    /// As this tree calls it; the same unless it was renamed since.
    pub name: String,
    /// The value that was requested.
    pub wanted: String,
    /// What it became.
    pub became: Became,
    /// The member of the same choice that the tree took.
    pub chosen: Option<String>,
    /// What the tree's Kconfig files ask for before the symbol can be set, one line each; any one is enough.
    pub needs: Vec<String>,
}

/// What a requested symbol became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Became {
    /// Another value.
    Changed(String),
    /// Nothing: what it depends on is not given.
    Dropped,
    /// Another value, as the tree computes it: nobody can set it.
    Computed,
    /// The tree has no such symbol.
    Unknown {
        /// Its new name, or the most similar of the tree's.
        instead: Option<String>,
    },
    /// The value is not of the symbol's kind.
    Unfit(Kind),
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.symbol)?;
        if self.name != self.symbol {
            write!(f, " (here {})", self.name)?;
        }
        write!(f, ": wanted {:?}, ", self.wanted)?;
        match &self.became {
            Became::Changed(value) => write!(f, "became {value:?}")?,
            Became::Dropped => write!(f, "was dropped")?,
            Became::Computed => write!(f, "but this tree computes it and lets nobody set it")?,
            Became::Unknown { instead: None } => write!(f, "but this tree has no such symbol")?,
            Became::Unknown { instead: Some(name) } => {
                write!(f, "but this tree has no such symbol; did you mean {name}?")?;
            }
            Became::Unfit(kind) => write!(f, "but it takes {kind}")?,
        }
        if let Some(chosen) = &self.chosen {
            write!(f, "; {chosen} was chosen in its place")?;
        }
        match self.became {
            Became::Changed(_) | Became::Dropped if !self.needs.is_empty() => {
                write!(f, "; it needs {}", self.needs.join(", or "))
            }
            _ => Ok(()),
        }
    }
}
