//! Whole flashes on simulated boards: what goes well, what is refused, what goes wrong on the way. The exit codes, one by
//! one.

use std::sync::Arc;
use std::time::Duration;

use kflash::addr::FlashAddr;
use kflash::board::Cable;
use kflash::discover::{Place, UsbPath};
use kflash::event::{Event, Phase};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, Flasher, Interrupt, Outcome};
use kflash::host::{Holder, Host};
use kflash::identify::Selector;
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::plan::WayBack;
use kflash_sim::board::{Contents, Options, Running, VirtualBoard};
use kflash_sim::dfu_variant::{DfuVariant, Leave, Protection};
use kflash_sim::fault::{At, FaultKind, FaultPlan};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::host::{Hand, Plug};
use tests::bench::{Bench, NEW, OLD, Run, Scene};

const OCTOPUS_KATAPULT: Scene = Scene::usb("btt-octopus-v1.1-f446", "katapult", 44_516);
const OCTOPUS_DFU: Scene = Scene::usb("btt-octopus-v1.1-f446", "none", 44_516);
const OCTOPUS_VENDOR: Scene = Scene::usb("btt-octopus-v1.1-f446", "vendor", 44_516);

fn port(path: &str) -> UsbPath {
    path.parse().expect("a port path")
}

fn klippy() -> Holder {
    Holder { pid: 4711, name: "klippy".into() }
}

/// Asserts that the run failed so, and that the board is in this state and truly unchanged where it says so.
#[track_caller]
fn failed(bench: &Bench, run: &Run, exit: ExitCode, board: BoardState) {
    let error = run.result.as_ref().expect_err("must fail");
    assert_eq!((error.exit, error.board), (exit, board), "{error:?}");
    if matches!(board, BoardState::Untouched | BoardState::RunsAsBefore | BoardState::InBootloader) {
        assert!(bench.is_unchanged(), "{error:?}");
    }
}

#[track_caller]
fn flashed(bench: &Bench, run: &Run) {
    let report = run.result.as_ref().unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(report.outcome, Outcome::Flashed);
    assert_eq!(report.now.as_ref().map(|now| now.version.as_str()), Some(NEW));
    assert!(report.simulated);
    assert!(bench.holds_new() && bench.runs_new());
    assert_eq!(bench.violations(), [""; 0]);
}

// --- exit 0 ---------------------------------------------------------------------------------------------------------

#[test]
fn every_route_of_every_board_flashes_a_virtual_board() {
    let mut routes = 0;
    for (profile, chip) in kflash::boards::builtin().expect("the built-in boards") {
        for route in &profile.routes {
            let board: &'static str = Box::leak(profile.id.to_string().into_boxed_str());
            let bootloader: &'static str = Box::leak(route.bootloader.clone().into_boxed_str());
            let scene = Scene { cable: route.cable, ..Scene::usb(board, bootloader, 20_000) };
            // The touch leads to the first route of a bootloader; the others begin in ROM, by BOOT0.
            let by_hand = profile.routes.iter().any(|other| {
                other.id != route.id && other.bootloader == route.bootloader && other.enter.len() > route.enter.len()
            });
            let bench = Scene { in_rom: by_hand, ..scene }.set_up();
            let run = bench.flash();
            let name = format!("{} by {} on {}", profile.id, route.id, chip.id);
            match run.result {
                Ok(report) => assert_eq!(report.outcome, Outcome::Flashed, "{name}"),
                // BOOT0 is still set, and there is a boot path to be proven.
                Err(error) => assert!(by_hand && error.board == BoardState::Written, "{name}: {error:?}"),
            }
            assert!(bench.holds_new(), "{name}");
            assert_eq!(bench.violations(), [""; 0], "{name}");
            bench.power_cycle();
            assert!(bench.runs_new(), "{name}");
            routes += 1;
        }
    }
    assert!(routes >= 20, "{routes} routes");
}

