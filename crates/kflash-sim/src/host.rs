//! A host with simulated boards, in process and in virtual time.

mod serial;
#[cfg(test)]
mod tests;
mod usb;
mod world;

use std::any::Any;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kflash::board::{Cable, Profile};
use kflash::clock::Clock;
use kflash::discover::{Device, DiscoverError, Place, Scan, UsbId, UsbPath};
use kflash::host::{Holder, Holders, Host, LockError};
use kflash::link::{ByteLink, LinkError, UsbLink};

use crate::board::VirtualBoard;
use crate::fault::{Counters, FaultKind, FaultPlan};

use self::serial::SimSerial;
use self::usb::SimUsb;
use self::world::{Shared, World, follow, lock};

/// A USB-UART bridge: a CH340, where a profile names none.
const CH340: UsbId = UsbId::new(0x1a86, 0x7523);

/// Where a board is plugged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plug {
    /// Its own USB, to this port.
    Usb(UsbPath),
    /// Its UART, through a USB-UART bridge at this port.
    Bridge {
        /// The port.
        port: UsbPath,
        /// The bridge's ids.
        id: UsbId,
    },
    /// Its UART, to a tty without USB such as `/dev/ttyAMA0`.
    Tty(PathBuf),
}

/// A board of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoardKey(usize);

/// What a person does to a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hand {
    /// Presses reset.
    Reset,
    /// Presses reset twice, so long after one another.
    DoubleReset(Duration),
    /// Sets or clears BOOT0; sampled at the next reset.
    Boot0(bool),
    /// Switches the supply.
    Power(bool),
    /// Pulls the cable; the supply stays.
    Unplug,
    /// Plugs the cable in again, and switches the supply on if it is off.
    Replug,
    /// Plugs it in elsewhere.
    Move(Plug),
}

/// A host with simulated boards. Clones are the same host.
#[derive(Clone)]
pub struct SimHost {
    world: Shared,
    clock: SimClock,
}

/// Virtual time: it passes in [`Clock::sleep`] and while links wait.
#[derive(Clone)]
pub struct SimClock {
    world: Shared,
}

impl Plug {
    /// The plug at `port` that a board of this profile has for `cable`.
    pub fn of(profile: &Profile, cable: Cable, port: UsbPath) -> Self {
        match cable {
            Cable::Usb => Self::Usb(port),
            Cable::Uart => Self::Bridge { port, id: profile.uart_bridge.unwrap_or(CH340) },
        }
    }
}

impl SimHost {
    /// A host without boards, whose time passes only virtually.
    pub fn new() -> Self {
        let world: Shared = Arc::new(Mutex::new(World::new()));
        Self { clock: SimClock { world: Arc::clone(&world) }, world }
    }

    /// The same, where a virtual second takes `pace` real ones.
    pub fn paced(pace: f64) -> Self {
        let host = Self::new();
        lock(&host.world).pace = Some((pace, Duration::ZERO));
        host
    }

    /// Plugs a board in and switches it on. `opening_resets`: its reset is wired to the port's DTR.
    pub fn plug_in(&self, plug: Plug, board: VirtualBoard, opening_resets: bool) -> BoardKey {
        lock(&self.world).plug_in(plug, board, opening_resets)
    }

    /// Looks at, or acts on, a board.
    pub fn with_board<R>(&self, key: BoardKey, look: impl FnOnce(&mut VirtualBoard, Duration) -> R) -> R {
        let mut world = lock(&self.world);
        let now = world.now;
        let seen = look(&mut world.seats[key.0].board, now);
        world.enumerate();
        seen
    }

    /// A person acts on a board now.
    pub fn hand(&self, key: BoardKey, hand: Hand) {
        lock(&self.world).hand(key, hand);
    }

    /// A person acts on a board in `after`.
    pub fn hand_later(&self, after: Duration, key: BoardKey, hand: Hand) {
        let mut world = lock(&self.world);
        let at = world.now + after;
        world.agenda.push((at, key, hand));
    }

    /// Something befalls a board now, apart from any operation.
    pub fn befall(&self, key: BoardKey, kind: FaultKind) {
        lock(&self.world).strike(key, kind);
    }

    /// Sets what will go wrong, and starts counting anew.
    pub fn set_faults(&self, plan: FaultPlan) {
        lock(&self.world).plan = plan;
    }

    /// What has passed the links since the faults were set.
    pub fn counters(&self) -> Counters {
        lock(&self.world).plan.counters()
    }

    /// Another process opens a node, and keeps others out until the device leaves or it is let go.
    pub fn hold(&self, node: impl Into<PathBuf>, holder: Holder) {
        lock(&self.world).held.push((node.into(), holder));
    }

    /// Every other process lets go of a node.
    pub fn let_go(&self, node: impl Into<PathBuf>) {
        let node = node.into();
        lock(&self.world).held.retain(|(held, _)| *held != node);
    }

