//! What one machine publishes, another fetches; and Debian's minisign checks what kflash signs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::slice;

use kflash::board::{BoardId, Profile};
use kflash::boards;
use kflash::chip::Chip;
use kflash::clock::SystemClock;
use kflash::digest::Sha256;
use kflash::flash::Interrupt;
use kflash::image::Image;
use kflash::obtain::build::kconfig::Request;
use kflash::obtain::cache::{Cache, Key as CacheKey};
use kflash::obtain::fetch::publish::{Publication, PublishError, Published, publish};
use kflash::obtain::fetch::{
    Fetcher, Index, Location, Net, Patience, Proxies, SecretError, SecretFile, Signer, Source, Url, Wanted,
};
use kflash::obtain::provenance::{Built, MadeFor, Origin, Provenance};
use kflash::timestamp::Timestamp;
use kflash_sim::firmware::TestImage;
use tempfile::TempDir;

use super::farm::{BOARD, Host, Key, LOCKED, LOCKED_PUBLIC, minisign};
use super::server::{Reply, Server};

const COMMIT: &str = "84104bbbd1e3e4b4e3a1e3f8f7a7f8b6b1b7f1a2";
const CONFIG: &[u8] = b"CONFIG_MACH_STM32F446=y\n";

/// A machine that builds.
struct Builder {
    cache: Cache,
    dir: TempDir,
}

impl Builder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { cache: Cache::at(dir.path().join("cache")), dir }
    }

    /// Has built this version at this time.
    fn built(&self, version: &str, time: &str, dirty: bool) -> (CacheKey, Vec<u8>) {
        self.built_with(version, time, time, dirty, &[])
    }

    /// Has built this version, committed at this time, with these symbols beside those of the profile.
    fn built_with(
        &self,
        version: &str,
        committed: &str,
        time: &str,
        dirty: bool,
        set: &[(&str, &str)],
    ) -> (CacheKey, Vec<u8>) {
        let (profile, chip) = boards::find(BOARD).unwrap();
        let set: Vec<_> = set.iter().map(|(symbol, value)| ((*symbol).to_owned(), (*value).to_owned())).collect();
        let request = Request::of_route(&profile, &chip, &profile.routes[0], &set).unwrap();
        let tree_sha256 = dirty.then(|| Sha256::of(version.as_bytes()));
        let built = Built {
            tree: "/home/pi/klipper".into(),
            commit: Some(COMMIT.into()),
            committed: Some(committed.parse().unwrap()),
            describe: version.into(),
            dirty,
            tree_sha256,
            requested: request.symbols().clone(),
            config_sha256: Sha256::of(CONFIG),
            toolchain: BTreeMap::new(),
        };
        self.store(Origin::Built(built), version, time, Some(CONFIG))
    }

    fn store(&self, origin: Origin, version: &str, time: &str, config: Option<&[u8]>) -> (CacheKey, Vec<u8>) {
        let bytes = TestImage::klipper("stm32f446xx", 0x0800_8000).version(version).build();
        let image = Image::parse(&bytes).unwrap();
        let made_for = MadeFor { board: BoardId(BOARD.into()), route: Some("katapult-usb".into()) };
        let time = time.parse().unwrap();
        let provenance = Provenance::of(&image, &bytes, origin, None, [made_for], time).unwrap();
        (self.cache.store(&provenance, &bytes, config).unwrap().key, bytes)
    }

    fn out(&self) -> std::path::PathBuf {
        self.dir.path().join("out")
    }

    fn publish(&self, signer: Option<&Signer>) -> Result<Published, PublishError> {
        self.publish_with(signer, &boards::builtin().unwrap(), None)
    }

    fn publish_with(
        &self,
        signer: Option<&Signer>,
        boards: &[(Profile, Chip)],
        base: Option<&Url>,
    ) -> Result<Published, PublishError> {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        publish(&Publication { cache: &self.cache, out: &self.out(), boards, base, signer, now })
    }

    fn index(&self) -> Index {
        Index::parse(&fs::read(self.out().join("index.json")).unwrap()).unwrap()
    }
}

fn signer(key: &Key) -> Signer {
    SecretFile::parse(&fs::read_to_string(key.secret()).unwrap()).unwrap().open("").unwrap()
}

/// Whether Debian's minisign finds that `key` signed the index in `dir`.
fn minisign_accepts(dir: &Path, key: &Key) -> bool {
    let checked = Command::new("minisign")
        .args(["-V", "-H", "-m", "index.json", "-p"])
        .arg(key.public())
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    checked.unwrap().success()
}

