//! Everything that must be refused before the first write, each by the check that is about it and by no other.

#![expect(clippy::unwrap_used, reason = "tests")]

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::discover::{Device, Mode, Place, UsbId, UsbIdentity};
use kflash::event::Verdict;
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::plan::{self, Fate, Known, Op, Plan, Refusal, Target, WayBack};
use kflash::proto::{Access, Protocol, Sector, TargetInfo};
use kflash::query::{Resident, RunningFirmware};
use kflash_sim::firmware::TestImage;

const F446: &str = "stm32f446xx";

fn board(id: &str) -> (Profile, Chip) {
    kflash::boards::find(id).unwrap()
}

fn image(recipe: &TestImage) -> Image {
    Image::parse(&recipe.build()).unwrap()
}

fn device(mode: Mode) -> Device {
    let usb = UsbIdentity {
        id: UsbId::new(0x1d50, 0x614e),
        revision: 0x0100,
        bus: 1,
        number: 5,
        manufacturer: Some("Klipper".into()),
        product: Some(F446.into()),
        serial: Some("230046000E50535556323420".into()),
    };
    let usb = (mode != Mode::Unknown).then_some(usb);
    Device { place: Place::Usb("1-1.4".parse().unwrap()), mode, usb, tty: None, usbfs: None, mcu: None }
}

fn running(recipe: &TestImage, app_start: u32, resident: Option<Resident>) -> RunningFirmware {
    let dictionary = image(recipe).dictionary.unwrap();
    RunningFirmware { dictionary, app_start: Some(FlashAddr(app_start)), flash_size: None, uid: None, resident }
}

/// A DfuSe target with this chip's layout, whose flash begins with `head`.
fn dfu(chip: &Chip, head: Option<Vec<u8>>) -> Target {
    let access = Access { read: true, erase: true, write: true };
    let sectors = chip.sectors().map(|range| Sector { range, access }).collect();
    let info = TargetInfo {
        protocol: Protocol::Dfuse,
        version: None,
        mcu: None,
        app_start: None,
        block_size: FlashSize(2048),
        sectors,
    };
    Target { info, usb: None, head }
}

fn katapult(mcu: &str, app_start: u32) -> Target {
    let info = TargetInfo {
        protocol: Protocol::Katapult,
        version: Some("v0.0.1-109".into()),
        mcu: Some(mcu.into()),
        app_start: Some(FlashAddr(app_start)),
        block_size: FlashSize(64),
        sectors: Vec::new(),
    };
    Target { info, usb: None, head: None }
}

/// The first bytes of a flash that holds Katapult.
fn katapult_head() -> Vec<u8> {
    TestImage::katapult(F446, 0x0800_0000).build()
}

struct Case {
    board: &'static str,
    image: Image,
    mode: Mode,
    running: Option<RunningFirmware>,
    target: Option<Target>,
    /// The MCU that the device's product string names.
    shown_mcu: Option<&'static str>,
}

impl Case {
    /// An Octopus that runs an older Klipper behind Katapult, and a fitting image.
    fn octopus() -> Self {
        let older = TestImage::klipper(F446, 0x0800_8000).version("v0.12.0-1-gaaaaaaaa");
        Self {
            board: "btt-octopus-v1.1-f446",
            image: image(&TestImage::klipper(F446, 0x0800_8000)),
            mode: Mode::Klipper,
            running: Some(running(&older, 0x0800_8000, Some(Resident::Katapult))),
            target: None,
            shown_mcu: None,
        }
    }

    fn plan(&self) -> Result<Plan, Refusal> {
        let (profile, chip) = board(self.board);
        let device = Device { mcu: self.shown_mcu.map(str::to_owned), ..device(self.mode) };
        plan::make(&Known {
            profile: &profile,
            chip: &chip,
            image: &self.image,
            device: &device,
            running: self.running.as_ref(),
            target: self.target.as_ref(),
        })
    }

