//! The terminal, shared by the threads that run and the one that takes signals.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar};

use super::{note, printable};

/// Knows what stands on the terminal, so that what another thread says does not end up in the middle of it.
#[derive(Clone, Debug, Default)]
pub struct Screen(Arc<Mutex<Standing>>);

/// What stands on the terminal.
#[derive(Debug, Default)]
pub enum Standing {
    /// Nothing that moves.
    #[default]
    Nothing,
    /// A bar.
    Bar(ProgressBar),
    /// A line for each of several boards.
    Lines(MultiProgress),
}

impl Screen {
    /// Notes what stands there now.
    pub fn set(&self, standing: Standing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }

    /// Prints a line to stderr, above what stands there.
    pub fn note(&self, text: &str) {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Standing::Bar(bar) => bar.println(printable(text)),
            Standing::Lines(lines) => {
                // A terminal that is gone shows nothing either way.
                let _ = lines.println(printable(text));
            }
            Standing::Nothing => note(text),
        }
    }

    /// Takes away what stands there: the last words follow.
    pub fn clear(&self) {
        match std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            Standing::Bar(bar) => bar.finish_and_clear(),
            Standing::Lines(lines) => {
                let _ = lines.clear();
            }
            Standing::Nothing => {}
        }
    }
}
