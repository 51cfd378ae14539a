//! A flash in phases, each in a container of its own: what one leaves to the next.

use std::fs;
use std::path::PathBuf;

use kflash::cluster::HandoverError;
use kflash::digest::Sha256;
use kflash::event::{Event, Events};
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError, Flasher, Journal, Report};

use crate::failure::Failure;
use crate::render;
use crate::session::Ready;

/// Where containers keep the device nodes that they were created with.
#[derive(clap::Args, Debug)]
pub struct Phases {
    /// End with exit code 75 where the board has enumerated anew, as a node that this container does not have: the same
    /// command goes on in a container that is created then. DIR keeps what that has to know
    #[arg(long = "phased", value_name = "DIR")]
    #[cfg_attr(feature = "swd", arg(conflicts_with = "via"))]
    journals: Option<PathBuf>,
    /// With --phased: a container follows that goes on in any case. End with exit code 0 instead of 75, and leave it to that
    /// one to say what quiesce has refused
    #[arg(long, requires = "journals")]
    pub another_follows: bool,
}

impl Phases {
    /// Whether the flash is one in phases.
    pub fn phased(&self) -> bool {
        self.journals.is_some()
    }

    /// Flashes a board, or does a phase of that.
    pub fn flash(&self, flasher: &Flasher<'_>, ready: &Ready, events: Events<'_>) -> Result<Report, FlashError> {
        let Some(folder) = &self.journals else { return flasher.flash(&ready.request, events) };
        // Any text is a name.
        let name = Sha256::of(ready.board.as_deref().unwrap_or_default().as_bytes()).to_string();
        let path = folder.join(format!("{}.json", &name[..16]));
        let failed = |board, error: &HandoverError| {
            FlashError::new(ExitCode::Internal, FailureKind::Other, board, error.to_string())
        };
        let read = Journal::read(&path).map_err(|error| failed(BoardState::Untouched, &error))?;
        let mut journal = read.unwrap_or_default();
        let ended = flasher.flash_phase(&ready.request, &mut journal, events);
        let kept = fs::create_dir_all(folder)
            .map_err(|source| HandoverError::Io { what: "write", path: folder.clone(), source })
            .and_then(|()| journal.write(&path));
        match (kept, ended) {
            // Phases that know nothing of each other might follow each other for ever.
            (Err(error), Err(phase)) if phase.exit == ExitCode::Phase => Err(failed(phase.board, &error)),
            (Err(error), ended) => {
                events(Event::Warning { text: error.to_string() });
                ended
            }
            (Ok(()), ended) => ended,
        }
    }

    /// How the process ends that ended so.
    pub fn end(&self, ended: Result<ExitCode, Failure>, json: bool) -> Result<ExitCode, Failure> {
        match ended {
            Ok(ExitCode::Phase) if self.another_follows => Ok(ExitCode::Ok),
            Err(failure) if self.another_follows && failure.exit == ExitCode::Phase => {
                render::failure(&failure, json);
                Ok(ExitCode::Ok)
            }
            ended => ended,
        }
    }
}
