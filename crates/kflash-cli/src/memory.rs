//! What devices ran: remembered after each flash, for `--previous`.

use std::iter;

use kflash::board::BoardId;
use kflash::digest::Sha256;
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, Firmware, FlashError, Flasher, Outcome, Report, Unheard, Wanted};
use kflash::obtain::cache::{Cache, DeviceKeys, Lookup, Previous, Ran, RanImage};
use kflash::obtain::provenance::{MadeFor, Origin, Provenance};
use kflash::obtain::{From, Obtained};
use kflash::timestamp::Timestamp;

use crate::args::Shared;
use crate::configuration::absolute;
use crate::failure::Failure;
use crate::render;
use crate::sheet::shown;

impl Shared {
    /// The cache that is meant.
    pub fn cache(&self) -> Result<Cache, Failure> {
        let usual = || {
            let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
            Some(base?.join("kflash"))
        };
        let dir = self.cache_dir.clone().or_else(usual);
        let unknown = || Failure::usage("neither HOME nor XDG_CACHE_HOME tells where the cache is: name --cache-dir");
        dir.map(Cache::at).ok_or_else(unknown)
    }
}

/// Notes what the device of `report`, a board of this kind, ran and runs, and keeps the image that was flashed.
pub fn remember(cache: &Cache, report: &Report, board: &BoardId, firmware: &Obtained) -> Result<(), Failure> {
    let image = match report.outcome {
        Outcome::Flashed => Some(keep(cache, board, firmware)?),
        // What was not written was not compared: only its dictionary is known.
        Outcome::AlreadyCurrent | Outcome::DictionaryMatches | Outcome::BytesMatch | Outcome::Installed => None,
    };
    let seen = |firmware: &Firmware, image| {
        Some(Ran {
            time: Timestamp::now(),
            board: board.clone(),
            app: firmware.app.clone(),
            version: firmware.version.clone(),
            dictionary_sha256: firmware.dictionary_sha256.parse().ok()?,
            image,
        })
    };
    let before = report.before.as_ref().and_then(|before| seen(before, None));
    let now = report.now.as_ref().and_then(|now| seen(now, image));
    cache.remember(&DeviceKeys::of(&report.device), before.into_iter().chain(now))?;
    Ok(())
}

/// Keeps an image that was flashed to `board`.
fn keep(cache: &Cache, board: &BoardId, firmware: &Obtained) -> Result<RanImage, Failure> {
    let made_for = MadeFor { board: board.clone(), route: None };
    let sha256 = Sha256::of(&firmware.bytes);
    let key = match &firmware.from {
        From::Cache(key) => Some(*key),
        // A file that was built or fetched is there already, and more is known of it.
        From::File(_) => cache.list()?.into_iter().find_map(|listed| {
            let same = listed.provenance.is_some_and(|provenance| provenance.image.sha256 == sha256);
            listed.key.filter(|_| same)
        }),
    };
    if let Some(key) = key
        && let Lookup::Found(entry) = cache.find(&key)?
    {
        if !entry.provenance.is_for(board) {
            cache.made_for(*entry, iter::once(&made_for))?;
        }
        return Ok(RanImage { key, sha256 });
    }
    let path = match &firmware.from {
        From::File(path) => path.display().to_string(),
        From::Cache(key) => format!("image {key} of the cache, which was removed meanwhile"),
    };
    let origin = Origin::File { path };
    let provenance =
        Provenance::of(&firmware.image, &firmware.bytes, origin, None, iter::once(made_for), Timestamp::now())
            .map_err(|error| Failure::new(ExitCode::Refused, error.to_string()))?;
    let entry = cache.store(&provenance, &firmware.bytes, None)?;
    Ok(RanImage { key: entry.key, sha256 })
}

