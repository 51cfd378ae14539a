//! A workbench: one virtual board on a simulated host, an image to flash, and what a person would do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kflash::board::{Cable, InstalledBootloader, Profile};
use kflash::chip::Chip;
use kflash::discover::UsbPath;
use kflash::event::Event;
use kflash::flash::{FlashError, Flasher, Interrupt, Report, Request};
use kflash::host::Host;
use kflash::identify::Selector;
use kflash::image::Image;
use kflash::klipper::dictionary::BuiltFor;
use kflash::plan::{Plan, WayBack};
use kflash_sim::board::{Contents, Options, Running, VirtualBoard};
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::host::{BoardKey, Hand, Plug, SimHost};

/// The version that a board on the bench runs at first.
pub const OLD: &str = "v0.12.0-1-g0ldf1rmw";
/// The version that is flashed.
pub const NEW: &str = "v0.13.0-2-gnewf1rmw";
/// Long enough for a board to boot and enumerate.
const SETTLED: Duration = Duration::from_secs(3);

/// What is on the bench.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// The board's id.
    pub board: &'static str,
    /// The installed bootloader's id in its profile.
    pub bootloader: &'static str,
    /// The cable.
    pub cable: Cable,
    /// Bytes of the images.
    pub size: usize,
    /// Whether the board was started with BOOT0 set, and so is found in its ROM bootloader.
    pub in_rom: bool,
}

/// What a scene is made of; made once for the many benches of a sweep.
pub struct Parts {
    /// The scene.
    pub scene: Scene,
    /// The board, as kflash knows it.
    pub profile: Profile,
    /// The board, as it truly is.
    pub truth: Profile,
    /// Its chip.
    pub chip: Chip,
    /// The firmware that it holds at first.
    pub old: Vec<u8>,
    /// The firmware that is flashed.
    pub new: Vec<u8>,
    /// The same, parsed.
    pub image: Image,
    /// Whether it holds none at first.
    pub blank: bool,
    /// Where both start.
    pub start: u32,
}

/// A virtual board with its old firmware, and the new one.
pub struct Bench {
    /// The host.
    pub host: SimHost,
    /// The board.
    pub board: BoardKey,
    /// What its flash held at first.
    pub at_first: Vec<u8>,
    /// What is to be flashed.
    pub request: Request,
    /// Whether a person is at the terminal.
    pub hands: bool,
    new: Vec<u8>,
    offset: usize,
}

/// One run of kflash.
pub struct Run {
    /// How it ended.
    pub result: Result<Report, FlashError>,
    /// What happened.
    pub events: Vec<Event>,
}

impl Scene {
    /// A board on USB.
    pub const fn usb(board: &'static str, bootloader: &'static str, size: usize) -> Self {
        Self { board, bootloader, cable: Cable::Usb, size, in_rom: false }
    }

    /// A board on a UART.
    pub const fn uart(board: &'static str, bootloader: &'static str, size: usize) -> Self {
        Self { board, bootloader, cable: Cable::Uart, size, in_rom: false }
    }

    /// The same, found in its ROM bootloader.
    #[must_use]
    pub const fn in_rom(self) -> Self {
        Self { in_rom: true, ..self }
    }

    /// An image for this scene.
    pub fn image(&self, version: &str) -> TestImage {
        let (profile, chip) = kflash::boards::find(self.board).expect("a built-in board");
        self.image_for(&profile, &chip, version)
    }

    fn image_for(&self, profile: &Profile, chip: &Chip, version: &str) -> TestImage {
        let installed = profile.bootloaders.iter().find(|installed| installed.id == self.bootloader);
        let start = installed.expect("an installed bootloader of the board").app_start.0;
        let image = TestImage::klipper(&chip.mcu[0], start).size(self.size).version(version);
        match self.cable {
            Cable::Usb => image,
            Cable::Uart => image.built_for(BuiltFor::Uart(250_000)),
        }
    }

    /// What it is made of.
    pub fn parts(&self) -> Parts {
        let (profile, chip) = kflash::boards::find(self.board).expect("a built-in board");
        let (old, new) = (self.image_for(&profile, &chip, OLD), self.image_for(&profile, &chip, NEW));
        let start = new.start;
        let (old, new) = (old.build(), new.build());
        let image = Image::parse(&new).expect("an image");
        Parts { scene: *self, truth: profile.clone(), profile, chip, old, new, image, blank: false, start }
    }

    /// Sets it up.
    pub fn set_up(&self) -> Bench {
        self.parts().set_up()
    }
}

impl Parts {
    /// The bootloader that is truly installed.
    fn installed(&self) -> &InstalledBootloader {
        let mut bootloaders = self.truth.bootloaders.iter();
        bootloaders.find(|installed| installed.id == self.scene.bootloader).expect("an installed bootloader")
    }

