//! The simulated host, driven by bytes as they go over the wire.

#![expect(clippy::unwrap_used, reason = "tests")]

use kflash::discover::Mode;

use super::*;
use crate::board::{Contents, Options, Running};
use crate::crc::mcrf4xx;
use crate::fault::At;
use crate::firmware::TestImage;
use crate::flash::Timing;

const S: Duration = Duration::from_secs(1);
const CONNECT: [u8; 8] = [0x01, 0x88, 0x11, 0x00, 0xf1, 0x7c, 0x99, 0x03];

fn port(path: &str) -> UsbPath {
    path.parse().unwrap()
}

fn board(id: &str, bootloader: &str, timing: Timing) -> (Profile, VirtualBoard) {
    let (profile, chip) = kflash::boards::find(id).unwrap();
    let installed = profile.bootloaders.iter().find(|one| one.id == bootloader).unwrap();
    let start = installed.app_start.0;
    let built_for = match profile.routes.iter().find(|route| route.bootloader == bootloader).unwrap().cable {
        Cable::Usb => kflash::klipper::dictionary::BuiltFor::Usb,
        Cable::Uart => kflash::klipper::dictionary::BuiltFor::Uart(250_000),
    };
    let image = TestImage::klipper(&chip.mcu[0], start).version("v0.12.0-1-gold").built_for(built_for);
    let contents = Contents {
        bootloader: bootloader.into(),
        application: Some((start, image.build())),
        known: vec![(start, image.version("v0.13.0-1-gnew").build())],
        uid: *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36",
    };
    let options = Options { timing, ..Options::default() };
    let board = VirtualBoard::with_options(&profile, &chip, contents, options).unwrap();
    (profile, board)
}

fn host_with(id: &str, bootloader: &str, timing: Timing) -> (SimHost, BoardKey) {
    let host = SimHost::new();
    let (profile, board) = board(id, bootloader, timing);
    let cable = profile.routes.iter().find(|route| route.bootloader == bootloader).unwrap().cable;
    let key = host.plug_in(Plug::of(&profile, cable, port("1-1.4")), board, profile.opening_resets);
    host.clock().sleep(S);
    (host, key)
}

fn only(host: &SimHost) -> Device {
    let mut devices = host.scan().unwrap().devices;
    assert_eq!(devices.len(), 1, "{devices:?}");
    devices.remove(0)
}

fn touch(host: &SimHost) {
    let mut link = host.open_serial(&only(host), 1200).unwrap();
    link.set_dtr(false).unwrap();
    drop(link);
    host.clock().sleep(S);
}

fn frame(command: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![command, (payload.len() / 4) as u8];
    body.extend_from_slice(payload);
    let crc = mcrf4xx(&body).to_le_bytes();
    [&[0x01, 0x88], &body[..], &crc, &[0x99, 0x03]].concat()
}

/// Sends a frame; the reply's code and payload.
fn ask(link: &mut dyn ByteLink, command: u8, payload: &[u8]) -> Result<(u8, Vec<u8>), LinkError> {
    link.write(&frame(command, payload))?;
    let mut reply = Vec::new();
    let mut buf = [0; 256];
    while reply.len() < 8 || reply.len() < 8 + usize::from(reply[3]) * 4 {
        let count = link.read(&mut buf, 5 * S)?;
        if count == 0 {
            return Err(LinkError::TimedOut(5 * S));
        }
        reply.extend_from_slice(&buf[..count]);
    }
    Ok((reply[2], reply[4..reply.len() - 4].to_vec()))
}

/// Writes `image` as flashtool does, reads it back, and starts it.
fn flash(link: &mut dyn ByteLink, start: u32, image: &[u8]) -> Result<(), LinkError> {
    for (index, block) in image.chunks(64).enumerate() {
        let address = start + index as u32 * 64;
        let mut payload = [&address.to_le_bytes(), block].concat();
        payload.resize(68, 0xff);
        let (code, answer) = ask(link, 0x12, &payload)?;
        assert_eq!((code, answer.get(4..)), (0xa0, Some(&address.to_le_bytes()[..])), "block at {address:#010x}");
    }
    assert_eq!(ask(link, 0x13, &[])?.0, 0xa0);
    for (index, block) in image.chunks(64).enumerate() {
        let address = start + index as u32 * 64;
        let (code, answer) = ask(link, 0x14, &address.to_le_bytes())?;
        assert_eq!((code, &answer[8..8 + block.len()]), (0xa0, block));
    }
    assert_eq!(ask(link, 0x15, &[])?.0, 0xa0);
    Ok(())
}