    /// Asserts that this check, and no other, disagrees.
    #[track_caller]
    fn refused_by(&self, name: &str) {
        let refusal = self.plan().expect_err("must be refused");
        let names: Vec<_> = refusal.disagreements().map(|check| check.name.as_str()).collect();
        assert_eq!(names, [name], "{refusal:#?}");
    }
}

#[test]
fn a_fitting_image_is_planned_in_the_interruption_safe_order() {
    let plan = Case::octopus().plan().unwrap();
    assert_eq!(plan.route.id, "katapult-usb");
    assert!(!plan.already_current);
    let range = |start: u32, end: u32| FlashRange::between(FlashAddr(start), FlashAddr(end)).unwrap();
    let ops: Vec<_> = plan.operations.iter().map(|planned| (planned.op, planned.way_back)).collect();
    let written = range(0x0800_8000, 0x0800_8000 + 44_544);
    assert_eq!(
        ops,
        [
            (Op::Invalidate { block: range(0x0800_8000, 0x0800_8040) }, WayBack::Cable),
            (Op::Write { range: range(0x0800_C000, written.end().0) }, WayBack::Cable),
            (Op::Write { range: range(0x0800_8000, 0x0800_C000) }, WayBack::DoubleReset),
            (Op::Finish, WayBack::DoubleReset),
            (Op::ReadBack { range: written }, WayBack::Cable),
            (Op::Start { addr: FlashAddr(0x0800_8000) }, WayBack::Cable),
        ]
    );
}

#[test]
fn the_regions_cover_the_flash_without_gap() {
    let plan = Case::octopus().plan().unwrap();
    let (_, chip) = board("btt-octopus-v1.1-f446");
    let mut next = chip.flash_start;
    for region in &plan.regions {
        assert_eq!(region.range.start, next);
        next = region.range.end();
    }
    assert_eq!(next, chip.flash().end());
    assert_eq!(plan.regions[0].fate, Fate::Kept, "the bootloader is kept");
}

#[test]
fn an_image_within_one_page_is_not_invalidated_first() {
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_8000).size(8000));
    let plan = case.plan().unwrap();
    assert!(matches!(plan.operations[0].op, Op::Write { .. }));
    assert_eq!(plan.operations[0].way_back, WayBack::DoubleReset);
}

#[test]
fn dfu_erases_the_first_sector_first_and_writes_the_first_block_last() {
    let start = 0x0800_0000;
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, start));
    case.running = Some(running(&TestImage::klipper(F446, start).version("v0.11.0"), start, None));
    let (_, chip) = board(case.board);
    case.target = Some(dfu(&chip, Some(vec![0; 1024])));
    let plan = case.plan().unwrap();
    let ops: Vec<_> = plan.operations.iter().map(|planned| planned.op).collect();
    let sectors: Vec<_> = chip.sectors().take(3).map(|sector| Op::Erase { sector }).collect();
    assert_eq!(ops[..3], sectors, "44.5 KB lie in three sectors of 16 KiB");
    let writes: Vec<_> =
        ops.iter().filter_map(|op| if let Op::Write { range } = op { Some(range.start.0) } else { None }).collect();
    assert_eq!(writes, [start + 2048, start]);
    assert!(plan.operations[..5].iter().all(|planned| planned.way_back == WayBack::Boot0), "F4 boots blank flash");
    assert_eq!(ops.last(), Some(&Op::Start { addr: FlashAddr(start) }));
}

#[test]
fn the_running_dictionary_makes_an_image_current() {
    let mut case = Case::octopus();
    case.running = Some(running(&TestImage::klipper(F446, 0x0800_8000), 0x0800_8000, Some(Resident::Katapult)));
    assert!(case.plan().unwrap().already_current);
}

#[test]
fn before_entering_the_bootloader_its_checks_are_pending() {
    let plan = Case::octopus().plan().unwrap();
    let pending: Vec<_> =
        plan.checks.iter().filter(|check| check.verdict == Verdict::Pending).map(|check| check.name.as_str()).collect();
    assert_eq!(pending, ["Katapult starts the application there", "Katapult's MCU is this board's"]);
}

