//! A board that lives in real time: its clock, its buttons, its cable, and what an onlooker sees it do.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kflash::chip::Chip;
use kflash::discover::UsbPath;

use super::controls::Control;
use super::descriptors::Identity;
use crate::board::{Running, UsbDescriptors, VirtualBoard};

/// A board in real time.
pub struct Live {
    board: VirtualBoard,
    chip: Chip,
    started: Instant,
    /// What the board's clock showed when it was started.
    age: Duration,
    /// What it shows: everything between two ticks happens at once, so that no event is passed over in between.
    now: Duration,
    port: UsbPath,
    plugged: bool,
    tty: Option<String>,
    /// Of a double reset.
    second_reset: Option<Duration>,
    seen: Seen,
    dump: Option<PathBuf>,
    tell: Box<dyn FnMut(&str)>,
}

/// What was told of the board already.
struct Seen {
    flash: Vec<u8>,
    /// What was told of each sector last.
    sectors: BTreeMap<usize, &'static str>,
    running: Running,
    enumeration: Option<u64>,
    violations: usize,
    next_look: Duration,
    untold: bool,
}

/// Between two presses of a double reset: a person's, well within Katapult's 10 to 500 ms.
const DOUBLE_RESET: Duration = Duration::from_millis(150);
/// The flash is compared with what was told of it no more often than this.
const LOOK: Duration = Duration::from_millis(100);

impl Live {
    /// Puts `board`, whose clock stands at `age`, on the desk with its cable in `port`. `tell` takes a line for every event;
    /// `dump` is a file that follows the flash.
    pub fn new(
        board: VirtualBoard,
        chip: Chip,
        age: Duration,
        port: UsbPath,
        dump: Option<PathBuf>,
        tell: Box<dyn FnMut(&str)>,
    ) -> Self {
        let seen = Seen {
            flash: board.flash().to_vec(),
            sectors: BTreeMap::new(),
            running: Running::Off,
            enumeration: None,
            violations: 0,
            next_look: Duration::ZERO,
            untold: false,
        };
        Self {
            board,
            chip,
            started: Instant::now(),
            age,
            now: age,
            port,
            plugged: true,
            tty: None,
            second_reset: None,
            seen,
            dump,
            tell,
        }
    }

    /// Moves the board's time on to now.
    pub fn tick(&mut self) {
        self.now = self.age + self.started.elapsed();
        self.board.advance(self.now);
        if self.second_reset.is_some_and(|at| at <= self.now) {
            self.board.press_reset(self.now);
            self.second_reset = None;
        }
    }

    /// The board's clock as of the last tick.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// How long it is until then.
    pub fn until(&self, time: Duration) -> Duration {
        time.saturating_sub(self.age + self.started.elapsed())
    }

    /// The board and what its clock shows.
    pub fn board(&mut self) -> (&mut VirtualBoard, Duration) {
        (&mut self.board, self.now)
    }

    /// The port that the cable is, or was last, plugged into.
    pub fn port(&self) -> &UsbPath {
        &self.port
    }

    /// Whether the cable is plugged in.
    pub fn plugged(&self) -> bool {
        self.plugged
    }

    /// The device on the board's own USB, if one is there.
    pub fn usb(&self) -> Option<&UsbDescriptors> {
        self.board.usb().filter(|_| self.plugged)
    }

    /// The name that the person at the controls chose for the board's tty from its next enumeration on.
    pub fn tty(&self) -> Option<&str> {
        self.tty.as_deref()
    }

    /// Tells the onlooker.
    pub fn tell(&mut self, event: &str) {
        (self.tell)(event);
    }

    /// Does what the person at the controls asks for.
    pub fn control(&mut self, control: Control) -> io::Result<()> {
        let (board, now) = self.board();
        match control {
            Control::Reset => board.press_reset(now),
            Control::DoubleReset => {
                board.press_reset(now);
                self.second_reset = Some(now + DOUBLE_RESET);
            }
            Control::Power(on) => board.power(now, on),
            Control::Boot0(high) => board.set_boot0(high),
            // The board is fed by its cable: a board with a supply of its own would be `reset`.
            Control::Unplug => {
                board.power(now, false);
                self.plugged = false;
            }
            Control::Plug(port) => {
                board.power(now, true);
                self.plugged = true;
                self.port = port.unwrap_or_else(|| self.port.clone());
            }
            Control::Tty(name) => self.tty = Some(name),
            Control::Dump(path) => write(&path, self.board.flash())?,
        }
        Ok(())
    }

