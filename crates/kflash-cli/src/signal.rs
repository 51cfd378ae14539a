//! SIGINT and SIGTERM: the first asks to stop, and is deferred once the board is being written; the second ends the
//! run at once and says in what state that leaves the board.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, process, thread};

use kflash::board::Hands;
use kflash::event::{Event, Phase};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Interrupt};
use kflash::plan::WayBack;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::render::{self, Screen};

/// How far a run has come, as far as a signal is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// Nothing was done to it.
    Looking,
    /// It is brought into its bootloader; nothing was erased.
    Entering,
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
    way_back: Mutex<WayBack>,
    hands: Hands,
    screen: Screen,
    simulated: bool,
    json: bool,
}

impl Watch {
    /// Takes SIGINT and SIGTERM from now on, to the end of the process, for a board with these `hands`. What is
    /// said meanwhile goes to `screen`; `json` is for the last words.
    pub fn start(hands: Hands, screen: Screen, simulated: bool, json: bool) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self { screen, simulated, json, ..Self::new(hands) });
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

    fn new(hands: Hands) -> Self {
        let stage = AtomicU8::new(Stage::Looking as u8);
        Self {
            interrupt: Interrupt::default(),
            stage,
            way_back: Mutex::new(WayBack::Cable),
            hands,
            screen: Screen::default(),
            simulated: false,
            json: false,
        }
    }

    /// Notes how far the run has come.
    pub fn event(&self, event: &Event) {
        if let Event::Operation { way_back, .. } = event {
            *self.way_back.lock().unwrap_or_else(PoisonError::into_inner) = *way_back;
        }
        let stage = match event {
            Event::Phase { phase: Phase::Enter, .. } => Stage::Entering,
            Event::Phase { phase: Phase::Erase | Phase::Write, .. } => Stage::Writing,
            Event::Phase { phase: Phase::Start | Phase::Confirm, .. } => Stage::Written,
            _ => return,
        };
        // A run that only reads starts and confirms the application, too: nothing was written then.
        if stage != Stage::Written || self.stage() == Stage::Writing {
            self.stage.store(stage as u8, Ordering::SeqCst);
        }
    }

    fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            stage if stage == Stage::Writing as u8 => Stage::Writing,
            stage if stage == Stage::Written as u8 => Stage::Written,
            stage if stage == Stage::Entering as u8 => Stage::Entering,
            _ => Stage::Looking,
        }
    }

    /// A run that was ended at this stage.
    fn left(&self, stage: Stage, exit: ExitCode, message: &str) -> Failure {
        let state = match stage {
            Stage::Looking => BoardState::Untouched,
            // It runs its application, or waits in a bootloader that starts it at the next reset.
            Stage::Entering => BoardState::Unknown,
            Stage::Writing => BoardState::Incomplete(*self.way_back.lock().unwrap_or_else(PoisonError::into_inner)),
            Stage::Written => BoardState::Written,
        };
        let error = FlashError::new(exit, FailureKind::Interrupted, state, message);
        Failure { simulated: self.simulated, ..Failure::of_flash(error, &self.hands) }
    }

    /// Takes a signal: says what it does, and returns the exit code if it ends the run at once.
    fn signal(&self) -> Option<ExitCode> {
        let second = self.interrupt.requested();
        self.interrupt.request();
        let stage = self.stage();
        let (message, exit) = answer(stage, second);
        match exit {
            None => self.screen.note(message),
            Some(exit) => {
                self.screen.clear();
                render::failure(&self.left(stage, exit, message), self.json);
            }
        }
        exit
    }
}

/// For a run that changes no board: the first SIGINT or SIGTERM asks it to stop, the second ends it.
pub fn interrupt() -> io::Result<Arc<Interrupt>> {
    let interrupt = Arc::new(Interrupt::default());
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let taker = Arc::clone(&interrupt);
    thread::spawn(move || {
        for _ in signals.forever() {
            if taker.requested() {
                process::exit(i32::from(ExitCode::Cancelled.code()));
            }
            taker.request();
        }
    });
    Ok(interrupt)
}

/// What a signal says, and the exit code if it ends the run at once.
fn answer(stage: Stage, second: bool) -> (&'static str, Option<ExitCode>) {
    match (stage, second) {
        (Stage::Looking | Stage::Entering, false) => ("stopping: nothing was erased", None),
        (Stage::Looking | Stage::Entering, true) => ("stopped before anything was erased", Some(ExitCode::Cancelled)),
        (Stage::Writing, false) => (
            "the board is being written: stopping once it is whole (a second signal stops now and leaves it without \
             an application)",
            None,
        ),
        (Stage::Writing, true) => ("stopped while the board was being written", Some(ExitCode::Write)),
        (Stage::Written, false) => ("the board is written and verified: waiting for it to come back", None),
        (Stage::Written, true) => ("stopped before the board was seen running", Some(ExitCode::Lost)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch::new(Hands::default())
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
    fn confirming_without_writing_is_not_the_end_of_a_flash() {
        let watch = watch();
        watch.event(&phase(Phase::Confirm));
        assert_eq!((watch.signal(), watch.signal()), (None, Some(ExitCode::Cancelled)));
    }
}
