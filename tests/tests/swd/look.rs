//! What a chip holds, told through a debug probe without a change to it: the route that fits, the plan, the bytes.

use kflash::board::BootloaderKind;
use kflash::event::Event;
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Outcome};
use kflash_sim::firmware::TestImage;
use kflash_sim::swd::{CoreState, Options, Trouble};
use tests::swd_probe;

use crate::desk::{Desk, katapult, klipper};

const OCTOPUS: &str = "btt-octopus-v1.1-f446";
const FLASH: u32 = 0x0800_0000;
const APP: u32 = 0x0800_8000;

fn octopus(version: &str) -> Desk {
    Desk::with(OCTOPUS, Options::default(), |profile, chip| {
        vec![(FLASH, katapult(profile, chip).build()), (APP, klipper(profile, chip, version).build())]
    })
}

fn trouble(trouble: Trouble) {
    swd_probe::with(0, |probe| probe.target.set_trouble(trouble).unwrap());
}

/// Instructions that the core has executed: it was not stopped if they go on, and not reset if nothing starts anew.
fn runs_on(desk: &Desk, act: impl FnOnce(&Desk)) {
    let state = || swd_probe::with(0, |probe| (probe.target.core(), probe.target.is_debugged()));
    let resets = || swd_probe::with(0, |probe| probe.target.resets());
    swd_probe::with(0, |probe| probe.target.run().unwrap());
    let before = (state(), resets());
    act(desk);
    assert_eq!((state(), resets()), before);
    assert_eq!(state(), (CoreState::Running, false));
}

fn refused<T>(result: Result<T, FlashError>, exit: ExitCode, kind: &FailureKind) -> FlashError {
    let Err(error) = result else { panic!("it is not refused") };
    assert_eq!((error.exit, &error.kind), (exit, kind), "{error}: {:?}", error.details);
    error
}

#[test]
fn the_route_is_the_first_that_fits_what_the_chip_holds() {
    runs_on(&octopus("v1"), |desk| {
        let (route, checks) = desk.route(false).unwrap();
        assert_eq!(route.id, "katapult-usb");
        assert!(checks.iter().any(|check| check.evidence.contains("Katapult, by its signature")), "{checks:?}");
    });
    // Katapult alone, and nothing at all.
    let desk = Desk::with(OCTOPUS, Options::default(), |profile, chip| vec![(FLASH, katapult(profile, chip).build())]);
    assert_eq!(desk.route(false).unwrap().0.id, "katapult-usb");
    let desk = Desk::blank(OCTOPUS);
    assert_eq!(desk.route(false).unwrap().0.id, "dfu");
    // An application for the flash's start, where no vendor's bootloader could be meant.
    let bare = |_: &_, _: &_| vec![(FLASH, TestImage::klipper("stm32g0b1xx", FLASH).build())];
    assert_eq!(Desk::with("btt-ebb36-v1.2", Options::default(), bare).route(false).unwrap().0.id, "dfu");
}

#[test]
fn a_vendors_bootloader_is_told_by_its_application() {
    const E3: &str = "btt-skr-mini-e3-v3";
    let vendor = TestImage::klipper("stm32g0b1xx", FLASH).build();
    let with_application = vec![(FLASH, vendor.clone()), (FLASH + 0x2000, vendor.clone())];
    let desk = Desk::with(E3, Options::default(), |_, _| with_application);
    let (route, _) = desk.route(false).unwrap();
    assert_eq!(desk.profile.bootloader_of(&route).unwrap().kind, BootloaderKind::Vendor);
    // Without one, it may be an application: which, only a person can say.
    let desk = Desk::with(E3, Options::default(), |_, _| vec![(FLASH, vendor)]);
    let error = refused(desk.route(false), ExitCode::Refused, &FailureKind::CheckFailed);
    assert!(error.details.iter().any(|line| line.contains("name the route")), "{:?}", error.details);
}

