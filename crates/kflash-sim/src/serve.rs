//! `kflash-sim serve`.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use clap::{Args, ValueEnum};
use kflash::board::{BootloaderKind, Cable, InstalledBootloader, Profile};
use kflash::boards;
use kflash::chip::Chip;
use kflash::discover::UsbPath;
use kflash::klipper::dictionary::BuiltFor;
use kflash_sim::board::{Contents, Options, VirtualBoard};
use kflash_sim::dfu_variant::DfuVariant;
use kflash_sim::firmware::TestImage;
use kflash_sim::flash::Timing;
use kflash_sim::mount::live::Live;
#[cfg(feature = "swd")]
use kflash_sim::mount::probe::{self, Failing};
use kflash_sim::mount::pty::{self, Pty};
use kflash_sim::mount::sysfs::Tree;
use kflash_sim::mount::usbip::{server::Server, vhci::Vhci};
use kflash_sim::mount::{self, Message, Mount, QUEUE};
#[cfg(feature = "swd")]
use kflash_sim::swd::{self, Target};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Serve one simulated board until SIGTERM, `quit`, or the end of standard input.
///
/// The first line on standard output is `ready`, with where the board is to be found; after it comes a line for every
/// event: enumerated, gone, running, erased, written, attached, detached. Lines on standard input press its buttons:
/// reset, double-reset, power on|off, boot0 on|off, unplug, plug [PORT], tty NAME, dump FILE, quit.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    /// The board: an id, an alias or the path of a profile.
    #[arg(long, value_name = "BOARD")]
    board: String,

    /// The cable that it is reached through [default: the first route's]
    #[arg(long, value_enum)]
    cable: Option<CableKind>,

    /// The installed bootloader, by its name in the profile [default: that of the first route with the cable]
    #[arg(long, value_name = "NAME")]
    bootloader: Option<String>,

    /// The installed application, a raw .bin for the place behind that bootloader [default: a made Klipper image]
    #[arg(long, value_name = "FILE", conflicts_with = "blank")]
    firmware: Option<PathBuf>,

    /// Install no application.
    #[arg(long)]
    blank: bool,

    /// A raw .bin that will be written: a damaged copy of it locks the board up, as it would a real one. May be repeated.
    #[arg(long, value_name = "FILE")]
    known: Vec<PathBuf>,

    /// The chip's unique id, 24 hexadecimal digits.
    #[arg(long, value_name = "HEX", default_value = "290034001751333038363536", value_parser = uid)]
    uid: [u8; 12],

    /// What runs at first.
    #[arg(long, value_enum, default_value_t = Mode::Klipper)]
    mode: Mode,

    /// Keep the BOOT0 jumper set.
    #[arg(long)]
    boot0: bool,

    /// Set read protection level 1.
    #[arg(long)]
    read_protected: bool,

    /// How long erasing and writing take.
    #[arg(long, value_enum, default_value_t = TimingKind::Real)]
    timing: TimingKind,

    /// How the board is to be reached.
    #[arg(long, value_enum, default_value_t = MountKind::Usbip)]
    mount: MountKind,

    /// Where USB/IP listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,

    /// The USB port that the board is plugged into [default: 1-1, or the first free one of vhci]
    #[arg(long, value_name = "PORT")]
    port: Option<UsbPath>,

    /// A folder to make the host around a pty in: its /sys and /dev, for `kflash --host-root`.
    #[arg(long, value_name = "DIR")]
    host_root: Option<PathBuf>,

    /// The name of the tty there [default: ttyACM0, ttyUSB0 behind a bridge, ttyS0 on a UART]
    #[arg(long, value_name = "NAME")]
    tty: Option<String>,

    /// A file that follows the flash.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,

    /// A CMSIS-DAP debug probe at the chip's pins, in this port of vhci.
    #[cfg(feature = "swd")]
    #[arg(long, value_name = "PORT")]
    probe: Option<UsbPath>,

    /// The probe's serial number.
    #[cfg(feature = "swd")]
    #[arg(long, value_name = "SERIAL", requires = "probe", default_value = "SIM00001")]
    probe_serial: String,

    /// Pull the probe out after so many of its commands.
    #[cfg(feature = "swd")]
    #[arg(long, value_name = "COMMANDS", requires = "probe", conflicts_with = "probe_mute")]
    probe_unplugged: Option<u64>,

    /// Let the probe fall silent after so many of its commands.
    #[cfg(feature = "swd")]
    #[arg(long, value_name = "COMMANDS", requires = "probe")]
    probe_mute: Option<u64>,

    /// The flash is erased all over: not even a bootloader is installed yet.
    #[arg(long, conflicts_with = "firmware")]
    erased: bool,
}

