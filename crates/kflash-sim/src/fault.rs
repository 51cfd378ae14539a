//! Faults, each at a moment that is counted over everything that passes the links of a host.

use std::path::PathBuf;
use std::time::Duration;

use kflash::host::Holder;

use crate::board::VirtualBoard;
use crate::host::Plug;

/// When a fault happens. Counts start at 1 with the plan.
///
/// An operation is a write to a byte stream, a read from one that brings bytes, a change of its speed or DTR, and a
/// control or bulk request on USB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Before the n-th operation does anything.
    Operation(u64),
    /// After the device has got the n-th operation, before the host hears of it.
    AfterOperation(u64),
    /// At the n-th byte that goes to a device.
    ByteOut(u64),
    /// At the n-th byte that comes from a device.
    ByteIn(u64),
}

/// What happens. Those that are about one operation or byte happen to that one; the others to the board it was for.
pub enum FaultKind {
    /// The cable is cut; the board keeps its supply.
    Cut,
    /// Cable and supply are cut.
    CutPower,
    /// The board is reset, its cable stays.
    Reset,
    /// The byte arrives with its lowest bit flipped; of an operation, its first byte.
    Corrupt,
    /// The byte does not arrive; of an operation, none of its bytes does.
    Drop,
    /// The operation is refused: STALL on USB. A byte stream loses it.
    Stall,
    /// The operation takes this much longer.
    Delay(Duration),
    /// With its next enumeration the board is on another port.
    Move(Plug),
    /// With its next enumeration the board's tty is called so.
    RenameTty(PathBuf),
    /// With its next enumeration the board has another unique id.
    ChangeUid([u8; 12]),
    /// The next tty of the board is opened by this process at once.
    Take(Holder),
    /// Another board is plugged in.
    PlugIn(Plug, Box<VirtualBoard>),
}

/// What has passed the links since the plan was set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations.
    pub operations: u64,
    /// Bytes to devices.
    pub bytes_out: u64,
    /// Bytes from devices.
    pub bytes_in: u64,
}

/// Faults that wait for their moment.
#[derive(Default)]
pub struct FaultPlan {
    waiting: Vec<(At, FaultKind)>,
    counters: Counters,
}

impl FaultPlan {
    /// A plan without faults, which only counts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with one more fault.
    #[must_use]
    pub fn with(mut self, at: At, kind: FaultKind) -> Self {
        self.waiting.push((at, kind));
        self
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Counts an operation; what happens at its start.
    pub(crate) fn operation(&mut self) -> Vec<FaultKind> {
        self.counters.operations += 1;
        self.due(At::Operation(self.counters.operations))
    }

    /// What happens at the end of the running operation.
    pub(crate) fn after_operation(&mut self) -> Vec<FaultKind> {
        self.due(At::AfterOperation(self.counters.operations))
    }

    /// Counts a byte to a device; what happens to it.
    pub(crate) fn byte_out(&mut self) -> Vec<FaultKind> {
        self.counters.bytes_out += 1;
        self.due(At::ByteOut(self.counters.bytes_out))
    }

    /// Counts a byte from a device; what happens to it.
    pub(crate) fn byte_in(&mut self) -> Vec<FaultKind> {
        self.counters.bytes_in += 1;
        self.due(At::ByteIn(self.counters.bytes_in))
    }

    fn due(&mut self, now: At) -> Vec<FaultKind> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.waiting.extract_if(.., |(at, _)| *at == now).map(|(_, kind)| kind).collect()
    }
}
