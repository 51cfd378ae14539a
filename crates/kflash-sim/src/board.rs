//! One simulated board: a chip with its flash and RAM flags, what runs on it, and its cables.
//!
//! Everything is driven by the caller's clock: `now` never goes backwards, and nothing happens but in a call.

use std::time::Duration;

use kflash::board::Profile;
use kflash::chip::Chip;
use kflash::link::Setup;

/// A simulated board.
pub struct VirtualBoard {
    _private: (),
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
    pub fn new(_profile: &Profile, _chip: &Chip, _contents: Contents) -> Result<Self, String> {
        Err("not yet".into())
    }

    /// Switches the supply. Switching on boots as the chip does after power-on.
    pub fn power(&mut self, _now: Duration, _on: bool) {}
    /// Presses and releases the reset button.
    pub fn press_reset(&mut self, _now: Duration) {}
    /// Sets the BOOT0 pin; sampled at the next reset.
    pub fn set_boot0(&mut self, _high: bool) {}
    /// Lets time pass up to `now`: re-enumeration, erase times, deferred resets.
    pub fn advance(&mut self, _now: Duration) {}
    /// When something will happen by itself next.
    pub fn next_event(&self) -> Option<Duration> {
        None
    }
    /// What runs.
    pub fn running(&self) -> Running {
        Running::Off
    }
    /// All of the flash, from its start.
    pub fn flash(&self) -> &[u8] {
        &[]
    }

    /// The device on the board's USB; `None` while there is none.
    pub fn usb(&self) -> Option<&UsbDescriptors> {
        None
    }
    /// A control request, standard ones included (the mount answers none by itself but SET_ADDRESS). `data` is what an
    /// OUT request carries; `length` is wLength.
    pub fn control(&mut self, _now: Duration, _setup: Setup, _data: &[u8], _length: u16) -> Control {
        Control::Stall
    }
    /// Bytes to a bulk OUT endpoint; false is STALL (no such endpoint).
    pub fn bulk_out(&mut self, _now: Duration, _endpoint: u8, _data: &[u8]) -> bool {
        false
    }
    /// Bytes from a bulk IN endpoint; `None` is NAK.
    pub fn bulk_in(&mut self, _now: Duration, _endpoint: u8, _max: usize) -> Option<Vec<u8>> {
        None
    }

    /// Bytes from the host on the UART, sent at `baud`: at another rate than the receiver's they arrive as garbage.
    pub fn uart_write(&mut self, _now: Duration, _baud: u32, _data: &[u8]) {}
    /// Bytes to the host that have arrived by `now`, as a host at `baud` would read them.
    pub fn uart_read(&mut self, _now: Duration, _baud: u32) -> Vec<u8> {
        Vec::new()
    }
}
