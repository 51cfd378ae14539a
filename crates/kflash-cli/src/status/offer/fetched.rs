//! What the configured index has for boards, fetched into the cache.

use kflash::clock::SystemClock;
use kflash::obtain::fetch::{Believed, FetchError, Fetcher, Wanted as Listed};

use super::{NoOffer, Offer, Offered, Offers, Wanted};
use crate::fetch::{Means, MeansArgs};
use crate::render::{Display, Screen};

impl Offers<'_> {
    /// What the index has for these boards.
    pub(super) fn fetch<'s>(&self, wanted: Vec<Wanted<'s>>) -> Vec<(Wanted<'s>, Offered)> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let failed = |error: FetchError| NoOffer { why: error.to_string(), exit: error.exit() };
        let means = match MeansArgs::default().resolve(self.shared) {
            Ok(means) => means,
            Err(failure) => return every(wanted, &NoOffer::from(failure)),
        };
        let (display, clock) =
            (Display::new(self.shared.json, std::iter::empty(), Screen::default()), SystemClock::new());
        let mut progress = display.board(None);
        let Means { net, source } = &means;
        let fetcher = Fetcher { net, cache: self.builds.cache, clock: &clock, interrupt: self.builds.interrupt };
        let believed = fetcher.index(source, &mut |event| progress.event(&event));
        let offers = match &believed {
            Err(error) => every(wanted, &NoOffer { why: error.to_string(), exit: error.exit() }),
            Ok(believed) => {
                let mut image = |wanted: &Wanted<'_>, believed: &Believed| {
                    let profile = &wanted.target.profile;
                    let listed = Listed { profile, route: Some(&wanted.route), version: None };
                    let chip = &wanted.target.chip;
                    fetcher.image(believed, &listed, chip, &mut |event| progress.event(&event))
                };
                let offer = |wanted: Wanted<'s>| {
                    let offered = image(&wanted, believed).map_err(failed).and_then(|fetched| {
                        let dictionary = fetched.entry.image.dictionary;
                        let dictionary = dictionary.ok_or("the image holds no data dictionary")?;
                        Ok(Offer { dictionary, options: Vec::new() })
                    });
                    (wanted, offered)
                };
                wanted.into_iter().map(offer).collect()
            }
        };
        progress.end(believed.is_ok(), "");
        offers
    }
}

/// None for any of them.
fn every<'s>(wanted: Vec<Wanted<'s>>, none: &NoOffer) -> Vec<(Wanted<'s>, Offered)> {
    wanted.into_iter().map(|wanted| (wanted, Err(none.clone()))).collect()
}
