//! What is to be flashed, as far as it is seen before Klipper is stopped: the images, and whether the boards are there.

use std::path::Path;
use std::time::Duration;

use kflash::board::Profile;
use kflash::boards;
use kflash::chip::Chip;
use kflash::config::{self, Printer};
use kflash::exit::ExitCode;
use kflash::host::Host as _;
use kflash::identify::{SelectError, Selector, select};
use kflash::obtain::{self, cache};
use kflash::plan;
use kflash::system::SystemHost;
use tokio::time::{self, Instant};

use crate::gate::Shut;
use crate::quiesce::{Board, Wanted};

/// For how long a board may be nowhere: a flash that was killed leaves one that enumerates anew.
const ABSENT: Duration = Duration::from_secs(10);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(500);

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// A firmware file, or the directory that has one for each board.
    pub firmware: &'a Path,
    /// The host's root, for its sysfs; `None` where the boards need not show, as a debug probe is on them.
    pub root: Option<&'a Path>,
}

/// The printer's boards. The error is why one of them cannot be flashed, which nobody is to stop Klipper for.
pub async fn look(printer: &Printer, places: Places<'_>) -> Result<Vec<Board>, Shut> {
    let mut seen = Vec::new();
    for board in &printer.boards {
        let named = |shut: Shut| Shut { reason: format!("{}/{}: {}", printer.name, board.name, shut.reason), ..shut };
        seen.push(one(board, places).await.map_err(named)?);
    }
    Ok(seen)
}

async fn one(board: &config::Board, places: Places<'_>) -> Result<Board, Shut> {
    let shut = |exit, error: &dyn std::fmt::Display| Shut { exit, reason: error.to_string() };
    let (profile, chip) = boards::find(&board.board).map_err(|error| shut(ExitCode::Usage, &error))?;
    let image = wanted(board, places.firmware, &profile, &chip)?;
    if let Some(root) = places.root {
        until_there(board, root, &profile, &chip).await?;
    }
    Ok(Board { mcu: board.section(), image })
}

/// The firmware that the board is to run, which is in the file `firmware`, or in that directory under the board's name.
fn wanted(board: &config::Board, firmware: &Path, profile: &Profile, chip: &Chip) -> Result<Wanted, Shut> {
    let of_boards = firmware.is_dir() && !cache::is_copy(firmware);
    let file = if of_boards { firmware.join(&board.name) } else { firmware.to_owned() };
    let image = obtain::file(&file).map_err(|error| Shut { exit: error.exit(), reason: error.to_string() })?.image;
    let refused = |problem: String| Shut { exit: ExitCode::Refused, reason: format!("{}: {problem}", file.display()) };
    plan::suits(&image, profile, chip).map_err(|refusal| refused(refusal.to_string()))?;
    let dictionary = image.dictionary.ok_or_else(|| refused("it holds no data dictionary".into()))?;
    Ok(Wanted { sha256: image.sha256, version: dictionary.version })
}

/// Fails where the board is not on USB, or something else is in its place. What only its own container sees (a tty, the network) counts as there; so does
/// everything where this container sees no USB at all.
async fn until_there(board: &config::Board, root: &Path, profile: &Profile, chip: &Chip) -> Result<(), Shut> {
    let on_usb = |selector: &&Selector| matches!(selector, Selector::UsbPath(_) | Selector::Serial(_));
    let selectors: Vec<_> = board.device.iter().filter(on_usb).cloned().collect();
    let elsewhere = selectors.len() < board.device.len();
    if selectors.is_empty() || elsewhere || !root.join("sys/bus/usb/devices").is_dir() {
        return Ok(());
    }
    let (deadline, host) = (Instant::now() + ABSENT, SystemHost::new(root));
    loop {
        let Ok(scan) = host.scan() else { return Ok(()) };
        let device = match select(&scan, &selectors, profile, chip) {
            Err(SelectError::NotFound { .. }) if Instant::now() < deadline => {
                time::sleep(AGAIN).await;
                continue;
            }
            found => found.map_err(|error| Shut { exit: error.exit(), reason: error.to_string() })?.0,
        };
        return match device.mcu.as_deref().filter(|mcu| !chip.is(mcu)) {
            None => Ok(()),
            Some(mcu) => {
                let reason = format!("{} names {mcu}; {} carries {}", device.place, profile.id, chip.mcu.join(" or "));
                Err(Shut { exit: ExitCode::Refused, reason })
            }
        };
    }
}
