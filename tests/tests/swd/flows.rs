//! Whole runs through a debug probe: flash, install, back up, and every way in which they are refused.

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::discover::{Mode, Place};
use kflash::event::Verdict;
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Outcome, Report};
use kflash::klipper::dictionary::BuiltFor;
use kflash_sim::board::Running;
use kflash_sim::swd::{Options, Target, Trouble};
use tests::swd_probe::{self, Cut, When};

use crate::desk::{Desk, SERIAL, katapult, klipper};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const FLASH: u32 = 0x0800_0000;
const APP: u32 = 0x0800_8000;

/// An Octopus with Katapult and Klipper of this version.
fn octopus(version: &str) -> Desk {
    Desk::with(OCTOPUS, Options::default(), |profile, chip| {
        vec![(FLASH, katapult(profile, chip).build()), (APP, klipper(profile, chip, version).build())]
    })
}

fn agrees(report: &Report, name: &str) -> bool {
    report.checks.iter().any(|check| check.name == name && check.verdict == Verdict::Agrees)
}

fn version(version: &str) -> Running {
    Running::Application { version: version.into() }
}

fn refused(result: Result<Report, FlashError>, exit: ExitCode, kind: &FailureKind) -> FlashError {
    let error = result.expect_err("it is refused");
    assert_eq!((error.exit, &error.kind), (exit, kind), "{error}: {:?}", error.details);
    error
}

#[test]
fn a_blank_board_gets_katapult_and_klipper_in_one_go() {
    for board in [OCTOPUS, "btt-skr-mini-e3-v3"] {
        let desk = Desk::blank(board);
        assert_ne!(desk.runs(), version("v1"));
        let (bootloader, application) = (desk.katapult().build(), desk.klipper("v1").build());
        let report = desk.install(&bootloader, Some(&application)).unwrap_or_else(|error| panic!("{board}: {error}"));
        assert_eq!(report.outcome, Outcome::Installed);
        assert_eq!(report.now.as_ref().map(|now| now.version.as_str()), Some("v1"));
        assert_eq!(report.device.usb.as_ref().and_then(|usb| usb.serial.as_deref()), Some(SERIAL));
        assert!(agrees(&report, "what answers is the chip at the probe"), "{:?}", report.checks);
        assert!(agrees(&report, "Katapult starts the application there"), "{:?}", report.checks);
        assert_eq!(desk.runs(), version("v1"));
        assert!(desk.holds(FLASH, bootloader.len()) == bootloader);
        // The same once more is no mistake.
        desk.install(&bootloader, Some(&application)).unwrap();
    }
}

#[test]
fn katapult_alone_waits_for_an_application_or_starts_the_one_there() {
    let desk = Desk::blank(OCTOPUS);
    let report = desk.install(&desk.katapult().build(), None).unwrap();
    assert_eq!((report.outcome, report.device.mode), (Outcome::Installed, Mode::Katapult));
    assert_eq!(desk.runs(), Running::Katapult);

    let application = klipper(&desk.profile, &desk.chip, "v1").build();
    let desk = Desk::with(OCTOPUS, Options::default(), |_, _| vec![(APP, application.clone())]);
    let report = desk.install(&desk.katapult().build(), None).unwrap();
    assert_eq!(report.device.mode, Mode::Klipper);
    assert_eq!(desk.runs(), version("v1"));
    assert!(desk.holds(APP, application.len()) == application);
}

