//! What `plan`, `flash` and `verify` share: the runs on the boards that are meant, at once, and how they end.

use std::io::{self, IsTerminal};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use kflash::event::{Event, Events, Phase};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Flasher, Request};
use kflash::host::Host;
use kflash::link::trace::Tracer;
use kflash::obtain::Obtained;
use kflash::system::SystemHost;
use serde_json::value::RawValue;

use crate::args::Shared;
use crate::failure::Failure;
use crate::firmware::{Made, Source, Virtual};
use crate::gate;
use crate::obtain::{Obtainer, Supply};
use crate::probe::ByProbe;
use crate::render::{self, Display, Progress, Screen};
use crate::signal::Watch;
use crate::summary::{self, Ended};
use crate::target::Board;
use crate::trace::TracedHost;

/// Runs on one or several boards.
pub struct Session<'a> {
    /// The boards, each with the source of its firmware.
    pub runs: Vec<(Board, Source)>,
    /// How firmware is built or fetched.
    pub made: &'a Made,
    /// On virtual boards.
    pub simulated: Option<Virtual<'a>>,
    /// Through a debug probe.
    pub probe: Option<ByProbe>,
    /// Write even if the running dictionary is the image's already.
    pub force: bool,
    /// Whether the board is disturbed, so that printers are asked first whether they print.
    pub gated: bool,
    /// Whether a phase before this one may have done something already.
    pub phased: bool,
    /// Where every byte on the link is recorded.
    pub trace: Option<PathBuf>,
    /// The options of every verb.
    pub shared: &'a Shared,
}

/// A board whose firmware is there.
pub struct Ready {
    /// The board's name in the configuration.
    pub board: Option<String>,
    /// What is to be done.
    pub request: Request,
    /// The firmware as the cache is to remember it; `None` where nothing is remembered.
    pub firmware: Option<Obtained>,
}