/// The firmware that the device which is meant ran before the one that it runs now.
pub fn previous(cache: &Cache, flasher: &Flasher<'_>, wanted: &Wanted<'_>) -> Result<Obtained, Failure> {
    let profile = wanted.profile;
    let failed = |error| Failure::of_flash(error, &profile.hands);
    let heard = flasher.hear(wanted, &mut |_| ()).map_err(failed)?;
    let Some(device) = &heard.device else {
        let what = match heard.unheard {
            Some(Unheard::NoDevice { what }) => what,
            _ => "no device".to_owned(),
        };
        return Err(failed(FlashError::new(ExitCode::NotFound, FailureKind::NoDevice, BoardState::Untouched, what)));
    };
    let running = heard.running.as_ref().and_then(|running| running.dictionary.sha256.parse().ok());
    match cache.previous(&DeviceKeys::of(device), running, &profile.id)? {
        Previous::Image { ran, entry } => {
            render::note(&format!("before, the device at {} ran {}", device.place, describe(&ran)));
            Ok((*entry).into())
        }
        Previous::Unknown { remembered, damage } => {
            let message = format!("nothing is known of what the device at {} ran before", device.place);
            let details = remembered.iter().rev().map(|ran| format!("remembered: {}, as {}", describe(ran), ran.board));
            let details = details.chain(damage.iter().map(ToString::to_string)).collect();
            let hint =
                "kflash remembers what it flashes, and what it finds on a board when it does. Give the firmware \
                        with --firmware"
                    .to_owned();
            Err(Failure { details, hint: Some(hint), ..Failure::usage(message) })
        }
        Previous::NotStored { ran, damage } => {
            let exit = if damage.is_some() { ExitCode::Refused } else { ExitCode::Usage };
            let message = format!("the image that ran before is not in the cache: {}", describe(&ran));
            let details = damage.iter().map(ToString::to_string).collect();
            Err(Failure { details, hint: Some("give it with --firmware".into()), ..Failure::new(exit, message) })
        }
        Previous::Several { ran, keys } => {
            let message = format!("several images in the cache are {}", describe(&ran));
            let details = keys.iter().map(ToString::to_string).collect();
            let hint = "`kflash cache show KEY` tells them apart; give the right one's path with --firmware".to_owned();
            Err(Failure { details, hint: Some(hint), ..Failure::usage(message) })
        }
    }
}

