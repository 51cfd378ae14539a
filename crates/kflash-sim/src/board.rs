//! One simulated board: a chip with its flash and RAM flags, what runs on it, and its cables.
//!
//! Everything is driven by the caller's clock: `now` never goes backwards, and nothing happens but in a call.

#[cfg(test)]
mod tests;

use std::time::Duration;

use kflash::addr::FlashRange;
use kflash::board::{BootloaderKind, Cable, Profile};
use kflash::chip::Chip;
use kflash::link::Setup;
use kflash::proto::Protocol;

use crate::boot::{Cause, DOUBLE_RESET, Resident};
use crate::dfu_variant::DfuVariant;
use crate::execute::Judge;
use crate::firmware::TestImage;
use crate::flash::{Nor, Timing};
use crate::katapult::{Katapult, KatapultBuild};
use crate::klipper_mcu::KlipperMcu;
use crate::outbox::Outbox;
use crate::rom_dfu::RomDfu;
use crate::silicon::{KATAPULT_REQUEST, Next, Silicon};
use crate::uart::Wire;
use crate::usb::{self, CDC_IN, CDC_OUT, Identity, Session, utf16};

/// From its start until a program with USB of its own shows on the bus.
const ATTACHES_AFTER: Duration = Duration::from_millis(100);
/// The same for a bootloader in ROM, which looks for its clock first.
const ROM_ATTACHES_AFTER: Duration = Duration::from_millis(300);

/// A simulated board.
pub struct VirtualBoard {
    pub(crate) silicon: Silicon,
    pub(crate) judge: Judge,
    pub(crate) resident: Resident,
    /// Where the installed bootloader starts the application.
    pub(crate) app_start: u32,
    /// The installed Katapult's speed, where it was built for a UART.
    pub(crate) katapult_baud: Option<u32>,
    pub(crate) options: Options,
    pub(crate) boot0: bool,
    /// ST's empty flag, as of the last power-on.
    pub(crate) empty: bool,
    state: State,
    now: Duration,
    /// The device that is about to show on the bus.
    arriving: Option<(Duration, UsbDescriptors)>,
    attached: Option<UsbDescriptors>,
    session: Session,
    enumerations: u64,
    from_host: Wire,
    to_host: Wire,
}

/// What runs, with its state.
pub(crate) enum State {
    Off,
    /// Katapult waits whether reset is pressed again.
    AwaitingSecondReset {
        since: Duration,
    },
    Application(Box<KlipperMcu>),
    Katapult(Box<Katapult>),
    RomDfu(Box<RomDfu>),
    /// A bootloader in ROM that speaks nothing that is modelled.
    RomSilent,
    LockedUp,
}

/// What a new board holds.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The id of the installed bootloader in the profile.
    pub bootloader: String,
    /// The application that is installed, with its address; blank flash without one.
    pub application: Option<(u32, Vec<u8>)>,
    /// Other images that the chip could execute whole. A flash that holds the dictionary of a known image but other
    /// bytes is a damaged copy, and locks up.
    pub known: Vec<(u32, Vec<u8>)>,
    /// The 12-byte unique id.
    pub uid: [u8; 12],
}

/// How this board differs from the usual one of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// How long the flash takes.
    pub timing: Timing,
    /// The installed Katapult.
    pub katapult: KatapultBuild,
    /// The cable that it was built for, where the profile has routes for several.
    pub katapult_cable: Option<Cable>,
    /// The DfuSe bootloader in ROM, instead of the one that the chip's family has.
    pub dfu: Option<DfuVariant>,
    /// Read protection level 1.
    pub read_protected: bool,
    /// Ranges that are write-protected.
    pub write_protected: Vec<FlashRange>,
}

/// What a device on the bus shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsbDescriptors {
    /// 18 bytes.
    pub device: Vec<u8>,
    /// The whole configuration.
    pub configuration: Vec<u8>,
    /// Strings by index from 1, as the raw descriptor's payload (usually UTF-16LE).
    pub strings: Vec<Vec<u8>>,
    /// Counts re-enumerations: a mount that sees another number detaches and attaches.
    pub enumeration: u64,
}

