//! Installing Katapult through the DFU in the chip's ROM.

use crate::apply::{self, ApplyError, Progress};
use crate::confirm;
use crate::enter;
use crate::event::Events;
use crate::flash::{
    BoardState, Firmware, FlashError, Flasher, Outcome, Report, Request, Run, interrupted, write_failure,
};
use crate::plan::{self, Parts};
use crate::proto::Protocol;

impl Flasher<'_> {
    /// Installs Katapult through the DFU in the chip's ROM, alone or with an application, and proves what runs.
    /// `request.image` is the application, or without one Katapult.
    pub fn install(&self, request: &Request, parts: &Parts<'_>, events: Events<'_>) -> Result<Report, FlashError> {
        let mut run = Run::look(self, request, None, events, true)?;
        let plan = |run: &Run<'_>, target| plan::install(&run.known(target), parts, Protocol::Dfuse);
        let first =
            plan(&run, None).map_err(|refusal| run.failed(FlashError::refused(&refusal, BoardState::Untouched)))?;
        run.announce(&first)?;
        let mut entered = enter::enter(&mut run, &first)?;
        let plan = match plan(&run, Some(&entered.target)) {
            Ok(plan) => plan,
            Err(refusal) => {
                let refused = FlashError::refused(&refusal, BoardState::InBootloader);
                return Err(enter::put_back(&mut run, entered, refused));
            }
        };
        run.tell_new_checks(&plan, &first);
        let applied = apply::apply(entered.bootloader.as_mut(), &plan, self.interrupt, &mut |event| run.emit(event));
        match applied {
            // Verified: whether it started is what confirming finds out.
            Ok(()) | Err(ApplyError::Failed { progress: Progress::Verified, .. }) => {}
            Err(ApplyError::Interrupted) => return Err(enter::put_back(&mut run, entered, interrupted())),
            Err(error) => return Err(run.failed(write_failure(&plan, error))),
        }
        let found_by_hand = entered.by_hand;
        drop(entered);
        let mut checks = plan.checks.clone();
        let now = if parts.application.is_some() {
            let confirmed = confirm::confirm(&mut run, &plan, found_by_hand)?;
            checks.extend(confirmed.checks);
            Some(Firmware::of(&confirmed.dictionary))
        } else {
            checks.push(confirm::katapult(&mut run, plan.app_start)?);
            if let (true, Some(undo)) = (found_by_hand, &request.profile.hands.boot0_undo) {
                run.note(format!("if BOOT0 was set by hand: {undo}"));
            }
            None
        };
        Ok(run.report(Outcome::Installed, now, checks))
    }
}