#[test]
fn what_is_current_is_not_written() {
    let mut bench = OCTOPUS_KATAPULT.set_up();
    bench.request.image = Image::parse(&OCTOPUS_KATAPULT.image(OLD).build()).expect("an image");
    let run = bench.flash();
    let report = run.result.expect("current");
    assert_eq!(report.outcome, Outcome::AlreadyCurrent);
    assert!(run.events.iter().all(|event| !matches!(event, Event::Operation { .. })));
    assert_eq!(bench.running(), Running::Application { version: OLD.into() });

    bench.request.force = true;
    let report = bench.flash().result.expect("flashed again");
    assert_eq!(report.outcome, Outcome::Flashed);
}

#[test]
fn the_equal_dictionary_at_another_start_is_not_current() {
    // Klipper's dictionary does not hold its start address.
    let mut bench = OCTOPUS_VENDOR.set_up();
    let elsewhere = TestImage { start: 0x0800_0000, ..OCTOPUS_VENDOR.image(OLD) };
    bench.request.image = Image::parse(&elsewhere.build()).expect("an image");
    failed(&bench, &bench.flash(), ExitCode::Refused, BoardState::Untouched);
}

#[test]
fn the_report_tells_the_new_path_for_printer_cfg() {
    let bench = OCTOPUS_KATAPULT.set_up();
    bench.host.befall(bench.board, FaultKind::ChangeUid(*b"ABCDEFGHIJKL"));
    let run = bench.flash();
    flashed(&bench, &run);
    let report = run.result.expect("flashed");
    assert!(report.notes.iter().any(|note| note.contains("/dev/serial/by-id/")), "{:?}", report.notes);
    assert!(run.events.iter().any(|event| matches!(event, Event::Warning { text } if text.contains("serial number"))));
}

#[test]
fn a_board_that_comes_back_under_another_tty_name_is_followed() {
    let bench = OCTOPUS_KATAPULT.set_up();
    bench.host.befall(bench.board, FaultKind::RenameTty("/dev/ttyACM7".into()));
    flashed(&bench, &bench.flash());
}

#[test]
fn of_two_identical_boards_only_the_named_one_changes() {
    for scene in [OCTOPUS_KATAPULT, OCTOPUS_DFU] {
        let bench = scene.set_up();
        let twin = twin(&scene);
        let before = twin.flash().to_vec();
        let twin = bench.host.plug_in(Plug::Usb(port("1-1.3")), twin, false);
        bench.host.clock().sleep(Duration::from_secs(1));
        flashed(&bench, &bench.flash());
        bench.host.with_board(twin, |board, _| assert!(board.flash() == before));
    }
}

#[test]
fn an_identical_board_that_appears_in_the_middle_is_left_alone() {
    for operation in (20..400).step_by(20) {
        let bench = OCTOPUS_DFU.set_up();
        let plug = Plug::Usb(port("1-1.2"));
        let plan =
            FaultPlan::new().with(At::Operation(operation), FaultKind::PlugIn(plug, Box::new(twin(&OCTOPUS_DFU))));
        bench.host.set_faults(plan);
        flashed(&bench, &bench.flash());
    }
}

fn twin(scene: &Scene) -> VirtualBoard {
    let parts = scene.parts();
    let contents = Contents {
        bootloader: scene.bootloader.into(),
        application: Some((parts.start, parts.old.clone())),
        known: vec![(parts.start, parts.old)],
        uid: *b"twintwintwin",
    };
    let options = Options { timing: Timing::Zero, ..Options::default() };
    VirtualBoard::with_options(&parts.profile, &parts.chip, contents, options).expect("a board")
}

#[test]
fn a_person_follows_the_instructions() {
    // No Katapult, and firmware whose only way into DFU is by hand: the person sets BOOT0 when told, and clears it when told.
    let mut bench = OCTOPUS_VENDOR.set_up();
    bench.hands = true;
    for route in &mut bench.request.profile.routes {
        route.enter.retain(|entry| *entry != kflash::board::Entry::Touch1200);
    }
    let (host, board) = (bench.host.clone(), bench.board);
    let presses = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = Arc::clone(&presses);
    let run = bench.flash_with(&bench.host, &Interrupt::default(), move |event| {
        if let Event::HandsNeeded { instruction, .. } = event {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            host.hand(board, Hand::Boot0(instruction.starts_with("fit")));
            host.hand_later(Duration::from_secs(2), board, Hand::Reset);
        }
    });
    flashed(&bench, &run);
    assert_eq!(presses.load(std::sync::atomic::Ordering::SeqCst), 2, "to set BOOT0, and to clear it");
}

