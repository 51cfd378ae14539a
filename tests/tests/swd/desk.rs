//! A board on a host's USB with a debug probe at its chip: what the probe does to the chip, the board shows.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kflash::board::{Profile, Route};
use kflash::boards;
use kflash::chip::Chip;
use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Scan};
use kflash::event::{Check, Event};
use kflash::flash::{Backup, FlashError, Flasher, Interrupt, Report, Request, Through, Wanted};
use kflash::host::{Holders, Host, LockError};
use kflash::image::Image;
use kflash::link::{ByteLink, LinkError, UsbLink};
use kflash::plan::{Parts, Plan};
use kflash::proto::swd::{ProbeSelector, Probes};
use kflash_sim::board::{Contents, Running, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::host::{BoardKey, Hand, Plug, SimHost};
use kflash_sim::swd::{Options, Target};
use tests::swd_probe::{self, DRIVER};

/// The chip's unique id, there and here.
pub const UID: [u8; 12] = *b"\x29\x00\x34\x00\x17\x51\x33\x30\x38\x36\x35\x36";
/// As USB shows it.
pub const SERIAL: &str = "290034001751333038363536";

/// A board, its probe and its host.
pub struct Desk {
    pub host: DeskHost,
    pub profile: Profile,
    pub chip: Chip,
    pub unlock: bool,
    pub probe: Option<ProbeSelector>,
    pub force: bool,
}

/// The host, on which the board does what its chip does.
pub struct DeskHost {
    sim: SimHost,
    board: BoardKey,
    /// Of the probe, when the board was looked at last.
    commands: AtomicU64,
}

impl Desk {
    /// A blank board of this kind, found in no way but by its probe.
    pub fn blank(board: &str) -> Self {
        Self::with(board, Options::default(), |_, _| Vec::new())
    }

    /// One with contents, each part with its address.
    pub fn with(board: &str, options: Options, contents: impl FnOnce(&Profile, &Chip) -> Vec<(u32, Vec<u8>)>) -> Self {
        swd_probe::clear();
        let (profile, chip) = boards::find(board).unwrap();
        let contents = contents(&profile, &chip);
        swd_probe::plug("SIM00001", Target::new(&chip, &contents, Options { uid: UID, ..options }).unwrap());
        let katapult = profile.bootloaders.iter().find(|it| it.id == "katapult").unwrap();
        let seat = Contents { bootloader: katapult.id.clone(), uid: UID, ..Contents::default() };
        let sim = SimHost::new();
        let plug = Plug::Usb("1-1".parse().unwrap());
        let board = sim.plug_in(plug, VirtualBoard::new(&profile, &chip, seat).unwrap(), false);
        sim.hand(board, Hand::Power(false));
        let host = DeskHost { sim, board, commands: AtomicU64::new(u64::MAX) };
        host.follow();
        Self { host, profile, chip, unlock: false, probe: None, force: false }
    }

    pub fn katapult(&self) -> TestImage {
        katapult(&self.profile, &self.chip)
    }

    /// Klipper behind Katapult.
    pub fn klipper(&self, version: &str) -> TestImage {
        klipper(&self.profile, &self.chip, version)
    }

    pub fn flash(&self, image: &[u8]) -> Result<Report, FlashError> {
        let request = self.request(image);
        self.through(|flasher, through, events| flasher.flash_through(&request, through, events))
    }

    pub fn install(&self, bootloader: &[u8], application: Option<&[u8]>) -> Result<Report, FlashError> {
        let bootloader_image = Image::parse(bootloader).unwrap();
        let request = self.request(application.unwrap_or(bootloader));
        let parts = Parts { bootloader: &bootloader_image, application: application.map(|_| &request.image) };
        self.through(|flasher, through, events| flasher.install_through(&request, &parts, through, events))
    }

    /// The route that fits what the chip holds.
    pub fn route(&self, may_reset: bool) -> Result<(Route, Vec<Check>), FlashError> {
        self.route_with(may_reset, &mut |_| ())
    }

    pub fn route_with(
        &self,
        may_reset: bool,
        events: &mut dyn FnMut(Event),
    ) -> Result<(Route, Vec<Check>), FlashError> {
        let wanted = Wanted { profile: &self.profile, chip: &self.chip, selectors: &[], may_reset };
        self.through(|flasher, through, _| flasher.route_through(&wanted, through, events))
    }

    pub fn plan(&self, image: &[u8]) -> Result<Plan, FlashError> {
        let request = self.request(image);
        self.through(|flasher, through, events| flasher.plan_through(&request, through, events))
    }

    pub fn verify(&self, image: &[u8], may_reset: bool) -> Result<Report, FlashError> {
        let request = self.request(image);
        self.through(|flasher, through, events| flasher.verify_through(&request, may_reset, through, events))
    }

    pub fn back_up(&self) -> Result<Backup, FlashError> {
        self.through(|flasher, through, events| flasher.back_up(&self.chip, through, events))
    }

    /// What the board runs.
    pub fn runs(&self) -> Running {
        self.host.follow();
        // Katapult waits for a second reset first.
        self.host.clock().sleep(Duration::from_secs(2));
        self.host.sim.with_board(self.host.board, |board, _| board.running())
    }

    /// What the flash holds there.
    pub fn holds(&self, at: u32, length: usize) -> Vec<u8> {
        let at = (at - self.chip.flash_start.0) as usize;
        swd_probe::with(0, |probe| probe.target.flash())[at..at + length].to_vec()
    }

    fn request(&self, image: &[u8]) -> Request {
        Request {
            profile: self.profile.clone(),
            chip: self.chip.clone(),
            image: Image::parse(image).unwrap(),
            selectors: Vec::new(),
            force: self.force,
        }
    }

    fn through<T>(&self, act: impl FnOnce(&Flasher<'_>, &Through<'_>, &mut dyn FnMut(Event)) -> T) -> T {
        let interrupt = Interrupt::default();
        let flasher = Flasher { host: &self.host, interrupt: &interrupt, hands: false };
        let probes = Probes::of(vec![&DRIVER]);
        let through = Through { probes: &probes, probe: self.probe.as_ref(), unlock: self.unlock };
        act(&flasher, &through, &mut |_| ())
    }
}

/// Katapult for a board, as a sim's board takes it for its own.
pub fn katapult(profile: &Profile, chip: &Chip) -> TestImage {
    let installed = profile.bootloaders.iter().find(|it| it.id == "katapult").unwrap();
    TestImage::katapult(&chip.mcu[0], chip.flash_start.0).starting(installed.app_start.0)
}

/// Klipper behind Katapult.
pub fn klipper(profile: &Profile, chip: &Chip, version: &str) -> TestImage {
    let installed = profile.bootloaders.iter().find(|it| it.id == "katapult").unwrap();
    TestImage::klipper(&chip.mcu[0], installed.app_start.0).version(version)
}

impl DeskHost {
    /// Pulls the board's own cable.
    pub fn unplug(&self) {
        self.sim.hand(self.board, Hand::Unplug);
    }

    /// A chip that a debugger halts does nothing on USB; one that was let go starts with what it holds.
    fn follow(&self) {
        let (commands, debugged) = swd_probe::with(0, |probe| (probe.commands, probe.target.is_debugged()));
        if self.commands.swap(commands, Ordering::Relaxed) == commands {
            return;
        }
        let (flash, rom) = swd_probe::with(0, |probe| (probe.target.flash(), probe.target.starts_rom()));
        self.sim.with_board(self.board, |board, now| {
            board.power(now, false);
            if !debugged {
                board.set_flash(&flash).unwrap();
                board.set_boot0(rom);
                board.power(now, true);
            }
        });
    }
}

impl Host for DeskHost {
    fn clock(&self) -> &dyn Clock {
        self.sim.clock()
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        self.follow();
        self.sim.scan()
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        self.sim.open_serial(device, baud)
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        self.sim.open_usb(device)
    }

    fn holders(&self, device: &Device) -> Holders {
        self.sim.holders(device)
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        self.sim.lock(device)
    }
}
