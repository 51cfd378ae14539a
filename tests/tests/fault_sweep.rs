//! The link is cut at every operation, with and without power, and at every byte of each kind of frame; then a person
//! takes the way back that the plan announced, and kflash runs again.
//!
//! Whatever was cut: the first run says "flashed" only if the board runs the image, its word on the board's state is
//! true, the announced way back works, and the second run succeeds.

#![expect(clippy::print_stdout, reason = "the counts are for people")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use kflash::exit::ExitCode;
use kflash::flash::{BoardState, Outcome};
use kflash::plan::WayBack;
use kflash_sim::fault::{At, FaultKind, FaultPlan};
use tests::bench::{Bench, Parts, Run, Scene};
use tests::tap::{Frame, TapHost};

/// Which supply the board has when its cable is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Power {
    Kept,
    Lost,
}

/// How the cases of a sweep came out.
#[derive(Default)]
struct Counts {
    /// Cases by how the first run ended and by the way back that was taken.
    cases: BTreeMap<(u8, String), u32>,
    /// Cases in which the cable alone would not have done.
    needed_more: BTreeMap<WayBack, u32>,
}

fn cut(power: Power) -> FaultKind {
    match power {
        Power::Kept => FaultKind::Cut,
        Power::Lost => FaultKind::CutPower,
    }
}

/// Cuts one flash at `at` and checks everything about it. The way back that was taken.
fn one_case(parts: &Parts, at: At, power: Power, counts: &Mutex<Counts>) {
    let name = format!("{:?}, cut at {at:?}, power {power:?}", parts.scene);
    let bench = parts.set_up();
    let planned = bench.plan().unwrap_or_else(|error| panic!("{name}: {error}"));
    bench.host.set_faults(FaultPlan::new().with(at, cut(power)));
    let run = bench.flash();
    bench.host.set_faults(FaultPlan::new());
    let announced = run.operation().map_or(WayBack::Cable, |index| planned.operations[index].way_back);
    let way = judge(&name, &bench, &run, announced);

    let exit = run.result.as_ref().map_or_else(|error| error.exit.code(), |_| 0);
    let case = (exit, format!("{way:?}"));
    *counts.lock().expect("no panic").cases.entry(case).or_default() += 1;

    // A sample shows that the plan does not announce more than is needed.
    if way != WayBack::Cable && number(at).is_multiple_of(8) && !succeeds_by(parts, at, power, WayBack::Cable) {
        *counts.lock().expect("no panic").needed_more.entry(way).or_default() += 1;
    }
    bench.take(way);
    let second = bench.flash();
    match &second.result {
        Ok(report) => assert!(matches!(report.outcome, Outcome::Flashed | Outcome::AlreadyCurrent), "{name}"),
        // A board that is held in ROM by BOOT0 cannot prove its boot path.
        Err(error) if error.exit == ExitCode::Enter && error.board == BoardState::Written => {}
        Err(error) => panic!("{name}: after {way:?} the second run failed: {error:?}, runs {:?}", bench.running()),
    }
    assert!(bench.holds_new(), "{name}: the second run left something else in the flash");
    assert_eq!(bench.violations(), [""; 0], "{name}");
    bench.power_cycle();
    assert!(bench.runs_new(), "{name}: after the second run the board does not boot the image: {:?}", bench.running());
}

/// Checks that what the first run said is true; the way back to take.
fn judge(name: &str, bench: &Bench, run: &Run, announced: WayBack) -> WayBack {
    let Err(error) = &run.result else {
        assert!(bench.holds_new(), "{name}: said flashed");
        bench.power_cycle();
        assert!(bench.runs_new(), "{name}: said flashed, runs {:?}", bench.running());
        return WayBack::Cable;
    };
    match error.board {
        BoardState::Untouched | BoardState::RunsAsBefore | BoardState::InBootloader => {
            assert!(bench.is_unchanged(), "{name}: said {error:?}, but the flash changed");
            assert!(matches!(error.exit.code(), 3..=6 | 10 | 14), "{name}: {error:?}");
            WayBack::Cable
        }
        BoardState::Incomplete(way) => {
            assert!(matches!(error.exit, ExitCode::Write | ExitCode::Verify), "{name}: {error:?}");
            assert!(way >= announced, "{name}: {way:?} was not announced: {announced:?}");
            way
        }
        BoardState::Written => {
            assert!(bench.holds_new(), "{name}: said {error:?}, but the image is not whole");
            assert!(matches!(error.exit, ExitCode::Lost | ExitCode::Taken | ExitCode::Enter), "{name}: {error:?}");
            WayBack::Cable
        }
        BoardState::Unknown => {
            assert!(bench.is_unchanged(), "{name}: said {error:?}, but the flash changed");
            assert_eq!(error.exit, ExitCode::Enter, "{name}: {error:?}");
            WayBack::Cable
        }
    }
}