#[test]
fn every_katapult_board_is_flashed() {
    for (profile, chip) in kflash::boards::builtin().unwrap() {
        let Some(installed) = profile.bootloaders.iter().find(|one| one.id == "katapult") else { continue };
        let routes = profile.routes.iter().filter(|route| route.bootloader == "katapult");
        let Some(route) = routes.clone().find(|route| route.protocol == kflash::proto::Protocol::Katapult) else {
            continue;
        };
        let id = &profile.id.0;
        let (host, key) = host_with(id, "katapult", Timing::Real);
        let start = installed.app_start.0;
        let mut link = match route.cable {
            Cable::Usb => {
                assert_eq!(only(&host).mode, Mode::Klipper, "{id}");
                touch(&host);
                assert_eq!(only(&host).mode, Mode::Katapult, "{id}");
                host.open_serial(&only(&host), 250_000).unwrap()
            }
            Cable::Uart => {
                assert_eq!(only(&host).mode, Mode::UartBridge, "{id}");
                let mut link = host.open_serial(&only(&host), 250_000).unwrap();
                // Opening may have reset it.
                host.clock().sleep(S);
                link.write(b"\x7e\x20\x1c Request Serial Bootloader!! \x7e").unwrap();
                host.clock().sleep(S);
                link.set_baud(route.bootloader_baud.unwrap()).unwrap();
                let mut stale = [0; 64];
                while link.read(&mut stale, S).unwrap() > 0 {}
                link
            }
        };
        if ["stm32f0", "stm32f1", "stm32g0"].iter().any(|family| chip.id.starts_with(family))
            && route.cable == Cable::Usb
        {
            link.write(&CONNECT).unwrap();
            assert_eq!(link.read(&mut [0; 64], S).unwrap(), 0, "{id}: the first packet waits for the second");
            link.write(&[0x01, 0x88, 0x90, 0x00, 0xe5, 0xe9, 0x99, 0x03]).unwrap();
            host.clock().sleep(S);
            while link.read(&mut [0; 64], S).unwrap() > 0 {}
        }
        let (code, _) = ask(&mut *link, 0x11, &[]).unwrap();
        assert_eq!(code, 0xa0, "{id}");
        let built_for = match route.cable {
            Cable::Usb => kflash::klipper::dictionary::BuiltFor::Usb,
            Cable::Uart => kflash::klipper::dictionary::BuiltFor::Uart(250_000),
        };
        let image = TestImage::klipper(&chip.mcu[0], start).version("v0.13.0-1-gnew").built_for(built_for).build();
        flash(&mut *link, start, &image).unwrap();
        drop(link);
        host.clock().sleep(S);
        host.with_board(key, |board, _| {
            assert_eq!(board.running(), Running::Application { version: "v0.13.0-1-gnew".into() }, "{id}");
            let offset = (start - chip.flash_start.0) as usize;
            assert_eq!(board.flash()[offset..offset + image.len()], image, "{id}");
            assert_eq!(board.violations(), [""; 0], "{id}");
        });
    }
}

/// A DFU request to interface 0.
fn dfu(request: u8, value: u16) -> kflash::link::Setup {
    kflash::link::Setup { request_type: 0x21, request, value, index: 0 }
}

/// Sends a DNLOAD and polls until it is done.
fn dnload(host: &SimHost, link: &mut dyn UsbLink, block: u16, data: &[u8]) {
    link.control_out(dfu(1, block), data, 20 * S).unwrap();
    loop {
        let status = link.control_in(dfu(3, 0), 6, 20 * S).unwrap();
        assert_eq!(status[0], 0, "{status:?}");
        if status[4] == 5 {
            return;
        }
        assert_eq!(status[4], 4);
        host.clock().sleep(Duration::from_millis(u16::from_le_bytes([status[1], status[2]]).into()));
    }
}

