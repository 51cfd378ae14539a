#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use kflash::board::Cable;
use kflash::boards;
use kflash::flash::Interrupt;
use kflash::host::{Holder, Host as _};
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::klipper::wire::{Needed, Verdict};
use kflash_sim::board::{Contents, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::host::{BoardKey, Hand, Plug, SimHost};

use super::heard::Asked;
use super::klippy::Klippy;
use super::offer::Offer;
use super::row::Runs;
use super::*;

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const CREALITY: &str = "creality-v4.2.7";
const OLD: &str = "v0.12.0-439-g1fe54bd5";
/// Long enough for a board to boot and enumerate.
const SETTLED: Duration = Duration::from_secs(3);

/// A host with one board behind Katapult, and the firmware that it would be given.
struct Bench {
    host: SimHost,
    board: BoardKey,
    subject: Subject<'static>,
    offer: Offer,
}

impl Bench {
    fn new(board: &str, change: impl FnOnce(TestImage) -> TestImage) -> Self {
        let (profile, chip) = boards::find(board).unwrap();
        let route = &profile.routes[0];
        let start = profile.bootloader_of(route).unwrap().app_start.0;
        let image = TestImage::klipper(&chip.mcu[0], start).size(9000);
        let image = if route.cable == Cable::Uart { image.built_for(BuiltFor::Uart(250_000)) } else { image };
        let contents = Contents {
            bootloader: "katapult".into(),
            application: Some((start, change(image.clone()).build())),
            uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
            ..Contents::default()
        };
        let virtual_board = VirtualBoard::new(&profile, &chip, contents).unwrap();
        let host = SimHost::new();
        let port = "1-1.4".parse().unwrap();
        let plug = Plug::of(&profile, route.cable, port);
        let board = host.plug_in(plug, virtual_board, profile.opening_resets);
        host.clock().sleep(SETTLED);
        let selectors = vec!["1-1.4".parse().unwrap()];
        let subject = Subject::named(profile, chip, selectors);
        let dictionary = Image::parse(&image.build()).unwrap().dictionary.unwrap();
        let offer = Offer { dictionary, options: vec!["--firmware".into(), "new/klipper.bin".into()] };
        Self { host, board, subject, offer }
    }

    fn octopus(change: impl FnOnce(TestImage) -> TestImage) -> Self {
        Self::new(OCTOPUS, change)
    }

    fn asked(&self, query: Query) -> Asked {
        let interrupt = Interrupt::default();
        Asker { interrupt: &interrupt, query }.ask(&self.host, &self.subject)
    }

    fn row(&self, query: Query) -> Row {
        Row::of(&self.subject, self.asked(query), &Ok(self.offer.clone()))
    }
}

fn lacking(formats: &[&str]) -> Row {
    let lacks = formats.iter().map(|format| (*format).to_owned()).collect();
    Bench::octopus(|image| TestImage { lacks, ..image.version(OLD) }).row(Query::Harmless)
}

#[test]
fn what_runs_is_compared_and_not_its_version() {
    let row = Bench::octopus(|image| image).row(Query::Harmless);
    assert_eq!((row.verdict, row.reasons.len(), row.remedy, row.exit), (Verdict::Current, 0, None, ExitCode::Ok));
    let row = Bench::octopus(|image| image.version(OLD)).row(Query::Harmless);
    assert_eq!((row.verdict, row.reasons.len()), (Verdict::Compatible, 0));
    assert_eq!(row.runs.unwrap().version, OLD);
    let remedy = "kflash flash --board btt-octopus-v1.1-f446 --device 1-1.4 --firmware new/klipper.bin";
    assert_eq!(row.remedy.as_deref(), Some(remedy));
    let row = lacking(&["get_uptime"]);
    assert_eq!((row.verdict, row.needed), (Verdict::MustFlash, Some(Needed::Always)));
    assert_eq!(row.reasons, ["no command get_uptime"]);
    let row = lacking(&["debug_read order=%c addr=%u"]);
    assert_eq!((row.verdict, row.needed), (Verdict::MustFlash, Some(Needed::WhereUsed)));
    let row = Bench::octopus(|image| TestImage { app: "Kalico".into(), ..image }).row(Query::Harmless);
    assert_eq!((row.verdict, row.needed), (Verdict::Unknown, None));
    assert!(row.reasons[0].starts_with("Kalico runs, the tree is Klipper's"), "{:?}", row.reasons);
    assert_eq!(row.remedy, None);
}

#[test]
fn the_table() {
    let bench = Bench::octopus(|image| image);
    let without = Row::of(&bench.subject, bench.asked(Query::Harmless), &Err("there is no tree".into()));
    let mut rows = vec![
        Bench::octopus(|image| image).row(Query::Harmless),
        lacking(&["get_uptime", "debug_read order=%c addr=%u"]),
        without,
        Bench::new(CREALITY, |image| image).row(Query::Harmless),
    ];
    rows[3].boards.push(kflash::board::BoardId("mks-robin-e3".into()));
    assert_eq!(
        text::of(&rows),
        "\
BOARD                  DEVICE  RUNS                            WOULD RUN                       VERDICT
btt-octopus-v1.1-f446  1-1.4   Klipper v0.13.0-730-g84104bbbd  Klipper v0.13.0-730-g84104bbbd  current
btt-octopus-v1.1-f446  1-1.4   Klipper v0.12.0-439-g1fe54bd5   Klipper v0.13.0-730-g84104bbbd  must be flashed
btt-octopus-v1.1-f446  1-1.4   Klipper v0.13.0-730-g84104bbbd  -                               unknown
one of 2               1-1.4   -                               Klipper v0.13.0-730-g84104bbbd  unknown

btt-octopus-v1.1-f446 at 1-1.4: must be flashed
  because       no command get_uptime
                no command debug_read order=%c addr=%u
  concerns      every printer: Klipper cannot start
  then          kflash flash --board btt-octopus-v1.1-f446 --device 1-1.4 --firmware new/klipper.bin

btt-octopus-v1.1-f446 at 1-1.4: unknown
  because       nothing to compare it with: there is no tree

one of 2 at 1-1.4: unknown
  may be        creality-v4.2.7, mks-robin-e3
  because       opening its port may reset it; --query all does
"
    );
}

#[test]
fn many_reasons_are_counted() {
    let mut row = lacking(&["get_uptime"]);
    row.reasons = (0..20).map(|n| format!("no command c{n}")).collect();
    row.needed = Some(Needed::WhereUsed);
    let text = text::of(&[row]);
    assert!(text.contains("no command c7\n                and 12 more\n"), "{text}");
    assert!(text.contains("concerns      printers whose printer.cfg uses what these are for"), "{text}");
}

#[test]
fn a_port_is_not_opened_behind_anyones_back() {
    let bench = Bench::new(CREALITY, |image| image);
    let before = format!("{:?}", bench.host.counters());
    let row = bench.row(Query::Harmless);
    assert_eq!((row.verdict, row.exit, row.runs.is_none()), (Verdict::Unknown, ExitCode::Ok, true));
    assert_eq!(format!("{:?}", bench.host.counters()), before);
    assert_eq!(bench.row(Query::All).verdict, Verdict::Current);

    let bench = Bench::octopus(|image| image);
    let node = bench.host.scan().unwrap().devices[0].tty.clone().unwrap().node;
    bench.host.hold(node, Holder { pid: 812, name: "klippy".into() });
    let row = bench.row(Query::All);
    assert_eq!((row.verdict, row.exit), (Verdict::Unknown, ExitCode::Busy));
    assert_eq!(row.reasons, ["held by klippy (pid 812)"]);
}

#[test]
fn boards_that_run_nothing() {
    let bench = Bench::octopus(|image| image);
    bench.host.hand(bench.board, Hand::DoubleReset(Duration::from_millis(200)));
    bench.host.clock().sleep(SETTLED);
    let row = bench.row(Query::Harmless);
    assert_eq!((row.verdict, row.exit), (Verdict::Unknown, ExitCode::Ok));
    assert_eq!(row.reasons, ["it is in Katapult: no firmware runs"]);
    bench.host.hand(bench.board, Hand::Boot0(true));
    bench.host.hand(bench.board, Hand::Reset);
    bench.host.clock().sleep(SETTLED);
    assert_eq!(bench.row(Query::Harmless).reasons, ["it is in its ROM bootloader: no firmware runs"]);
    bench.host.hand(bench.board, Hand::Unplug);
    bench.host.clock().sleep(SETTLED);
    let row = bench.row(Query::Harmless);
    assert_eq!((row.verdict, row.exit, row.device), (Verdict::Unknown, ExitCode::NotFound, None));
    assert!(text::of(&[bench.row(Query::Harmless)]).contains("btt-octopus-v1.1-f446 at 1-1.4: unknown"));
}

#[test]
fn boards_that_are_found_are_asked_by_what_they_share() {
    let bench = Bench::octopus(|image| image.version(OLD));
    let known = boards::builtin().unwrap();
    let found = |known: &[_]| {
        let device = bench.host.scan().unwrap().devices.remove(0);
        let holders = bench.host.holders(&device);
        let subject = Subject::found(device, holders, known);
        let interrupt = Interrupt::default();
        let asked = Asker { interrupt: &interrupt, query: Query::Harmless }.ask(&bench.host, &subject);
        Row::of(&subject, asked, &Ok(bench.offer.clone()))
    };
    // Three boards carry this chip: what they run can be told, how to flash it cannot.
    let row = found(&known);
    assert_eq!((row.boards.len(), row.verdict, row.remedy), (3, Verdict::Compatible, None));
    let octopus: Vec<_> = known.iter().filter(|(profile, _)| profile.id.0 == OCTOPUS).cloned().collect();
    let row = found(&octopus);
    assert_eq!((row.boards.len(), row.verdict), (1, Verdict::Compatible));
    assert!(row.remedy.unwrap().contains("--device 1-1.4"));
    let row = found(&[]);
    assert_eq!((row.boards.len(), row.verdict), (0, Verdict::Unknown));
    assert_eq!(row.runs.unwrap().version, OLD);
}

#[test]
fn a_remedy_is_a_command_whatever_a_device_calls_itself() {
    let mut bench = Bench::octopus(|image| image.version(OLD));
    let Subject::Board(target) = &mut bench.subject else { panic!() };
    target.selectors.push(Selector::Serial("$(reboot) '; x".into()));
    bench.offer.options = vec!["--klipper".into(), "my klipper".into()];
    let row = bench.row(Query::Harmless);
    // It contradicts what the device shows.
    assert_eq!((row.verdict, row.exit), (Verdict::Unknown, ExitCode::Refused));
    let Subject::Board(target) = &mut bench.subject else { panic!() };
    target.selectors = vec!["1-1.4".parse().unwrap()];
    let remedy = bench.row(Query::Harmless).remedy.unwrap();
    assert!(remedy.ends_with(" --device 1-1.4 --klipper 'my klipper'"), "{remedy}");
}

#[test]
fn of_a_port_that_klippy_has_only_the_version_is_known() {
    let bench = Bench::octopus(|image| image);
    let node = bench.host.scan().unwrap().devices[0].tty.clone().unwrap().node;
    bench.host.hold(node, Holder { pid: 812, name: "klippy".into() });
    let row = |klippy: Klippy| {
        let Asked::Board { heard, .. } = bench.asked(Query::Harmless) else { panic!() };
        Row::of(&bench.subject, Asked::Board { heard, klippy: Some(klippy) }, &Ok(bench.offer.clone()))
    };
    let read = |version: &str, mcu: &str| {
        Ok(Runs { app: None, version: version.into(), mcu: Some(mcu.into()), dictionary_sha256: None })
    };
    let current = row(read("v0.13.0-730-g84104bbbd", "stm32f446xx"));
    assert_eq!((current.verdict, current.exit), (Verdict::Current, ExitCode::Ok));
    assert_eq!(current.reasons, ["by its version alone, as Klipper read it: Klipper has the port"]);
    for (version, mcu) in [(OLD, "stm32f446xx"), ("v0.13.0-730-g84104bbbd", "stm32f407xx")] {
        let unknown = row(read(version, mcu));
        assert_eq!((unknown.verdict, unknown.exit, unknown.remedy), (Verdict::Unknown, ExitCode::Ok, None));
        assert_eq!(unknown.runs.unwrap().version, version);
    }
    let not = row(Err("Moonraker at http://voron:7125 does not answer: refused".into()));
    assert_eq!((not.verdict, not.exit), (Verdict::Unknown, ExitCode::Busy));
    assert_eq!(not.reasons.len(), 2);
}
