//! Boards, their cables and the time they share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kflash::discover::{Device, Mode, Place, TtyNode, UsbId, UsbIdentity, UsbPath, mode_of};
use kflash::host::Holder;
use kflash::link::LinkError;

use crate::board::VirtualBoard;
use crate::fault::{FaultKind, FaultPlan};

use super::{BoardKey, Hand, Plug};

/// The world, shared by the host, its clock and its links.
pub(super) type Shared = Arc<Mutex<World>>;

pub(super) struct World {
    pub(super) now: Duration,
    /// Real seconds for a virtual one, and how far real time has followed.
    pub(super) pace: Option<(f64, Duration)>,
    pub(super) seats: Vec<Seat>,
    pub(super) plan: FaultPlan,
    /// What a person will do, by time.
    pub(super) agenda: Vec<(Duration, BoardKey, Hand)>,
    /// Nodes that other processes hold open.
    pub(super) held: Vec<(PathBuf, Holder)>,
    /// Nodes that links of this host hold open, by link.
    pub(super) open: BTreeMap<u64, PathBuf>,
    pub(super) locks: BTreeMap<String, u32>,
    pub(super) links: u64,
    device_numbers: u16,
}

/// A board and where it is plugged in.
pub(super) struct Seat {
    pub(super) board: VirtualBoard,
    pub(super) plug: Plug,
    pub(super) plugged: bool,
    /// Opening its port resets it.
    pub(super) opening_resets: bool,
    /// The device that it is on the host now.
    pub(super) node: Option<Node>,
    /// With the next enumeration.
    next_plug: Option<Plug>,
    next_tty: Option<PathBuf>,
    taker: Option<Holder>,
}

/// A device on the host.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Tells one enumeration from another, over all boards.
    pub(super) stamp: u64,
    enumeration: u64,
    number: u16,
    pub(super) tty: Option<PathBuf>,
}

