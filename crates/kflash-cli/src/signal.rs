//! SIGINT and SIGTERM: the first asks to stop, and is deferred for boards that are being written; the second ends the
//! runs at once and says in what state that leaves each board.

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
use crate::summary::{self, Ended};

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

/// Follows the run on each board and takes the signals that come meanwhile.
#[derive(Debug)]
pub struct Watch {
    /// What the runs look at.
    pub interrupt: Interrupt,
    boards: Vec<Watched>,
    screen: Screen,
    simulated: bool,
    json: bool,
}

/// A board, as far as a signal is concerned.
#[derive(Debug)]
struct Watched {
    /// Its name, where there are several.
    name: Option<String>,
    hands: Hands,
    stage: AtomicU8,
    way_back: Mutex<WayBack>,
    /// How its run ended.
    ended: Mutex<Option<Ended>>,
}

impl Watch {
    /// Takes SIGINT and SIGTERM from now on, to the end of the process, for boards with these names (none, where there is
    /// but one) and hands. What is said meanwhile goes to `screen`; `json` is for the last words.
    pub fn start(
        boards: impl IntoIterator<Item = (Option<String>, Hands)>,
        screen: Screen,
        simulated: bool,
        json: bool,
    ) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self { screen, simulated, json, ..Self::new(boards) });
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

    fn new(boards: impl IntoIterator<Item = (Option<String>, Hands)>) -> Self {
        let watched = |(name, hands)| Watched {
            name,
            hands,
            stage: AtomicU8::new(Stage::Looking as u8),
            way_back: Mutex::new(WayBack::Cable),
            ended: Mutex::default(),
        };
        Self {
            interrupt: Interrupt::default(),
            boards: boards.into_iter().map(watched).collect(),
            screen: Screen::default(),
            simulated: false,
            json: false,
        }
    }

    /// Notes how far the run on a board has come.
    pub fn event(&self, board: usize, event: &Event) {
        if let Some(board) = self.boards.get(board) {
            board.event(event);
        }
    }

    /// Notes how the run on a board ended.
    pub fn ended(&self, board: usize, ended: Ended) {
        if let Some(board) = self.boards.get(board) {
            *board.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
        }
    }

    /// Takes a signal: says what it does, and returns the exit code if it ends the runs at once.
    fn signal(&self) -> Option<ExitCode> {
        let second = self.interrupt.requested();
        self.interrupt.request();
        match &self.boards[..] {
            [board] if board.name.is_none() => {
                let stage = board.stage();
                let (message, exit) = answer(stage, second);
                match exit {
                    None => self.screen.note(message),
                    Some(exit) => {
                        self.screen.clear();
                        render::failure(&board.left(stage, exit, message, self.simulated), self.json);
                    }
                }
                exit
            }
            _ if second => Some(self.stop()),
            _ => {
                self.defer();
                None
            }
        }
    }

    /// Says what becomes of several boards.
    fn defer(&self) {
        for stage in [Stage::Looking, Stage::Entering, Stage::Writing, Stage::Written] {
            let running = self.boards.iter().filter(|board| board.stage() == stage && board.end().is_none());
            let names: Vec<_> = running.filter_map(|board| board.name.as_deref()).collect();
            if !names.is_empty() {
                self.screen.note(&format!("{}: {}", names.join(", "), answer(stage, false).0));
            }
        }
    }

    /// Ends the runs on several boards at once: says of each in what state that leaves it.
    fn stop(&self) -> ExitCode {
        self.screen.clear();
        let ended = self.boards.iter().map(|board| {
            let name = board.name.clone().unwrap_or_default();
            let end = board.end().unwrap_or_else(|| {
                let stage = board.stage();
                let (message, exit) = answer(stage, true);
                let left = board.left(stage, exit.unwrap_or(ExitCode::Cancelled), message, self.simulated);
                render::failure_of(&name, &left);
                Ended::failed(&left)
            });
            (name, end)
        });
        summary::print(&ended.collect::<Vec<_>>(), self.json)
    }
}

impl Watched {
    fn event(&self, event: &Event) {
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

    fn end(&self) -> Option<Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A run that was ended at this stage.
    fn left(&self, stage: Stage, exit: ExitCode, message: &str, simulated: bool) -> Failure {
        let state = match stage {
            Stage::Looking => BoardState::Untouched,
            // It runs its application, or waits in a bootloader that starts it at the next reset.
            Stage::Entering => BoardState::Unknown,
            Stage::Writing => BoardState::Incomplete(*self.way_back.lock().unwrap_or_else(PoisonError::into_inner)),
            Stage::Written => BoardState::Written,
        };
        let error = FlashError::new(exit, FailureKind::Interrupted, state, message);
        Failure { simulated, ..Failure::of_flash(error, &self.hands) }
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
        Watch::new([(None, Hands::default())])
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
        watch.event(0, &phase(Phase::Enter));
        watch.event(0, &phase(Phase::Erase));
        assert_eq!(watch.signal(), None);
        watch.event(0, &phase(Phase::Write));
        watch.event(0, &phase(Phase::ReadBack));
        assert_eq!(watch.signal(), Some(ExitCode::Write));
    }

    #[test]
    fn once_it_is_read_back_the_board_is_written_but_not_confirmed() {
        let watch = watch();
        for each in [Phase::Erase, Phase::Write, Phase::ReadBack, Phase::Start, Phase::Confirm] {
            watch.event(0, &phase(each));
        }
        assert_eq!((watch.signal(), watch.signal()), (None, Some(ExitCode::Lost)));
    }

    #[test]
    fn confirming_without_writing_is_not_the_end_of_a_flash() {
        let watch = watch();
        watch.event(0, &phase(Phase::Confirm));
        assert_eq!((watch.signal(), watch.signal()), (None, Some(ExitCode::Cancelled)));
    }

    #[test]
    fn of_several_boards_the_second_signal_tells_the_worst() {
        let watch = Watch::new(["a", "b", "c"].map(|name| (Some(name.to_owned()), Hands::default())));
        watch.event(1, &phase(Phase::Erase));
        watch.ended(2, Ended::failed(&Failure::new(ExitCode::NotFound, "no such device")));
        assert_eq!(watch.signal(), None);
        assert!(watch.interrupt.requested());
        assert_eq!(watch.signal(), Some(ExitCode::Write));
    }
}
