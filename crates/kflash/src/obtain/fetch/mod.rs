//! Prebuilt firmware: from an index that somebody signed, checked and stored in the cache.
//!
//! The signature is checked over the bytes of the index before they are parsed; the image, against the index, the board
//! and itself, before it is stored.

mod download;
mod error;
mod index;
mod location;
mod net;
mod proof;
mod proxy;
pub mod publish;
mod secret;
mod seen;
mod signature;

use std::fmt;
use std::time::Duration;

use self::download::{Download, Known};
pub use self::error::FetchError;
pub use self::index::{Entry, FORMAT, Index, IndexError, MAX_INDEX, NotListed, Wanted};
pub use self::location::{Location, LocationError, Url};
#[cfg(feature = "moonraker")]
pub(crate) use self::net::certificates;
pub use self::net::{CaError, Net, Patience};
pub use self::proxy::{Proxies, ProxyError};
pub use self::secret::{SecretError, SecretFile, Signer};
pub use self::signature::{KeyError, PublicKey, SignatureError, check as check_signature};
use crate::chip::Chip;
use crate::clock::Clock;
use crate::event::{Check, Event, Events, Phase};
use crate::flash::Interrupt;
use crate::image::Image;
use crate::obtain::cache::{self, Cache, CacheError, Key, Lookup, Shelf};
use crate::obtain::provenance::{Fetched, MadeFor, Origin, Provenance};
use crate::timestamp::Timestamp;

/// The largest signature file that is read, in bytes.
const MAX_SIGNATURE: usize = 16 << 10;

/// Until an index and its signature, of which one was replaced, are both.
const BETWEEN_PUBLICATIONS: Duration = Duration::from_secs(1);

/// Ends the name of the signature beside an index.
pub const SIGNATURE_SUFFIX: &str = ".minisig";

/// Fetches.
pub struct Fetcher<'a> {
    /// The way to servers.
    pub net: &'a Net,
    /// Where images go.
    pub cache: &'a Cache,
    /// What is waited by.
    pub clock: &'a dyn Clock,
    /// A request to stop.
    pub interrupt: &'a Interrupt,
}

/// An index, and who has to vouch for it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is.
    pub index: Location,
    /// Who vouches for it; `None` lets it pass unsigned.
    pub key: Option<PublicKey>,
    /// Whether one that is older than what was seen before is let pass.
    pub allow_old: bool,
}

/// An index that was believed.
#[derive(Clone, Debug)]
pub struct Believed {
    /// What it says.
    pub index: Index,
    /// Where it is.
    pub at: Location,
    /// The number of the key that vouches for it.
    pub key_id: Option<String>,
    /// Whether it is older than what was seen before.
    pub old: bool,
}

/// An image that was fetched, and the route it is for.
#[derive(Clone, Debug)]
pub struct FetchedImage {
    /// The image in the cache.
    pub entry: cache::Entry,
    /// The route of the board that it is for, by id.
    pub route: String,
    /// Whether it was in the cache already.
    pub cached: bool,
    /// What was compared.
    pub checks: Vec<Check>,
}