impl World {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            pace: None,
            seats: Vec::new(),
            plan: FaultPlan::new(),
            agenda: Vec::new(),
            held: Vec::new(),
            open: BTreeMap::new(),
            locks: BTreeMap::new(),
            links: 0,
            device_numbers: 1,
        }
    }

    /// Plugs a board in and switches it on.
    pub(super) fn plug_in(&mut self, plug: Plug, mut board: VirtualBoard, opening_resets: bool) -> BoardKey {
        board.power(self.now, true);
        self.seats.push(Seat {
            board,
            plug,
            plugged: true,
            opening_resets,
            node: None,
            next_plug: None,
            next_tty: None,
            taker: None,
        });
        self.enumerate();
        BoardKey(self.seats.len() - 1)
    }

    /// When anything happens by itself next.
    pub(super) fn next_event(&self) -> Option<Duration> {
        let boards = self.seats.iter().filter_map(|seat| seat.board.next_event());
        boards.chain(self.agenda.iter().map(|(at, ..)| *at)).min().map(|at| at.max(self.now))
    }

    /// Lets time pass up to `to`.
    pub(super) fn advance(&mut self, to: Duration) {
        while let Some(at) = self.next_event().filter(|at| *at <= to) {
            self.step(at);
        }
        self.step(to.max(self.now));
    }

    fn step(&mut self, now: Duration) {
        self.now = now;
        for seat in &mut self.seats {
            seat.board.advance(now);
        }
        if !self.agenda.is_empty() {
            let due: Vec<_> = self.agenda.extract_if(.., |(at, ..)| *at <= now).collect();
            for (_, key, hand) in due {
                self.hand(key, hand);
            }
        }
        self.enumerate();
    }

    /// A person acts.
    pub(super) fn hand(&mut self, key: BoardKey, hand: Hand) {
        let now = self.now;
        let seat = &mut self.seats[key.0];
        match hand {
            Hand::Reset => seat.board.press_reset(now),
            Hand::DoubleReset(gap) => {
                seat.board.press_reset(now);
                self.agenda.push((now + gap, key, Hand::Reset));
            }
            Hand::Boot0(high) => seat.board.set_boot0(high),
            Hand::Power(on) => seat.board.power(now, on),
            Hand::Unplug => seat.plugged = false,
            Hand::Replug => {
                seat.board.power(now, true);
                if !seat.plugged {
                    seat.plugged = true;
                    seat.board.bus_reset(now);
                }
            }
            Hand::Move(plug) => {
                seat.plugged = true;
                seat.plug = plug;
                seat.node = None;
                seat.board.bus_reset(now);
            }
        }
        self.enumerate();
    }

    /// Brings the host's devices in line with what is on its buses.
    pub(super) fn enumerate(&mut self) {
        for index in 0..self.seats.len() {
            let seat = &self.seats[index];
            let present = match &seat.plug {
                _ if !seat.plugged => None,
                Plug::Usb(_) => seat.board.usb().map(|device| device.enumeration),
                Plug::Bridge { .. } | Plug::Tty(_) => Some(0),
            };
            if present == seat.node.as_ref().map(|node| node.enumeration) {
                continue;
            }
            if let Some(node) = self.seats[index].node.take() {
                self.held.retain(|(held, _)| node.tty.as_ref() != Some(held));
            }
            if let Some(enumeration) = present {
                self.attach(index, enumeration);
            }
        }
    }

    fn attach(&mut self, index: usize, enumeration: u64) {
        self.device_numbers = self.device_numbers % 127 + 1;
        self.links += 1;
        let (number, stamp) = (self.device_numbers, self.links);
        if let Some(plug) = self.seats[index].next_plug.take() {
            self.seats[index].plug = plug;
        }
        let kind = match &self.seats[index].plug {
            Plug::Usb(_) => self.seats[index].is_cdc().then_some("ttyACM"),
            Plug::Bridge { .. } => Some("ttyUSB"),
            Plug::Tty(_) => None,
        };
        let tty = match (&self.seats[index].plug, kind) {
            (Plug::Tty(path), _) => Some(path.clone()),
            (_, None) => None,
            (_, Some(kind)) => Some(self.seats[index].next_tty.take().unwrap_or_else(|| self.free_tty(kind))),
        };
        if let Some(tty) = &tty
            && let Some(holder) = self.seats[index].taker.take()
        {
            self.held.push((tty.clone(), holder));
        }
        self.seats[index].node = Some(Node { stamp, enumeration, number, tty });
    }

    /// The lowest name that no device has and no link still holds open.
    fn free_tty(&self, kind: &str) -> PathBuf {
        let taken = |path: &PathBuf| {
            let named = |seat: &Seat| seat.node.as_ref().is_some_and(|node| node.tty.as_ref() == Some(path));
            self.seats.iter().any(named) || self.open.values().any(|open| open == path)
        };
        (0..=self.seats.len() + self.open.len())
            .map(|n| PathBuf::from(format!("/dev/{kind}{n}")))
            .find(|path| !taken(path))
            .unwrap_or_default()
    }

    /// Does what a fault says of the board; what concerns the operation itself is given back.
    pub(super) fn strike(&mut self, key: BoardKey, kind: FaultKind) -> Option<FaultKind> {
        let seat = &mut self.seats[key.0];
        match kind {
            FaultKind::Cut => seat.plugged = false,
            FaultKind::CutPower => {
                seat.plugged = false;
                seat.board.power(self.now, false);
            }
            FaultKind::Reset => seat.board.press_reset(self.now),
            FaultKind::Move(plug) => seat.next_plug = Some(plug),
            FaultKind::RenameTty(path) => seat.next_tty = Some(path),
            FaultKind::ChangeUid(uid) => seat.board.set_uid(uid),
            FaultKind::Take(holder) => seat.taker = Some(holder),
            FaultKind::PlugIn(plug, board) => {
                self.plug_in(plug, *board, false);
            }
            FaultKind::Delay(longer) => self.advance(self.now + longer),
            FaultKind::Corrupt | FaultKind::Drop | FaultKind::Stall => return Some(kind),
        }
        self.enumerate();
        None
    }

    /// The board of a link, unless its device has left since it was opened.
    pub(super) fn alive(&mut self, key: BoardKey, stamp: u64) -> Result<&mut Seat, LinkError> {
        self.enumerate();
        let seat = &mut self.seats[key.0];
        match &seat.node {
            Some(node) if node.stamp == stamp => Ok(seat),
            _ => Err(LinkError::Gone),
        }
    }

    /// Every device on the host, by place.
    pub(super) fn devices(&self) -> Vec<Device> {
        let mut devices: Vec<Device> = self.seats.iter().filter_map(Seat::device).collect();
        devices.sort_by_key(|device| device.place.to_string());
        devices
    }
}