/// A stage of the library: what is done to a board.
pub type Stage<'s, T> = dyn for<'a> Fn(&Flasher<'a>, &'a Ready, Events<'a>) -> Result<T, FlashError> + Sync + 's;

/// Told how the run on a board ended.
pub type Told<'t, T> = dyn Fn(&Board, Result<(&T, &Request), &Failure>) + Sync + 't;

/// How a stage ends well.
pub trait Outcome: Send {
    /// Whether it is worth a page for each of several boards.
    const PAGE: bool;

    /// All of it.
    fn page(&self, request: &Request) -> String;

    /// In a line.
    fn line(&self) -> String;

    /// As the last line of JSON.
    fn json(&self) -> Box<RawValue>;
}

/// The machine with a board.
struct Bench {
    host: Arc<dyn Host>,
    tracer: Option<Tracer>,
}

impl Session<'_> {
    /// Obtains the firmware of every board, runs a stage on every board at once, with its progress shown, tells `told` and
    /// prints how it ended. One that fails stops no other. Returns the exit code of the worst; the failure itself, where
    /// there is but one board without a name.
    pub fn run<T: Outcome>(&self, stage: &Stage<'_, T>, told: &Told<'_, T>) -> Result<ExitCode, Failure> {
        if self.simulated.is_some() {
            let boards = if self.runs.len() == 1 { "a virtual board" } else { "virtual boards" };
            render::note(&format!("SIMULATED: {boards}; no hardware is touched"));
        }
        let json = self.shared.json;
        let screen = Screen::default();
        let watched = self.runs.iter().map(|(board, _)| (board.name.clone(), board.profile.hands.clone()));
        let watch = Watch::start(watched, screen.clone(), self.simulated.is_some(), json)
            .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
        let obtainer = Obtainer {
            made: self.made,
            #[cfg(feature = "sim")]
            simulated: self.simulated,
            probe: self.probe.as_ref(),
            may_reset: self.gated,
            interrupt: &watch.interrupt,
            shared: self.shared,
        };
        let supplies = self.supplies(&obtainer, &screen)?;

        let display = self.display(&screen);
        let ended = self.at_once(supplies, |at, (board, _), supply| {
            let shown = Shown::new(&display, board);
            let ended = self.caught(|| {
                self.run_one(board, supply?, &obtainer, &watch, stage, &mut |event| {
                    watch.event(at, &event);
                    shown.event(&event);
                })
            });
            let summed_up = match &ended {
                Ok((outcome, _)) => Ended { exit: ExitCode::Ok, line: outcome.line(), json: outcome.json() },
                Err(failure) => Ended::failed(failure),
            };
            shown.end(ended.is_ok(), &summed_up.line);
            told(board, ended.as_ref().map(|(outcome, request)| (outcome, request)));
            watch.ended(at, summed_up.clone());
            (ended, summed_up)
        });
        if let [(Board { name: None, .. }, _)] = &self.runs[..] {
            return ended.into_iter().try_fold(ExitCode::Ok, |ok, (ended, summed_up)| {
                let (outcome, request) = ended?;
                if json {
                    render::result_json(&summed_up.json);
                } else {
                    render::result(&outcome.page(&request));
                }
                Ok(ok)
            });
        }

        // The table says it once more.
        if io::stdout().is_terminal() {
            screen.clear();
        }
        let mut summary = Vec::new();
        for ((board, _), (ended, summed_up)) in self.runs.iter().zip(ended) {
            let name = board.name.clone().unwrap_or_default();
            match ended {
                Ok((outcome, request)) if T::PAGE && !json => {
                    render::result(&format!("{name}\n{}", outcome.page(&request)));
                }
                Ok(_) => {}
                Err(failure) => render::failure_of(&name, &failure),
            }
            summary.push((name, summed_up));
        }
        Ok(summary::print(&summary, json))
    }

    /// What each board is given, built for all of them in one go.
    fn supplies(&self, obtainer: &Obtainer<'_>, screen: &Screen) -> Result<Vec<Result<Supply, Failure>>, Failure> {
        let display = self.display(screen);
        let ordered = self.at_once(self.runs.iter().collect(), |_, (board, source), _| {
            let shown = Shown::new(&display, board);
            self.caught(|| {
                let events: Events<'_> = &mut |event| shown.event(&event);
                // A board is not even asked while it may be printing.
                if source.asks_device() {
                    self.ask_moonrakers(board, events)?;
                }
                obtainer.order(board, source, events)
            })
        });
        screen.clear();
        let boards: Vec<_> = self.runs.iter().map(|(board, _)| board).collect();
        let supplies = obtainer.build(&boards, ordered, screen).map_err(|failure| self.marked(failure))?;
        Ok(supplies.into_iter().map(|supply| supply.map_err(|failure| self.marked(failure))).collect())
    }

    /// Does `work` for each board and its item, for all of them at once.
    fn at_once<I: Send, R: Send>(
        &self,
        items: Vec<I>,
        work: impl Fn(usize, &(Board, Source), I) -> R + Sync,
    ) -> Vec<R> {
        let work = &work;
        thread::scope(|scope| {
            let boards = self.runs.iter().zip(items).enumerate();
            let threads = boards.map(|(at, (run, item))| scope.spawn(move || work(at, run, item)));
            let threads: Vec<_> = threads.collect();
            let join = |thread: thread::ScopedJoinHandle<'_, R>| {
                thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        })
    }

    /// `work` for a board: a bug there stops no other.
    fn caught<R>(&self, work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        let ended = panic::catch_unwind(AssertUnwindSafe(work));
        let ended = ended.unwrap_or_else(|panic| Err(Failure::internal_of_panic(panic.as_ref())));
        ended.map_err(|failure| self.marked(failure))
    }

    /// What fails on a virtual board says so.
    fn marked(&self, failure: Failure) -> Failure {
        Failure { simulated: self.simulated.is_some(), ..failure }
    }

    fn display(&self, screen: &Screen) -> Display {
        Display::new(self.shared.json, self.runs.iter().filter_map(|(board, _)| board.name.as_deref()), screen.clone())
    }

    /// The run on one board.
    fn run_one<T>(
        &self,
        board: &Board,
        supply: Supply,
        obtainer: &Obtainer<'_>,
        watch: &Watch,
        stage: &Stage<'_, T>,
        events: Events<'_>,
    ) -> Result<(T, Request), Failure> {
        let of_flash = |error| Failure::of_flash(error, &board.profile.hands);
        let firmware = obtainer.firmware(board, supply, events)?;
        let (bench, ready) = self.prepare(board, firmware)?;
        let flasher = Flasher {
            host: bench.host.as_ref(),
            interrupt: &watch.interrupt,
            // Nobody can press the buttons of a virtual board.
            hands: self.simulated.is_none() && io::stderr().is_terminal() && io::stdin().is_terminal(),
        };
        // Also where it was asked before: a print may have begun while firmware was built.
        self.ask_moonrakers(board, events)?;
        // What an earlier phase brought into its bootloader is for the stage to put back.
        if watch.interrupt.requested() && !self.phased {
            let message = "stopped by a signal before anything was done";
            let kind = FailureKind::Interrupted;
            return Err(of_flash(FlashError::new(ExitCode::Cancelled, kind, BoardState::Untouched, message)));
        }
        let ended = stage(&flasher, &ready, events);
        if let Some(Err(error)) = bench.tracer.as_ref().map(Tracer::finish) {
            events(Event::Warning { text: format!("the record of the link is incomplete: {error}") });
        }
        ended.map(|outcome| (outcome, ready.request)).map_err(of_flash)
    }

    /// Refuses while a printer prints that the board may be part of.
    fn ask_moonrakers(&self, board: &Board, events: Events<'_>) -> Result<(), Failure> {
        let asked = if self.gated && self.simulated.is_none() { &board.moonrakers[..] } else { &[] };
        for (printer, moonraker) in asked {
            let what = format!("asking Moonraker whether {printer} prints");
            events(Event::Phase { phase: Phase::Look, what, total: None });
            gate::ask(printer, moonraker).map_err(|error| Failure::of_flash(error, &board.profile.hands))?;
        }
        Ok(())
    }

    /// The machine with the board, and the board's firmware.
    fn prepare(&self, board: &Board, firmware: Option<Obtained>) -> Result<(Bench, Ready), Failure> {
        let Board { name, profile, chip, .. } = board.clone();
        let force = self.force;
        #[cfg(feature = "sim")]
        if let Some(Virtual { bootloader }) = self.simulated {
            let configured = board.configured.as_ref().and_then(|board| board.route.as_deref());
            let route = self.made.route.as_deref().or(configured);
            let rehearsal = crate::simulate::rehearse(board, route, bootloader, firmware)?;
            let request = Request { profile, chip, image: rehearsal.image, selectors: rehearsal.selectors, force };
            return Ok((self.bench(Arc::new(rehearsal.host))?, Ready { board: name, request, firmware: None }));
        }
        let (host, selectors) = SystemHost::new(&self.shared.host_root).with_selectors(board.selectors.clone());
        let firmware = firmware.ok_or_else(|| Failure::usage("a test image is for virtual boards"))?;
        let request = Request { profile, chip, image: firmware.image.clone(), selectors, force };
        Ok((self.bench(Arc::new(host))?, Ready { board: name, request, firmware: Some(firmware) }))
    }

    fn bench(&self, host: Arc<dyn Host>) -> Result<Bench, Failure> {
        Ok(match &self.trace {
            Some(file) => {
                let traced = TracedHost::new(host, file)?;
                let tracer = traced.tracer.clone();
                Bench { host: Arc::new(traced), tracer: Some(tracer) }
            }
            None => Bench { host, tracer: None },
        })
    }
}

/// The progress of a board, which several closures show.
struct Shown(Mutex<Progress>);

impl Shown {
    fn new(display: &Display, board: &Board) -> Self {
        Self(Mutex::new(display.board(board.name.as_deref())))
    }

    fn event(&self, event: &Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).event(event);
    }

    fn end(&self, well: bool, words: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).end(well, words);
    }
}
