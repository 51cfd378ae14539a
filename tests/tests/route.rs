//! Which route firmware is to be built for: on every board, with every bootloader that may be installed on it, in every
//! state that it may be found in. A firmware that was built for the answer must flash.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use kflash::board::{BootloaderKind, Cable, Profile};
use kflash::discover::Place;
use kflash::event::Verdict;
use kflash::exit::ExitCode;
use kflash::flash::{FlashError, Flasher, Interrupt, Suggestion, Unheard, Wanted};
use kflash::host::{Holder, Host as _};
use kflash::identify::Selector;
use kflash::proto::Protocol;
use kflash_sim::board::Running;
use kflash_sim::host::Hand;
use tests::bench::{Bench, Scene};

/// What the board on the bench is to be flashed by.
fn ask(bench: &Bench, may_reset: bool) -> Result<Suggestion, FlashError> {
    let request = &bench.request;
    let wanted = Wanted { profile: &request.profile, chip: &request.chip, selectors: &request.selectors, may_reset };
    let interrupt = Interrupt::default();
    Flasher { host: &bench.host, interrupt: &interrupt, hands: false }.route(&wanted, &mut |_| ())
}

/// Every installed bootloader of every board that a route leads behind, by each of the route's cables.
fn every_scene() -> Vec<(Profile, Scene)> {
    let mut scenes = Vec::new();
    for (profile, _) in kflash::boards::builtin().unwrap() {
        for installed in &profile.bootloaders {
            for cable in [Cable::Usb, Cable::Uart] {
                if profile.routes.iter().any(|route| route.bootloader == installed.id && route.cable == cable) {
                    let board: &'static str = profile.id.0.clone().leak();
                    let bootloader = installed.id.clone().leak();
                    let scene = Scene { board, bootloader, cable, size: 9000, in_rom: false };
                    scenes.push((profile.clone(), scene));
                }
            }
        }
    }
    assert!(scenes.len() > 20, "{} scenes", scenes.len());
    scenes
}

/// The first route of the board behind this bootloader, over this cable, by this protocol where one is named.
fn expected<'a>(profile: &'a Profile, scene: &Scene, protocol: Option<Protocol>) -> Option<&'a str> {
    let mut routes = profile.routes.iter().filter(|route| route.bootloader == scene.bootloader);
    let route = routes.find(|route| route.cable == scene.cable && protocol.is_none_or(|it| it == route.protocol));
    route.map(|route| route.id.as_str())
}

/// Firmware that is built for the answer is flashed.
#[track_caller]
fn flashes(bench: &Bench, route: &str) {
    // BOOT0 counts at a reset; the chip stays where it is.
    bench.host.hand(bench.board, Hand::Boot0(false));
    let run = bench.flash();
    assert!(run.result.is_ok(), "{route}: {:?}", run.result);
    assert!(bench.runs_new(), "{route}");
}

#[test]
fn running_firmware_tells() {
    for (profile, scene) in every_scene() {
        let bench = scene.set_up();
        let before = bench.running();
        let told = ask(&bench, true).unwrap_or_else(|error| panic!("{scene:?}: {error}: {:?}", error.details));
        assert_eq!(Some(told.route.id.as_str()), expected(&profile, &scene, None), "{scene:?}: {:?}", told.checks);
        assert_eq!(told.heard.unheard, None);
        assert!(told.checks.iter().all(|check| check.verdict != Verdict::Disagrees), "{:?}", told.checks);
        assert!(told.heard.running.is_some() && told.heard.device.is_some());
        assert_eq!(bench.running(), before, "asking changes nothing");
        assert!(bench.is_unchanged());
        // Neither the lock nor the port is held any longer.
        assert_eq!(bench.plan().unwrap().route.id, told.route.id);
        flashes(&bench, &told.route.id);
    }
}

#[test]
fn a_board_in_katapult_tells() {
    let mut count = 0;
    for (profile, scene) in every_scene() {
        let kind = |profile: &Profile| profile.bootloaders.iter().find(|it| it.id == scene.bootloader).unwrap().kind;
        if kind(&profile) != BootloaderKind::Katapult || scene.cable != Cable::Usb {
            continue;
        }
        let bench = scene.set_up();
        bench.host.hand(bench.board, Hand::DoubleReset(Duration::from_millis(200)));
        bench.host.clock().sleep(Duration::from_secs(3));
        assert_eq!(bench.running(), Running::Katapult, "{scene:?}");
        let told = ask(&bench, true).unwrap_or_else(|error| panic!("{scene:?}: {error}: {:?}", error.details));
        assert_eq!(Some(told.route.id.as_str()), expected(&profile, &scene, Some(Protocol::Katapult)), "{scene:?}");
        assert_eq!((&told.heard.unheard, &told.heard.running), (&None, &None));
        assert_eq!(bench.running(), Running::Katapult, "asking changes nothing");
        flashes(&bench, &told.route.id);
        count += 1;
    }
    assert!(count > 5, "{count} boards");
}

