//! Stage 6: carrying out a plan. The only stage that erases or writes.

use crate::addr::{FlashAddr, FlashRange};
use crate::event::{Event, Events, Phase};
use crate::flash::Interrupt;
use crate::image::PlacedImage;
use crate::plan::{Op, Plan, WayBack};
use crate::proto::{Bootloader, ProtoError};

/// Why a plan was not carried out to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A signal asked to stop before the first erase.
    #[error("stopped before anything was erased")]
    Interrupted,
    /// The bootloader or the link failed.
    #[error("{source}")]
    Failed {
        /// What had been done to the flash by then.
        progress: Progress,
        /// The failure.
        source: ProtoError,
    },
    /// The flash does not hold what was written.
    #[error("flash differs from the image at {at}: wrote {wrote:#04x}, reads {reads:#04x}")]
    Differs {
        /// What had been done to the flash by then.
        progress: Progress,
        /// First byte that differs.
        at: FlashAddr,
        /// The image's byte.
        wrote: u8,
        /// The flash's byte.
        reads: u8,
    },
}

/// How far a plan was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was erased or written.
    Nothing,
    /// The application is incomplete.
    Incomplete(WayBack),
    /// All was written, but not read back.
    Unverified,
    /// All was written and read back equal.
    Verified,
}

/// Carries out `plan`.
pub fn apply(
    bootloader: &mut dyn Bootloader,
    plan: &Plan,
    interrupt: &Interrupt,
    events: Events<'_>,
) -> Result<(), ApplyError> {
    let mut progress = Progress::Nothing;
    let mut meter = Meter::new();
    for (index, planned) in plan.operations.iter().enumerate() {
        if planned.op.writes() && progress == Progress::Nothing && interrupt.requested() {
            return Err(ApplyError::Interrupted);
        }
        meter.enter(planned.op, plan, events);
        events(Event::Operation { index, way_back: planned.way_back });
        if planned.op.writes() || planned.op == Op::Finish {
            progress = Progress::Incomplete(planned.way_back);
        }
        let mut step = |bytes| meter.advance(bytes, events);
        let done = match planned.op {
            Op::Invalidate { block } => {
                bootloader.write(block.start, &vec![0; block.size.0 as usize], &mut |_| ()).map(|()| step(block.size.0))
            }
            Op::Erase { sector } => bootloader.erase(sector).map(|()| step(sector.size.0)),
            Op::Write { range } => bootloader.write(range.start, &plan.image.bytes(range), &mut step),
            Op::Finish => bootloader.finish(),
            Op::ReadBack { range } => match bootloader.read(range, &mut step) {
                Ok(read) => {
                    if let Some((at, wrote, reads)) = difference(&plan.image, range, &read) {
                        return Err(ApplyError::Differs { progress, at, wrote, reads });
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Op::Start { addr } => bootloader.start(addr),
        };
        done.map_err(|source| ApplyError::Failed { progress, source })?;
        match planned.op {
            Op::Finish => progress = Progress::Unverified,
            Op::ReadBack { .. } => progress = Progress::Verified,
            _ => {}
        }
    }
    Ok(())
}

/// The first byte of `read` that is not the image's: address, the image's byte, the one read.
pub fn difference(image: &PlacedImage, range: FlashRange, read: &[u8]) -> Option<(FlashAddr, u8, u8)> {
    let wanted = image.bytes(range);
    let at = wanted.iter().zip(read).position(|(wanted, read)| wanted != read);
    // A short answer differs where it ends.
    let at = at.or_else(|| (read.len() < wanted.len()).then_some(read.len()))?;
    let addr = FlashAddr(range.start.0 + at as u32);
    Some((addr, wanted[at], read.get(at).copied().unwrap_or(0)))
}

/// Turns the bytes of single operations into the progress of phases.
struct Meter {
    phase: Option<Phase>,
    done: u64,
    total: u64,
}

impl Meter {
    fn new() -> Self {
        Self { phase: None, done: 0, total: 0 }
    }

    /// Announces the phase of `op` where it is a new one.
    fn enter(&mut self, op: Op, plan: &Plan, events: Events<'_>) {
        let Some((phase, _)) = weight(op) else { return };
        if self.phase == Some(phase) {
            return;
        }
        let all = plan.operations.iter().filter_map(|planned| weight(planned.op));
        self.total = all.filter(|(of, _)| *of == phase).map(|(_, bytes)| u64::from(bytes)).sum();
        self.phase = Some(phase);
        self.done = 0;
        let erases = plan.operations.iter().any(|planned| matches!(planned.op, Op::Erase { .. }));
        let what = match phase {
            Phase::Erase if erases => "erasing the old application".into(),
            Phase::Erase => "making the old application invalid".into(),
            Phase::ReadBack => format!("reading back {}", plan.image.range()),
            Phase::Start => "starting the application".into(),
            _ => format!("writing {}", plan.image.range()),
        };
        let total = (self.total > 0).then_some(self.total);
        events(Event::Phase { phase, what, total });
    }

    fn advance(&mut self, bytes: u32, events: Events<'_>) {
        self.done += u64::from(bytes);
        if let Some(phase) = self.phase {
            events(Event::Progress { phase, done: self.done.min(self.total), total: self.total });
        }
    }
}

/// The phase of an operation and the bytes that it goes through.
fn weight(op: Op) -> Option<(Phase, u32)> {
    match op {
        Op::Invalidate { block } => Some((Phase::Erase, block.size.0)),
        Op::Erase { sector } => Some((Phase::Erase, sector.size.0)),
        Op::Write { range } => Some((Phase::Write, range.size.0)),
        Op::Finish => None,
        Op::ReadBack { range } => Some((Phase::ReadBack, range.size.0)),
        Op::Start { .. } => Some((Phase::Start, 0)),
    }
}
