//! Why no manifests are made.

use kflash::boards::BoardError;
use kflash::exit::ExitCode;
use kflash::plan::Refusal;

use crate::Quiesce;

/// Why no manifests are made.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The configuration says nothing of a cluster.
    #[error("printer {printer}: no [printers.cluster] in the configuration: it names node and workload")]
    NoCluster {
        /// The printer.
        printer: String,
    },
    /// The gate has nobody to ask.
    #[error("printer {printer}: no moonraker in the configuration: it is asked whether the printer prints")]
    NoMoonraker {
        /// The printer.
        printer: String,
    },
    /// A board that is not named is found by elimination, which a Job must not do.
    #[error(
        "printer {printer}, board {board}: no device in the configuration: a Job names port path and serial number"
    )]
    NoDevice {
        /// The printer.
        printer: String,
        /// The board's name.
        board: String,
    },
    /// Firmware that a pod cannot obtain.
    #[error("printer {printer}, board {board}: {problem}")]
    NoFirmware {
        /// The printer.
        printer: String,
        /// The board's name.
        board: String,
        /// What a pod cannot do.
        problem: &'static str,
    },
    /// A secret would stand in a manifest.
    #[error(
        "printer {printer}: manifests hold no API key: make a Secret of it and state printers.cluster.api-key-secret"
    )]
    NoSecret {
        /// The printer.
        printer: String,
    },
    /// The pod could never start.
    #[error(
        "printer {printer}: Klipper holds {resource} until the flash has started, which waits for it: take --quiesce token"
    )]
    Deadlock {
        /// The printer.
        printer: String,
        /// What both ask for.
        resource: String,
    },
    /// Phases that would be for nothing.
    #[error("printer {printer}: a flash in phases (--phased) is for nothing: {why}")]
    NoPhases {
        /// The printer.
        printer: String,
        /// Why.
        why: &'static str,
    },
    /// A wait that nobody would wait.
    #[error("printer {printer}: only a sidecar waits for the end of a print, and this is --quiesce {quiesce}")]
    NobodyWaits {
        /// The printer.
        printer: String,
        /// How Klipper would be stopped.
        quiesce: Quiesce,
    },
    /// A probe is on one chip.
    #[error("printer {printer} has {boards} boards, and a debug probe is on the pins of one")]
    OneProbe {
        /// The printer.
        printer: String,
        /// How many.
        boards: usize,
    },
    /// A firmware file for several boards.
    #[error("printer {printer} has {boards} boards, and one firmware file is given: name the board")]
    WhichBoard {
        /// The printer.
        printer: String,
        /// How many.
        boards: usize,
    },
    /// A board that nobody knows.
    #[error("printer {printer}, board {board}: {source}")]
    Board {
        /// The printer.
        printer: String,
        /// The board's name.
        board: String,
        /// Why not.
        source: BoardError,
    },
    /// Firmware for something else.
    #[error("printer {printer}, board {board}: this firmware is not for it: {refusal}")]
    Unsuitable {
        /// The printer.
        printer: String,
        /// The board's name.
        board: String,
        /// What disagrees.
        refusal: Refusal,
    },
    /// The version of a Klipper that does not run.
    #[error(
        "printer {printer}: with --quiesce token, Klipper has given way before the firmware is built, and only a Klipper \
         that runs tells its version: state the repository's ref instead of \"host\", or give --firmware"
    )]
    HostIsDown {
        /// The printer.
        printer: String,
    },
    /// A ConfigMap cannot hold it.
    #[error("firmware and configuration have {size} bytes, and a ConfigMap holds {most}")]
    TooLarge {
        /// Together.
        size: usize,
        /// At most.
        most: usize,
    },
    /// Unprivileged without a resource.
    #[error("printer {printer}: unprivileged access takes a device plugin's resource: state printers.cluster.resource")]
    NoResource {
        /// The printer.
        printer: String,
    },
    /// Unprivileged without a resource for the probe.
    #[error(
        "printer {printer}: unprivileged access to a debug probe takes a device plugin's resource of its own: state printers.cluster.probe-resource"
    )]
    NoProbeResource {
        /// The printer.
        printer: String,
    },
    /// A manifest cannot be written.
    #[error("cannot write a manifest: {0}")]
    Yaml(String),
}

impl JobError {
    /// The code that the command ends with.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Unsuitable { .. } => ExitCode::Refused,
            _ => ExitCode::Usage,
        }
    }
}
