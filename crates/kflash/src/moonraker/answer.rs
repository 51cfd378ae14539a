//! What is read of Moonraker's answers. All else in them is passed over.

use serde::Deserialize;

/// A good answer.
#[derive(Deserialize)]
pub(super) struct Reply<T> {
    pub result: T,
}

/// An error.
#[derive(Deserialize)]
pub(super) struct Failed {
    pub error: Message,
}

#[derive(Deserialize)]
pub(super) struct Message {
    pub message: String,
}

/// `/server/info`
#[derive(Deserialize)]
pub(super) struct ServerInfo {
    pub klippy_state: String,
}

/// `/printer/info`
#[derive(Deserialize)]
pub(super) struct PrinterInfo {
    pub software_version: String,
}

/// `/printer/objects/query`
#[derive(Deserialize)]
pub(super) struct Objects {
    pub status: Status,
}

/// Objects that the printer's configuration does not have are left out by Klipper.
#[derive(Deserialize)]
pub(super) struct Status {
    pub print_stats: Option<PrintStats>,
    pub virtual_sdcard: Option<VirtualSdcard>,
    pub idle_timeout: Option<IdleTimeout>,
}

#[derive(Default, Deserialize)]
pub(super) struct PrintStats {
    pub state: String,
    #[serde(default)]
    pub filename: String,
}

#[derive(Deserialize)]
pub(super) struct VirtualSdcard {
    pub progress: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct IdleTimeout {
    pub state: String,
}
