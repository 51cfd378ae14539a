//! Whether a printer prints: its Moonraker is asked before a board is touched.

use kflash::config;
use kflash::exit::ExitCode;
use kflash::flash::{BoardState, FailureKind, FlashError};
#[cfg(feature = "moonraker")]
use kflash::moonraker::{Activity, Client, Job, MoonrakerError};

use crate::target::Board;

/// Whom to ask.
#[derive(clap::Args, Debug)]
pub struct Gate {
    /// Do not ask Moonraker whether the printer prints. A port that Klipper has open is refused all the same
    #[arg(long)]
    no_moonraker: bool,
    /// The printer's Moonraker, where the configuration names none: it is asked whether the printer prints
    #[arg(long, value_name = "URL", conflicts_with_all = ["no_moonraker", "printer", "all"])]
    moonraker: Option<String>,
}

impl Gate {
    /// The boards, with the Moonrakers that are asked.
    pub fn of(&self, mut boards: Vec<Board>) -> Vec<Board> {
        for board in &mut boards {
            if self.no_moonraker {
                board.moonrakers.clear();
            }
            if let Some(url) = &self.moonraker {
                let moonraker = config::Moonraker { url: url.clone(), api_key: None, api_key_file: None, ca: None };
                board.moonrakers = vec![("the printer".to_owned(), moonraker)];
            }
        }
        boards
    }
}

/// Refuses while the printer of this name prints. Whoever cannot be asked may be printing: that refuses, too.
#[cfg(feature = "moonraker")]
pub fn ask(printer: &str, moonraker: &config::Moonraker) -> Result<(), FlashError> {
    let unasked = |error: &MoonrakerError| {
        let message = format!("whether {printer} prints is not known: {error}");
        FlashError::new(error.exit(), FailureKind::NotAsked, BoardState::Untouched, message)
    };
    let activity = Client::new(moonraker).and_then(|client| client.activity()).map_err(|error| unasked(&error))?;
    let does = match &activity {
        Activity::Idle { .. } => return Ok(()),
        Activity::Printing(job) => format!("prints{}", what(job)),
        Activity::Paused(job) => format!("is in a print, paused{}", what(job)),
        Activity::Moving => "executes commands".to_owned(),
    };
    Err(FlashError::new(ExitCode::Busy, FailureKind::Printing, BoardState::Untouched, format!("{printer} {does}")))
}

/// ` benchy.gcode, 42 %`
#[cfg(feature = "moonraker")]
fn what(job: &Job) -> String {
    let file = if job.file.is_empty() { String::new() } else { format!(" {}", job.file) };
    job.percent.map_or_else(|| file.clone(), |percent| format!("{file}, {percent} %"))
}

/// Refuses: this kflash cannot ask.
#[cfg(not(feature = "moonraker"))]
pub fn ask(printer: &str, moonraker: &config::Moonraker) -> Result<(), FlashError> {
    let message =
        format!("whether {printer} prints is not known: this kflash cannot ask Moonraker at {}", moonraker.url);
    Err(FlashError::new(ExitCode::Usage, FailureKind::NotAsked, BoardState::Untouched, message))
}