#[test]
fn parts_that_do_not_fit_together_are_refused_and_nothing_is_touched() {
    let desk = octopus("v1");
    let at_first = desk.holds(FLASH, 0x2_0000);
    let (good, application) = (desk.katapult(), desk.klipper("v2"));
    let cases = [
        // Katapult for another offset, for another chip, none at all; an application for another offset.
        (good.clone().starting(0x0801_0000).build(), application.build(), "Katapult's code holds 0x08010000"),
        (kflash_sim::firmware::TestImage::katapult("stm32g0b1xx", FLASH).build(), application.build(), "stm32g0b1xx"),
        (application.build(), application.build(), "the image is a Klipper application"),
        (
            good.build(),
            kflash_sim::firmware::TestImage::klipper("stm32f446xx", FLASH).build(),
            "Katapult starts 0x08008000; the application is built for 0x08000000",
        ),
        (
            good.build(),
            kflash_sim::firmware::TestImage::klipper("stm32f407xx", APP).build(),
            "dictionary names stm32f407xx",
        ),
    ];
    for (bootloader, application, why) in cases {
        let error =
            refused(desk.install(&bootloader, Some(&application)), ExitCode::Refused, &FailureKind::CheckFailed);
        assert_eq!(error.board, BoardState::Untouched, "{why}");
        assert!(error.details.iter().any(|line| line.contains(why)), "{why}: {:?}", error.details);
    }
    assert!(desk.holds(FLASH, 0x2_0000) == at_first);
    assert_eq!(swd_probe::with(0, |probe| probe.attaches), 0, "the chip was not even looked at");
}

#[test]
fn an_application_is_flashed_and_what_is_there_already_is_not() {
    let desk = octopus("v1");
    let new = desk.klipper("v2").build();
    let report = desk.flash(&new).unwrap();
    assert_eq!(report.outcome, Outcome::Flashed);
    assert!(matches!(report.device.place, Place::Usb(_)));
    assert!(agrees(&report, "resident bootloader is the one presumed"), "{:?}", report.checks);
    assert_eq!(desk.runs(), version("v2"));

    let writes = swd_probe::with(0, |probe| probe.commands);
    let report = desk.flash(&new).unwrap();
    assert_eq!(report.outcome, Outcome::AlreadyCurrent);
    assert_eq!(desk.runs(), version("v2"));
    let again = swd_probe::with(0, |probe| probe.commands) - writes;
    assert!(again < writes / 2, "{again} commands after {writes}");
}

#[test]
fn an_application_without_its_bootloader_is_refused_and_the_chip_let_go() {
    let desk = Desk::blank(OCTOPUS);
    let image = desk.klipper("v1").build();
    let error = refused(desk.flash(&image), ExitCode::Refused, &FailureKind::CheckFailed);
    assert!(error.details[0].contains("nothing that could start an application"), "{:?}", error.details);
    assert!(desk.holds(FLASH, 0x1000).iter().all(|&byte| byte == 0xff));

    // One for the flash's start would overwrite Katapult.
    let desk = octopus("v1");
    let image = kflash_sim::firmware::TestImage::klipper("stm32f446xx", FLASH).build();
    let error = refused(desk.flash(&image), ExitCode::Refused, &FailureKind::CheckFailed);
    assert!(error.details[0].contains("Katapult"), "{:?}", error.details);
    assert_eq!(error.board, BoardState::RunsAsBefore);
    assert_eq!(desk.runs(), version("v1"));
}

#[test]
fn a_probe_that_is_unplugged_leaves_what_the_probe_brings_back() {
    let desk = octopus("v1");
    let new = desk.klipper("v2").build();
    swd_probe::with(0, |probe| probe.cut = Some((probe.from_now(When::Command(4000)), Cut::Probe)));
    let error = refused(desk.flash(&new), ExitCode::Write, &FailureKind::LinkLost);
    assert_eq!(error.board, BoardState::Incomplete(kflash::plan::WayBack::Swd));
    swd_probe::with(0, |probe| probe.cut = None);
    assert_eq!(desk.flash(&new).unwrap().outcome, Outcome::Flashed);
    assert_eq!(desk.runs(), version("v2"));
}