    /// Sets the scene up with a board that takes no time to write.
    pub fn set_up(&self) -> Bench {
        self.with_options(Options { timing: Timing::Zero, ..Options::default() })
    }

    /// Sets the scene up with a board that differs from the usual.
    pub fn with_options(&self, options: Options) -> Bench {
        let contents = Contents {
            bootloader: self.scene.bootloader.into(),
            application: (!self.blank).then(|| (self.installed().app_start.0, self.old.clone())),
            known: vec![(self.installed().app_start.0, self.old.clone()), (self.start, self.new.clone())],
            uid: *b"\x23\x00\x46\x00\x0e\x50\x53\x55\x56\x32\x34\x20",
        };
        let options = Options { katapult_cable: Some(self.scene.cable), ..options };
        let mut virtual_board =
            VirtualBoard::with_options(&self.truth, &self.chip, contents, options).expect("a board of this profile");
        virtual_board.set_boot0(self.scene.in_rom);
        let at_first = virtual_board.flash().to_vec();
        let host = SimHost::new();
        let port: UsbPath = "1-1.4".parse().expect("a port path");
        let plug = Plug::of(&self.profile, self.scene.cable, port.clone());
        let board = host.plug_in(plug, virtual_board, self.profile.opening_resets);
        host.clock().sleep(SETTLED);
        let request = Request {
            profile: self.profile.clone(),
            chip: self.chip.clone(),
            image: self.image.clone(),
            selectors: vec![Selector::UsbPath(port)],
            force: false,
        };
        let offset = (self.start - self.chip.flash_start.0) as usize;
        Bench { host, board, at_first, request, hands: false, new: self.new.clone(), offset }
    }
}

impl Bench {
    /// Runs `kflash plan`.
    pub fn plan(&self) -> Result<Plan, FlashError> {
        let interrupt = Interrupt::default();
        Flasher { host: &self.host, interrupt: &interrupt, hands: self.hands }.plan(&self.request, &mut |_| ())
    }

    /// Runs `kflash flash`.
    pub fn flash(&self) -> Run {
        self.flash_with(&self.host, &Interrupt::default(), |_| ())
    }

    /// Runs `kflash flash` on `host`, which may wrap the bench's; `watch` sees each event as it happens.
    pub fn flash_with(&self, host: &dyn Host, interrupt: &Interrupt, watch: impl Fn(&Event)) -> Run {
        let events = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&events);
        let result = Flasher { host, interrupt, hands: self.hands }.flash(&self.request, &mut move |event| {
            watch(&event);
            kept.lock().expect("no panic").push(event);
        });
        let events = std::mem::take(&mut *events.lock().expect("no panic"));
        Run { result, events }
    }

    /// Does what a way back tells the person to do, and waits until the board has settled.
    pub fn take(&self, way: WayBack) {
        match way {
            WayBack::Cable => self.host.hand(self.board, Hand::Replug),
            WayBack::DoubleReset => {
                self.host.hand(self.board, Hand::Replug);
                self.host.clock().sleep(SETTLED);
                self.host.hand(self.board, Hand::DoubleReset(Duration::from_millis(200)));
            }
            WayBack::Boot0 => {
                self.host.hand(self.board, Hand::Boot0(true));
                self.host.hand(self.board, Hand::Replug);
                self.host.hand(self.board, Hand::Reset);
            }
            WayBack::Swd => panic!("no probe is on the bench"),
        }
        self.host.clock().sleep(SETTLED);
    }

    /// Switches it off and on with BOOT0 released, as on the next morning.
    pub fn power_cycle(&self) {
        self.host.hand(self.board, Hand::Boot0(false));
        self.host.hand(self.board, Hand::Power(false));
        self.host.clock().sleep(SETTLED);
        self.host.hand(self.board, Hand::Power(true));
        self.host.clock().sleep(SETTLED);
    }

    /// What runs.
    pub fn running(&self) -> Running {
        self.host.with_board(self.board, |board, _| board.running())
    }

    /// Whether the new firmware runs.
    pub fn runs_new(&self) -> bool {
        self.running() == Running::Application { version: NEW.into() }
    }

    /// Whether the flash holds what it held at first.
    pub fn is_unchanged(&self) -> bool {
        self.host.with_board(self.board, |board, _| board.flash() == self.at_first)
    }

    /// What the host made the flash controller do against its rules.
    pub fn violations(&self) -> Vec<String> {
        self.host.with_board(self.board, |board, _| board.violations().to_vec())
    }

    /// Whether the flash holds all of the new firmware.
    pub fn holds_new(&self) -> bool {
        self.host.with_board(self.board, |board, _| board.flash()[self.offset..].starts_with(&self.new))
    }
}

impl Run {
    /// The operation of the plan that was begun last.
    pub fn operation(&self) -> Option<usize> {
        self.events
            .iter()
            .rev()
            .find_map(|event| if let Event::Operation { index, .. } = event { Some(*index) } else { None })
    }
}