impl Seat {
    /// Whether the device has a CDC communication interface, for which the kernel makes a tty.
    fn is_cdc(&self) -> bool {
        self.first_interface_class() == Some(2)
    }

    /// Class of interface 0.
    pub(super) fn first_interface_class(&self) -> Option<u8> {
        self.board.usb()?.configuration.get(14).copied()
    }

    fn device(&self) -> Option<Device> {
        let node = self.node.as_ref()?;
        let (path, usb) = match &self.plug {
            Plug::Tty(path) => {
                let tty = TtyNode { node: path.clone(), by_id: None, numbers: Some((4, 64)) };
                let place = Place::Tty(path.clone());
                return Some(Device { place, mode: Mode::Unknown, usb: None, tty: Some(tty), usbfs: None, mcu: None });
            }
            Plug::Usb(path) => (path, self.identity(path, node)?),
            Plug::Bridge { port, id } => {
                let usb = UsbIdentity {
                    id: *id,
                    revision: 0x0264,
                    bus: bus(port),
                    number: node.number,
                    manufacturer: None,
                    product: Some("USB Serial".into()),
                    serial: None,
                };
                (port, usb)
            }
        };
        let mode = mode_of(usb.id, usb.manufacturer.as_deref());
        let names_mcu = matches!(mode, Mode::Klipper | Mode::Katapult);
        Some(Device {
            place: Place::Usb(path.clone()),
            mode,
            tty: node.tty.as_ref().map(|tty| tty_node(tty, &usb)),
            usbfs: Some(format!("/dev/bus/usb/{:03}/{:03}", usb.bus, usb.number).into()),
            mcu: usb.product.clone().filter(|_| names_mcu),
            usb: Some(usb),
        })
    }

    fn identity(&self, path: &UsbPath, node: &Node) -> Option<UsbIdentity> {
        let device = self.board.usb()?;
        let word = |at: usize| u16::from_le_bytes([device.device[at], device.device[at + 1]]);
        let string = |index: usize| {
            let payload = device.strings.get(index)?;
            let units: Vec<u16> = payload.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
            Some(String::from_utf16_lossy(&units))
        };
        Some(UsbIdentity {
            id: UsbId::new(word(8), word(10)),
            revision: word(12),
            bus: bus(path),
            number: node.number,
            manufacturer: string(0),
            product: string(1),
            serial: string(2),
        })
    }
}

fn bus(path: &UsbPath) -> u16 {
    path.as_str().split('-').next().and_then(|bus| bus.parse().ok()).unwrap_or(1)
}

fn tty_node(tty: &std::path::Path, usb: &UsbIdentity) -> TtyNode {
    let name = tty.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (major, digits, port) = match name.strip_prefix("ttyACM") {
        Some(digits) => (166, digits, ""),
        None => (188, name.strip_prefix("ttyUSB").unwrap_or("0"), "-port0"),
    };
    let vendor = usb.manufacturer.clone().unwrap_or_else(|| format!("{:04x}", usb.id.vendor));
    let words = [Some(vendor), usb.product.clone(), usb.serial.clone()];
    let words: Vec<String> = words.into_iter().flatten().map(|word| word.replace(' ', "_")).collect();
    TtyNode {
        node: tty.to_owned(),
        by_id: Some(format!("/dev/serial/by-id/usb-{}-if00{port}", words.join("_")).into()),
        numbers: digits.parse().ok().map(|minor| (major, minor)),
    }
}

/// Locks the world; a test that panicked elsewhere does not hide behind a poisoned lock.
pub(super) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets real time follow virtual time, where the world is paced.
pub(super) fn follow(world: &Mutex<World>) {
    let nap = {
        let mut world = lock(world);
        let now = world.now;
        world.pace.as_mut().map(|(pace, followed)| {
            let passed = now.saturating_sub(*followed);
            *followed = now;
            passed.mul_f64(*pace)
        })
    };
    if let Some(nap) = nap.filter(|nap| !nap.is_zero()) {
        std::thread::sleep(nap);
    }
}
