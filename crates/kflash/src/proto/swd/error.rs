//! Why a chip cannot be reached by SWD.

use crate::proto::ProtoError;

/// Why there is no debug session with the chip. Nothing was erased.
#[derive(Debug, thiserror::Error)]
pub enum SwdError {
    /// kflash does not know how this chip's flash is written.
    #[error("kflash has no SWD target definition for {chip}")]
    NoDefinition {
        /// The chip's id.
        chip: String,
    },
    /// The target definition is none, or not this chip's.
    #[error("SWD target definition of {chip}: {problem}")]
    BadDefinition {
        /// The chip's id.
        chip: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No probe is plugged in, or none that fits.
    #[error("no debug probe{} is plugged in", .wanted.as_ref().map(|wanted| format!(" {wanted}")).unwrap_or_default())]
    NoProbe {
        /// What was asked for.
        wanted: Option<String>,
    },
    /// Several probes would do.
    #[error("{} debug probes are plugged in", .probes.len())]
    SeveralProbes {
        /// Each as `--probe` takes it, with its name.
        probes: Vec<String>,
    },
    /// The operating system denies access to the probe.
    #[error("permission denied on the debug probe {probe}")]
    Denied {
        /// The probe.
        probe: String,
    },
    /// The probe is there and cannot be used: most likely another program holds it.
    #[error("cannot open the debug probe {probe}: {why}")]
    CannotOpen {
        /// The probe.
        probe: String,
        /// What the driver said.
        why: String,
    },
    /// Nothing answers on the wires.
    #[error("no chip answers at the debug probe {probe}")]
    NoTarget {
        /// The probe.
        probe: String,
    },
    /// The chip's reset line is held low by something else than the probe.
    #[error("the chip at the debug probe {probe} is held in reset")]
    HeldInReset {
        /// The probe.
        probe: String,
    },
    /// Another chip answers than the profile names.
    #[error("{chip} is expected, but {found}")]
    WrongChip {
        /// The chip's id.
        chip: String,
        /// What the chip said, with the address it said it at.
        found: String,
    },
    /// The chip is read-protected.
    #[error("{chip} is read-protected ({register})")]
    Protected {
        /// The chip's id.
        chip: String,
        /// The register that says it, with its value.
        register: String,
        /// Whether erasing the whole chip lifts it.
        can_be_lifted: bool,
    },
    /// The debug session broke.
    #[error(transparent)]
    Session(#[from] ProtoError),
}
