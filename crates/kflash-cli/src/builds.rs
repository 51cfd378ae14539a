//! Firmware for boards of several printers: each tree is looked at once, and all that is built from it, in one go.

use std::collections::BTreeMap;
use std::sync::Arc;

use kflash::config::{self, Config, Printer};
use kflash::flash::Interrupt;
use kflash::obtain::build::toolchain::ToolchainError;
use kflash::obtain::build::{BuildError, Builder, Environment, Firmware, Order};
use kflash::obtain::cache::Cache;

use crate::build::cores;
use crate::render::{BuildProgress, Screen};
use crate::tree::{NoTree, TreeArgs, Trees};

/// What builds take.
#[derive(Clone, Copy)]
pub struct Builds<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Which tree.
    pub tree: &'a TreeArgs,
    /// The cache.
    pub cache: &'a Cache,
    /// What they see of the environment.
    pub environment: &'a Environment,
    /// Stops them.
    pub interrupt: &'a Interrupt,
    /// Whether nothing is built, and what the cache holds is all.
    pub no_build: bool,
    /// Whether progress is JSON.
    pub json: bool,
    /// Where else it is shown.
    pub screen: &'a Screen,
}

/// What came of an order.
#[derive(Clone)]
pub enum Built {
    /// Firmware, built now or before.
    Firmware(Box<Firmware>),
    /// It would have to be built.
    NotCached,
    /// There is no tree.
    NoTree(NoTree),
    /// The build failed.
    Failed(Arc<BuildError>),
}

impl Built {
    /// Whether there is nothing to build from, or with.
    pub fn cannot(&self) -> bool {
        match self {
            Self::NoTree(NoTree::None | NoTree::NoGit) => true,
            Self::Failed(error) => matches!(**error, BuildError::Toolchain(ToolchainError::Missing(_))),
            Self::Firmware(_) | Self::NotCached | Self::NoTree(NoTree::Bad(_)) => false,
        }
    }
}

impl Builds<'_> {
    /// What comes of each order, in the same order; each with the printer that it is for, where that is known.
    pub fn of(&self, orders: Vec<(Option<&Printer>, Order)>) -> Vec<Built> {
        let mut trees: BTreeMap<_, (Vec<usize>, Vec<Order>, Option<&Printer>)> = BTreeMap::new();
        for (at, (printer, order)) in orders.into_iter().enumerate() {
            let (places, orders, _) =
                trees.entry(self.key(printer)).or_insert_with(|| (Vec::new(), Vec::new(), printer));
            places.push(at);
            orders.push(order);
        }
        let mut built: Vec<(usize, Built)> = Vec::new();
        for (places, orders, printer) in trees.into_values() {
            built.extend(places.into_iter().zip(self.of_tree(printer, &orders)));
        }
        built.sort_by_key(|(at, _)| *at);
        built.into_iter().map(|(_, built)| built).collect()
    }

    /// What tells the tree of a printer from those of others, before it is looked at.
    fn key(&self, printer: Option<&Printer>) -> String {
        let tree = self.config.tree_of(printer);
        let follows_host = self.tree.is_host() || matches!(tree, Some(config::Tree::Git(git)) if git.is_of_host());
        let printer = printer.filter(|_| follows_host).map(|printer| &printer.name);
        format!("{tree:?} {printer:?}")
    }

    fn of_tree(&self, printer: Option<&Printer>, orders: &[Order]) -> Vec<Built> {
        let Self { config, cache, environment, interrupt, .. } = *self;
        let tree = match self.tree.find(&Trees { config, printer, cache, environment, interrupt }) {
            Ok(tree) => tree,
            Err(none) => return vec![Built::NoTree(none); orders.len()],
        };
        let builder = Builder { cache, environment, interrupt, jobs: cores() };
        if self.no_build {
            let cached = builder.cached(&tree, orders).into_iter();
            let built = |firmware: Option<_>| firmware.map_or(Built::NotCached, |it| Built::Firmware(Box::new(it)));
            return cached.map(|outcome| outcome.map_or_else(Built::Failed, built)).collect();
        }
        let mut progress = BuildProgress::new(self.json, self.screen);
        let outcomes = builder.build(&tree, orders, &mut |event| progress.event(&event));
        progress.end();
        let built = |firmware| Built::Firmware(Box::new(firmware));
        outcomes.into_iter().map(|outcome| outcome.map_or_else(Built::Failed, built)).collect()
    }
}