#[test]
fn a_board_found_in_dfu_says_to_remove_the_jumper() {
    let bench = OCTOPUS_DFU.in_rom().set_up();
    let run = bench.flash();
    let report = run.result.expect("flashed");
    assert!(report.notes.iter().any(|note| note.contains("remove the BOOT0 jumper")), "{:?}", report.notes);
}

#[test]
fn leave_succeeds_however_the_rom_takes_it() {
    for leave in [Leave::Manifest(1), Leave::Stall, Leave::Vanish, Leave::VanishAtDownload] {
        let parts = OCTOPUS_DFU.parts();
        let rom = DfuVariant { leave, ..DfuVariant::of(&parts.chip, b"abcdefghijkl").expect("a ROM") };
        let bench = parts.with_options(Options { timing: Timing::Zero, dfu: Some(rom), ..Options::default() });
        flashed(&bench, &bench.flash());
    }
}

// --- exit 3 ---------------------------------------------------------------------------------------------------------

#[test]
fn a_wrong_image_leaves_the_board_untouched() {
    let right = OCTOPUS_KATAPULT.image(NEW);
    for (wrong, check) in [
        (TestImage { mcu: "stm32f407xx".into(), ..right.clone() }, "image is for this board's MCU"),
        (TestImage { start: 0x0801_0000, ..right.clone() }, "image start is one of this board's"),
        (TestImage { start: 0x0800_0000, ..right.clone() }, "image starts where the running application does"),
        (right.clone().built_for(BuiltFor::Uart(250_000)), "image talks over the cable in use"),
        (right.clone().size(500 * 1024), "image fits the application region"),
    ] {
        let mut bench = OCTOPUS_KATAPULT.set_up();
        bench.request.image = Image::parse(&wrong.build()).expect("an image");
        let run = bench.flash();
        failed(&bench, &run, ExitCode::Refused, BoardState::Untouched);
        let error = run.result.expect_err("refused");
        assert_eq!(error.kind, FailureKind::CheckFailed);
        assert!(error.details.iter().any(|line| line.starts_with(check)), "{:?}", error.details);
        assert_eq!(bench.running(), Running::Application { version: OLD.into() });
    }
}

#[test]
fn a_refusal_in_the_bootloader_puts_the_application_back() {
    // The running firmware cannot tell what it runs behind (no debug_read), and Katapult starts applications elsewhere.
    let mut bench = OCTOPUS_KATAPULT.set_up();
    bench.request.chip.lacks_vtor = true;
    for bootloader in &mut bench.request.profile.bootloaders {
        bootloader.app_start = FlashAddr(0x0801_0000);
    }
    let elsewhere = TestImage { start: 0x0801_0000, ..OCTOPUS_KATAPULT.image(NEW) };
    bench.request.image = Image::parse(&elsewhere.build()).expect("an image");
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Refused, BoardState::RunsAsBefore);
    let error = run.result.expect_err("refused");
    assert!(error.details.iter().any(|line| line.starts_with("Katapult starts the application there")), "{error:?}");
    assert_eq!(bench.running(), Running::Application { version: OLD.into() });
}

#[test]
fn a_missing_resident_bootloader_is_refused_in_dfu() {
    // The application would be started by DFU's leave, and never again.
    let mut parts = OCTOPUS_VENDOR.in_rom().parts();
    parts.scene.bootloader = "none";
    parts.blank = true;
    let bench = parts.set_up();
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Refused, BoardState::InBootloader);
    let error = run.result.expect_err("refused");
    assert!(error.details.iter().any(|line| line.starts_with("resident bootloader")), "{error:?}");
}