#[test]
fn what_one_machine_publishes_another_fetches() {
    let (builder, key) = (Builder::new(), Key::new());
    let (_, bytes) = builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    let published = builder.publish(Some(&signer(&key))).unwrap();
    assert_eq!(published.key.unwrap().base64, key.parsed().to_base64());
    assert!(minisign_accepts(&builder.out(), &key));
    assert!(!minisign_accepts(&builder.out(), &Key::new()));

    let index = builder.out().join("index.json").display().to_string();
    let fetched = Host::new(None, Proxies::default(), &index, &key).fetch().unwrap();
    assert_eq!(fetched.entry.bytes, bytes);
    let Origin::Fetched(from) = &fetched.entry.provenance.origin else { panic!("{fetched:?}") };
    assert_eq!(from.commit.as_deref(), Some(COMMIT));

    // The same from a server, by the names that it was published under.
    let server = Server::https();
    let image = &builder.index().images[0].url;
    for name in ["index.json", "index.json.minisig", image] {
        server.reply(&format!("/stable/{name}"), Reply::file(fs::read(builder.out().join(name)).unwrap()));
    }
    assert_eq!(Host::of(&server, &key).fetch().unwrap().entry.bytes, bytes);

    fs::write(builder.out().join("index.json"), fs::read_to_string(&index).unwrap().replace("v0.13.0-1", "v0.13.0-2"))
        .unwrap();
    assert!(!minisign_accepts(&builder.out(), &key));
    assert_eq!(Host::new(None, Proxies::default(), &index, &key).refused().1, 3);
}

#[test]
fn the_newest_image_comes_first_and_none_twice() {
    let builder = Builder::new();
    builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    builder.built("v0.13.0-3-g84104bbb", "2026-01-03T00:00:00Z", false);
    builder.built("v0.13.0-2-g84104bbb", "2026-01-02T00:00:00Z", false);
    builder.publish(None).unwrap();
    let index = builder.index();
    let versions: Vec<_> = index.images.iter().map(|entry| entry.version.as_str()).collect();
    assert_eq!(versions, ["v0.13.0-3-g84104bbb", "v0.13.0-2-g84104bbb", "v0.13.0-1-g84104bbb"]);
    assert_eq!(fs::read_dir(builder.out().join("images")).unwrap().count(), 3);
    for entry in &index.images {
        let bytes = fs::read(builder.out().join(&entry.url)).unwrap();
        assert_eq!((Sha256::of(&bytes), bytes.len() as u64), (entry.sha256, entry.size));
        assert_eq!(entry.url, format!("images/{}", entry.sha256));
    }
}

#[test]
fn what_nobody_could_tell_the_origin_of_is_left_out() {
    let builder = Builder::new();
    builder.built("v0.13.0-1-g84104bbb-dirty", "2026-01-01T00:00:00Z", true);
    let error = builder.publish(None).unwrap_err();
    assert!(error.to_string().ends_with("holds no image to publish"), "{error}");
    assert!(!builder.out().exists());
    let file = Origin::File { path: "klipper.bin".into() };
    builder.store(file, "v0.13.0-2-g84104bbb", "2026-01-01T00:00:00Z", None);
    let (damaged, _) = builder.built("v0.13.0-3-g84104bbb", "2026-01-01T00:00:00Z", false);
    builder.built("v0.13.0-4-g84104bbb", "2026-01-01T00:00:00Z", false);
    let image = builder.cache.dir().join(format!("images/{damaged}/klipper.bin"));
    let mut bytes = fs::read(&image).unwrap();
    bytes[1000] ^= 1;
    fs::write(&image, bytes).unwrap();
    let published = builder.publish(None).unwrap();
    assert_eq!(published.images.iter().map(|it| it.version.as_str()).collect::<Vec<_>>(), ["v0.13.0-4-g84104bbb"]);
    let mut why: Vec<_> = published.left_out.iter().map(|it| it.why.as_str()).collect();
    why.sort_unstable();
    assert_eq!(why, ["it comes from the file klipper.bin", "it is damaged", "it was built from a tree with changes"]);
}

#[test]
fn what_was_built_last_is_not_the_newest() {
    let builder = Builder::new();
    builder.built("v0.13.0-9-g84104bbb", "2026-01-09T00:00:00Z", false);
    // An older commit, built for a comparison.
    builder.built_with("v0.12.0-1-g84104bbb", "2024-01-01T00:00:00Z", "2026-01-10T00:00:00Z", false, &[]);
    builder.publish(None).unwrap();
    let versions: Vec<_> = builder.index().images.into_iter().map(|entry| entry.version).collect();
    assert_eq!(versions, ["v0.13.0-9-g84104bbb", "v0.12.0-1-g84104bbb"]);
}

