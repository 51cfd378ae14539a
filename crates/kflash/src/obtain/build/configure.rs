//! Configuring: what an order asks for, resolved by the tree's own Kconfig, and compared.

use serde::{Deserialize, Serialize};

use super::kconfig::{Config, Drift, Request, Symbols};
use super::make::Workplace;
use super::toolchain::{Needs, ToolchainError};
use super::tree::{Snapshot, Tree};
use super::{BuildError, Builder, Order};
use crate::digest::Sha256;

/// An order's configuration, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resolved {
    /// The text of the `.config`.
    pub config: String,
    /// The programs that it takes to build it.
    pub needs: Needs,
}

impl Builder<'_> {
    /// The configuration that `tree` makes of an order. Every symbol of the order holds in it.
    pub fn configure(&self, tree: &Tree, order: &Order) -> Result<Resolved, BuildError> {
        Ok(self.resolve(tree, order, &order.request()?, || ())?.0)
    }

    /// The same, and the copy of the tree that was asked for it. `asks` is called if it is, which takes a moment.
    pub(super) fn resolve(
        &self,
        tree: &Tree,
        order: &Order,
        request: &Request,
        asks: impl FnOnce(),
    ) -> Result<(Resolved, Option<Snapshot>), BuildError> {
        if let Some(resolved) = self.resolved(tree, order, request)? {
            return Ok((resolved, None));
        }
        asks();
        self.find_to_configure(request)?;
        let snapshot = self.snapshot(tree)?;
        let log = self.log(order)?;
        let workplace = self.workplace(&snapshot, &log);
        let (resolved, drifts) = ask(&workplace, request)?;
        if !drifts.is_empty() {
            let by_person = drifts.iter().any(|drift| order.set.iter().any(|(symbol, _)| *symbol == drift.symbol));
            return Err(BuildError::Drift { drifts, by_person });
        }
        self.cache.remember_resolved(&digest(tree, order, request), &resolved)?;
        Ok((resolved, Some(snapshot)))
    }

    /// The configuration, where the tree was asked before.
    pub(super) fn resolved(
        &self,
        tree: &Tree,
        order: &Order,
        request: &Request,
    ) -> Result<Option<Resolved>, BuildError> {
        Ok(self.cache.resolved(&digest(tree, order, request))?)
    }

    /// Opens the tree's own menu of an order's configuration on the terminal. Returns the symbols that a person changed
    /// there, with their new values: what to `--set` for the same.
    pub fn menuconfig(&self, tree: &Tree, order: &Order) -> Result<Vec<(String, String)>, BuildError> {
        let request = order.request()?;
        self.find_to_configure(&request)?;
        let snapshot = self.snapshot(tree)?;
        let log = self.log(order)?;
        let workplace = self.workplace(&snapshot, &log);
        let (before, _) = ask(&workplace, &request)?;
        let after = workplace.menuconfig()?;
        let symbols = Symbols::scan(workplace.tree)?;
        let (before, after) = (Config::parse(&before.config)?, Config::parse(&String::from_utf8_lossy(&after))?);
        let is_set = |symbol: &str| symbols.get(symbol).is_some_and(|known| known.settable);
        let changed = after.iter().filter(|&(symbol, value)| is_set(symbol) && before.get(symbol) != Some(value));
        // What another member of its choice switched off follows from that one.
        let follows = |symbol: &str, value: &str| value == "n" && symbols.chosen_beside(symbol, &after).is_some();
        let changed = changed.filter(|(symbol, value)| !follows(symbol, value));
        Ok(changed.map(|(symbol, value)| (symbol.to_owned(), value.to_owned())).collect())
    }

    fn find_to_configure(&self, request: &Request) -> Result<(), BuildError> {
        let find = |needs: &Needs| needs.find(self.environment, self.interrupt).map(drop);
        match find(&Needs::to_configure()) {
            // All at once: the compiler as well, which nobody can be sure of yet.
            Err(ToolchainError::Missing(_)) => Ok(find(&Needs::likely(request.symbols()))?),
            found => Ok(found?),
        }
    }
}

/// What the tree in a workplace makes of a request.
fn ask(workplace: &Workplace<'_>, request: &Request) -> Result<(Resolved, Vec<Drift>), BuildError> {
    let symbols = Symbols::scan(workplace.tree)?;
    let text = workplace.configure(&request.text(&symbols))?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let config = Config::parse(&text)?;
    let drifts = request.compare(&symbols, &config);
    let board_directory = config.get("BOARD_DIRECTORY").unwrap_or_default();
    // What drifted is the better reason for a folder that is not there.
    let needs = match Needs::to_build(workplace.tree, board_directory) {
        Err(_) if !drifts.is_empty() => Needs::to_configure(),
        needs => needs?,
    };
    Ok((Resolved { config: text, needs }, drifts))
}

/// What decides a configuration: the tree, the request, and how kflash turns one into the other.
fn digest(tree: &Tree, order: &Order, request: &Request) -> Sha256 {
    let parts = (env!("CARGO_PKG_VERSION"), tree.id(), request.symbols(), &order.chip.kconfig_formerly);
    Sha256::of(format!("{parts:?}").as_bytes())
}