#[test]
fn a_board_that_lost_its_supply_is_installed_anew() {
    let mut desk = Desk::blank("btt-skr-mini-e3-v3");
    desk.force = true;
    let (bootloader, application) = (desk.katapult().build(), desk.klipper("v1").build());
    let all = swd_probe::with(0, |probe| probe.transfers);
    desk.install(&bootloader, Some(&application)).unwrap();
    let all = swd_probe::with(0, |probe| probe.transfers) - all;
    for at in (1..8).map(|index| all * index / 10) {
        swd_probe::with(0, |probe| probe.cut = Some((probe.from_now(When::Transfer(at)), Cut::Power)));
        assert!(desk.install(&bootloader, Some(&application)).is_err(), "cut at {at} of {all}");
        swd_probe::with(0, |probe| {
            probe.cut = None;
            probe.target.power(true).unwrap();
        });
        desk.install(&bootloader, Some(&application)).unwrap_or_else(|error| panic!("after a cut at {at}: {error}"));
        assert_eq!(desk.runs(), version("v1"), "after a cut at {at}");
    }
}

#[test]
fn a_backup_is_the_whole_flash_and_the_chip_runs_on() {
    let desk = octopus("v1");
    let backup = desk.back_up().unwrap();
    assert_eq!(backup.range, desk.chip.flash());
    assert!(backup.bytes == desk.holds(FLASH, 0x8_0000));
    assert!(backup.runs);
    assert_eq!(desk.runs(), version("v1"));
}

#[test]
fn every_obstacle_has_an_exit_code_and_a_kind_of_its_own() {
    let application = |desk: &Desk| desk.klipper("v2").build();

    let desk = octopus("v1");
    let image = application(&desk);
    swd_probe::with(0, |probe| probe.accessible = false);
    let error = refused(
        desk.flash(&image),
        ExitCode::Denied,
        &FailureKind::ProbeDenied { probe: "1209:da43:SIM00001 (simulated probe)".into() },
    );
    assert_eq!(error.board, BoardState::Untouched);

    let desk = octopus("v1");
    swd_probe::with(0, |probe| probe.held = true);
    refused(desk.flash(&image), ExitCode::Busy, &FailureKind::ProbeHeld);

    let mut desk = octopus("v1");
    let other = Target::new(&desk.chip, &[], Options::default()).unwrap();
    swd_probe::plug("SIM00002", other);
    let error = refused(desk.flash(&image), ExitCode::Refused, &FailureKind::SeveralProbes);
    assert_eq!(error.details.len(), 2);
    desk.probe = Some(":SIM00001".parse().unwrap());
    assert_eq!(desk.flash(&image).unwrap().outcome, Outcome::Flashed);
    desk.probe = Some(":SIM00003".parse().unwrap());
    refused(desk.flash(&image), ExitCode::NotFound, &FailureKind::NoProbe);

    for (trouble, exit, kind) in [
        (Trouble { absent: true, ..Trouble::default() }, ExitCode::NotFound, FailureKind::NoChip),
        (Trouble { held_in_reset: true, ..Trouble::default() }, ExitCode::Enter, FailureKind::HeldInReset),
    ] {
        let desk = octopus("v1");
        swd_probe::with(0, |probe| probe.target.set_trouble(trouble).unwrap());
        refused(desk.flash(&image), exit, &kind);
    }

    // An F407 where the board has an F446.
    let desk = octopus("v1");
    let (_, f407) = kflash::boards::find("btt-skr-2-f407").unwrap();
    swd_probe::with(0, |probe| probe.target = Target::new(&f407, &[], Options::default()).unwrap());
    refused(desk.flash(&image), ExitCode::Refused, &FailureKind::WrongChip);

    let desk = Desk::with(OCTOPUS, Options { read_protected: true, ..Options::default() }, |_, _| Vec::new());
    let error = refused(desk.flash(&image), ExitCode::Refused, &FailureKind::Locked);
    assert_eq!(error.board, BoardState::Untouched);
    refused(desk.back_up().map(|_| panic!("it was read")), ExitCode::Refused, &FailureKind::Locked);
}