#[test]
fn a_chip_that_will_be_unlocked_counts_as_blank() {
    let options = Options { read_protected: true, ..Options::default() };
    let mut desk = Desk::with(OCTOPUS, options, |profile, chip| vec![(FLASH, katapult(profile, chip).build())]);
    refused(desk.route(true), ExitCode::Refused, &FailureKind::Locked);
    desk.unlock = true;
    assert_eq!(desk.route(true).unwrap().0.id, "dfu");
    assert!(!desk.holds(FLASH, 0x100).iter().all(|byte| *byte == 0xff), "it was not erased for that");
}

#[test]
fn a_chip_whose_firmware_took_the_pins_is_reset_only_where_it_may_be() {
    let desk = octopus("v1");
    trouble(Trouble { takes_pins: true, ..Trouble::default() });
    swd_probe::with(0, |probe| probe.target.run().unwrap());
    let mut warned = Vec::new();
    let (route, _) = desk.route_with(false, &mut |event| warned.push(event)).unwrap();
    assert_eq!(route.id, "katapult-usb", "the profile's first");
    let told = |event: &Event| matches!(event, Event::Warning { text } if text.contains("a reset would tell"));
    assert!(warned.iter().any(told), "{warned:?}");
    refused(desk.verify(&desk.klipper("v1").build(), false), ExitCode::NotFound, &FailureKind::NoChip);
    assert!(!desk.plan(&desk.klipper("v2").build()).unwrap().already_current);

    let bare = |_: &_, _: &_| vec![(FLASH, TestImage::klipper("stm32g0b1xx", FLASH).build())];
    let desk = Desk::with("btt-ebb36-v1.2", Options::default(), bare);
    trouble(Trouble { takes_pins: true, ..Trouble::default() });
    swd_probe::with(0, |probe| probe.target.run().unwrap());
    assert_eq!(desk.route(true).unwrap().0.id, "dfu");
    assert_eq!(swd_probe::with(0, |probe| probe.target.core()), CoreState::Running, "it was started again");
}

#[test]
fn a_plan_is_whole_and_touches_nothing() {
    runs_on(&octopus("v1"), |desk| {
        let plan = desk.plan(&desk.klipper("v2").build()).unwrap();
        assert_eq!((plan.bootloader, plan.already_current), (BootloaderKind::Katapult, false));
        let open: Vec<_> =
            plan.checks.iter().filter(|check| check.verdict == kflash::event::Verdict::Pending).collect();
        assert!(open.is_empty(), "{open:?}");
        assert!(desk.plan(&desk.klipper("v1").build()).unwrap().already_current);
        let bare = TestImage::klipper("stm32f446xx", FLASH).build();
        let error = refused(desk.plan(&bare), ExitCode::Refused, &FailureKind::CheckFailed);
        assert!(error.details[0].contains("Katapult"), "{:?}", error.details);
    });
}

#[test]
fn every_byte_is_compared_while_the_chip_runs() {
    runs_on(&octopus("v1"), |desk| {
        let image = desk.klipper("v1").build();
        let report = desk.verify(&image, false).unwrap();
        assert_eq!((report.outcome, report.now), (Outcome::BytesMatch, None));
        let error = refused(desk.verify(&desk.klipper("v2").build(), false), ExitCode::Verify, &FailureKind::Mismatch);
        assert_eq!(error.board, BoardState::RunsAsBefore);
        assert!(error.to_string().contains("flash differs from the image at 0x0800"), "{error}");
    });
}

#[test]
fn a_chip_that_is_lost_meanwhile_is_told() {
    let desk = octopus("v1");
    let image = desk.klipper("v1").build();
    let all = {
        let before = swd_probe::with(0, |probe| probe.commands);
        desk.verify(&image, false).unwrap();
        swd_probe::with(0, |probe| probe.commands) - before
    };
    for at in [all / 3, all / 2, all * 3 / 4] {
        let cut = |probe: &mut swd_probe::SimProbe| {
            probe.cut = Some((probe.from_now(swd_probe::When::Command(at)), swd_probe::Cut::Mute));
        };
        swd_probe::with(0, cut);
        refused(desk.verify(&image, false), ExitCode::Enter, &FailureKind::LinkLost);
        swd_probe::with(0, |probe| probe.cut = None);
    }
}
