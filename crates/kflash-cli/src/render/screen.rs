//! The terminal, shared by the thread that runs and the one that takes signals.

use std::sync::{Arc, Mutex, PoisonError};

use indicatif::ProgressBar;

use super::{note, printable};

/// Knows which bar stands on the terminal, so that what another thread says does not end up in the middle of it.
#[derive(Clone, Debug, Default)]
pub struct Screen(Arc<Mutex<Option<ProgressBar>>>);

impl Screen {
    /// Notes that this bar stands there now, or none.
    pub fn set(&self, bar: Option<ProgressBar>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bar;
    }

    /// Prints a line to stderr, above the bar where one stands.
    pub fn note(&self, text: &str) {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(bar) => bar.println(printable(text)),
            None => note(text),
        }
    }

    /// Takes the bar away: the last words follow.
    pub fn clear(&self) {
        if let Some(bar) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}