#[test]
fn every_dfu_board_is_flashed() {
    for (profile, chip) in kflash::boards::builtin().unwrap() {
        let id = &profile.id.0;
        let dfu_routes = profile.routes.iter().filter(|route| route.protocol == kflash::proto::Protocol::Dfuse);
        for route in dfu_routes {
            let start = profile.bootloader_of(route).unwrap().app_start.0;
            let (host, key) = host_with(id, &route.bootloader, Timing::Real);
            // By its own USB, whatever cable its application has.
            host.hand(key, Hand::Move(Plug::Usb(port("1-3"))));
            host.hand(key, Hand::Boot0(true));
            host.hand(key, Hand::Reset);
            host.clock().sleep(S);
            assert_eq!(only(&host).mode, Mode::Dfu, "{id}");
            let mut link = host.open_usb(&only(&host)).unwrap();
            let functional = link.configuration_descriptor().len() - 9;
            let size: [u8; 2] = link.configuration_descriptor()[functional + 5..functional + 7].try_into().unwrap();
            let size = usize::from(u16::from_le_bytes(size));
            if link.control_in(dfu(3, 0), 6, S).unwrap()[4] == 10 {
                link.control_out(dfu(4, 0), &[], S).unwrap();
            }
            let image = TestImage::klipper(&chip.mcu[0], start).version("v0.13.0-1-gnew").build();
            let command = |code: u8, address: u32| [&[code][..], &address.to_le_bytes()].concat();
            let end = start + image.len() as u32;
            for sector in chip.sectors().filter(|sector| sector.end().0 > start && sector.start.0 < end) {
                dnload(&host, &mut *link, 0, &command(0x41, sector.start.0));
            }
            dnload(&host, &mut *link, 0, &command(0x21, start));
            for (index, block) in image.chunks(size).enumerate().skip(1) {
                dnload(&host, &mut *link, index as u16 + 2, block);
            }
            dnload(&host, &mut *link, 2, &image[..size]);
            link.control_out(dfu(6, 0), &[], S).unwrap();
            for (index, block) in image.chunks(size).enumerate() {
                let read = link.control_in(dfu(2, index as u16 + 2), block.len() as u16, S).unwrap();
                assert_eq!(read, block);
            }
            link.control_out(dfu(6, 0), &[], S).unwrap();
            dnload(&host, &mut *link, 0, &command(0x21, start));
            link.control_out(dfu(1, 2), &[], S).unwrap();
            drop(link.control_in(dfu(3, 0), 6, S));
            host.clock().sleep(S);
            host.with_board(key, |board, _| {
                assert_eq!(board.running(), Running::Application { version: "v0.13.0-1-gnew".into() }, "{id}");
                assert_eq!(board.violations(), [""; 0], "{id}");
            });
            assert_eq!(only(&host).mode, Mode::Klipper, "{id}");
            assert!(matches!(link.control_in(dfu(3, 0), 6, S), Err(LinkError::Gone)));
        }
    }
}

#[test]
fn a_cut_anywhere_ends_the_link_and_a_double_reset_brings_katapult_back() {
    let image = TestImage::klipper("stm32f446xx", 0x0800_8000).version("v0.13.0-1-gnew").build();
    let run = |plan: FaultPlan| {
        let (host, key) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
        host.set_faults(plan);
        touch(&host);
        let mut link = host.open_serial(&only(&host), 250_000).unwrap();
        let flashed = flash(&mut *link, 0x0800_8000, &image);
        drop(link);
        (host, key, flashed)
    };
    let (host, _, flashed) = run(FaultPlan::new());
    flashed.unwrap();
    let all = host.counters();
    assert_eq!(run(FaultPlan::new()).0.counters(), all, "every run is the same");
    // The touch and its drop of DTR are the first operation.
    let moments = [
        (2..all.operations).step_by(401).map(At::Operation).collect::<Vec<_>>(),
        (2..all.operations).step_by(397).map(At::AfterOperation).collect(),
        (1..all.bytes_out).step_by(9001).map(At::ByteOut).collect(),
        (1..all.bytes_in).step_by(9001).map(At::ByteIn).collect(),
    ]
    .concat();
    assert!(moments.len() > 20);
    for at in moments {
        for power in [false, true] {
            let cut = if power { FaultKind::CutPower } else { FaultKind::Cut };
            let (host, key, flashed) = run(FaultPlan::new().with(at, cut));
            assert!(matches!(flashed, Err(LinkError::Gone)), "{at:?}: {flashed:?}");
            assert!(host.scan().unwrap().devices.is_empty(), "{at:?}");
            host.hand(key, Hand::Replug);
            host.clock().sleep(S);
            host.hand(key, Hand::DoubleReset(Duration::from_millis(200)));
            host.clock().sleep(S);
            assert_eq!(only(&host).mode, Mode::Katapult, "{at:?}");
            let mut link = host.open_serial(&only(&host), 250_000).unwrap();
            flash(&mut *link, 0x0800_8000, &image).unwrap();
            drop(link);
            host.clock().sleep(S);
            assert_eq!(only(&host).mode, Mode::Klipper, "{at:?}");
        }
    }
}