/// The answer to a control request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Accepted; the bytes of an IN request. `held` is how long the device keeps the host waiting for it.
    Done {
        /// Bytes for the host.
        data: Vec<u8>,
        /// How long the device NAKs before it answers.
        held: Duration,
    },
    /// STALL.
    Stall,
    /// No answer at all: the device left the bus with the request.
    Vanished,
}

/// What the chip executes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Running {
    /// No power.
    Off,
    /// An application, by the version in its dictionary.
    Application {
        /// Its version.
        version: String,
    },
    /// Katapult.
    Katapult,
    /// The chip's ROM bootloader.
    Rom,
    /// Nothing that answers: blank or damaged flash was started.
    LockedUp,
}

impl VirtualBoard {
    /// A board as the profile describes it, powered off, with `contents` in its flash.
    pub fn new(profile: &Profile, chip: &Chip, contents: Contents) -> Result<Self, String> {
        Self::with_options(profile, chip, contents, Options::default())
    }

    /// The same with deviations.
    pub fn with_options(
        profile: &Profile,
        chip: &Chip,
        contents: Contents,
        mut options: Options,
    ) -> Result<Self, String> {
        let installed = profile
            .bootloaders
            .iter()
            .find(|installed| installed.id == contents.bootloader)
            .ok_or_else(|| format!("{} has no installed bootloader {:?}", profile.id, contents.bootloader))?;
        options.dfu = options.dfu.or_else(|| DfuVariant::of(chip, &contents.uid));
        let silicon = Silicon {
            chip: chip.clone(),
            uid: contents.uid,
            flash: Nor::new(chip, options.timing, options.write_protected.clone()),
            ram: std::collections::BTreeMap::new(),
            read_protected: options.read_protected,
            next: None,
        };
        let routes = profile.routes.iter().filter(|route| {
            route.bootloader == installed.id
                && route.protocol == Protocol::Katapult
                && options.katapult_cable.is_none_or(|cable| cable == route.cable)
        });
        let katapult_baud = routes
            .map(|route| (route.cable == Cable::Uart).then(|| route.bootloader_baud.unwrap_or(250_000)))
            .next()
            .flatten();
        let mut board = Self {
            resident: resident(installed.kind, &silicon, &options, installed.app_start.0),
            silicon,
            judge: Judge::new(contents.known),
            app_start: installed.app_start.0,
            katapult_baud,
            options,
            boot0: false,
            empty: false,
            state: State::Off,
            now: Duration::ZERO,
            arriving: None,
            attached: None,
            session: Session::default(),
            enumerations: 0,
            from_host: Wire::default(),
            to_host: Wire::default(),
        };
        board.install(contents.application)?;
        Ok(board)
    }

    fn install(&mut self, application: Option<(u32, Vec<u8>)>) -> Result<(), String> {
        let base = self.silicon.boot_base();
        if let Resident::Katapult(bytes) | Resident::Vendor(bytes) = &self.resident {
            if bytes.len() > (self.app_start - base) as usize {
                return Err(format!(
                    "a bootloader of {} bytes does not fit below {:#010x}",
                    bytes.len(),
                    self.app_start
                ));
            }
            self.silicon.flash.preload(base, bytes)?;
        }
        if self.silicon.is("rp2") {
            let mut stage = TestImage::katapult("rp2040", self.silicon.chip.flash_start.0).build();
            stage.truncate(252);
            stage.extend(crate::crc::rp2040_stage2(&stage).to_le_bytes());
            self.silicon.flash.preload(self.silicon.chip.flash_start.0, &stage)?;
        }
        if let Some((address, bytes)) = application {
            self.silicon.flash.preload(address, &bytes)?;
            self.judge.learn(&self.silicon.chip, &self.silicon.flash, address, bytes);
        }
        Ok(())
    }

