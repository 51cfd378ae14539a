//! What a tree builds for boards: from the cache, else built now.

use std::collections::BTreeMap;
use std::sync::Arc;

use kflash::config::{self, Printer};
use kflash::exit::ExitCode;
use kflash::obtain::build::toolchain::ToolchainError;
use kflash::obtain::build::tree::Tree;
use kflash::obtain::build::{BuildError, Builder, Firmware, Order};

use super::{NoOffer, Offer, Offered, Offers, Wanted};
use crate::render::BuildProgress;
use crate::tree::{HOST, Trees};

/// What came of building.
#[derive(Clone)]
pub(super) enum Build {
    /// An offer, or a build that failed.
    Made(Offered),
    /// There is no tree, or no toolchain.
    Cannot(NoOffer),
}

impl Offers<'_> {
    /// What the trees build for these boards. A tree that several of them share is looked at once.
    pub(super) fn build<'s>(&self, wanted: Vec<Wanted<'s>>) -> Vec<(Wanted<'s>, Build)> {
        let mut trees: BTreeMap<String, Vec<(Wanted<'s>, Order)>> = BTreeMap::new();
        let mut built = Vec::new();
        for one in wanted {
            match one.order() {
                Ok(order) => trees.entry(self.tree_of(one.printer())).or_default().push((one, order)),
                Err(none) => built.push((one, Build::Made(Err(none)))),
            }
        }
        for orders in trees.into_values() {
            let (wanted, orders): (Vec<_>, Vec<_>) = orders.into_iter().unzip();
            let printer = wanted.first().and_then(Wanted::printer);
            let builds = self.built_for(printer, &orders);
            built.extend(wanted.into_iter().zip(builds));
        }
        built
    }

    /// What tells the tree of a printer from those of others, before it is looked at.
    fn tree_of(&self, printer: Option<&Printer>) -> String {
        let tree = self.config.tree_of(printer);
        let follows_host = self.tree.is_host()
            || matches!(tree, Some(config::Tree::Git(git)) if git.reference.as_deref() == Some(HOST));
        let printer = printer.filter(|_| follows_host).map(|printer| &printer.name);
        format!("{tree:?} {printer:?}")
    }

    fn built_for(&self, printer: Option<&Printer>, orders: &[Order]) -> Vec<Build> {
        let trees = Trees {
            config: self.config,
            printer,
            cache: self.cache,
            environment: self.environment,
            interrupt: self.interrupt,
        };
        match self.tree.find(&trees) {
            Ok(tree) => self.built_in(&tree, orders),
            Err(failure) => {
                // That there is none at all is no failure: nobody named one.
                let named = self.tree.is_named() || self.config.tree_of(printer).is_some();
                let none = |exit| NoOffer { why: failure.message.clone(), exit };
                let build =
                    if named { Build::Made(Err(none(failure.exit))) } else { Build::Cannot(none(ExitCode::Ok)) };
                vec![build; orders.len()]
            }
        }
    }

    fn built_in(&self, tree: &Tree, orders: &[Order]) -> Vec<Build> {
        let builder =
            Builder { cache: self.cache, environment: self.environment, interrupt: self.interrupt, jobs: self.jobs };
        let outcomes: Vec<Result<Option<Firmware>, _>> = if self.no_build {
            builder.cached(tree, orders)
        } else {
            let mut progress = BuildProgress::new(self.shared.json);
            let outcomes = builder.build(tree, orders, &mut |event| progress.event(&event));
            progress.end();
            outcomes.into_iter().map(|outcome| outcome.map(Some)).collect()
        };
        outcomes.into_iter().map(|outcome| self.of_outcome(outcome)).collect()
    }

    fn of_outcome(&self, outcome: Result<Option<Firmware>, Arc<BuildError>>) -> Build {
        let none = "the cache holds no firmware of this tree for it; without --no-build it is built";
        match outcome {
            Err(error) => {
                let failed = NoOffer { why: error.summary(), exit: error.exit() };
                match *error {
                    BuildError::Toolchain(ToolchainError::Missing(_)) => Build::Cannot(failed),
                    _ => Build::Made(Err(failed)),
                }
            }
            Ok(None) => Build::Made(Err(none.into())),
            Ok(Some(firmware)) => Build::Made(match firmware.entry.image.dictionary {
                Some(dictionary) => Ok(Offer { dictionary, options: self.tree.options() }),
                None => Err("the image holds no data dictionary".into()),
            }),
        }
    }
}