#[test]
fn image_for_another_mcu() {
    let mut case = Case::octopus();
    case.image = image(&TestImage { mcu: "stm32f407xx".into(), ..TestImage::klipper(F446, 0x0800_8000) });
    case.refused_by("image is for this board's MCU");
}

#[test]
fn image_without_a_dictionary() {
    let mut case = Case::octopus();
    case.image = image(&TestImage::katapult(F446, 0x0800_8000));
    let refusal = case.plan().unwrap_err();
    assert!(refusal.disagreements().any(|check| check.name == "image is a Klipper application"));
}

#[test]
fn image_for_another_offset() {
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0801_0000));
    case.refused_by("image start is one of this board's");
}

#[test]
fn image_for_a_bootloader_that_no_route_leads_behind() {
    let mut case = Case::octopus();
    case.board = "creality-v4.2.7";
    case.mode = Mode::Unknown;
    case.running = None;
    let recipe = TestImage::klipper("stm32f103xe", 0x0800_7000).built_for(BuiltFor::Uart(250_000));
    case.image = image(&recipe);
    case.refused_by("a route leads behind the installed bootloader");
    let refusal = case.plan().unwrap_err();
    let evidence = &refusal.disagreements().next().unwrap().evidence;
    assert!(evidence.contains("behind vendor at 0x08007000"), "{evidence}");
    assert!(evidence.contains("katapult-uart for 0x08002000"), "{evidence}");
}

#[test]
fn image_for_another_installed_bootloader() {
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_0000));
    case.refused_by("image starts where the running application does");
}

#[test]
fn image_for_a_uart_over_usb() {
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_8000).built_for(BuiltFor::Uart(250_000)));
    case.refused_by("image talks over the cable in use");
}

#[test]
fn image_for_can() {
    for built_for in [BuiltFor::Can, BuiltFor::CanBridge] {
        let mut case = Case::octopus();
        case.image = image(&TestImage::klipper(F446, 0x0800_8000).built_for(built_for));
        case.refused_by("image talks over the cable in use");
    }
}

#[test]
fn image_that_does_not_fit() {
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_8000).size(500 * 1024));
    case.refused_by("image fits the application region");
}

#[test]
fn image_larger_than_the_chip_says() {
    let mut case = Case::octopus();
    case.running.as_mut().unwrap().flash_size = Some(FlashSize(64 * 1024));
    case.refused_by("chip's flash is large enough");
}

#[test]
fn stack_pointer_outside_ram() {
    let mut case = Case::octopus();
    case.image.vector_table.as_mut().unwrap().stack_pointer = FlashAddr(0x2000_0000);
    case.refused_by("vector table is sane");
}

#[test]
fn reset_vector_outside_the_image() {
    let mut case = Case::octopus();
    case.image.vector_table.as_mut().unwrap().reset = FlashAddr(0x0800_0101);
    case.refused_by("vector table is sane");
}

#[test]
fn device_with_another_mcu() {
    let mut case = Case::octopus();
    let other = TestImage { mcu: "stm32h723xx".into(), ..TestImage::klipper(F446, 0x0800_8000) };
    case.running = Some(running(&other, 0x0800_8000, Some(Resident::Katapult)));
    case.refused_by("device's MCU is this board's");
}

#[test]
fn device_that_shows_another_mcu_and_does_not_answer() {
    let mut case = Case::octopus();
    case.running = None;
    case.shown_mcu = Some("stm32h723xx");
    case.refused_by("device's MCU is this board's");
    case.shown_mcu = Some(F446);
    case.plan().unwrap();
}

#[test]
fn nothing_resident_before_the_application() {
    let mut case = Case::octopus();
    case.running.as_mut().unwrap().resident = Some(Resident::Nothing);
    case.refused_by("resident bootloader is the one presumed");
}

