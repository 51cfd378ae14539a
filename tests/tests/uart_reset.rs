//! The reset that proves the boot path, on a UART: nothing enumerates there, and nothing acknowledges a reset.

use kflash::event::{Check, Event, Verdict};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, Interrupt, Outcome};
use kflash::image::Image;
use kflash_sim::fault::{At, FaultKind, FaultPlan};
use kflash_sim::firmware::TestImage;
use kflash_sim::host::Hand;
use tests::bench::{Bench, NEW, Run, Scene};
use tests::tap::{Frame, TapHost};

const BOARD: Scene = Scene::uart("creality-v4.2.7", "katapult", 5_000);

/// A block of one message, `reset`, whose id is -8 in the images of the bench.
const RESET: [u8; 2] = [6, 0x78];

/// Flashes under `faults`; the blocks that carried a reset, too.
fn flash(bench: &Bench, faults: FaultPlan, watch: impl Fn(&Event)) -> (Run, Vec<Frame>) {
    bench.host.set_faults(faults);
    let tap = TapHost::new(bench.host.clone());
    let run = bench.flash_with(&tap, &Interrupt::default(), watch);
    let resets = tap.frames().into_iter().filter(|frame| frame.kind == RESET).collect();
    (run, resets)
}

fn dropped(resets: &[Frame]) -> FaultPlan {
    resets.iter().fold(FaultPlan::new(), |plan, reset| plan.with(At::Operation(reset.operation), FaultKind::Drop))
}

/// The check of the boot path of a run that went well.
#[track_caller]
fn boot_path(bench: &Bench, run: &Run) -> Check {
    let report = run.result.as_ref().unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(report.outcome, Outcome::Flashed);
    assert!(bench.holds_new() && bench.runs_new());
    let mut checks = report.checks.iter().filter(|check| check.name == "resident bootloader starts the application");
    let check = checks.next().expect("the check").clone();
    assert_eq!(checks.next(), None);
    check
}

fn sent_again(run: &Run) -> bool {
    run.events.iter().any(|event| matches!(event, Event::Warning { text } if text.contains("sending the reset again")))
}

#[test]
fn a_reset_is_proven_by_the_uptime() {
    let bench = BOARD.set_up();
    let (run, resets) = flash(&bench, FaultPlan::new(), |_| ());
    let check = boot_path(&bench, &run);
    assert_eq!(check.verdict, Verdict::Agrees);
    assert!(check.evidence.contains("ms after the reset was sent"), "{}", check.evidence);
    assert_eq!(resets.len(), 1);
    assert!(!sent_again(&run));
}

#[test]
fn a_lost_reset_is_sent_again() {
    let (_, resets) = flash(&BOARD.set_up(), FaultPlan::new(), |_| ());
    let bench = BOARD.set_up();
    let (run, resets) = flash(&bench, dropped(&resets), |_| ());
    assert_eq!(boot_path(&bench, &run).verdict, Verdict::Agrees);
    assert_eq!(resets.len(), 2);
    assert!(sent_again(&run));
}

#[test]
fn no_damage_to_the_reset_is_a_false_proof_or_the_end() {
    let (_, resets) = flash(&BOARD.set_up(), FaultPlan::new(), |_| ());
    for byte in resets[0].bytes_out.clone() {
        for fault in [FaultKind::Drop, FaultKind::Corrupt] {
            let bench = BOARD.set_up();
            let (run, resets) = flash(&bench, FaultPlan::new().with(At::ByteOut(byte), fault), |_| ());
            assert_eq!(boot_path(&bench, &run).verdict, Verdict::Agrees);
            // Refused or lost, and sent again; behind a garbled end the MCU drops the next block without a word, too.
            assert!((2..=3).contains(&resets.len()), "byte {byte}: {} resets", resets.len());
        }
    }
}

#[test]
fn resets_that_never_arrive_prove_nothing() {
    let (_, once) = flash(&BOARD.set_up(), FaultPlan::new(), |_| ());
    let (_, twice) = flash(&BOARD.set_up(), dropped(&once), |_| ());
    let bench = BOARD.set_up();
    let (run, resets) = flash(&bench, dropped(&twice), |_| ());
    assert_eq!(resets.len(), 2);
    let error = run.result.expect_err("not proven");
    let kind = (error.exit, error.kind, error.board);
    assert_eq!(kind, (ExitCode::Lost, FailureKind::DidNotReturn, BoardState::Written));
    assert!(error.message.contains("could not be proven"), "{}", error.message);
    bench.power_cycle();
    assert!(bench.runs_new());
}

#[test]
fn a_lost_reset_hides_no_broken_boot_path() {
    // From the reset on the board starts its ROM, so that only one that was never reset still answers.
    let (_, resets) = flash(&BOARD.set_up(), FaultPlan::new(), |_| ());
    let mut plans = vec![FaultPlan::new(), dropped(&resets)];
    for byte in resets[0].bytes_out.clone() {
        plans.push(FaultPlan::new().with(At::ByteOut(byte), FaultKind::Drop));
        plans.push(FaultPlan::new().with(At::ByteOut(byte), FaultKind::Corrupt));
    }
    for faults in plans {
        let bench = BOARD.set_up();
        let (run, _) = flash(&bench, faults, |event| {
            if matches!(event, Event::Phase { what, .. } if what.starts_with("resetting it once more")) {
                bench.host.hand(bench.board, Hand::Boot0(true));
            }
        });
        let error = run.result.expect_err("it does not come back");
        assert_eq!((error.exit, error.board), (ExitCode::Lost, BoardState::Written), "{error:?}");
        assert!(!bench.runs_new());
    }
}

#[test]
fn firmware_without_an_uptime_proves_nothing() {
    let mut parts = BOARD.parts();
    let image = TestImage { lacks: vec!["get_uptime".into()], ..BOARD.image(NEW) };
    parts.new = image.build();
    parts.image = Image::parse(&parts.new).expect("an image");
    let bench = parts.set_up();
    let (run, resets) = flash(&bench, FaultPlan::new(), |_| ());
    let check = boot_path(&bench, &run);
    assert_eq!(check.verdict, Verdict::NotProvable);
    assert!(check.evidence.contains("get_uptime"), "{}", check.evidence);
    assert_eq!(resets.len(), 1);
}
