//! What a tree builds for boards: from the cache, else built now.

use super::{NoOffer, Offer, Offered, Offers, Wanted};
use crate::builds::Built;
use crate::failure::Failure;
use crate::tree::NoTree;

/// What came of building.
pub(super) enum Build {
    /// An offer, or a build that failed.
    Made(Offered),
    /// There is no tree, or no toolchain.
    Cannot(NoOffer),
}

impl Offers<'_> {
    /// What the trees build for these boards.
    pub(super) fn build<'s>(&self, wanted: Vec<Wanted<'s>>) -> Vec<(Wanted<'s>, Build)> {
        let (mut builds, mut ordered, mut orders) = (Vec::new(), Vec::new(), Vec::new());
        for one in wanted {
            match one.order() {
                Ok(order) => {
                    orders.push((one.target.configured.map(|(printer, _)| printer), order));
                    ordered.push(one);
                }
                Err(none) => builds.push((one, Build::Made(Err(none)))),
            }
        }
        builds.extend(ordered.into_iter().zip(self.builds.of(orders).into_iter().map(|built| self.offer(built))));
        builds
    }

    fn offer(&self, built: Built) -> Build {
        let cannot = built.cannot();
        let none = match built {
            Built::Firmware(firmware) => {
                return Build::Made(match firmware.entry.image.dictionary {
                    Some(dictionary) => Ok(Offer { dictionary, options: self.builds.tree.options() }),
                    None => Err("the image holds no data dictionary".into()),
                });
            }
            Built::NotCached => {
                "the cache holds no firmware of this tree for it; without --no-build it is built".into()
            }
            // That there is none at all is no failure: nobody named one.
            Built::NoTree(NoTree::None) => "there is no Klipper or Kalico tree to build from".into(),
            Built::NoTree(none) => Failure::from(none).into(),
            Built::Failed(error) => NoOffer { why: error.summary(), exit: error.exit() },
        };
        if cannot { Build::Cannot(none) } else { Build::Made(Err(none)) }
    }
}