#[test]
fn what_was_built_for_one_printer_is_not_given_to_all() {
    let builder = Builder::new();
    builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    let set = [("USB_SERIAL_NUMBER", "debug")];
    builder.built_with("v0.13.0-2-g84104bbb", "2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z", false, &set);
    let published = builder.publish(None).unwrap();
    assert_eq!(published.images.iter().map(|it| it.version.as_str()).collect::<Vec<_>>(), ["v0.13.0-1-g84104bbb"]);
    assert_eq!(published.left_out[0].why, "it was built with other symbols than its board's profile has");
}

#[test]
fn nobody_vouches_for_what_was_fetched_unsigned_until_somebody_signs_it() {
    let (builder, key, farm) = (Builder::new(), Key::new(), Builder::new());
    farm.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    farm.publish(Some(&signer(&key))).unwrap();
    let (profile, chip) = boards::find(BOARD).unwrap();
    let net = Net::new(None, Proxies::default(), Patience::default()).unwrap();
    let fetch = |key: Option<&Key>| {
        let interrupt = Interrupt::default();
        let fetcher = Fetcher { net: &net, cache: &builder.cache, clock: &SystemClock::new(), interrupt: &interrupt };
        let index = Location::parse(farm.out().join("index.json").to_str().unwrap()).unwrap();
        let source = Source { index, key: key.map(Key::parsed), allow_old: false };
        let believed = fetcher.index(&source, &mut |_| ()).unwrap();
        let wanted = Wanted { profile: &profile, route: None, version: None };
        fetcher.image(&believed, &wanted, &chip, &mut |_| ()).unwrap()
    };
    fetch(None);
    let PublishError::Nothing { left_out, .. } = builder.publish(Some(&signer(&key))).unwrap_err() else { panic!() };
    assert_eq!(left_out[0].why, "it was fetched by an index that nobody signed");
    assert!(fetch(Some(&key)).cached);
    assert_eq!(builder.publish(Some(&signer(&key))).unwrap().images.len(), 1);
}

#[test]
fn only_the_boards_that_are_named_are_published() {
    let builder = Builder::new();
    builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    let other = boards::find("fysetc-spider").unwrap();
    let error = builder.publish_with(None, slice::from_ref(&other), None).unwrap_err();
    assert!(error.to_string().ends_with("holds no image to publish"), "{error}");
    assert_eq!(error.exit().code(), 2);
    let both = [other, boards::find(BOARD).unwrap()];
    assert_eq!(builder.publish_with(None, &both, None).unwrap().images.len(), 1);
}

#[test]
fn each_index_has_a_higher_number_than_the_one_before() {
    let (builder, key) = (Builder::new(), Key::new());
    builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    let first = builder.publish(Some(&signer(&key))).unwrap().serial;
    assert_eq!(first, 1_769_860_800, "the time, at first");
    let second = builder.publish(Some(&signer(&key))).unwrap().serial;
    assert_eq!(second, first + 1);
    // Without a signature none of an earlier index stays behind.
    builder.publish(None).unwrap();
    assert!(!builder.out().join("index.json.minisig").exists());
    assert!(
        fs::read_dir(builder.out()).unwrap().flatten().all(|it| !it.path().display().to_string().contains(".new-"))
    );
}

#[test]
fn nothing_but_an_index_is_overwritten() {
    let builder = Builder::new();
    builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    fs::create_dir(builder.out()).unwrap();
    fs::write(builder.out().join("index.json"), "{\"name\": \"my web site\"}").unwrap();
    let error = builder.publish(None).unwrap_err();
    assert!(error.to_string().contains("index.json is not overwritten: no index: missing field `format`"), "{error}");
    assert_eq!(fs::read_dir(builder.out()).unwrap().count(), 1);
}

#[test]
fn an_index_can_lie_elsewhere_than_its_images() {
    let builder = Builder::new();
    builder.built("v0.13.0-1-g84104bbb", "2026-01-01T00:00:00Z", false);
    let base = Url::parse("https://cdn.example/firmware/").unwrap();
    builder.publish_with(None, &boards::builtin().unwrap(), Some(&base)).unwrap();
    let entry = &builder.index().images[0];
    assert_eq!(entry.url, format!("https://cdn.example/firmware/images/{}", entry.sha256));
}

#[test]
fn a_key_with_a_passphrase_signs_once_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let open = |passphrase| {
        let file = SecretFile::parse(LOCKED).unwrap();
        assert!(file.encrypted());
        file.open(passphrase)
    };
    assert_eq!(open("wrong").err(), Some(SecretError::WrongPassphrase));
    fs::write(dir.path().join("index.json"), "bytes").unwrap();
    let signature = open("secret").unwrap().sign(b"bytes", "serial 1").unwrap();
    fs::write(dir.path().join("index.json.minisig"), signature).unwrap();
    minisign(dir.path(), &["-V", "-H", "-m", "index.json", "-P", LOCKED_PUBLIC]);
}
