//! Asks a printer's Moonraker. Its client is synchronous: each question has a thread of its own.

use std::sync::Arc;

use kflash::config;
use kflash::exit::ExitCode;
use kflash::moonraker::{Client, MoonrakerError};
use tokio::task;

use crate::gate::{Answer, Printer};

/// A printer's Moonraker, or why there is none.
#[derive(Clone, Debug)]
pub struct Moonraker(Result<Arc<Client>, (ExitCode, String)>);

impl Moonraker {
    /// That of `printer`. Sends nothing.
    pub fn of(printer: &config::Printer) -> Self {
        printer.moonraker.as_ref().map_or_else(
            || Self(Err((ExitCode::Usage, "no Moonraker is configured that could be asked".into()))),
            Self::configured,
        )
    }

    /// The one that a configuration names. Sends nothing.
    pub fn configured(config: &config::Moonraker) -> Self {
        Self(Client::new(config).map(Arc::new).map_err(|error| silence(&error)))
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, MoonrakerError> + Send + 'static,
    ) -> Result<T, (ExitCode, String)> {
        let client = Arc::clone(self.0.as_ref().map_err(Clone::clone)?);
        match task::spawn_blocking(move || question(&client)).await {
            Ok(answer) => answer.map_err(|error| silence(&error)),
            Err(error) => Err((ExitCode::Internal, error.to_string())),
        }
    }
}

impl Printer for Moonraker {
    async fn activity(&self) -> Answer {
        match self.ask(Client::activity).await {
            Ok(activity) => Answer::Does(activity),
            Err((exit, reason)) => Answer::Silent { exit, reason },
        }
    }

    async fn firmware(&self, mcu: &str) -> Option<String> {
        let all = self.ask(Client::micro_controllers).await.ok()?;
        // Boards have names in lower case, printer.cfg has [mcu EBB].
        let mut named = all.into_iter().filter(|one| one.section.eq_ignore_ascii_case(mcu));
        let only = named.next().filter(|_| named.next().is_none())?;
        only.version
    }
}

fn silence(error: &MoonrakerError) -> (ExitCode, String) {
    (error.exit(), error.to_string())
}