#[test]
fn a_byte_is_corrupted_or_lost_and_an_operation_delayed() {
    for (kind, code) in [(FaultKind::Corrupt, Some(0xf1)), (FaultKind::Drop, None), (FaultKind::Stall, None)] {
        let (host, _) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
        touch(&host);
        let mut link = host.open_serial(&only(&host), 250_000).unwrap();
        host.set_faults(FaultPlan::new().with(At::ByteOut(5), kind));
        let answer = ask(&mut *link, 0x11, &[]);
        assert_eq!(answer.ok().map(|(code, _)| code), code);
    }
    let (host, _) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
    touch(&host);
    let mut link = host.open_serial(&only(&host), 250_000).unwrap();
    host.set_faults(FaultPlan::new().with(At::Operation(1), FaultKind::Delay(7 * S)));
    let before = host.clock().now();
    ask(&mut *link, 0x11, &[]).unwrap();
    assert!(host.clock().now().saturating_sub(before) > 7 * S);
}

#[test]
fn a_whole_flash_runs_in_virtual_time() {
    let (host, key) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
    touch(&host);
    let image = TestImage::klipper("stm32f446xx", 0x0800_8000).version("v0.13.0-1-gnew").build();
    let mut link = host.open_serial(&only(&host), 250_000).unwrap();
    flash(&mut *link, 0x0800_8000, &image).unwrap();
    drop(link);
    host.clock().sleep(S);
    assert!(matches!(host.with_board(key, |board, _| board.running()), Running::Application { .. }));
}

#[test]
fn a_cut_in_the_middle_leaves_half_an_image_that_locks_up() {
    let (host, key) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
    touch(&host);
    let image = TestImage::klipper("stm32f446xx", 0x0800_8000).version("v0.13.0-1-gnew").build();
    let mut link = host.open_serial(&only(&host), 250_000).unwrap();
    host.set_faults(FaultPlan::new().with(At::ByteOut(10_000), FaultKind::CutPower));
    assert!(matches!(flash(&mut *link, 0x0800_8000, &image), Err(LinkError::Gone)));
    assert!(host.scan().unwrap().devices.is_empty());
    host.hand(key, Hand::Replug);
    host.clock().sleep(S);
    assert_eq!(host.with_board(key, |board, _| board.running()), Running::LockedUp);
    host.hand(key, Hand::DoubleReset(Duration::from_millis(200)));
    host.clock().sleep(S);
    assert_eq!(only(&host).mode, Mode::Katapult);
    assert!(host.open_serial(&only(&host), 250_000).is_ok());
    assert!(matches!(link.write(&CONNECT), Err(LinkError::Gone)), "a link does not outlive its device");
}

#[test]
fn a_power_cut_in_an_erase_leaves_the_sector_half_erased() {
    let (host, key) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Real);
    touch(&host);
    let mut link = host.open_serial(&only(&host), 250_000).unwrap();
    link.write(&frame(0x12, &[&0x0800_8000_u32.to_le_bytes()[..], &[0; 64]].concat())).unwrap();
    host.clock().sleep(Duration::from_millis(50));
    let before = host.with_board(key, |board, _| board.flash()[0x8000..0xc000].to_vec());
    assert!(before[64..].iter().all(|&byte| byte == 0xff));
    host.befall(key, FaultKind::CutPower);
    let after = host.with_board(key, |board, _| board.flash()[0x8000..0xc000].to_vec());
    assert!(after[..1024].iter().all(|&byte| byte == 0xff));
    assert!(after[0x3000..].iter().any(|&byte| byte != 0xff));
}

