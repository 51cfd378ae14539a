//! SIGINT and SIGTERM: the first asks to stop, and is deferred once the board is being written; the second ends the
//! run at once and says in what state that leaves the board.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::{io, process, thread};

use kflash::event::{Event, Phase};
use kflash::exit::ExitCode;
use kflash::flash::Interrupt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::render;

/// How far a run has come, as far as a signal is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nothing was erased.
    Before,
    /// The first erase began; the application is incomplete.
    Writing,
    /// All is written and read back.
    Written,
}

/// Follows a run and takes the signals that come meanwhile.
#[derive(Debug)]
pub struct Watch {
    /// What the run looks at.
    pub interrupt: Interrupt,
    stage: AtomicU8,
}

impl Watch {
    /// Takes SIGINT and SIGTERM from now on, to the end of the process.
    pub fn start() -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self { interrupt: Interrupt::default(), stage: AtomicU8::new(Stage::Before as u8) });
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let taker = Arc::clone(&watch);
        thread::spawn(move || {
            for _ in signals.forever() {
                if let Some(exit) = taker.signal() {
                    process::exit(i32::from(exit.code()));
                }
            }
        });
        Ok(watch)
    }

    /// Notes how far the run has come.
    pub fn event(&self, event: &Event) {
        let stage = match event {
            Event::Phase { phase: Phase::Erase | Phase::Write, .. } => Stage::Writing,
            Event::Phase { phase: Phase::Start | Phase::Confirm, .. } => Stage::Written,
            _ => return,
        };
        // Starting and confirming also end the way into a bootloader; only writing makes them the end of a flash.
        if stage == Stage::Writing || self.stage() == Stage::Writing {
            self.stage.store(stage as u8, Ordering::SeqCst);
        }
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            stage if stage == Stage::Writing as u8 => Stage::Writing,
            stage if stage == Stage::Written as u8 => Stage::Written,
            _ => Stage::Before,
        }
    }

    /// Takes a signal: says what it does, and returns the exit code if it ends the run at once.
    fn signal(&self) -> Option<ExitCode> {
        let second = self.interrupt.requested();
        self.interrupt.request();
        let (message, exit) = answer(self.stage(), second);
        render::note(message);
        exit
    }
}

fn answer(stage: Stage, second: bool) -> (&'static str, Option<ExitCode>) {
    match (stage, second) {
        (Stage::Before, false) => ("stopping: nothing was erased", None),
        (Stage::Before, true) => (
            "stopped: nothing was erased; the board runs its application or waits in its bootloader",
            Some(ExitCode::Cancelled),
        ),
        (Stage::Writing, false) => (
            "the board is being written: stopping once it is whole (a second signal stops now and leaves it without \
             an application)",
            None,
        ),
        (Stage::Writing, true) => (
            "stopped while writing: the board has no complete application and waits in its bootloader; run the same \
             again",
            Some(ExitCode::Write),
        ),
        (Stage::Written, false) => ("the board is written and verified: waiting for it to come back", None),
        (Stage::Written, true) => (
            "stopped: the board is written and verified, but was not seen running; `kflash verify` tells",
            Some(ExitCode::Lost),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch { interrupt: Interrupt::default(), stage: AtomicU8::new(Stage::Before as u8) }
    }

    fn phase(phase: Phase) -> Event {
        Event::Phase { phase, what: String::new(), total: None }
    }

    #[test]
    fn the_first_signal_asks_and_the_second_ends() {
        let watch = watch();
        assert_eq!(watch.signal(), None);
        assert!(watch.interrupt.requested());
        assert_eq!(watch.signal(), Some(ExitCode::Cancelled));
    }

    #[test]
    fn a_second_signal_while_writing_says_that_the_board_is_incomplete() {
        let watch = watch();
        watch.event(&phase(Phase::Enter));
        watch.event(&phase(Phase::Erase));
        assert_eq!(watch.signal(), None);
        watch.event(&phase(Phase::Write));
        watch.event(&phase(Phase::ReadBack));
        assert_eq!(watch.signal(), Some(ExitCode::Write));
    }

    #[test]
    fn once_it_is_read_back_the_board_is_written_but_not_confirmed() {
        let watch = watch();
        for each in [Phase::Erase, Phase::Write, Phase::ReadBack, Phase::Start, Phase::Confirm] {
            watch.event(&phase(each));
        }
        assert_eq!((watch.signal(), watch.signal()), (None, Some(ExitCode::Lost)));
    }

    #[test]
    fn confirming_without_writing_leaves_the_board_as_it_was() {
        let watch = watch();
        watch.event(&phase(Phase::Confirm));
        assert_eq!((watch.signal(), watch.signal()), (None, Some(ExitCode::Cancelled)));
    }
}