#[test]
fn a_locked_chip_is_installed_anew_once_it_is_unlocked() {
    let options = Options { read_protected: true, ..Options::default() };
    let mut desk = Desk::with(OCTOPUS, options, |profile, chip| vec![(FLASH, katapult(profile, chip).build())]);
    let (bootloader, application) = (desk.katapult().build(), desk.klipper("v1").build());
    refused(desk.install(&bootloader, Some(&application)), ExitCode::Refused, &FailureKind::Locked);
    desk.unlock = true;
    desk.install(&bootloader, Some(&application)).unwrap();
    assert_eq!(desk.runs(), version("v1"));
}

#[test]
fn a_write_protected_sector_is_refused_before_anything_is_erased() {
    for board in [OCTOPUS, "btt-skr-mini-e3-v2", "btt-skr-mini-e3-v3"] {
        let (profile, _) = kflash::boards::find(board).unwrap();
        let installed = profile.bootloaders.iter().find(|it| it.id == "katapult").unwrap();
        // The second sector of the application, so that the first could have been erased already.
        let at = installed.app_start.0 + 0x4000;
        let protected = FlashRange { start: FlashAddr(at), size: FlashSize(8) };
        let options = Options { write_protected: vec![protected], ..Options::default() };
        let desk = Desk::with(board, options, |profile, chip| {
            vec![
                (FLASH, katapult(profile, chip).build()),
                (installed.app_start.0, klipper(profile, chip, "v1").build()),
            ]
        });
        let at_first = desk.holds(FLASH, 0x2_0000);
        let (bootloader, application) = (desk.katapult().build(), desk.klipper("v2").size(0x6000).build());
        for result in [desk.flash(&application), desk.install(&bootloader, Some(&application))] {
            let error = refused(result, ExitCode::Refused, &FailureKind::CheckFailed);
            assert!(
                error.details.iter().any(|line| line.contains("option bytes protect 0x0800")),
                "{:?}",
                error.details
            );
            assert_eq!(error.board, BoardState::RunsAsBefore, "{board}");
        }
        assert!(desk.holds(FLASH, 0x2_0000) == at_first, "{board}");
        assert_eq!(desk.runs(), version("v1"), "{board}");
        // What does not need that sector is flashed.
        desk.install(&bootloader, None).unwrap_or_else(|error| panic!("{board}: {error}: {:?}", error.details));
    }
}

#[test]
fn a_chip_that_kflash_has_no_definition_for_is_told_before_a_probe_is_looked_for() {
    let mut desk = octopus("v1");
    (desk.profile, desk.chip) = kflash::boards::find("btt-skr-pico").unwrap();
    let image = desk.klipper("v1").build();
    let error = refused(desk.flash(&image), ExitCode::Usage, &FailureKind::NoDefinition);
    assert!(error.to_string().contains(&desk.chip.id), "{error}");
}

#[test]
fn firmware_for_a_uart_needs_to_be_told_where_it_will_answer() {
    let desk = octopus("v1");
    let image = desk.klipper("v2").built_for(BuiltFor::Uart(250_000)).build();
    let error = refused(desk.flash(&image), ExitCode::Refused, &FailureKind::Ambiguous);
    assert!(error.to_string().contains("UART"), "{error}");
    assert_eq!(swd_probe::with(0, |probe| probe.attaches), 0);
}

#[test]
fn a_board_that_does_not_come_back_is_lost_and_not_flashed() {
    let desk = octopus("v1");
    let image = desk.klipper("v2").build();
    // Its own cable is not plugged in.
    desk.host.unplug();
    let error = refused(desk.flash(&image), ExitCode::Lost, &FailureKind::DidNotReturn);
    assert_eq!(error.board, BoardState::Written);
    assert!(error.to_string().contains(SERIAL), "{error}");
    assert!(desk.holds(APP, image.len()) == image);
}
