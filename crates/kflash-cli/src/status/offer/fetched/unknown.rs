//! What an index has, of a kflash that fetches nothing.

use super::{Offered, Offers, Wanted};

impl Offers<'_> {
    /// Nothing is fetched.
    #[expect(clippy::unused_self, reason = "with the feature it is asked for")]
    pub(super) fn fetch<'s>(&self, wanted: Vec<Wanted<'s>>) -> Vec<(Wanted<'s>, Offered)> {
        let none = || Err("its firmware is fetched, and this kflash was built without that".into());
        wanted.into_iter().map(|wanted| (wanted, none())).collect()
    }
}