#[test]
fn a_read_protected_chip_is_refused_before_the_first_erase() {
    for protection in [Protection::Refuses, Protection::Silent] {
        let parts = OCTOPUS_DFU.in_rom().parts();
        let rom = DfuVariant { protection, ..DfuVariant::of(&parts.chip, b"abcdefghijkl").expect("a ROM") };
        let options = Options { timing: Timing::Zero, dfu: Some(rom), read_protected: true, ..Options::default() };
        let bench = parts.with_options(options);
        let run = bench.flash();
        failed(&bench, &run, ExitCode::Refused, BoardState::InBootloader);
        assert_eq!(run.result.expect_err("refused").kind, FailureKind::Protected);
    }
}

#[test]
fn a_device_found_in_dfu_must_be_named() {
    let mut bench = OCTOPUS_DFU.in_rom().set_up();
    bench.request.selectors.clear();
    failed(&bench, &bench.flash(), ExitCode::Refused, BoardState::Untouched);
}

#[test]
fn two_boards_that_fit_must_be_told_apart() {
    let mut bench = OCTOPUS_KATAPULT.set_up();
    bench.request.selectors.clear();
    flashed(&bench, &bench.flash());
    bench.host.plug_in(Plug::Usb(port("1-1.3")), twin(&OCTOPUS_KATAPULT), false);
    bench.host.clock().sleep(Duration::from_secs(1));
    bench.request.force = true;
    let error = bench.flash().result.expect_err("ambiguous");
    assert_eq!((error.exit, error.kind), (ExitCode::Refused, FailureKind::Ambiguous));
    assert_eq!(error.details.len(), 2, "{:?}", error.details);
}

#[test]
fn selectors_that_disagree_are_refused() {
    let mut bench = OCTOPUS_KATAPULT.set_up();
    bench.host.plug_in(Plug::Usb(port("1-1.3")), twin(&OCTOPUS_KATAPULT), false);
    bench.host.clock().sleep(Duration::from_secs(1));
    bench.request.selectors =
        vec![Selector::UsbPath(port("1-1.4")), Selector::Serial("7477696e7477696e7477696e".to_uppercase())];
    failed(&bench, &bench.flash(), ExitCode::Refused, BoardState::Untouched);
}

// --- exit 4, 5, 6 ---------------------------------------------------------------------------------------------------

#[test]
fn no_such_device() {
    let mut bench = OCTOPUS_KATAPULT.set_up();
    bench.request.selectors = vec![Selector::UsbPath(port("3-2"))];
    failed(&bench, &bench.flash(), ExitCode::NotFound, BoardState::Untouched);
}

#[test]
fn a_held_port_is_named_with_its_holder() {
    let bench = OCTOPUS_KATAPULT.set_up();
    bench.host.hold("/dev/ttyACM0", klippy());
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Busy, BoardState::Untouched);
    let message = run.result.expect_err("held").message;
    assert!(message.contains("/dev/ttyACM0") && message.contains("klippy") && message.contains("4711"), "{message}");
}

#[test]
fn two_runs_do_not_meet() {
    let bench = OCTOPUS_KATAPULT.set_up();
    bench.host.lock_by_other(&Place::Usb(port("1-1.4")), 99);
    failed(&bench, &bench.flash(), ExitCode::Busy, BoardState::Untouched);
}

// --- exit 10 --------------------------------------------------------------------------------------------------------

#[test]
fn without_a_terminal_hands_are_not_waited_for() {
    let mut bench = OCTOPUS_VENDOR.set_up();
    for route in &mut bench.request.profile.routes {
        route.enter.retain(|entry| *entry != kflash::board::Entry::Touch1200);
    }
    let before = bench.host.clock().now();
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Enter, BoardState::RunsAsBefore);
    assert!(bench.host.clock().now() < before + Duration::from_secs(2), "it returns at once");
    let error = run.result.expect_err("hands");
    assert!(matches!(error.kind, FailureKind::HandsNeeded { instruction } if instruction.contains("BOOT0")));
}

#[test]
fn a_boot_path_that_boot0_hides_is_not_called_flashed() {
    let bench = OCTOPUS_VENDOR.in_rom().set_up();
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Enter, BoardState::Written);
    bench.power_cycle();
    assert!(bench.runs_new());
}