#[test]
fn in_dfu_the_resident_bootloader_is_read() {
    let (_, chip) = board("btt-octopus-v1.1-f446");
    let mut case = Case::octopus();
    case.mode = Mode::Dfu;
    case.running = None;
    case.target = Some(dfu(&chip, Some(vec![0xff; 16 * 1024])));
    case.refused_by("resident bootloader is the one presumed");
    case.target = Some(dfu(&chip, Some(katapult_head())));
    assert_eq!(case.plan().unwrap().route.id, "katapult-dfu");
}

#[test]
fn katapult_that_starts_elsewhere() {
    let mut case = Case::octopus();
    case.target = Some(katapult(F446, 0x0800_4000));
    case.refused_by("Katapult starts the application there");
}

#[test]
fn katapult_of_another_mcu() {
    let mut case = Case::octopus();
    case.target = Some(katapult("stm32f407xx", 0x0800_8000));
    case.refused_by("Katapult's MCU is this board's");
}

#[test]
fn katapult_whose_blocks_do_not_end_with_a_page() {
    // Its first page would be invalidated before the rest is found not to begin with a block.
    let mut case = Case::octopus();
    let mut target = katapult(F446, 0x0800_8000);
    target.info.block_size = FlashSize(100);
    case.target = Some(target);
    case.refused_by("Katapult's blocks fill the flash's pages");
}

#[test]
fn katapult_that_an_image_for_no_bootloader_would_overwrite() {
    let (_, chip) = board("btt-octopus-v1.1-f446");
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_0000));
    case.mode = Mode::Dfu;
    case.running = None;
    case.target = Some(dfu(&chip, Some(katapult_head())));
    case.refused_by("no Katapult is overwritten");
    case.target = Some(dfu(&chip, Some(TestImage::klipper(F446, 0x0800_0000).build())));
    assert_eq!(case.plan().unwrap().route.id, "dfu");
}

#[test]
fn a_dfu_bootloader_of_another_maker() {
    let (_, chip) = board("btt-octopus-v1.1-f446");
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_0000));
    case.mode = Mode::Dfu;
    case.running = None;
    let shows = |vendor, product| {
        let usb = UsbIdentity { id: UsbId::new(vendor, product), ..device(Mode::Dfu).usb.unwrap() };
        Some(Target { usb: Some(usb), ..dfu(&chip, Some(vec![0; 1024])) })
    };
    case.target = shows(0x28e9, 0x0189);
    case.refused_by("bootloader in ROM is ST's");
    case.target = shows(0x0483, 0xdf11);
    case.plan().unwrap();
}

#[test]
fn the_dfu_serial_that_follows_from_the_chip_id_proves_the_chip() {
    let name = "chip in DFU is the one that ran Klipper";
    let (_, chip) = board("btt-ebb36-v1.2");
    let mcu = chip.mcu[0].as_str();
    let start = chip.flash_start.0;
    let older = TestImage::klipper(mcu, start).version("v0.12.0-1-gaaaaaaaa");
    // A chip and its DFU serial number, as seen: 2B0007000C50425539393020 and 203739645542.
    let uid = [0x0007_002b, 0x5542_500c, 0x2030_3939];
    let verdict = |target: Option<&str>, uid| {
        let target = target.map(|serial| {
            let usb = UsbIdentity {
                id: UsbId::new(0x0483, 0xdf11),
                serial: Some(serial.into()),
                ..device(Mode::Dfu).usb.unwrap()
            };
            Target { usb: Some(usb), ..dfu(&chip, Some(vec![0; 1024])) }
        });
        let case = Case {
            board: "btt-ebb36-v1.2",
            image: image(&TestImage::klipper(mcu, start)),
            running: Some(RunningFirmware { uid, ..running(&older, start, None) }),
            target,
            ..Case::octopus()
        };
        let plan = case.plan().unwrap();
        plan.checks.iter().find(|check| check.name == name).map(|check| check.verdict)
    };
    assert_eq!(verdict(None, Some(uid)), Some(Verdict::Pending));
    assert_eq!(verdict(Some("203739645542"), Some(uid)), Some(Verdict::Agrees));
    assert_eq!(verdict(Some("203739645543"), Some(uid)), Some(Verdict::NotProvable), "a mismatch proves nothing");
    assert_eq!(verdict(Some("203739645542"), None), Some(Verdict::NotProvable));
}