    /// Switches the supply. Switching on boots as the chip does after power-on.
    pub fn power(&mut self, now: Duration, on: bool) {
        self.advance(now);
        match (on, &self.state) {
            (true, State::Off) => self.boot(now, Cause::PowerOn),
            (false, State::Off) | (true, _) => {}
            (false, _) => {
                self.silicon.flash.interrupt(now);
                self.silicon.ram.clear();
                self.silicon.next = None;
                self.to_host.cut(now);
                self.from_host = Wire::default();
                self.enter(now, State::Off);
            }
        }
    }

    /// Puts other contents into the flash, as a debug probe does, past whatever runs. All of it, from its start.
    pub fn set_flash(&mut self, bytes: &[u8]) -> Result<(), String> {
        let start = self.silicon.chip.flash_start.0;
        self.silicon.flash.preload(start, bytes)?;
        // What reads as erased is.
        self.silicon.flash.forget_blank();
        Ok(())
    }

    /// Presses and releases the reset button.
    pub fn press_reset(&mut self, now: Duration) {
        self.advance(now);
        if !matches!(self.state, State::Off) {
            self.reset(now, Cause::Reset);
        }
    }

    /// Sets the BOOT0 pin; sampled at the next reset.
    pub fn set_boot0(&mut self, high: bool) {
        self.boot0 = high;
    }

    /// Lets time pass up to `now`: re-enumeration, erase times, deferred resets.
    pub fn advance(&mut self, now: Duration) {
        while let Some(at) = self.own_event().filter(|at| *at <= now) {
            self.now = self.now.max(at);
            let at = self.now;
            if self.silicon.next.is_some_and(|(due, _)| due <= at) {
                if let Some((_, next)) = self.silicon.next.take() {
                    self.follow(at, next);
                }
            } else if let State::AwaitingSecondReset { since } = self.state
                && since + DOUBLE_RESET.1 <= at
            {
                self.start_application(at, self.app_start);
            } else if let Some((_, descriptors)) = self.arriving.take_if(|(due, _)| *due <= at) {
                self.enumerations += 1;
                self.session = Session::default();
                self.attached = Some(UsbDescriptors { enumeration: self.enumerations, ..descriptors });
            } else {
                self.receive_burst(at);
            }
        }
        self.now = self.now.max(now);
    }

    /// When something will happen by itself next.
    pub fn next_event(&self) -> Option<Duration> {
        let output = match &self.state {
            State::Application(mcu) => mcu.next_output(),
            State::Katapult(katapult) => katapult.next_output(),
            _ => None,
        };
        [self.own_event(), output, self.to_host.next_byte()].into_iter().flatten().filter(|at| *at > self.now).min()
    }

    /// What runs.
    pub fn running(&self) -> Running {
        match &self.state {
            State::Off => Running::Off,
            State::Application(mcu) => Running::Application { version: mcu.firmware().version.clone() },
            State::AwaitingSecondReset { .. } | State::Katapult(_) => Running::Katapult,
            State::RomDfu(_) | State::RomSilent => Running::Rom,
            State::LockedUp => Running::LockedUp,
        }
    }

    /// All of the flash, from its start.
    pub fn flash(&self) -> &[u8] {
        self.silicon.flash.data()
    }

    /// What the host made the flash controller do against its rules, in words.
    pub fn violations(&self) -> &[String] {
        self.silicon.flash.violations()
    }

    /// The device on the board's USB; `None` while there is none.
    pub fn usb(&self) -> Option<&UsbDescriptors> {
        self.attached.as_ref()
    }