#[test]
fn a_board_that_moves_to_another_port_while_it_enters_is_not_followed_blindly() {
    let bench = OCTOPUS_KATAPULT.set_up();
    bench.host.befall(bench.board, FaultKind::Move(Plug::Usb(port("1-1.1"))));
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Enter, BoardState::Unknown);
    assert!(bench.is_unchanged());
    let message = run.result.expect_err("moved").message;
    assert!(message.contains("1-1.1"), "{message}");
}

// --- exit 11, 12, 13, 14, 15 ----------------------------------------------------------------------------------------

/// Runs until the first event of `phase`, at which `act` happens.
fn act_at(bench: &Bench, interrupt: &Interrupt, phase: Phase, act: impl Fn()) -> Run {
    let acted = std::sync::atomic::AtomicBool::new(false);
    bench.flash_with(&bench.host, interrupt, |event| {
        let here = matches!(event, Event::Phase { phase: of, .. } if *of == phase);
        if here && !acted.swap(true, std::sync::atomic::Ordering::SeqCst) {
            act();
        }
    })
}

#[test]
fn a_cable_pulled_while_writing() {
    let bench = OCTOPUS_KATAPULT.set_up();
    let run = act_at(&bench, &Interrupt::default(), Phase::Write, || bench.host.befall(bench.board, FaultKind::Cut));
    failed(&bench, &run, ExitCode::Write, BoardState::Incomplete(WayBack::Cable));
    bench.take(WayBack::Cable);
    flashed(&bench, &bench.flash());
}

#[test]
fn a_chip_that_says_ok_and_writes_nothing() {
    let parts = OCTOPUS_DFU.parts();
    let last = parts.chip.sector_at(FlashAddr(parts.start + 40_000)).expect("a sector");
    let options = Options { timing: Timing::Zero, write_protected: vec![last], ..Options::default() };
    let bench = parts.with_options(options);
    let run = bench.flash();
    failed(&bench, &run, ExitCode::Verify, BoardState::Incomplete(WayBack::Boot0));
    assert_eq!(run.result.expect_err("differs").kind, FailureKind::ReadBackDiffers);
}

#[test]
fn an_application_that_does_not_come_back() {
    let bench = OCTOPUS_KATAPULT.set_up();
    let run = act_at(&bench, &Interrupt::default(), Phase::Start, || {
        bench.host.hand_later(Duration::from_millis(50), bench.board, Hand::Unplug);
    });
    failed(&bench, &run, ExitCode::Lost, BoardState::Written);
}

#[test]
fn a_wrong_offset_that_works_only_after_leave() {
    // The vendor's bootloader starts applications at another address than the profile says, and nothing tells.
    let mut parts = Scene::usb("btt-octopus-v1.1-f446", "vendor", 20_000).parts();
    parts.chip.lacks_vtor = true;
    for bootloader in parts.truth.bootloaders.iter_mut().filter(|bootloader| bootloader.id == "vendor") {
        bootloader.app_start = FlashAddr(0x0801_0000);
    }
    let elsewhere = TestImage { start: 0x0801_0000, ..parts.scene.image(OLD) };
    parts.old = elsewhere.build();
    let bench = parts.set_up();
    let run = bench.flash();
    let error = run.result.as_ref().expect_err("never flashed");
    assert_eq!((error.exit, error.board), (ExitCode::Lost, BoardState::Written), "{error:?}");
}

#[test]
fn a_port_taken_on_return() {
    let bench = OCTOPUS_KATAPULT.set_up();
    let run = act_at(&bench, &Interrupt::default(), Phase::Start, || {
        bench.host.befall(bench.board, FaultKind::Take(klippy()));
    });
    failed(&bench, &run, ExitCode::Taken, BoardState::Written);
    let message = run.result.expect_err("taken").message;
    assert!(message.contains("klippy") && message.contains("4711"), "{message}");
}