    /// Another run of kflash, with this process id, takes the lock of a place.
    pub fn lock_by_other(&self, place: &Place, pid: u32) {
        lock(&self.world).locks.insert(place.to_string(), pid);
    }

    /// The board that is a device now, and the enumeration that it is.
    fn find(&self, device: &Device) -> Option<(BoardKey, u64)> {
        let world = lock(&self.world);
        world.seats.iter().enumerate().find_map(|(index, seat)| {
            let here = match (&seat.plug, &device.place) {
                (Plug::Usb(port) | Plug::Bridge { port, .. }, Place::Usb(path)) => port == path,
                (Plug::Tty(tty), Place::Tty(path)) => tty == path,
                _ => false,
            };
            let node = seat.node.as_ref().filter(|_| here)?;
            Some((BoardKey(index), node.stamp))
        })
    }

    /// Refuses a node that somebody holds.
    fn check_free(&self, node: &PathBuf) -> Result<(), LinkError> {
        let world = lock(&self.world);
        let held = world.held.iter().any(|(held, _)| held == node) || world.open.values().any(|open| open == node);
        if held { Err(LinkError::Busy { node: node.display().to_string() }) } else { Ok(()) }
    }
}

impl Default for SimHost {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        lock(&self.world).now
    }

    fn sleep(&self, duration: Duration) {
        {
            let mut world = lock(&self.world);
            let to = world.now + duration;
            world.advance(to);
        }
        follow(&self.world);
    }
}

impl Host for SimHost {
    fn clock(&self) -> &dyn Clock {
        &self.clock
    }

    fn scan(&self) -> Result<Scan, DiscoverError> {
        let devices = lock(&self.world).devices();
        let looked_at = ["/sys/bus/usb/devices", "/sys/class/tty"].map(PathBuf::from).to_vec();
        Ok(Scan { devices, looked_at })
    }

    fn open_serial(&self, device: &Device, baud: u32) -> Result<Box<dyn ByteLink>, LinkError> {
        let Some(tty) = &device.tty else { return Err(LinkError::Unsupported { what: "a byte stream" }) };
        let owner = lock(&self.world)
            .devices()
            .into_iter()
            .find(|one| one.tty.as_ref().is_some_and(|one| one.node == tty.node));
        let Some(owner) = owner else { return Err(LinkError::Gone) };
        if owner.place != device.place {
            return Err(LinkError::Stale { node: tty.node.display().to_string(), expected: device.place.to_string() });
        }
        self.check_free(&tty.node)?;
        let (key, stamp) = self.find(device).ok_or(LinkError::Gone)?;
        let link = SimSerial::open(Arc::clone(&self.world), key, stamp, tty.node.clone(), baud)?;
        follow(&self.world);
        Ok(Box::new(link))
    }

    fn open_usb(&self, device: &Device) -> Result<Box<dyn UsbLink>, LinkError> {
        let Some(node) = &device.usbfs else { return Err(LinkError::Unsupported { what: "a USB request" }) };
        let owner = lock(&self.world).devices().into_iter().find(|one| one.usbfs.as_ref() == Some(node));
        let Some(owner) = owner else { return Err(LinkError::Gone) };
        if owner.place != device.place {
            return Err(LinkError::Stale { node: node.display().to_string(), expected: device.place.to_string() });
        }
        self.check_free(node)?;
        let (key, stamp) = self.find(device).ok_or(LinkError::Gone)?;
        let mut world = lock(&self.world);
        let seat = world.alive(key, stamp)?;
        // Behind any other interface there is a kernel driver.
        if !matches!(seat.first_interface_class(), Some(0xfe | 0xff)) {
            return Err(LinkError::Busy { node: node.display().to_string() });
        }
        let descriptors = seat.board.usb().cloned().ok_or(LinkError::Gone)?;
        world.links += 1;
        let id = world.links;
        world.open.insert(id, node.clone());
        Ok(Box::new(SimUsb::new(Arc::clone(&self.world), key, stamp, id, descriptors)))
    }

    fn holders(&self, device: &Device) -> Holders {
        let nodes = [device.tty.as_ref().map(|tty| &tty.node), device.usbfs.as_ref()];
        let world = lock(&self.world);
        let held = world.held.iter().filter(|(node, _)| nodes.contains(&Some(node)));
        Holders::Seen { processes: held.map(|(_, holder)| holder.clone()).collect(), complete: true }
    }

    fn lock(&self, device: &Device) -> Result<Box<dyn Any + Send>, LockError> {
        let place = device.place.to_string();
        let mut world = lock(&self.world);
        if let Some(&pid) = world.locks.get(&place) {
            return Err(LockError::Held { place, pid: Some(pid) });
        }
        world.locks.insert(place.clone(), std::process::id());
        Ok(Box::new(PlaceLock { world: Arc::clone(&self.world), place }))
    }

    fn simulated(&self) -> bool {
        true
    }
}

/// The lock of a place, until it is dropped.
struct PlaceLock {
    world: Shared,
    place: String,
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        lock(&self.world).locks.remove(&self.place);
    }
}
