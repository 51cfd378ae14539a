//! kflash's own USB/IP client against the simulator's server: Klipper's CDC and ST's DFU over TCP, with no kernel driver.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use kflash::addr::{FlashAddr, FlashRange, FlashSize};
use kflash::boards;
use kflash::chip::Chip;
use kflash::clock::SystemClock;
use kflash::klipper::client::Client;
use kflash::klipper::request::touch_1200;
use kflash::link::LinkError;
use kflash::link::cdc::CdcLink;
use kflash::link::descriptor::read_strings;
use kflash::link::usbip::{Exported, UsbipLink, list};
use kflash::proto::dfuse::{DfuSe, rom_serial};
use kflash::proto::katapult::Katapult;
use kflash::proto::{Bootloader, ProtoError};
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::dfu_variant::{DfuVariant, Leave};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::usbip::server::Server;
use kflash_sim::mount::{self, Mount, QUEUE};

const UID: [u8; 12] = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";

fn octopus(bootloader: &str, application: Option<u32>, known: &[(u32, Vec<u8>)]) -> (Contents, Chip) {
    let (_, chip) = boards::find("btt-octopus-v1.1-f446").unwrap();
    let application = application.map(|start| (start, TestImage::klipper("stm32f446xx", start).build()));
    (Contents { bootloader: bootloader.into(), application, known: known.to_vec(), uid: UID }, chip)
}

/// Serves a board that was just switched on, for as long as the process runs; gives the server's address.
fn serve(contents: Contents, chip: Chip, options: Options, boot0: bool) -> String {
    let (profile, _) = boards::find("btt-octopus-v1.1-f446").unwrap();
    let (tell_address, address) = channel();
    thread::spawn(move || {
        let mut board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
        board.set_boot0(boot0);
        board.power(Duration::ZERO, true);
        let mut live = Live::new(board, chip, Duration::from_secs(2), "1-1".parse().unwrap(), None, Box::new(|_| ()));
        let (sender, queue) = sync_channel(QUEUE);
        let server = Server::listen("127.0.0.1:0".parse().unwrap(), &sender).unwrap();
        tell_address.send(server.address().to_string()).unwrap();
        mount::serve(&mut live, Mount::Usbip(server), &sender, &queue).unwrap();
    });
    address.recv().unwrap()
}

/// The one exported device, as soon as it is another than `before`.
fn appears(server: &str, before: Option<&Exported>) -> Exported {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        match list(server).unwrap().pop() {
            Some(device) if before.is_none_or(|before| before.id != device.id) => return device,
            _ => assert!(Instant::now() < give_up, "no device appears"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn open(server: &str) -> UsbipLink {
    UsbipLink::open(server, "1-1").unwrap()
}

#[test]
fn klipper_is_identified_touched_and_followed_into_katapult() {
    let (contents, chip) = octopus("katapult", Some(0x0800_8000), &[]);
    let server = serve(contents, chip, Options::default(), false);
    let klipper = appears(&server, None);
    assert_eq!(klipper.id.to_string(), "1d50:614e");

    let clock = SystemClock::new();
    let cdc = CdcLink::open(Box::new(open(&server)), 250_000).unwrap();
    let client = Client::connect(Box::new(cdc), &clock, Duration::from_secs(5)).unwrap();
    assert_eq!(client.dictionary().mcu(), Some("stm32f446xx"));
    let mut link = client.into_link();
    touch_1200(link.as_mut(), &clock).unwrap();
    // Whatever comes first, the end of the stream or the silence of a device that is gone, the link does not hang.
    let mut buf = [0; 64];
    let give_up = Instant::now() + Duration::from_secs(5);
    while !matches!(link.read(&mut buf, Duration::from_millis(100)), Err(LinkError::Gone)) {
        assert!(Instant::now() < give_up);
    }

    assert_eq!(appears(&server, Some(&klipper)).id.to_string(), "1d50:6177");
    let cdc = CdcLink::open(Box::new(open(&server)), 250_000).unwrap();
    let katapult = Katapult::connect(Box::new(cdc), &clock, true).unwrap();
    assert_eq!(katapult.info().app_start, Some(FlashAddr(0x0800_8000)));
    assert_eq!(katapult.info().mcu.as_deref(), Some("stm32f446xx"));
}

fn flash(server: &str, image: &[u8], way: Leave) -> Result<(), ProtoError> {
    let clock = SystemClock::new();
    let mut driver = DfuSe::connect(Box::new(open(server)), &clock, &[])?;
    let range = FlashRange::new(FlashAddr(0x0800_0000), FlashSize(image.len() as u32)).unwrap();
    let sectors: Vec<_> = driver.info().sectors.iter().map(|sector| sector.range).collect();
    for sector in sectors.into_iter().filter(|sector| sector.overlaps(range)) {
        driver.erase(sector)?;
    }
    driver.write(range.start, image, &mut |_| ())?;
    driver.finish()?;
    assert!(driver.read(range, &mut |_| ())? == image, "{way:?}");
    driver.start(range.start)
}

#[test]
fn rom_dfu_is_flashed_and_left_in_every_way() {
    for way in [Leave::Manifest(1), Leave::Stall, Leave::Vanish, Leave::VanishAtDownload] {
        let image = TestImage::klipper("stm32f446xx", 0x0800_0000).size(20_001).build();
        let (contents, chip) = octopus("none", None, &[(0x0800_0000, image.clone())]);
        // The times of a chip, but not so long that a test would wait for them.
        let dfu = DfuVariant {
            pointer_polls: [1, 0],
            erase_polls: [1, 0],
            data_polls: [1, 0],
            leave: way,
            ..DfuVariant::of(&chip, &UID).unwrap()
        };
        let options = Options { timing: Timing::Zero, dfu: Some(dfu), ..Options::default() };
        let server = serve(contents, chip, options, true);
        let rom = appears(&server, None);
        assert_eq!((rom.id.to_string().as_str(), rom.revision), ("0483:df11", 0x2200));
        flash(&server, &image, way).unwrap();
        let klipper = appears(&server, Some(&rom));
        assert_eq!(klipper.id.to_string(), "1d50:614e");
    }
}

#[test]
fn strings_are_read_over_the_link() {
    let (contents, chip) = octopus("none", None, &[]);
    let mut dfu = DfuVariant::of(&chip, &UID).unwrap();
    let word = |at: usize| u32::from_le_bytes(UID[at..at + 4].try_into().unwrap());
    let serial = rom_serial([word(0), word(4), word(8)]);
    dfu.serial = serial.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let server = serve(contents, chip, Options { dfu: Some(dfu), ..Options::default() }, true);
    let device = appears(&server, None);
    assert_eq!(device.interfaces.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([[0xfe, 1, 2]]));
    let mut link = open(&server);
    let [vendor, product, found, none] = read_strings(&mut link, [1, 2, 3, 0]).unwrap();
    assert_eq!(vendor.as_deref(), Some("STMicroelectronics"));
    assert_eq!(product.as_deref(), Some("STM32  BOOTLOADER"));
    assert_eq!((found, none), (Some(serial), None));
    // A second client is refused for as long as the first holds the device, and not a moment longer.
    assert!(matches!(UsbipLink::open(&server, "1-1"), Err(LinkError::Busy { .. })));
    drop(link);
    open(&server);
    assert!(matches!(UsbipLink::open(&server, "1-2"), Err(LinkError::Gone)));
}
