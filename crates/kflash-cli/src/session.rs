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
use crate::firmware::{Place, Source, Virtual};
use crate::gate;
use crate::render::{self, Display, Progress};
use crate::signal::Watch;
use crate::summary::{self, Ended};
use crate::target::Board;
use crate::trace::TracedHost;

/// Runs on one or several boards.
pub struct Session<'a> {
    /// The boards, each with the source of its firmware.
    pub runs: Vec<(Board, Source)>,
    /// On virtual boards.
    pub simulated: Option<Virtual<'a>>,
    /// Write even if the running dictionary is the image's already.
    pub force: bool,
    /// Whether printers are asked first whether they print.
    pub gated: bool,
    /// Where every byte on the link is recorded.
    pub trace: Option<PathBuf>,
    /// The options of every verb.
    pub shared: &'a Shared,
}

/// A board whose firmware is there.
pub struct Ready {
    /// What is to be done.
    pub request: Request,
    /// The firmware as the cache is to remember it; `None` where nothing is remembered.
    pub firmware: Option<Obtained>,
}

/// A stage of the library: what is done to a board.
pub type Stage<'s, T> = dyn for<'a> Fn(&Flasher<'a>, &'a Ready, Events<'a>) -> Result<T, FlashError> + Sync + 's;

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
    /// Runs a stage on every board at once, with its progress shown, and prints how it ended. One that fails stops no
    /// other. Returns the exit code of the worst; the failure itself, where there is but one board without a name.
    pub fn run<T: Outcome>(&self, stage: &Stage<'_, T>) -> Result<ExitCode, Failure> {
        if self.simulated.is_some() {
            let boards = if self.runs.len() == 1 { "a virtual board" } else { "virtual boards" };
            render::note(&format!("SIMULATED: {boards}; no hardware is touched"));
        }
        let json = self.shared.json;
        let display = Display::new(json, self.runs.iter().filter_map(|(board, _)| board.name.as_deref()));
        let watched = self.runs.iter().map(|(board, _)| (board.name.clone(), board.profile.hands.clone()));
        let watch = Watch::start(watched, display.screen().clone(), self.simulated.is_some(), json)
            .map_err(|error| Failure::new(ExitCode::Internal, format!("cannot take signals: {error}")))?;
        let run = |at: usize, (board, source): &(Board, Source)| {
            let progress = Mutex::new(display.board(board.name.as_deref()));
            let show = |shown: &mut dyn FnMut(&mut Progress)| {
                shown(&mut progress.lock().unwrap_or_else(PoisonError::into_inner));
            };
            let ended = panic::catch_unwind(AssertUnwindSafe(|| {
                self.run_one(board, source, &watch, stage, &mut |event| {
                    watch.event(at, &event);
                    show(&mut |progress| progress.event(&event));
                })
            }));
            let ended = ended.unwrap_or_else(|panic| Err(Failure::internal_of_panic(panic.as_ref())));
            let summed_up = match &ended {
                Ok((outcome, _)) => Ended { exit: ExitCode::Ok, line: outcome.line(), json: outcome.json() },
                Err(failure) => Ended::failed(failure),
            };
            show(&mut |progress| progress.end(ended.is_ok(), &summed_up.line));
            watch.ended(at, summed_up.clone());
            (ended, summed_up)
        };
        if let [only @ (Board { name: None, .. }, _)] = &self.runs[..] {
            let (ended, summed_up) = run(0, only);
            let (outcome, request) = ended?;
            if json {
                render::result_json(&summed_up.json);
            } else {
                render::result(&outcome.page(&request));
            }
            return Ok(ExitCode::Ok);
        }

        let ended: Vec<_> = thread::scope(|scope| {
            let threads = self.runs.iter().enumerate().map(|(at, one)| scope.spawn(move || run(at, one)));
            let threads: Vec<_> = threads.collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic)))
                .collect()
        });
        // The table says it once more.
        if io::stdout().is_terminal() {
            display.screen().clear();
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

    /// The run on one board.
    fn run_one<T>(
        &self,
        board: &Board,
        source: &Source,
        watch: &Watch,
        stage: &Stage<'_, T>,
        events: Events<'_>,
    ) -> Result<(T, Request), Failure> {
        let simulated = self.simulated.is_some();
        let marked = |failure| Failure { simulated, ..failure };
        let of_flash = |error| marked(Failure::of_flash(error, &board.profile.hands));
        let (bench, ready) = self.prepare(board, source).map_err(marked)?;
        let flasher = Flasher {
            host: bench.host.as_ref(),
            interrupt: &watch.interrupt,
            // Nobody can press the buttons of a virtual board.
            hands: !simulated && io::stderr().is_terminal() && io::stdin().is_terminal(),
        };
        if self.gated && !simulated {
            for (printer, moonraker) in &board.moonrakers {
                let what = format!("asking Moonraker whether {printer} prints");
                events(Event::Phase { phase: Phase::Look, what, total: None });
                gate::ask(printer, moonraker).map_err(of_flash)?;
            }
        }
        if watch.interrupt.requested() {
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

    /// The machine with the board, and the board's firmware.
    fn prepare(&self, board: &Board, source: &Source) -> Result<(Bench, Ready), Failure> {
        let place = Place { board, shared: self.shared };
        let Board { profile, chip, .. } = board.clone();
        let force = self.force;
        #[cfg(feature = "sim")]
        if let Some(Virtual { bootloader }) = self.simulated {
            let firmware = Place::of_rehearsal(source)?;
            let rehearsal = crate::simulate::rehearse(board, bootloader, firmware)?;
            let request = Request { profile, chip, image: rehearsal.image, selectors: rehearsal.selectors, force };
            return Ok((self.bench(Arc::new(rehearsal.host))?, Ready { request, firmware: None }));
        }
        let (host, selectors) = SystemHost::new(&self.shared.host_root).with_selectors(board.selectors.clone());
        let firmware = place.firmware(source, &host, &selectors)?;
        let request = Request { profile, chip, image: firmware.image.clone(), selectors, force };
        Ok((self.bench(Arc::new(host))?, Ready { request, firmware: Some(firmware) }))
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