const EXAMPLES: &str = "\
Examples:
  A board for kflash's own USB/IP client, no root and no kernel support needed:
    kflash-sim serve --board btt-octopus-v1.1-f446
    kflash flash --board btt-octopus-v1.1-f446 --device usbip://127.0.0.1:PORT/1-1 --firmware klipper.bin

  A board on a pty, found under a host root of its own:
    kflash-sim serve --board btt-octopus-v1.1-f446 --mount pty --host-root /tmp/host
    kflash --host-root /tmp/host detect

  A board in its ROM bootloader on this machine's USB (as root, after modprobe vhci-hcd), for any program:
    kflash-sim serve --board btt-octopus-v1.1-f446 --bootloader none --mode dfu --mount vhci
    dfu-util -l";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CableKind {
    /// The chip's own USB.
    Usb,
    /// The chip's UART.
    Uart,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TimingKind {
    /// As the data sheets say.
    Real,
    /// No time at all, and a ROM bootloader that asks the host for none.
    Zero,
}

/// What runs at first.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// What the board starts by itself.
    Klipper,
    /// Katapult, after a double reset.
    Katapult,
    /// The chip's ROM bootloader, after a reset with BOOT0 held.
    Dfu,
}

/// How the board is to be reached.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MountKind {
    /// USB/IP over TCP.
    Usbip,
    /// This machine's USB, through the kernel's vhci_hcd.
    Vhci,
    /// A pty.
    Pty,
}

/// Klipper's default on a UART.
const KLIPPER_BAUD: u32 = 250_000;
/// Time for the board to start before the next button is pressed.
const SETTLE: Duration = Duration::from_secs(1);
/// Between the two presses of a double reset.
const DOUBLE_RESET: Duration = Duration::from_millis(150);

impl Serve {
    /// Serves the board.
    pub fn run(self) -> Result<(), Box<dyn Error>> {
        let (profile, chip) = boards::find(&self.board)?;
        let (bootloader, cable) = self.installed(&profile)?;
        if self.mount != MountKind::Pty && cable != Cable::Usb {
            return Err(format!("{} is reached through a UART: use --mount pty", profile.id).into());
        }
        let contents = self.contents(&profile, &chip, bootloader, cable)?;
        let timing = match self.timing {
            TimingKind::Real => Timing::Real,
            TimingKind::Zero => Timing::Zero,
        };
        let options = Options {
            timing,
            katapult_cable: Some(cable),
            dfu: DfuVariant::of(&chip, &self.uid).map(|variant| match timing {
                Timing::Real => variant,
                Timing::Zero => variant.at_once(),
            }),
            read_protected: self.read_protected,
            ..Options::default()
        };
        let mut board = VirtualBoard::with_options(&profile, &chip, contents, options)?;
        if self.erased {
            let bytes = board.flash().len();
            board.set_flash(&vec![0xff; bytes])?;
        }
        let age = self.start(&mut board);

        let (sender, queue) = sync_channel(QUEUE);
        let (mount, port, ready) = self.mount(&profile, cable, &sender)?;
        #[cfg(feature = "swd")]
        self.debug(&chip, &board, &sender);
        let mut live = Live::new(board, chip, age, port, self.dump, Box::new(say));
        live.write_dump()?;
        watch(&sender)?;
        say(&ready);
        let result = mount::serve(&mut live, mount, &sender, &queue);
        live.write_dump()?;
        Ok(result?)
    }