    /// A control request, standard ones included (the mount answers none by itself but SET_ADDRESS). `data` is what an
    /// OUT request carries; `length` is wLength.
    pub fn control(&mut self, now: Duration, setup: Setup, data: &[u8], length: u16) -> Control {
        self.advance(now);
        let Some(device) = &self.attached else { return Control::Vanished };
        let answer = match setup.request_type & 0x60 {
            0x00 => usb::standard(device, &mut self.session, setup, length),
            0x20 => match &mut self.state {
                State::Application(mcu) => mcu.control(now, &mut self.silicon, setup, data),
                State::Katapult(katapult) => katapult.control(setup, data),
                State::RomDfu(rom) => rom.control(now, &mut self.silicon, setup, data, length),
                _ => Control::Stall,
            },
            _ => Control::Stall,
        };
        if answer == Control::Vanished {
            self.attached = None;
        }
        answer
    }

    /// Bytes to a bulk OUT endpoint; false is STALL (no such endpoint).
    pub fn bulk_out(&mut self, now: Duration, endpoint: u8, data: &[u8]) -> bool {
        self.advance(now);
        if self.attached.is_none() || endpoint != CDC_OUT {
            return false;
        }
        match &mut self.state {
            State::Application(mcu) => mcu.receive(now, &mut self.silicon, data),
            State::Katapult(katapult) => {
                for packet in data.chunks(64) {
                    katapult.packet(now, &mut self.silicon, packet);
                }
            }
            _ => return false,
        }
        true
    }

    /// Bytes from a bulk IN endpoint; `None` is NAK.
    pub fn bulk_in(&mut self, now: Duration, endpoint: u8, max: usize) -> Option<Vec<u8>> {
        self.advance(now);
        if self.attached.is_none() || endpoint != CDC_IN {
            return None;
        }
        self.outbox()?.take(now, max)
    }

    /// Bytes from the host on the UART, sent at `baud`: at another rate than the receiver's they arrive as garbage.
    pub fn uart_write(&mut self, now: Duration, baud: u32, data: &[u8]) {
        self.advance(now);
        if !data.is_empty() {
            self.from_host.send(now, baud, data.to_vec());
        }
    }

    /// Bytes to the host that have arrived by `now`, as a host at `baud` would read them.
    pub fn uart_read(&mut self, now: Duration, baud: u32) -> Vec<u8> {
        self.advance(now);
        self.to_host.take_bytes(now, baud)
    }

    /// The host has found the device anew: its cable was pulled and plugged in again while it had its supply.
    pub fn bus_reset(&mut self, now: Duration) {
        self.advance(now);
        if let Some(device) = self.attached.take() {
            if let State::Katapult(katapult) = &mut self.state {
                katapult.bus_reset(&self.silicon);
            }
            self.arriving = Some((now + ATTACHES_AFTER, device));
        }
    }

    /// Gives the chip another unique id; seen on the bus from its next start.
    pub fn set_uid(&mut self, uid: [u8; 12]) {
        self.silicon.uid = uid;
    }

    /// Another program takes over: the device of the last one leaves the bus.
    pub(crate) fn enter(&mut self, now: Duration, state: State) {
        let arriving = match &state {
            State::Application(mcu) => mcu.descriptors(&self.silicon).map(|device| (ATTACHES_AFTER, device)),
            State::Katapult(katapult) => katapult.descriptors(&self.silicon).map(|device| (ATTACHES_AFTER, device)),
            State::RomDfu(rom) => Some((ROM_ATTACHES_AFTER, rom.descriptors())),
            State::RomSilent if self.silicon.is("rp2") => Some((ROM_ATTACHES_AFTER, bootsel())),
            _ => None,
        };
        self.attached = None;
        self.arriving = arriving.map(|(after, device)| (now + after, device));
        self.state = state;
        self.forward_output();
    }

    fn reset(&mut self, now: Duration, cause: Cause) {
        if let State::AwaitingSecondReset { since } = self.state
            && (since + DOUBLE_RESET.0..since + DOUBLE_RESET.1).contains(&now)
            && let Some(stack) = self.silicon.flash.word(self.silicon.boot_base())
        {
            self.silicon.ram.insert(stack, KATAPULT_REQUEST);
        }
        self.silicon.flash.interrupt(now);
        self.silicon.next = None;
        self.to_host.cut(now);
        self.boot(now, cause);
    }