#[test]
fn a_board_in_its_rom_tells_unless_a_bootloader_could_be_overwritten() {
    let (mut told_by, mut refused) = (0, 0);
    for (profile, scene) in every_scene() {
        let Some(route) = expected(&profile, &scene, Some(Protocol::Dfuse)) else { continue };
        let bench = scene.in_rom().set_up();
        let result = ask(&bench, true);
        assert!(bench.is_unchanged());
        let kind = |id: &str| profile.bootloaders.iter().find(|it| it.id == id).unwrap().kind;
        let vendors = profile
            .routes
            .iter()
            .any(|route| kind(&route.bootloader) == BootloaderKind::Vendor && route.protocol == Protocol::Dfuse);
        // An application without a bootloader may be a vendor's bootloader without an application.
        if kind(scene.bootloader) == BootloaderKind::None && vendors {
            let error = result.expect_err("must be refused");
            assert_eq!(error.exit, ExitCode::Refused);
            assert_eq!(error.details.len(), 1, "{:?}", error.details);
            assert!(error.details[0].contains(&format!("name the route: {route}")), "{:?}", error.details);
            refused += 1;
        } else {
            let told = result.unwrap_or_else(|error| panic!("{scene:?}: {error}: {:?}", error.details));
            assert_eq!(told.route.id, route, "{scene:?}: {:?}", told.checks);
            flashes(&bench, route);
            told_by += 1;
        }
    }
    assert!(told_by > 5 && refused > 2, "{told_by} told, {refused} were refused");
}

#[test]
fn a_blank_chip_gets_the_route_without_a_bootloader() {
    for board in ["btt-octopus-v1.1-f446", "fysetc-spider", "btt-skr-mini-e3-v3"] {
        let mut parts = Scene::usb(board, "none", 9000).in_rom().parts();
        parts.blank = true;
        let bench = parts.set_up();
        assert_eq!(ask(&bench, true).unwrap().route.id, "dfu", "{board}");
        flashes(&bench, "dfu");
    }
}

#[test]
fn an_application_where_no_route_leads_is_refused() {
    // A vendor's bootloader that kflash has no way through.
    let mut parts = Scene::uart("creality-v4.2.7", "katapult", 9000).parts();
    parts.profile.bootloaders.retain(|it| it.id == "katapult");
    parts.profile.bootloaders[0].app_start.0 += 0x4000;
    let error = ask(&parts.set_up(), true).expect_err("must be refused");
    assert_eq!(error.exit, ExitCode::Refused);
    let expected = "a route leads to where this board's application starts: running vector table lies at 0x08002000; \
        routes: katapult-uart for 0x08006000";
    assert_eq!(error.details, [expected]);
}

#[test]
fn what_is_not_heard_is_said_and_the_profile_decides() {
    let scene = Scene::usb("fysetc-spider", "vendor-64k", 9000);
    let unheard = |bench: &Bench, may_reset| {
        let told = ask(bench, may_reset).unwrap();
        assert_eq!(told.heard.running, None);
        (told.route.id, told.heard.unheard.map(|unheard| unheard.to_string()).unwrap_or_default())
    };

    // klippy has the port.
    let bench = scene.set_up();
    let node = bench.host.scan().unwrap().devices[0].tty.clone().unwrap().node;
    bench.host.hold(node.clone(), Holder { pid: 812, name: "klippy".into() });
    assert_eq!(unheard(&bench, true), ("katapult-usb".into(), "held by klippy (pid 812)".into()));
    bench.host.let_go(node);
    assert_eq!(ask(&bench, true).unwrap().route.id, "vendor-64k-dfu");

    // Another kflash works on it.
    let place = Place::Usb("1-1.4".parse().unwrap());
    bench.host.lock_by_other(&place, 77);
    assert_eq!(unheard(&bench, true), ("katapult-usb".into(), "another kflash works on 1-1.4 (pid 77)".into()));

    // It is not there.
    let bench = scene.set_up();
    bench.host.hand(bench.board, Hand::Unplug);
    bench.host.clock().sleep(Duration::from_secs(1));
    let (route, why) = unheard(&bench, true);
    assert_eq!(route, "katapult-usb");
    assert!(why.contains("1-1.4"), "{why}");

    // Its port is not opened behind anyone's back.
    let bench = Scene::uart("creality-v4.2.7", "katapult", 9000).set_up();
    let opened = bench.host.counters();
    assert_eq!(unheard(&bench, false), ("katapult-uart".into(), "opening its port may reset it".into()));
    assert_eq!(format!("{:?}", bench.host.counters()), format!("{opened:?}"));
}

#[test]
fn a_device_that_is_ambiguous_is_not_guessed() {
    let mut bench = Scene::usb("btt-octopus-v1.1-f446", "katapult", 9000).in_rom().set_up();
    bench.request.selectors.clear();
    let error = ask(&bench, true).expect_err("every STM32 looks like this");
    assert_eq!(error.exit, ExitCode::Refused);
    bench.request.selectors = vec![Selector::Serial("no such".into())];
    assert!(matches!(ask(&bench, true).unwrap().heard.unheard, Some(Unheard::NoDevice { .. })));
}