#[test]
fn no_check_is_pending_once_the_bootloader_is_entered() {
    let (_, chip) = board("btt-octopus-v1.1-f446");
    for target in [katapult(F446, 0x0800_8000), dfu(&chip, Some(katapult_head()))] {
        let mut case = Case::octopus();
        // Firmware that cannot tell what it runs behind.
        case.running.as_mut().unwrap().resident = None;
        case.running.as_mut().unwrap().app_start = None;
        assert!(case.plan().unwrap().checks.iter().any(|check| check.verdict == Verdict::Pending));
        case.target = Some(target);
        let plan = case.plan().unwrap();
        assert!(plan.checks.iter().all(|check| check.verdict != Verdict::Pending), "{:#?}", plan.checks);
    }
}

#[test]
fn whole_blocks_past_the_end_of_the_address_space() {
    let (mut profile, mut chip) = board("btt-octopus-v1.1-f446");
    let start = FlashAddr(0xffff_0000);
    chip.flash_start = start;
    chip.sectors = "63*1K".to_owned().try_into().unwrap();
    profile.bootloaders.retain(|bootloader| bootloader.id == "katapult");
    profile.bootloaders[0].app_start = start;
    profile.routes.retain(|route| route.bootloader == "katapult");
    let mut image = image(&TestImage::klipper(F446, 0x0800_8000).size(0xffff));
    image.start = None;
    let device = device(Mode::Klipper);
    let known = Known { profile: &profile, chip: &chip, image: &image, device: &device, running: None, target: None };
    let refusal = plan::make(&known).unwrap_err();
    let names: Vec<_> = refusal.disagreements().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["image fits the flash"]);
}

#[test]
fn read_protected_chip() {
    let (_, chip) = board("btt-octopus-v1.1-f446");
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_0000));
    case.mode = Mode::Dfu;
    case.running = None;
    case.target = Some(dfu(&chip, None));
    case.refused_by("chip is not read-protected");
    assert!(case.plan().unwrap_err().protected);
}

#[test]
fn sectors_that_the_bootloader_does_not_let_erase() {
    let (_, chip) = board("btt-octopus-v1.1-f446");
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_0000));
    case.mode = Mode::Dfu;
    case.running = None;
    let mut target = dfu(&chip, Some(vec![0; 1024]));
    target.info.sectors[1].access.erase = false;
    case.target = Some(target);
    case.refused_by("flash can be read, erased and written there");
}

#[test]
fn a_bootloader_of_another_chip() {
    let (_, other) = board("btt-skr-mini-e3-v3");
    let mut case = Case::octopus();
    case.image = image(&TestImage::klipper(F446, 0x0800_0000));
    case.mode = Mode::Dfu;
    case.running = None;
    case.target = Some(dfu(&other, Some(vec![0; 1024])));
    case.refused_by("flash geometry is this chip's");
}

#[test]
fn start_off_a_sector_boundary() {
    let (mut profile, chip) = board("btt-octopus-v1.1-f446");
    for bootloader in &mut profile.bootloaders {
        bootloader.app_start = FlashAddr(0x0800_9000);
    }
    let image = image(&TestImage::klipper(F446, 0x0800_9000));
    let device = device(Mode::Klipper);
    let known = Known { profile: &profile, chip: &chip, image: &image, device: &device, running: None, target: None };
    let refusal = plan::make(&known).unwrap_err();
    let names: Vec<_> = refusal.disagreements().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["erasing spares what lies before the application"]);
}
