//! What a board says of itself, or, where klippy has its port, what klippy read of it.

use kflash::flash::{FlashError, Flasher, Heard, Interrupt, Unheard, Wanted};
use kflash::host::Host;

use super::klippy::{Klippy, klippy_of};
use super::target::{Subject, Target};
use crate::detect::query::{self, Answer, Query};

/// What came of asking one.
pub enum Asked {
    /// A board that is known.
    Board {
        /// What the device told.
        heard: Box<Result<Heard, FlashError>>,
        /// What the printer's Klipper read of it.
        klippy: Option<Klippy>,
    },
    /// A device of which the chip is not known.
    Stranger(Answer),
}

/// Asks boards.
pub struct Asker<'a> {
    /// Stops what takes time.
    pub interrupt: &'a Interrupt,
    /// Which are asked.
    pub query: Query,
}

impl Asker<'_> {
    /// Asks one.
    pub fn ask(&self, host: &dyn Host, subject: &Subject<'_>) -> Asked {
        match subject {
            Subject::Stranger(it) => Asked::Stranger(query::ask(host, &it.device, &it.holders, self.query, false)),
            Subject::Board(target) => {
                let flasher = Flasher { host, interrupt: self.interrupt, hands: false };
                let heard = flasher.hear(&self.wanted(target), &mut |_| ());
                let left_alone = |heard: &Heard| {
                    matches!(heard.unheard, Some(Unheard::Held { .. } | Unheard::WouldReset)) && heard.device.is_some()
                };
                let klippy = heard.as_ref().ok().filter(|heard| left_alone(heard));
                let klippy = klippy.and_then(|heard| klippy_of(host, target, heard));
                Asked::Board { heard: Box::new(heard), klippy }
            }
        }
    }

    /// What is asked of a board.
    pub fn wanted<'t>(&self, target: &'t Target<'_>) -> Wanted<'t> {
        Wanted {
            profile: &target.profile,
            chip: &target.chip,
            selectors: &target.selectors,
            may_reset: self.query == Query::All,
        }
    }
}