#[test]
fn a_signal_before_the_first_erase_puts_the_application_back() {
    for scene in [OCTOPUS_KATAPULT, OCTOPUS_DFU, Scene::uart("creality-v4.2.7", "katapult", 20_000)] {
        let bench = scene.set_up();
        let interrupt = Interrupt::default();
        let run = act_at(&bench, &interrupt, Phase::Enter, || interrupt.request());
        failed(&bench, &run, ExitCode::Cancelled, BoardState::RunsAsBefore);
        bench.host.clock().sleep(Duration::from_secs(1));
        assert_eq!(bench.running(), Running::Application { version: OLD.into() });
    }
}

#[test]
fn a_signal_before_the_bootloader_is_entered_touches_nothing() {
    let bench = OCTOPUS_KATAPULT.set_up();
    let interrupt = Interrupt::default();
    interrupt.request();
    let run = bench.flash_with(&bench.host, &interrupt, |_| ());
    failed(&bench, &run, ExitCode::Cancelled, BoardState::Untouched);
}

#[test]
fn a_signal_after_the_first_erase_waits_until_the_board_is_whole() {
    for scene in [OCTOPUS_KATAPULT, OCTOPUS_DFU] {
        let bench = scene.set_up();
        let interrupt = Interrupt::default();
        let run = act_at(&bench, &interrupt, Phase::Write, || interrupt.request());
        flashed(&bench, &run);
    }
}

#[test]
fn a_run_killed_after_the_first_erase_is_finished_by_the_next() {
    struct Killed;
    for scene in [OCTOPUS_KATAPULT, OCTOPUS_DFU, Scene::uart("creality-v4.2.7", "katapult", 20_000)] {
        let bench = scene.set_up();
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            act_at(&bench, &Interrupt::default(), Phase::Write, || std::panic::panic_any(Killed));
        }));
        assert!(killed.expect_err("killed").is::<Killed>());
        assert!(!bench.is_unchanged());
        flashed(&bench, &bench.flash());
    }
}

// --- verify ---------------------------------------------------------------------------------------------------------

fn verify(bench: &Bench, read_back: bool) -> Result<Outcome, ExitCode> {
    let interrupt = Interrupt::default();
    let flasher = Flasher { host: &bench.host, interrupt: &interrupt, hands: false };
    let result = flasher.verify(&bench.request, read_back, &mut |_| ());
    result.map(|report| report.outcome).map_err(|error| error.exit)
}

#[test]
fn verify_compares_dictionaries_and_bytes() {
    for scene in [OCTOPUS_KATAPULT, OCTOPUS_DFU, Scene::uart("creality-v4.2.7", "katapult", 20_000)] {
        let mut bench = scene.set_up();
        assert_eq!(verify(&bench, false), Err(ExitCode::Verify));
        assert_eq!(verify(&bench, true), Err(ExitCode::Verify));
        bench.host.clock().sleep(Duration::from_secs(1));
        assert_eq!(bench.running(), Running::Application { version: OLD.into() }, "it runs as before");
        bench.request.image = Image::parse(&scene.image(OLD).build()).expect("an image");
        assert_eq!(verify(&bench, false), Ok(Outcome::DictionaryMatches));
        assert_eq!(verify(&bench, true), Ok(Outcome::BytesMatch));
        assert!(bench.is_unchanged());
        assert_eq!(bench.running(), Running::Application { version: OLD.into() });
    }
}

// --- plan -----------------------------------------------------------------------------------------------------------

#[test]
fn plan_enters_no_bootloader_and_opens_no_port_that_resets_the_board() {
    let uart = Scene { cable: Cable::Uart, ..Scene::uart("creality-v4.2.7", "katapult", 20_000) };
    for scene in [OCTOPUS_KATAPULT, OCTOPUS_DFU, uart] {
        let bench = scene.set_up();
        bench.host.set_faults(FaultPlan::new());
        let plan = bench.plan().expect("a plan");
        assert!(!plan.operations.is_empty());
        assert!(bench.is_unchanged());
        assert_eq!(bench.running(), Running::Application { version: OLD.into() });
        if bench.request.profile.opening_resets {
            assert_eq!(bench.host.counters().operations, 0);
        }
        assert_eq!(bench.host.scan().expect("a scan").devices, vec![plan.device]);
    }
}