    fn follow(&mut self, now: Duration, next: Next) {
        match next {
            Next::Reset => self.reset(now, Cause::Reset),
            Next::OptionLoad => self.reset(now, Cause::PowerOn),
            Next::Jump(addr) => self.start_at(now, addr),
            Next::Rom => self.enter_rom(now),
        }
    }

    /// When this board changes next, apart from output that becomes ready.
    fn own_event(&self) -> Option<Duration> {
        let window = match self.state {
            State::AwaitingSecondReset { since } => Some(since + DOUBLE_RESET.1),
            _ => None,
        };
        let next = self.silicon.next.map(|(at, _)| at);
        let arriving = self.arriving.as_ref().map(|(at, _)| *at);
        [window, next, arriving, self.from_host.next_whole()].into_iter().flatten().min()
    }

    fn receive_burst(&mut self, now: Duration) {
        let baud = self.uart_baud();
        let Some((at, bytes)) = self.from_host.take_whole(now, baud.unwrap_or(1)) else { return };
        match &mut self.state {
            _ if baud.is_none() => {}
            State::Application(mcu) => mcu.receive(at, &mut self.silicon, &bytes),
            State::Katapult(katapult) => katapult.receive(at, &mut self.silicon, &bytes),
            _ => {}
        }
        self.forward_output();
    }

    /// The speed of the program that listens on the UART.
    fn uart_baud(&self) -> Option<u32> {
        match &self.state {
            State::Application(mcu) => mcu.baud(),
            State::Katapult(katapult) => katapult.baud(),
            _ => None,
        }
    }

    /// Puts what a program on the UART has to say onto the wire.
    fn forward_output(&mut self) {
        let Some(baud) = self.uart_baud() else { return };
        while let Some((ready, bytes)) = self.outbox().and_then(Outbox::pop) {
            self.to_host.send(ready, baud, bytes);
        }
    }

    fn outbox(&mut self) -> Option<&mut Outbox> {
        match &mut self.state {
            State::Application(mcu) => Some(mcu.outbox()),
            State::Katapult(katapult) => Some(katapult.outbox()),
            _ => None,
        }
    }
}

fn resident(kind: BootloaderKind, silicon: &Silicon, options: &Options, app_start: u32) -> Resident {
    let version = options.katapult.version.as_deref();
    let mcu = silicon.chip.mcu.first().map_or("", String::as_str);
    let image = TestImage::katapult(mcu, silicon.boot_base()).starting(app_start);
    match kind {
        BootloaderKind::None => Resident::None,
        BootloaderKind::Katapult => Resident::Katapult(image.version(version.unwrap_or("v0.0.1")).build()),
        BootloaderKind::Vendor => {
            let mut bytes = image.version("vendor").build();
            let signature = bytes.windows(8).position(|bytes| bytes == b"CanBoot!");
            if let Some(at) = signature {
                bytes[at..at + 8].copy_from_slice(b"SDLoader");
            }
            Resident::Vendor(bytes)
        }
    }
}

/// The boot ROM of an RP2040 on USB (RP2040 datasheet §2.8): mass storage and PICOBOOT, neither of them modelled.
fn bootsel() -> UsbDescriptors {
    let body = [
        &[9, 4, 0, 0, 2, 8, 6, 0x50, 0][..],
        &[7, 5, 0x81, 2, 64, 0, 0],
        &[7, 5, 0x02, 2, 64, 0, 0],
        &[9, 4, 1, 0, 2, 0xff, 0, 0, 0],
        &[7, 5, 0x03, 2, 64, 0, 0],
        &[7, 5, 0x84, 2, 64, 0, 0],
    ]
    .concat();
    let identity = Identity { usb: 0x0110, class: 0, vendor: 0x2e8a, product: 0x0003, revision: 0x0100 };
    let strings = ["Raspberry Pi", "RP2 Boot", "E0C9125B0D9B"].map(utf16).to_vec();
    usb::descriptors(identity, usb::configuration(2, 0x80, 250, &body), strings)
}