impl Fetcher<'_> {
    /// The index of `source`, if it is to be believed.
    pub fn index(&self, source: &Source, events: Events<'_>) -> Result<Believed, FetchError> {
        let at = &source.index;
        events(Event::Phase { phase: Phase::Fetch, what: format!("fetching the index {at}"), total: None });
        let bytes = if let Some(key) = &source.key {
            match self.signed(at, key, events) {
                // Between the two of them a newer index may have been published.
                Err(FetchError::Signature { error: SignatureError::Wrong { .. }, .. }) => {
                    self.clock.sleep(BETWEEN_PUBLICATIONS);
                    self.signed(at, key, events)?
                }
                result => result?,
            }
        } else {
            let text = format!("{at} is not checked: anybody could have changed it, and the firmware in it");
            events(Event::Warning { text });
            self.download().small(at, MAX_INDEX, events)?.ok_or_else(|| missing(at))?
        };
        let index = Index::parse(&bytes).map_err(|error| FetchError::Index { index: at.to_string(), error })?;
        let old = match &source.key {
            Some(key) => seen::compare(self.cache, at, key, &index, source.allow_old)?,
            None => false,
        };
        if old {
            let text = format!("{at} of {} is older than what was fetched before, and allowed to be", index.created);
            events(Event::Warning { text });
        }
        Ok(Believed { index, at: at.clone(), key_id: source.key.as_ref().map(|key| key.id.clone()), old })
    }

    /// The bytes of an index that `key` signed.
    fn signed(&self, at: &Location, key: &PublicKey, events: Events<'_>) -> Result<Vec<u8>, FetchError> {
        let download = self.download();
        let bytes = download.small(at, MAX_INDEX, events)?.ok_or_else(|| missing(at))?;
        let beside = at.with_suffix(SIGNATURE_SUFFIX);
        let unsigned = || FetchError::Unsigned { index: at.to_string() };
        let signature = download.small(&beside, MAX_SIGNATURE, events)?.ok_or_else(unsigned)?;
        let signature = String::from_utf8(signature).map_err(|_| SignatureError::Malformed);
        signature
            .and_then(|signature| signature::check(&bytes, &signature, key))
            .map_err(|error| FetchError::Signature { index: at.to_string(), error })?;
        Ok(bytes)
    }

    /// The image that an index names for a board with this chip: from the cache, else downloaded, proven and stored
    /// there.
    pub fn image(
        &self,
        of: &Believed,
        wanted: &Wanted<'_>,
        chip: &Chip,
        events: Events<'_>,
    ) -> Result<FetchedImage, FetchError> {
        let not_listed = |error| FetchError::NotListed { index: of.at.to_string(), error };
        let (entry, route) = of.index.find(wanted).map_err(not_listed)?;
        let agreed = |image: &dyn fmt::Display, checks: &[Check]| match proof::disagreements(checks) {
            disagreements if disagreements.is_empty() => Ok(()),
            disagreements => Err(FetchError::Disagrees { image: image.to_string(), disagreements }),
        };
        let mut checks = proof::of_entry(entry, wanted.profile, chip, route);
        agreed(&format_args!("{}: {entry}", of.at), &checks)?;

        // Named by the digest: no name of the index becomes a path.
        let name = entry.sha256.to_string();
        let going_on = &mut |_| !self.interrupt.requested();
        let claim = self.cache.claim_folder(Shelf::Downloads, &name, false, going_on)?;
        let claim = claim.ok_or(FetchError::Interrupted)?;
        let made_for = MadeFor { board: wanted.profile.id.clone(), route: Some(route.id.clone()) };
        let from = of.at.of_reference(&entry.url);
        let from = from.map_err(|error| FetchError::Reference { index: of.at.to_string(), error })?;
        let found = self.cache.find(&Key::of_fetched(&entry.sha256))?;
        if let Lookup::Found(found) = found {
            checks.extend(proof::of_image(&found.image, entry, wanted.profile, chip, route));
            agreed(&found.path.display(), &checks)?;
            let entry = self.cache.vouched(*found, fetched(of, entry, &from))?;
            let entry = self.cache.made_for(entry, [&made_for])?;
            return Ok(FetchedImage { entry, route: route.id.clone(), cached: true, checks });
        }
        let what = format!("fetching {entry}");
        events(Event::Phase { phase: Phase::Fetch, what, total: Some(entry.size) });
        let known = Known { size: entry.size, sha256: entry.sha256 };
        let bytes = self.download().known(&from, known, claim.path(), events)?;
        let image = Image::parse(&bytes).map_err(|error| FetchError::NotAnImage { image: from.to_string(), error })?;
        checks.extend(proof::of_image(&image, entry, wanted.profile, chip, route));
        for check in &checks {
            events(Event::Check(check.clone()));
        }
        agreed(&from, &checks)?;
        let provenance = provenance(of, entry, &from, &image, &bytes, made_for).map_err(CacheError::from)?;
        let stored = self.cache.store(&provenance, &bytes, None)?;
        let _ = std::fs::remove_dir(claim.path());
        Ok(FetchedImage { entry: stored, route: route.id.clone(), cached: false, checks })
    }

    fn download(&self) -> Download<'_> {
        Download { net: self.net, clock: self.clock, interrupt: self.interrupt }
    }
}

fn provenance(
    of: &Believed,
    entry: &Entry,
    from: &Location,
    image: &Image,
    bytes: &[u8],
    made_for: MadeFor,
) -> Result<Provenance, crate::obtain::provenance::ProvenanceError> {
    let origin = Origin::Fetched(fetched(of, entry, from));
    Provenance::of(image, bytes, origin, Some(entry.start), [made_for], Timestamp::now())
}

fn fetched(of: &Believed, entry: &Entry, from: &Location) -> Fetched {
    Fetched {
        index: of.at.to_string(),
        key_id: of.key_id.clone(),
        url: from.to_string(),
        version: entry.version.clone(),
        commit: entry.commit.clone(),
    }
}

fn missing(at: &Location) -> FetchError {
    match at {
        Location::Web(url) => FetchError::Status { url: url.clone(), status: "404 Not Found".into() },
        Location::File(path) => {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "no such file");
            FetchError::Unreadable { path: path.clone(), source }
        }
    }
}
