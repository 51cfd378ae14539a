//! A process that works on a cache until it is killed, for `tests/tests/cache.rs`: `cache_worker DIR WORK NUMBER`.
//! After a first line, once it begins, every line that it prints is something that it was told is done.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kflash::board::BoardId;
use kflash::digest::Sha256;
use kflash::image::Image;
use kflash::obtain::cache::{Cache, DeviceKeys, Key, Lookup, Ran};
use kflash::obtain::provenance::{MadeFor, Origin, Provenance};
use kflash::timestamp::Timestamp;
use kflash_sim::firmware::TestImage;

type Done = Result<(), Box<dyn Error>>;

/// Images that all workers have in common.
const VERSIONS: u32 = 4;

struct Worker {
    cache: Cache,
    number: u32,
    random: u32,
}

fn main() -> Done {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage: cache_worker DIR WORK NUMBER");
    let (dir, work, number) = (next()?, next()?, next()?.parse()?);
    say("ready")?;
    let mut worker = Worker { cache: Cache::at(&dir), number, random: number + 1 };
    match work.as_str() {
        "grow" => (0..).try_for_each(|n| worker.grow(n)),
        "churn" => loop {
            worker.churn()?;
        },
        "build" => (0..VERSIONS).try_for_each(|version| worker.build(Path::new(&dir), version)),
        _ => Err("WORK is grow, churn or build".into()),
    }
}

fn say(line: &str) -> Done {
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

fn image(version: u32) -> Vec<u8> {
    TestImage::klipper("stm32f446xx", 0x0800_8000).size(8000).version(&format!("v{version}")).build()
}

fn provenance(version: u32, board: &str) -> Result<(Provenance, Vec<u8>), Box<dyn Error>> {
    let bytes = image(version);
    let origin = Origin::File { path: "klipper.bin".into() };
    let boards = [MadeFor { board: BoardId(board.into()), route: None }];
    let provenance = Provenance::of(&Image::parse(&bytes)?, &bytes, origin, None, boards, Timestamp::now())?;
    Ok((provenance, bytes))
}

impl Worker {
    /// xorshift32 (Marsaglia 2003).
    fn below(&mut self, n: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random % n
    }

    fn store(&self, version: u32, board: &str) -> Result<Key, Box<dyn Error>> {
        let (provenance, bytes) = provenance(version, board)?;
        Ok(self.cache.store(&provenance, &bytes, None)?.key)
    }

    /// Adds boards to a few images.
    fn grow(&mut self, n: u32) -> Done {
        let (version, board) = (self.below(VERSIONS), format!("{}-{n}", self.number));
        let key = self.store(version, &board)?;
        say(&format!("{key} {board}"))
    }

    /// Does anything.
    fn churn(&mut self) -> Done {
        let version = self.below(VERSIONS);
        let (provenance, _) = provenance(version, "any")?;
        let key = Key::of(&provenance);
        match self.below(12) {
            0..4 => drop(self.store(version, &self.number.to_string())?),
            4..9 => drop(self.cache.remove(&key)?),
            9 => {
                let ran = Ran {
                    time: Timestamp::now(),
                    board: BoardId("any".into()),
                    app: provenance.app,
                    version: provenance.version,
                    dictionary_sha256: provenance.dictionary_sha256,
                    image: None,
                };
                let device = DeviceKeys { serial: Some(version.to_string()), place: "1-1".into() };
                self.cache.remember(&device, [ran])?;
            }
            10 => {
                // What somebody works on stays, whatever others sweep.
                let scratch = self.cache.scratch("work")?;
                let file = scratch.path().join("half");
                fs::write(&file, "done")?;
                std::thread::sleep(Duration::from_millis(u64::from(self.below(5))));
                if fs::read(&file)? != b"done" {
                    return Err("somebody wrote into this one's work".into());
                }
            }
            _ => {
                let swept = self.cache.gc(Duration::ZERO, Timestamp::now(), false)?;
                if let Some(failed) = swept.failed.first() {
                    return Err(format!("{}: {}", failed.path.display(), failed.error).into());
                }
            }
        }
        if let Lookup::Damaged(damage) = self.cache.find(&key)? {
            return Err(damage.into());
        }
        say("done")
    }

    /// Makes an image, if nobody else has.
    fn build(&mut self, dir: &Path, version: u32) -> Done {
        let key = Key::of_file(&Sha256::of(&image(version)));
        let _claim = self.cache.claim(&key, &mut |_| true)?;
        if let Lookup::Found(_) = self.cache.find(&key)? {
            return Ok(());
        }
        let making = |pid: &str| PathBuf::from(format!("{}.making-{version}-{pid}", dir.display()));
        let own = making(&std::process::id().to_string());
        fs::write(&own, "")?;
        std::thread::sleep(Duration::from_millis(u64::from(self.below(40))));
        let prefix = making("").file_name().unwrap_or_default().to_string_lossy().into_owned();
        for other in fs::read_dir(dir.parent().ok_or("no parent")?)? {
            let other = other?.file_name().to_string_lossy().into_owned();
            let Some(pid) = other.strip_prefix(&prefix) else { continue };
            if pid != std::process::id().to_string() && Path::new("/proc").join(pid).exists() {
                return Err(format!("{pid} makes image {version}, too").into());
            }
        }
        self.store(version, "any")?;
        fs::remove_file(&own)?;
        say(&format!("{key}"))
    }
}