#[test]
fn a_board_comes_back_on_another_port_with_another_name_and_is_taken() {
    let (host, key) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
    let before = only(&host);
    assert_eq!(before.tty.as_ref().unwrap().node, PathBuf::from("/dev/ttyACM0"));
    let by_id = "/dev/serial/by-id/usb-Klipper_stm32f446xx_290034001751333038363536-if00";
    assert_eq!(before.tty.as_ref().unwrap().by_id, Some(by_id.into()));
    host.befall(key, FaultKind::Move(Plug::Usb(port("1-2"))));
    host.befall(key, FaultKind::RenameTty("/dev/ttyACM7".into()));
    host.befall(key, FaultKind::ChangeUid([7; 12]));
    let klippy = Holder { pid: 123, name: "klippy".into() };
    host.befall(key, FaultKind::Take(klippy.clone()));
    touch(&host);
    let after = only(&host);
    assert_eq!(after.place, Place::Usb(port("1-2")));
    assert_eq!(after.tty.as_ref().unwrap().node, PathBuf::from("/dev/ttyACM7"));
    assert_eq!(after.usb.as_ref().unwrap().serial.as_deref(), Some("070707070707070707070707"));
    assert_ne!(after.usb.as_ref().unwrap().number, before.usb.as_ref().unwrap().number);
    assert_eq!(host.holders(&after), Holders::Seen { processes: vec![klippy], complete: true });
    assert!(matches!(host.open_serial(&after, 250_000), Err(LinkError::Busy { .. })));
    host.let_go("/dev/ttyACM7");
    assert!(host.open_serial(&after, 250_000).is_ok());
    assert!(matches!(host.open_serial(&before, 250_000), Err(LinkError::Gone)));
}

#[test]
fn a_stale_node_is_not_opened_and_a_lock_is_held_once() {
    let host = SimHost::new();
    let first = host.plug_in(Plug::Usb(port("1-1")), board("btt-octopus-v1.1-f446", "katapult", Timing::Zero).1, false);
    host.clock().sleep(S);
    let stale = only(&host);
    host.hand(first, Hand::Unplug);
    host.plug_in(Plug::Usb(port("1-2")), board("btt-octopus-v1.1-f446", "katapult", Timing::Zero).1, false);
    host.clock().sleep(S);
    assert!(matches!(host.open_serial(&stale, 250_000), Err(LinkError::Stale { .. })));
    let device = only(&host);
    let held = host.lock(&device).unwrap();
    assert!(host.lock(&device).is_err());
    drop(held);
    assert!(host.lock(&device).is_ok());
}

#[test]
fn a_second_board_appears_at_an_operation() {
    let (host, _) = host_with("btt-octopus-v1.1-f446", "katapult", Timing::Zero);
    let twin = Box::new(board("btt-octopus-v1.1-f446", "katapult", Timing::Zero).1);
    host.set_faults(FaultPlan::new().with(At::Operation(1), FaultKind::PlugIn(Plug::Usb(port("1-1.3")), twin)));
    touch(&host);
    host.clock().sleep(S);
    let modes: Vec<Mode> = host.scan().unwrap().devices.iter().map(|device| device.mode).collect();
    assert_eq!(modes, [Mode::Klipper, Mode::Katapult]);
}

#[test]
fn the_wire_takes_its_time() {
    let (host, _) = host_with("creality-v4.2.7", "katapult", Timing::Zero);
    let mut link = host.open_serial(&only(&host), 250_000).unwrap();
    host.clock().sleep(S);
    link.write(b"\x7e\x20\x1c Request Serial Bootloader!! \x7e").unwrap();
    host.clock().sleep(S);
    while link.read(&mut [0; 64], S).unwrap() > 0 {}
    let before = host.clock().now();
    ask(&mut *link, 0x14, &0x0800_2000_u32.to_le_bytes()).unwrap();
    let took = host.clock().now().saturating_sub(before);
    // 12 bytes there, 80 back, 40 us each.
    let wire = Duration::from_micros(92 * 40);
    assert!(took >= wire && took < wire + Duration::from_micros(200), "{took:?}");
}