    /// The installed bootloader and the cable.
    fn installed<'a>(&self, profile: &'a Profile) -> Result<(&'a InstalledBootloader, Cable), Box<dyn Error>> {
        let cable = self.cable.map(|cable| match cable {
            CableKind::Usb => Cable::Usb,
            CableKind::Uart => Cable::Uart,
        });
        let mut routes = profile.routes.iter().filter(|route| cable.is_none_or(|cable| cable == route.cable));
        let first = routes.clone().next().ok_or_else(|| format!("{} has no route through that cable", profile.id))?;
        let Some(wanted) = &self.bootloader else {
            let installed = profile.bootloader_of(first).ok_or("the profile's first route names no bootloader")?;
            return Ok((installed, first.cable));
        };
        let installed = profile.bootloaders.iter().find(|bootloader| bootloader.id == *wanted).ok_or_else(|| {
            let names: Vec<_> = profile.bootloaders.iter().map(|bootloader| bootloader.id.as_str()).collect();
            format!("{} has no bootloader {wanted:?}; it may have: {}", profile.id, names.join(", "))
        })?;
        // A bootloader that no route knows is reached by the application's cable.
        let route = routes.find(|route| route.bootloader == installed.id).unwrap_or(first);
        Ok((installed, route.cable))
    }

    fn contents(
        &self,
        profile: &Profile,
        chip: &Chip,
        bootloader: &InstalledBootloader,
        cable: Cable,
    ) -> Result<Contents, Box<dyn Error>> {
        if self.mode == Mode::Katapult && bootloader.kind != BootloaderKind::Katapult {
            return Err(format!("{} has no Katapult with --bootloader {}", profile.id, bootloader.id).into());
        }
        if self.mode == Mode::Dfu && chip.rom_dfu.is_none() {
            return Err(format!("the {} has no DFU in its ROM", chip.id).into());
        }
        let start = bootloader.app_start.0;
        let read = |file: &PathBuf| match fs::read(file) {
            Ok(bytes) => Ok((start, bytes)),
            Err(error) => Err(format!("cannot read {}: {error}", file.display())),
        };
        let application = match &self.firmware {
            Some(file) => Some(read(file)?),
            None if self.blank => None,
            None => {
                let mcu = chip.mcu.first().ok_or("the chip has no name")?;
                let built_for = if cable == Cable::Usb { BuiltFor::Usb } else { BuiltFor::Uart(KLIPPER_BAUD) };
                Some((start, TestImage::klipper(mcu, start).built_for(built_for).build()))
            }
        };
        Ok(Contents {
            bootloader: bootloader.id.clone(),
            application,
            known: self.known.iter().map(read).collect::<Result<_, _>>()?,
            uid: self.uid,
        })
    }

    /// Switches the board on and presses what the mode asks for. Returns the board's time after that.
    fn start(&self, board: &mut VirtualBoard) -> Duration {
        board.set_boot0(self.boot0 || self.mode == Mode::Dfu);
        board.power(Duration::ZERO, true);
        board.advance(SETTLE);
        board.set_boot0(self.boot0);
        if self.mode != Mode::Katapult {
            return SETTLE;
        }
        board.press_reset(SETTLE);
        board.press_reset(SETTLE + DOUBLE_RESET);
        board.advance(2 * SETTLE);
        2 * SETTLE
    }

    /// Puts the debug probe into its port, on a thread of its own: the model of a core stays where it was made.
    #[cfg(feature = "swd")]
    fn debug(&self, chip: &Chip, board: &VirtualBoard, queue: &SyncSender<Message>) {
        let Some(port) = self.probe.clone() else { return };
        let failing = self.probe_unplugged.map(Failing::Unplugged).or(self.probe_mute.map(Failing::Mute));
        let (chip, contents, queue) = (chip.clone(), board.flash().to_vec(), queue.clone());
        let serial = self.probe_serial.clone();
        let options = swd::Options { uid: self.uid, read_protected: self.read_protected, ..swd::Options::default() };
        thread::spawn(move || {
            let start = chip.flash_start.0;
            let served = Target::new(&chip, &[(start, contents)], options)
                .map_err(io::Error::other)
                .and_then(|target| probe::serve(target, &serial, port, failing, queue));
            if let Err(error) = served {
                say(&format!("error the debug probe: {error}"));
            }
        });
    }

    fn mount(
        &self,
        profile: &Profile,
        cable: Cable,
        queue: &SyncSender<Message>,
    ) -> Result<(Mount, UsbPath, String), Box<dyn Error>> {
        let port = || self.port.clone().map_or_else(|| "1-1".parse(), Ok);
        match self.mount {
            MountKind::Usbip => {
                let server = Server::listen(self.listen, queue)?;
                let port = port()?;
                let ready = format!("ready mount=usbip listen={} busid={port}", server.address());
                Ok((Mount::Usbip(server), port, ready))
            }
            MountKind::Vhci => {
                let vhci = Vhci::new()?;
                let port = self.port.clone().map_or_else(|| vhci.free_port(), Ok)?;
                vhci.check(&port)?;
                Ok((Mount::Vhci(vhci), port.clone(), format!("ready mount=vhci path={port}")))
            }
            MountKind::Pty => {
                let tree = self.host_root.clone().map(Tree::new).transpose()?;
                let cable = match cable {
                    Cable::Usb => pty::Cable::Usb,
                    Cable::Uart => {
                        pty::Cable::Uart { bridge: profile.uart_bridge, opening_resets: profile.opening_resets }
                    }
                };
                Ok((Mount::Pty(Pty::new(cable, tree, self.tty.clone())), port()?, "ready mount=pty".to_owned()))
            }
        }
    }
}

/// Watches for what ends the service, and for the lines of who is at the controls.
fn watch(queue: &SyncSender<Message>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let quit = queue.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            // The other end is gone if it is ending already.
            let _ = quit.send(Message::Quit);
        }
    });
    let lines = queue.clone();
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
            if lines.send(Message::Control(line)).is_err() {
                return;
            }
        }
        let _ = lines.send(Message::Quit);
    });
    Ok(())
}

/// A line for who started the service. They may not be listening.
fn say(line: &str) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn uid(text: &str) -> Result<[u8; 12], String> {
    let digits = || format!("{text:?} is not 24 hexadecimal digits");
    if text.len() != 24 || !text.is_ascii() {
        return Err(digits());
    }
    let mut uid = [0; 12];
    for (byte, pair) in uid.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = str::from_utf8(pair).map_err(|_| digits())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| digits())?;
    }
    Ok(uid)
}