    /// A debug probe halts the chip.
    pub fn halt(&mut self) {
        let (board, now) = self.board();
        board.power(now, false);
    }

    /// A debug probe lets go of the chip, which has this in its flash.
    pub fn start(&mut self, flash: &[u8]) -> Result<(), String> {
        self.touched();
        let (board, now) = self.board();
        board.power(now, false);
        board.set_flash(flash)?;
        board.power(now, true);
        Ok(())
    }

    /// Tells what happened, keeps the dump up to date.
    pub fn follow(&mut self) -> io::Result<()> {
        self.tell_running();
        self.tell_usb();
        if self.now >= self.seen.next_look {
            self.tell_flash()?;
            self.tell_violations();
            self.seen.next_look = self.now + LOOK;
        }
        Ok(())
    }

    /// When the next tick is due at the latest.
    pub fn due(&self) -> Option<Duration> {
        let look = Some(self.seen.next_look).filter(|_| self.seen.untold);
        [self.board.next_event(), self.second_reset, look].into_iter().flatten().min()
    }

    /// Says that the board was worked on, so that the flash is looked at before long.
    pub fn touched(&mut self) {
        self.seen.untold = true;
    }

    fn tell_running(&mut self) {
        let running = self.board.running();
        if running == self.seen.running {
            return;
        }
        let text = match &running {
            Running::Off => "off".to_owned(),
            Running::Application { version } => format!("application version={version:?}"),
            Running::Katapult => "katapult".to_owned(),
            Running::Rom => "rom".to_owned(),
            Running::LockedUp => "locked-up".to_owned(),
        };
        self.seen.running = running;
        self.seen.untold = true;
        (self.tell)(&format!("running {text}"));
    }

    fn tell_usb(&mut self) {
        let enumeration = self.usb().map(|usb| usb.enumeration);
        if enumeration == self.seen.enumeration {
            return;
        }
        if self.seen.enumeration.is_some() {
            (self.tell)("gone");
        }
        if let Some(identity) = self.usb().and_then(Identity::of) {
            let text = |text: Option<String>| text.unwrap_or_default();
            (self.tell)(&format!(
                "enumerated id={} path={} product={:?} serial={:?}",
                identity.id,
                self.port,
                text(identity.product),
                text(identity.serial)
            ));
        }
        self.seen.enumeration = enumeration;
    }

    /// Tells which sectors were erased or written since the last look.
    fn tell_flash(&mut self) -> io::Result<()> {
        if !self.seen.untold {
            return Ok(());
        }
        self.seen.untold = false;
        let flash = self.board.flash();
        if *flash == *self.seen.flash {
            return Ok(());
        }
        let start = self.chip.flash_start.0;
        for (index, sector) in self.chip.sectors().enumerate() {
            let bytes = (sector.start.0 - start) as usize..(sector.end().0 - start) as usize;
            let (Some(old), Some(new)) = (self.seen.flash.get(bytes.clone()), flash.get(bytes)) else { break };
            if old == new {
                continue;
            }
            let word = if new.iter().all(|&byte| byte == 0xff) { "erased" } else { "written" };
            // A sector that is being written differs at every look.
            if self.seen.sectors.insert(index, word) != Some(word) {
                (self.tell)(&format!("{word} {sector}"));
            }
        }
        self.seen.flash.clear();
        self.seen.flash.extend_from_slice(flash);
        self.write_dump()
    }

    /// Tells where the host made the flash controller break its rules.
    fn tell_violations(&mut self) {
        for violation in self.board.violations().iter().skip(self.seen.violations) {
            (self.tell)(&format!("violation {violation}"));
        }
        self.seen.violations = self.board.violations().len();
    }

    /// Writes the dump, if one was asked for.
    pub fn write_dump(&self) -> io::Result<()> {
        self.dump.as_deref().map_or(Ok(()), |path| write(path, self.board.flash()))
    }
}

/// Writes a file in one step, so that a reader never sees half of it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".part");
    let done = fs::write(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    done.map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display())))
}
