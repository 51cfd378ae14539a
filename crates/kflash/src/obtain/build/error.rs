//! How a build fails.

use std::path::PathBuf;

use super::kconfig::{ConfigError, Drift, RequestError, SymbolsError};
use super::make::MakeError;
use super::toolchain::ToolchainError;
use super::tree::TreeError;
use crate::board::BoardId;
use crate::event::{Check, Verdict};
use crate::exit::ExitCode;
use crate::image::ImageError;
use crate::obtain::cache::CacheError;
use crate::obtain::provenance::ProvenanceError;

/// Why there is no firmware for a board.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The board has no such route.
    #[error("{board}: {}; its routes: {}", wanted.as_ref().map_or_else(|| "no routes".to_owned(), |id| format!("no route named {id:?}")), routes.join(", "))]
    NoRoute {
        /// The board.
        board: BoardId,
        /// The route that was named.
        wanted: Option<String>,
        /// Those that it has.
        routes: Vec<String>,
    },
    /// A symbol cannot be asked for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The tree's Kconfig files.
    #[error("cannot read the tree's Kconfig files: {0}")]
    Symbols(#[from] SymbolsError),
    /// The configuration that the tree made.
    #[error("the tree made a configuration that is none: {0}")]
    Config(#[from] ConfigError),
    /// Symbols that did not hold.
    #[error("this tree does not give the configuration that is asked for: {}", drifts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Drift {
        /// Each symbol, and what it became.
        drifts: Vec<Drift>,
        /// Whether a person asked for one of them, beside the profile.
        by_person: bool,
    },
    /// The toolchain.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// make.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// What was built cannot be read as firmware.
    #[error("make left a {name} that is no firmware: {error}; its output is in {}", log.display())]
    NotAnImage {
        /// The file's name.
        name: &'static str,
        /// What is wrong with it.
        error: ImageError,
        /// make's output.
        log: PathBuf,
    },
    /// What was built is not what was wanted.
    #[error("what was built is not for {board}: {}", disagreements(checks))]
    Disproved {
        /// The board.
        board: BoardId,
        /// All that was compared.
        checks: Vec<Check>,
    },
    /// The image has no provenance.
    #[error(transparent)]
    Provenance(#[from] ProvenanceError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// make's jobs need a pipe, and there is none.
    #[error("cannot start a build: {0}")]
    System(std::io::Error),
    /// The run was stopped.
    #[error("stopped by a signal")]
    Interrupted,
}

impl BuildError {
    /// The error without what it lists: symbols that drifted, checks that disagree.
    pub fn summary(&self) -> String {
        match self {
            Self::Drift { .. } => "this tree does not give the configuration that is asked for".to_owned(),
            Self::Disproved { board, .. } => format!("what was built is not for {board}"),
            error => error.to_string(),
        }
    }

    /// The exit code.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::NoRoute { .. } | Self::Request(_) | Self::Drift { by_person: true, .. } => ExitCode::Usage,
            Self::Tree(error) => error.exit(),
            Self::Toolchain(error) => error.exit(),
            Self::Make(error) => error.exit(),
            Self::Cache(error) => error.exit(),
            Self::Symbols(_)
            | Self::Config(_)
            | Self::Drift { .. }
            | Self::NotAnImage { .. }
            | Self::Disproved { .. }
            | Self::Provenance(_) => ExitCode::Build,
            Self::System(_) => ExitCode::Internal,
            Self::Interrupted => ExitCode::Cancelled,
        }
    }
}

fn disagreements(checks: &[Check]) -> String {
    let disagree = checks.iter().filter(|check| check.verdict == Verdict::Disagrees);
    disagree.map(|check| format!("{}: {}", check.name, check.evidence)).collect::<Vec<_>>().join("; ")
}
