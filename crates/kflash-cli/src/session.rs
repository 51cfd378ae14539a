//! What `plan`, `flash` and `verify` share: which board, which device, which firmware, and the run itself.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kflash::board::Profile;
use kflash::boards::{self, BoardError};
use kflash::chip::Chip;
use kflash::event::{Event, Events};
use kflash::exit::ExitCode;
use kflash::flash::{FlashError, Flasher, Request};
use kflash::host::Host;
use kflash::identify::Selector;
use kflash::link::trace::Tracer;
use kflash::obtain::{self, Obtained};
use kflash::system::SystemHost;

use crate::args::Shared;
use crate::failure::Failure;
use crate::memory;
use crate::render::{self, Progress, Screen};
use crate::signal::Watch;
#[cfg(feature = "sim")]
use crate::simulate::{self, Rehearsed};
use crate::trace::TracedHost;

/// Which board, and which of the devices on this host.
#[derive(clap::Args, Debug)]
pub struct Target {
    /// The board: an id or alias from `kflash boards`, or the path of a profile file
    #[arg(long, short)]
    pub board: String,
    /// The device: a USB port path (1-1.4), a serial number, a tty path, tcp://HOST:PORT or
    /// usbip://HOST:PORT/BUSID. May be given twice (port and serial): either finds, what is visible must agree
    ///
    /// Without it, the only device that agrees with the board in MCU, mode and start address is taken. A device that
    /// is found in a ROM bootloader always has to be named: all chips of a kind look alike there.
    #[arg(long, short, value_name = "DEVICE")]
    pub device: Vec<Selector>,
}

/// A run on one board.
pub struct Session {
    /// The machine with the board.
    pub host: Arc<dyn Host>,
    /// What is to be done.
    pub request: Request,
    /// The firmware as the cache is to remember it; `None` where nothing is remembered.
    pub firmware: Option<Obtained>,
    watch: Arc<Watch>,
    screen: Screen,
    tracer: Option<Tracer>,
    json: bool,
}

/// The firmware.
#[derive(clap::Args, Debug)]
pub struct Firmware {
    /// The firmware file: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE")]
    pub firmware: PathBuf,
}

/// The firmware, or what does without a file.
#[derive(clap::Args, Debug)]
pub struct FirmwareOrElse {
    /// The firmware file: bin, Intel HEX, UF2 or ELF
    #[arg(long, short, value_name = "FILE")]
    #[cfg_attr(feature = "sim", arg(required_unless_present_any = ["previous", "simulate"]))]
    #[cfg_attr(not(feature = "sim"), arg(required_unless_present = "previous"))]
    firmware: Option<PathBuf>,
    /// The firmware that this device ran before the one it runs now: kflash keeps what it flashes in its cache
    #[arg(long, conflicts_with = "firmware")]
    previous: bool,
    /// Rehearse on a virtual board, with the very same stages; without --firmware, with a test image. BOOTLOADER is
    /// the one that is installed on it, as `kflash boards BOARD` names it [default: the first that fits]
    #[cfg(feature = "sim")]
    #[arg(long, conflicts_with_all = ["device", "previous"], value_name = "BOOTLOADER")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "")]
    simulate: Option<String>,
}

impl Target {
    /// The board with `firmware`, on this host or in a simulation.
    pub fn session(
        &self,
        firmware: &FirmwareOrElse,
        force: bool,
        trace: Option<&Path>,
        shared: &Shared,
    ) -> Result<Session, Failure> {
        #[cfg(feature = "sim")]
        if let Some(id) = &firmware.simulate {
            let board = Rehearsed { board: &self.board, bootloader: Some(id.as_str()).filter(|id| !id.is_empty()) };
            return simulate::session(board, firmware.firmware.as_deref(), force, trace, shared);
        }
        match &firmware.firmware {
            Some(file) => self.on_host(file, force, trace, shared),
            None => self.with_previous(force, trace, shared),
        }
    }

    /// The board with the firmware in `file`, on this host.
    pub fn on_host(&self, file: &Path, force: bool, trace: Option<&Path>, shared: &Shared) -> Result<Session, Failure> {
        let (profile, chip) = find_board(&self.board)?;
        let firmware = read_firmware(file)?;
        let (host, selectors) = SystemHost::new(&shared.host_root).with_selectors(self.device.clone());
        let request = Request { profile, chip, image: firmware.image.clone(), selectors, force };
        Session::new(Arc::new(host), request, Some(firmware), trace, shared)
    }

    /// The board with the firmware that it ran before, on this host.
    fn with_previous(&self, force: bool, trace: Option<&Path>, shared: &Shared) -> Result<Session, Failure> {
        let (profile, chip) = find_board(&self.board)?;
        let cache = shared.cache()?;
        let (host, selectors) = SystemHost::new(&shared.host_root).with_selectors(self.device.clone());
        let firmware = memory::previous(&cache, &host, &profile, &chip, &selectors)?;
        let request = Request { profile, chip, image: firmware.image.clone(), selectors, force };
        Session::new(Arc::new(host), request, Some(firmware), trace, shared)
    }
}

impl Session {
    /// A run of `request` on `host`; `firmware` is what the cache is to remember of it.
    pub fn new(
        host: Arc<dyn Host>,
        request: Request,
        firmware: Option<Obtained>,
        trace: Option<&Path>,
        shared: &Shared,
    ) -> Result<Self, Failure> {
        let (host, tracer): (Arc<dyn Host>, _) = match trace {
            Some(file) => {
                let traced = TracedHost::new(host, file)?;
                let tracer = traced.tracer.clone();
                (Arc::new(traced), Some(tracer))
            }
            None => (host, None),
        };
        let screen = Screen::default();
        let watch = Watch::start(request.profile.hands.clone(), screen.clone(), host.simulated(), shared.json)
            .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
        Ok(Self { host, request, firmware, watch, screen, tracer, json: shared.json })
    }

    /// Runs a stage with its progress shown.
    pub fn run<T>(
        &self,
        stage: impl for<'a> FnOnce(&Flasher<'a>, &'a Request, Events<'a>) -> Result<T, FlashError>,
    ) -> Result<T, Failure> {
        let simulated = self.host.simulated();
        if simulated {
            render::note("SIMULATED: a virtual board; no hardware is touched");
        }
        let flasher = Flasher {
            host: self.host.as_ref(),
            interrupt: &self.watch.interrupt,
            // Nobody can press the buttons of a virtual board.
            hands: !simulated && io::stderr().is_terminal() && io::stdin().is_terminal(),
        };
        let mut progress = Progress::new(self.json, self.screen.clone());
        let ended = stage(&flasher, &self.request, &mut |event: Event| {
            self.watch.event(&event);
            progress.event(&event);
        });
        progress.end(ended.is_ok());
        if let Some(Err(error)) = self.tracer.as_ref().map(Tracer::finish) {
            render::note(&format!("warning: the record of the link is incomplete: {error}"));
        }
        ended.map_err(|error| Failure { simulated, ..Failure::of_flash(error, &self.request.profile.hands) })
    }
}

/// The board of a name or a file.
pub fn find_board(name: &str) -> Result<(Profile, Chip), Failure> {
    boards::find(name).map_err(|error| {
        let hint = matches!(error, BoardError::NoSuchBoard { .. })
            .then(|| "`kflash boards` lists all; a board that is missing takes one file: give its path".to_owned());
        Failure { hint, ..Failure::usage(error.to_string()) }
    })
}

/// The firmware in a file.
pub fn read_firmware(file: &Path) -> Result<Obtained, Failure> {
    obtain::file(file).map_err(|error| Failure::new(error.exit(), error.to_string()))
}
