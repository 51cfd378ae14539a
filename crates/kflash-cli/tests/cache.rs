//! `kflash cache` on a cache with something in it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use kflash::board::BoardId;
use kflash::digest::Sha256;
use kflash::image::Image;
use kflash::obtain::cache::{Cache, DeviceKeys, Entry, Ran, RanImage};
use kflash::obtain::provenance::{Built, Fetched, MadeFor, Origin, Provenance};
use kflash::timestamp::Timestamp;
use kflash_sim::firmware::TestImage;
use serde_json::Value;
use snapbox::{IntoData as _, assert_data_eq, str};
use tempfile::TempDir;

const CONFIG: &[u8] = b"CONFIG_MACH_STM32F446=y\n";

struct Desk {
    _folder: TempDir,
    cache: Cache,
}

fn on(board: &str, route: Option<&str>) -> MadeFor {
    MadeFor { board: BoardId(board.into()), route: route.map(str::to_owned) }
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { cache: Cache::at(folder.path().join("cache")), _folder: folder }
    }

    fn store(&self, version: &str, origin: Origin, boards: impl IntoIterator<Item = MadeFor>) -> Entry {
        let bytes = TestImage::klipper("stm32f446xx", 0x0800_8000).version(version).build();
        let image = Image::parse(&bytes).unwrap();
        let time = "2026-11-21T02:48:40Z".parse().unwrap();
        let provenance = Provenance::of(&image, &bytes, origin, None, boards, time).unwrap();
        self.cache.store(&provenance, &bytes, Some(CONFIG)).unwrap()
    }

    fn built(&self) -> Entry {
        let built = Built {
            tree: "/home/pi/klipper".into(),
            commit: Some("84104bbb".repeat(5)),
            committed: None,
            describe: "v0.13.0-730-g84104bbb-dirty".into(),
            dirty: true,
            tree_sha256: Some(Sha256::of(b"tree")),
            requested: BTreeMap::from([("MACH_STM32".into(), "y".into()), ("MACH_STM32F446".into(), "y".into())]),
            config_sha256: Sha256::of(CONFIG),
            toolchain: BTreeMap::from([("arm-none-eabi-gcc".into(), "12.2.1".into())]),
        };
        let boards = [on("btt-octopus-v1.1-f446", Some("katapult-usb")), on("fysetc-spider", Some("katapult-usb"))];
        self.store("v0.13.0-730-g84104bbb-dirty", Origin::Built(built), boards)
    }

    fn file(&self) -> Entry {
        let path = "/home/pi/\u{1b}[2Jklipper.bin".into();
        self.store("v0.12.0-439-g1fe54bd5", Origin::File { path }, [on("btt-octopus-v1.1-f446", None)])
    }

    fn fetched(&self) -> Entry {
        let fetched = Fetched {
            index: "https://farm.local/index.json".into(),
            key_id: None,
            url: "https://farm.local/octopus.bin".into(),
            version: "v0.13.0".into(),
            commit: None,
        };
        self.store("v0.13.0-0-g61c0c8d2", Origin::Fetched(fetched), [on("ldo-leviathan-v1.2", None)])
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kflash"));
        command.arg("cache").args(arguments).arg("--cache-dir").arg(self.cache.dir()).output().unwrap()
    }

    /// Of a run that ends well.
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[arguments, &["--json"]].concat())).unwrap()
    }

    /// The exit code and the message of a run that fails.
    fn failure(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn all_images_are_listed() {
    let desk = Desk::new();
    desk.built();
    let damaged = desk.file();
    desk.fetched();
    assert_eq!(desk.json(&["list"]).as_array().unwrap().len(), 3);
    assert_data_eq!(
        desk.text(&["list"]).lines().next().unwrap().to_owned(),
        str!["KEY           VERSION                              SIZE      USED      FROM               BOARDS"]
    );
    assert_data_eq!(
        desk.text(&["list"]),
        str![[r"
KEY [..]
[..]  Klipper v0.13.0-730-g84104bbb-dirty  43.5 KiB  just now  a dirty tree       btt-octopus-v1.1-f446, fysetc-spider
[..]  Klipper v0.12.0-439-g1fe54bd5        43.5 KiB  just now  a file             btt-octopus-v1.1-f446
[..]  Klipper v0.13.0-0-g61c0c8d2          43.5 KiB  just now  a fetch, unsigned  ldo-leviathan-v1.2

"]]
        .unordered()
    );
    fs::remove_file(damaged.path.join("klipper.dict")).unwrap();
    let text = desk.text(&["list"]);
    assert!(text.ends_with(&format!("{}/klipper.dict: damaged: it is missing\n", damaged.path.display())), "{text}");
    let all = desk.json(&["list"]);
    let told = all.as_array().unwrap().iter().find(|it| it["key"] == damaged.key.to_string()).unwrap();
    assert_eq!((&told["provenance"], &told["damage"]["what"]), (&Value::Null, &"it is missing".into()));
}

#[test]
fn all_that_is_known_of_an_image_is_shown() {
    let desk = Desk::new();
    let entry = desk.built();
    let ran = Ran {
        time: Timestamp::now(),
        board: BoardId("btt-octopus-v1.1-f446".into()),
        app: "Klipper".into(),
        version: entry.provenance.version.clone(),
        dictionary_sha256: entry.provenance.dictionary_sha256,
        image: Some(RanImage { key: entry.key, sha256: entry.provenance.image.sha256 }),
    };
    let device = DeviceKeys { serial: Some("290034001751333038363536".into()), place: "1-1.4".into() };
    desk.cache.remember(&device, [ran]).unwrap();
    let shown = desk.text(&["show", &entry.key.to_string()[..8]]);
    assert_data_eq!(
        shown.clone(),
        str![[r"
[..]
  firmware      Klipper v0.13.0-730-g84104bbb-dirty
  mcu           stm32f446xx
  start         0x08008000

  built from    /home/pi/klipper, v0.13.0-730-g84104bbb-dirty, dirty
                commit 84104bbb84104bbb84104bbb84104bbb84104bbb
                its files have sha256 dc9c5edb8b2d479e697b4b0b8ab874f32b325138598ce9e7b759eb8292110622
  with          MACH_STM32=y MACH_STM32F446=y
                resolved configuration: sha256 [..]
  by            arm-none-eabi-gcc 12.2.1
  on            2026-11-21T02:48:40Z, by kflash [..]
  for           btt-octopus-v1.1-f446, route katapult-usb
                fysetc-spider, route katapult-usb
  runs on       1-1.4, serial 290034001751333038363536
  last used     [..]

  file          [..]/klipper.bin
  size          43.5 KiB
  sha256        [..]
  dictionary    sha256 [..]

"]]
    );
    assert_eq!(desk.text(&["show", "fysetc-spider"]), shown, "by its board");
    let other = desk.file();
    let both = desk.text(&["show", "octopus-v1.1"]);
    assert!(both.contains(&entry.key.to_string()) && both.contains(&other.key.to_string()), "by an alias");
    assert!(both.contains(r"from file     /home/pi/\u{1b}[2Jklipper.bin"), "{both}");
    let json = desk.json(&["show", "fysetc-spider"]);
    assert_eq!(json[0]["provenance"]["origin"]["built"]["describe"], "v0.13.0-730-g84104bbb-dirty");
    fs::write(entry.path.join("config"), "").unwrap();
    let damaged = desk.text(&["show", &entry.key.to_string()]);
    assert!(damaged.contains("config: damaged: its bytes are not those that were stored"), "{damaged}");
}

#[test]
fn images_are_removed_by_the_first_digits_of_their_keys() {
    let desk = Desk::new();
    let (one, two) = (desk.built(), desk.file());
    let (code, said) = desk.failure(&["remove", &one.key.to_string(), "0000"]);
    assert_eq!(code, 2);
    assert!(said.contains("no image has a key that begins with \"0000\""), "{said}");
    assert_eq!(desk.cache.list().unwrap().len(), 2, "nothing is removed unless all are found");
    assert_eq!(desk.failure(&["remove", &one.key.to_string()[..3]]).0, 2, "too short");

    // Two keys that begin alike, made by hand: what is damaged has a key, too.
    let alike = format!("{}{}", &one.key.to_string()[..10], "0".repeat(54));
    fs::create_dir(desk.cache.dir().join("images").join(&alike)).unwrap();
    let (code, said) = desk.failure(&["remove", &alike[..8]]);
    assert_eq!(code, 2);
    assert!(said.contains("2 images have keys") && said.contains(&one.key.to_string()), "{said}");
    assert!(said.contains(&format!("{alike}  (damaged)")), "{said}");

    let removed = desk.text(&["remove", &one.key.to_string()[..12], &alike, &one.key.to_string()]);
    assert_data_eq!(
        removed,
        str![[r"
removed [..]  (damaged)
removed [..]  Klipper v0.13.0-730-g84104bbb-dirty for btt-octopus-v1.1-f446, fysetc-spider

"]]
        .unordered()
    );
    let left = desk.cache.list().unwrap();
    assert_eq!(left.iter().map(|it| it.key).collect::<Vec<_>>(), [Some(two.key)]);
}

#[test]
fn what_nobody_needs_is_swept() {
    let desk = Desk::new();
    let entry = desk.built();
    fs::create_dir(desk.cache.dir().join("tmp/build-1-2-3")).unwrap();
    assert_data_eq!(
        desk.text(&["gc", "--dry-run"]),
        str![[r"
would remove tmp/build-1-2-3  0 bytes, left behind by a run that was killed
would free 0 bytes; 1 image stays

"]]
    );
    assert!(desk.cache.dir().join("tmp/build-1-2-3").exists());
    assert_data_eq!(
        desk.text(&["gc", "--keep-days", "0"]),
        str![[r"
removed tmp/build-1-2-3  0 bytes, left behind by a run that was killed
removed images/[..]  [..] KiB, not used for long
freed [..] KiB; 0 images stay

"]]
    );
    assert!(!entry.path.exists());
    let nothing = desk.json(&["gc"]);
    assert_eq!((&nothing["removed"], &nothing["dry_run"]), (&Value::Array(vec![]), &false.into()));
}

#[test]
fn a_cache_that_others_may_write_to_is_not_believed() {
    let desk = Desk::new();
    desk.built();
    fs::set_permissions(desk.cache.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let (code, said) = desk.failure(&["list"]);
    assert_eq!(code, 6);
    assert!(said.contains("every user may write to it") && said.contains("hint: "), "{said}");
}
