//! What the containers of a flash Job, the tools around them and the manifests agree upon: the names on a printer's
//! Lease, the files that are handed over in the pod, and the rights that stopping Klipper takes. No client: that is
//! `kflash-kube`.

mod gate;
pub(crate) mod handover;
pub(crate) mod name;
mod role;
mod summary;
mod workload;

pub use self::gate::Gate;
pub use self::handover::HandoverError;
pub use self::role::{Rule, rules};
pub use self::summary::{Confirmed, MAX_SUMMARY, Outcome, Summary};
pub use self::workload::{Workload, WorkloadError, WorkloadKind};

/// Annotations of a printer's Lease.
pub mod annotation {
    /// How many replicas Klipper's workload had before it was stopped, as a decimal number. While it is there, they are
    /// owed: it is written together with the holder and before anything is scaled, and removed once they are back.
    pub const RESTORE_REPLICAS: &str = "kflash.dev/restore-replicas";
    /// Whose they are, as [`Workload`](super::Workload) is written; there as long as the number is.
    pub const RESTORE_WORKLOAD: &str = "kflash.dev/restore-workload";
    /// Klipper's workload, as the manifest has it: `deployment/voron-klipper`. No flash writes it, and what is owed does
    /// not depend on it.
    pub const WORKLOAD: &str = "kflash.dev/workload";
    /// Where Moonraker is asked: `http://voron-klipper:7125`.
    pub const MOONRAKER: &str = "kflash.dev/moonraker";
    /// The name of the Job that holds, or last held, the Lease.
    pub const JOB: &str = "kflash.dev/job";
    /// What the last run came to: a [`Summary`](super::Summary) as JSON.
    pub const RESULT: &str = "kflash.dev/result";
    /// The firmware that was last seen running on each board: a map of [`Confirmed`](super::Confirmed) by Klipper's name
    /// of the micro-controller, as JSON. What is being flashed is not in it.
    pub const CONFIRMED: &str = "kflash.dev/confirmed";
}

/// On a printer's Lease as long as something is owed, from the very write that says so to the one that lets go of it: a
/// Lease that is deleted meanwhile stays until that is paid.
pub const FINALIZER: &str = "kflash.dev/owed";

/// Labels of a Job's pods, set by Kubernetes (1.27 and newer).
pub mod label {
    /// The UID of the pod's Job: the holder of the Lease.
    pub const JOB_UID: &str = "batch.kubernetes.io/controller-uid";
    /// The name of the pod's Job.
    pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
}

/// Containers of a flash pod that have the device, in their order. All but the last are there in a flash in phases alone.
pub mod container {
    /// Brings the board into its bootloader.
    pub const ENTER: &str = "kflash-enter";
    /// Writes.
    pub const WRITE: &str = "kflash-write";
    /// Does what is left, which is all where there is no other.
    pub const FLASHER: &str = "kflash";
}

/// Files in the directory that the containers of a flash pod share.
pub mod file {
    /// A [`Gate`](super::Gate), from `quiesce` to `kflash`.
    pub const GATE: &str = "gate.json";
    /// A [`Summary`](super::Summary), from `kflash` to `quiesce`.
    pub const RESULT: &str = "result.json";
}