/// `Klipper v0.12.0-439-g1fe54bd5, dictionary d7574a92d9a0608a, on 2026-11-21T02:48:40Z`
fn describe(ran: &Ran) -> String {
    format!("{} {}, dictionary {:.16}, on {}", shown(&ran.app), shown(&ran.version), ran.dictionary_sha256, ran.time)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use kflash::board::{Cable, Profile};
    use kflash::boards;
    use kflash::chip::Chip;
    use kflash::flash::{Interrupt, Request};
    use kflash::host::Host as _;
    use kflash_sim::board::{Contents, VirtualBoard};
    use kflash_sim::firmware::TestImage;
    use kflash_sim::host::{Plug, SimHost};
    use tempfile::TempDir;

    use super::*;

    const BOARD: &str = "btt-octopus-v1.1-f446";
    const START: u32 = 0x0800_8000;

    /// A virtual board that runs the first of these versions, and a cache.
    struct Desk {
        host: SimHost,
        profile: Profile,
        chip: Chip,
        folder: TempDir,
        cache: Cache,
    }

    fn image(version: &str) -> Vec<u8> {
        TestImage::klipper("stm32f446xx", START).version(version).build()
    }

    impl Desk {
        fn new(versions: &[&str]) -> Self {
            let (profile, chip) = boards::find(BOARD).unwrap();
            let known = versions.iter().map(|version| (START, image(version))).collect();
            let application = Some((START, image(versions[0])));
            let contents = Contents { bootloader: "katapult".into(), application, known, uid: [7; 12] };
            let board = VirtualBoard::new(&profile, &chip, contents).unwrap();
            let host = SimHost::paced(0.0);
            host.plug_in(Plug::of(&profile, Cable::Usb, "1-1".parse().unwrap()), board, profile.opening_resets);
            host.clock().sleep(std::time::Duration::from_secs(1));
            let folder = tempfile::tempdir().unwrap();
            let cache = Cache::at(folder.path().join("cache"));
            Self { host, profile, chip, folder, cache }
        }

        fn file(&self, version: &str) -> Obtained {
            let path = self.folder.path().join("klipper.bin");
            std::fs::write(&path, image(version)).unwrap();
            kflash::obtain::file(&path).unwrap()
        }

        fn flash(&self, firmware: &Obtained) -> Report {
            let request = Request {
                profile: self.profile.clone(),
                chip: self.chip.clone(),
                image: firmware.image.clone(),
                selectors: Vec::new(),
                force: false,
            };
            let flasher = Flasher { host: &self.host, interrupt: &Interrupt::default(), hands: false };
            let report = flasher.flash(&request, &mut |_| ()).unwrap();
            remember(&self.cache, &report, &self.profile.id, firmware).unwrap();
            report
        }

        fn previous(&self) -> Result<Obtained, Failure> {
            let flasher = Flasher { host: &self.host, interrupt: &Interrupt::default(), hands: false };
            let Self { profile, chip, .. } = self;
            previous(&self.cache, &flasher, &Wanted { profile, chip, selectors: &[], may_reset: true })
        }

        fn version(&self) -> Option<String> {
            self.previous().ok().map(|firmware| firmware.image.dictionary.unwrap().version)
        }
    }

    #[test]
    fn the_firmware_before_is_flashed_again() {
        let desk = Desk::new(&["v1", "v2", "v3"]);
        let nothing = desk.previous().unwrap_err();
        assert_eq!((nothing.exit, nothing.details.len()), (ExitCode::Usage, 0), "{nothing:?}");
        desk.flash(&desk.file("v2"));
        let lost = desk.previous().unwrap_err();
        assert_eq!(lost.exit, ExitCode::Usage);
        assert!(lost.message.contains("not in the cache: Klipper v1, dictionary"), "{lost:?}");
        desk.flash(&desk.file("v3"));
        assert_eq!(desk.version().as_deref(), Some("v2"));
        let back = desk.flash(&desk.previous().unwrap());
        assert_eq!((back.outcome, back.now.unwrap().version.as_str()), (Outcome::Flashed, "v2"));
        assert_eq!(desk.version().as_deref(), Some("v3"));
        // Nothing is written, nothing changes.
        assert_eq!(desk.flash(&desk.file("v2")).outcome, Outcome::AlreadyCurrent);
        assert_eq!(desk.version().as_deref(), Some("v3"));
        assert_eq!(desk.cache.list().unwrap().len(), 2, "each image once");
    }

    #[test]
    fn what_ran_before_is_found_though_another_program_flashed_it() {
        let desk = Desk::new(&["v1", "v2"]);
        let firmware = desk.file("v1");
        keep(&desk.cache, &desk.profile.id, &firmware).unwrap();
        desk.flash(&desk.file("v2"));
        assert_eq!(desk.previous().unwrap().bytes, firmware.bytes);
    }

    #[test]
    fn a_damaged_image_is_not_flashed() {
        let desk = Desk::new(&["v1", "v2", "v3"]);
        desk.flash(&desk.file("v2"));
        desk.flash(&desk.file("v3"));
        let From::Cache(key) = desk.previous().unwrap().from else { panic!() };
        std::fs::write(desk.cache.dir().join("images").join(key.to_string()).join("klipper.bin"), "x").unwrap();
        let damaged = desk.previous().unwrap_err();
        assert_eq!((damaged.exit, damaged.details.len()), (ExitCode::Refused, 1), "{damaged:?}");
    }

    #[test]
    fn without_a_device_there_is_nothing_before() {
        let desk = Desk { host: SimHost::paced(0.0), ..Desk::new(&["v1"]) };
        assert_eq!(desk.previous().unwrap_err().exit, ExitCode::NotFound);
    }

    #[test]
    fn an_image_that_was_built_is_not_kept_as_a_file_too() {
        let desk = Desk::new(&["v1", "v2"]);
        let first = keep(&desk.cache, &desk.profile.id, &desk.file("v2")).unwrap();
        let elsewhere = Obtained { from: From::File("/elsewhere/klipper.bin".into()), ..desk.file("v2") };
        let other = BoardId("fysetc-spider".into());
        assert_eq!(keep(&desk.cache, &other, &elsewhere).unwrap(), first);
        let [listed] = &desk.cache.list().unwrap()[..] else { panic!() };
        assert_eq!(listed.provenance.as_ref().unwrap().boards.len(), 2);
    }
}
