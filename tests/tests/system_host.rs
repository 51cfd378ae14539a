//! The real host against simulated boards: found, chosen, opened and followed through a re-enumeration, on a USB/IP server
//! and below a host root.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::mpsc::{SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use kflash::board::Profile;
use kflash::boards;
use kflash::chip::Chip;
use kflash::discover::{Device, Mode};
use kflash::host::Host;
use kflash::identify::{Certainty, SelectError, Selector, select};
use kflash::klipper::client::Client;
use kflash::klipper::request::touch_1200;
use kflash::link::LinkError;
use kflash::proto::Bootloader;
use kflash::proto::katapult::{Katapult, needs_priming};
use kflash::system::SystemHost;
use kflash_sim::board::{Contents, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::mount::live::Live;
use kflash_sim::mount::pty::{Cable, Pty};
use kflash_sim::mount::sysfs::Tree;
use kflash_sim::mount::usbip::server::Server;
use kflash_sim::mount::{self, Mount, QUEUE};

const UID: [u8; 12] = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
const SERIAL: &str = "290034001751333038363536";

fn octopus() -> (Profile, Chip) {
    boards::find("btt-octopus-v1.1-f446").unwrap()
}

/// Serves an Octopus with Katapult and Klipper in port 1-1 for as long as the process runs.
fn serve<T: Send + 'static>(mount: impl FnOnce(&SyncSender<mount::Message>) -> (Mount, T) + Send + 'static) -> T {
    let (tell, told) = channel();
    thread::spawn(move || {
        let (profile, chip) = octopus();
        let application = Some((0x0800_8000, TestImage::klipper("stm32f446xx", 0x0800_8000).build()));
        let contents = Contents { bootloader: "katapult".into(), application, known: Vec::new(), uid: UID };
        let mut board = VirtualBoard::new(&profile, &chip, contents).unwrap();
        board.power(Duration::ZERO, true);
        let mut live = Live::new(board, chip, Duration::from_secs(2), "1-1".parse().unwrap(), None, Box::new(|_| ()));
        let (sender, queue) = sync_channel(QUEUE);
        let (mount, said) = mount(&sender);
        tell.send(said).unwrap();
        mount::serve(&mut live, mount, &sender, &queue).unwrap();
    });
    told.recv().unwrap()
}

/// The board of the host, as soon as it is in `mode`.
fn in_mode(host: &SystemHost, mode: Mode) -> Device {
    let give_up = Instant::now() + Duration::from_secs(10);
    loop {
        let scan = host.scan().unwrap();
        // A board is seen before its tty is, and udev links the tty last of all.
        let whole =
            |device: &Device| device.usbfs.is_none() || device.tty.as_ref().is_some_and(|tty| tty.by_id.is_some());
        if let Some(device) = scan.devices.into_iter().find(|device| device.mode == mode && whole(device)) {
            return device;
        }
        assert!(Instant::now() < give_up, "no board in {mode:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Klipper is asked and touched, and answers as Katapult at the same place; what was known of it before is stale then.
fn through_katapult(host: &SystemHost) {
    let klipper = in_mode(host, Mode::Klipper);
    assert_eq!(klipper.mcu.as_deref(), Some("stm32f446xx"));
    assert_eq!(klipper.usb.as_ref().unwrap().serial.as_deref(), Some(SERIAL));
    let link = host.open_serial(&klipper, 250_000).unwrap();
    let client = Client::connect(link, host.clock(), Duration::from_secs(5)).unwrap();
    assert_eq!(client.dictionary().mcu(), Some("stm32f446xx"));
    // A scan while the board is in use neither disturbs it nor forgets what it is.
    assert_eq!(in_mode(host, Mode::Klipper), klipper);
    let mut link = client.into_link();
    touch_1200(link.as_mut(), host.clock()).unwrap();
    drop(link);

    let katapult = in_mode(host, Mode::Katapult);
    assert_eq!(katapult.place, klipper.place);
    let link = host.open_serial(&katapult, 250_000).unwrap();
    let prime = needs_priming(katapult.mcu.as_deref().unwrap());
    let connected = Katapult::connect(link, host.clock(), prime).unwrap();
    assert_eq!(connected.info().mcu.as_deref(), Some("stm32f446xx"));
    drop(connected);

    let (profile, chip) = octopus();
    let scan = host.scan().unwrap();
    let serial = [Selector::Serial(SERIAL.into())];
    assert_eq!(select(&scan, &serial, &profile, &chip).unwrap(), (katapult.clone(), Certainty::Pinned));
    assert_eq!(select(&scan, &[], &profile, &chip).unwrap(), (katapult, Certainty::Proved));
    let other = ["1-7".parse().unwrap(), Selector::Serial("4711".into())];
    assert!(matches!(select(&scan, &other, &profile, &chip), Err(SelectError::NotFound { .. })));
}

#[test]
fn a_board_on_a_usbip_server() {
    let server = serve(|sender| {
        let server = Server::listen("127.0.0.1:0".parse().unwrap(), sender).unwrap();
        let address = server.address().to_string();
        (Mount::Usbip(server), address)
    });
    let selector: Selector = format!("usbip://{server}/1-1").parse().unwrap();
    let (host, _) = SystemHost::new("/nonexistent").with_selectors(vec![selector]);
    let klipper = in_mode(&host, Mode::Klipper);
    through_katapult(&host);
    assert!(matches!(host.open_serial(&klipper, 250_000).map(|_| ()), Err(LinkError::Stale { .. })));
}

#[test]
fn a_board_below_a_host_root() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    serve(move |_| (Mount::Pty(Pty::new(Cable::Usb, Some(Tree::new(root).unwrap()), None)), ()));
    let by_id = Path::new("/dev/serial/by-id").join(format!("usb-Klipper_stm32f446xx_{SERIAL}-if00"));
    let host = SystemHost::new(folder.path());
    let klipper = in_mode(&host, Mode::Klipper);
    assert_eq!(klipper.tty.as_ref().unwrap().by_id.as_deref(), Some(by_id.as_path()));
    let (_, resolved) = SystemHost::new(folder.path()).with_selectors(vec![Selector::Tty(by_id)]);
    assert_eq!(resolved, [Selector::Tty("/dev/ttyACM0".into())]);
    through_katapult(&host);
}