fn number(at: At) -> u64 {
    match at {
        At::Operation(n) | At::AfterOperation(n) | At::ByteOut(n) | At::ByteIn(n) => n,
    }
}

/// Whether the same cut can be mended by another way.
fn succeeds_by(parts: &Parts, at: At, power: Power, way: WayBack) -> bool {
    let bench = parts.set_up();
    bench.host.set_faults(FaultPlan::new().with(at, cut(power)));
    let _ = bench.flash();
    bench.host.set_faults(FaultPlan::new());
    bench.take(way);
    bench.flash().result.is_ok()
}

/// Before and after every operation, and every byte of each kind of frame.
fn moments(parts: &Parts) -> Vec<At> {
    let bench = parts.set_up();
    bench.host.set_faults(FaultPlan::new());
    let tap = TapHost::new(bench.host.clone());
    let run = bench.flash_with(&tap, &kflash::flash::Interrupt::default(), |_| ());
    assert!(run.result.is_ok() || parts.scene.in_rom, "{:?}: {:?}", parts.scene, run.result);

    let mut moments = Vec::new();
    let mut kinds = BTreeMap::new();
    for frame in tap.frames() {
        moments.extend([At::Operation(frame.operation), At::AfterOperation(frame.operation)]);
        // The first and the last of a kind: of the blocks that is the one that invalidates, and the one that completes.
        let (first, last) = kinds.entry(frame.kind.clone()).or_insert_with(|| (frame.clone(), frame.clone()));
        let _: &Frame = first;
        *last = frame;
    }
    for (first, last) in kinds.into_values() {
        moments.extend(first.bytes_out.clone().map(At::ByteOut));
        moments.extend(first.bytes_in.clone().map(At::ByteIn));
        // A frame of thousands of bytes is walked through once.
        if last != first && last.bytes_out.clone().count() <= 128 {
            moments.extend(last.bytes_out.map(At::ByteOut));
            moments.extend(last.bytes_in.map(At::ByteIn));
        }
    }
    moments
}

fn sweep(scene: &Scene) {
    let parts = scene.parts();
    let moments = moments(&parts);
    let cases: Vec<_> = moments.iter().flat_map(|&at| [(at, Power::Kept), (at, Power::Lost)]).collect();
    let counts = Mutex::new(Counts::default());
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for part in cases.chunks(cases.len().div_ceil(threads)) {
            let (counts, parts) = (&counts, &parts);
            scope.spawn(move || part.iter().for_each(|&(at, power)| one_case(parts, at, power, counts)));
        }
    });
    let counts = counts.into_inner().expect("no panic");
    let mut table = String::new();
    for ((exit, way), number) in &counts.cases {
        let _ = writeln!(table, "  exit {exit:>2}, way back {way:<12} {number:>6}");
    }
    println!(
        "{scene:?}: {} cuts\n{table}  of these the cable alone was not enough: {:?}",
        cases.len(),
        counts.needed_more
    );
    assert!(counts.cases.keys().any(|(exit, _)| *exit == ExitCode::Write.code()), "no cut fell into the writing");
}

macro_rules! sweeps {
    ($($name:ident: $scene:expr;)*) => {
        $(#[test] fn $name() { sweep(&$scene); })*
    };
}

sweeps! {
    katapult_usb_large: Scene::usb("btt-octopus-v1.1-f446", "katapult", 17_000);
    katapult_usb_small: Scene::usb("btt-octopus-v1.1-f446", "katapult", 2_000);
    katapult_usb_ecc_large: Scene::usb("btt-skr-mini-e3-v3", "katapult", 5_000);
    katapult_usb_ecc_small: Scene::usb("btt-skr-mini-e3-v3", "katapult", 1_700);
    katapult_usb_one_huge_page: Scene::usb("btt-octopus-pro-v1.1-h723", "katapult", 3_000);
    katapult_usb_rp2040: Scene::usb("btt-skr-pico", "katapult", 9_000);
    katapult_uart_large: Scene::uart("creality-v4.2.7", "katapult", 5_000);
    katapult_uart_small: Scene::uart("creality-v4.2.7", "katapult", 1_700);
    dfu_large: Scene::usb("btt-octopus-v1.1-f446", "none", 20_000);
    dfu_small: Scene::usb("btt-octopus-v1.1-f446", "none", 1_700);
    dfu_ecc_large: Scene::usb("btt-ebb36-v1.2", "none", 9_000);
    dfu_behind_katapult: Scene::usb("btt-octopus-v1.1-f446", "katapult", 20_000).in_rom();
}
