//! What `kflash flash --json` says at its end.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;

/// The result, as far as time goes.
#[derive(Deserialize)]
struct Ended {
    result: String,
    durations_ms: BTreeMap<String, u64>,
}

/// Seconds of each phase by its name.
pub type Phases = BTreeMap<String, f64>;

/// The phases of a run that ended with this result.
pub fn phases(result: &Value) -> anyhow::Result<Phases> {
    let ended = Ended::deserialize(result).with_context(|| format!("kflash did not flash: {result}"))?;
    ensure!(ended.result == "flashed", "kflash did not flash: {result}");
    Ok(ended.durations_ms.into_iter().map(|(phase, ms)| (phase, ms as f64 / 1000.0)).collect())
}

/// The seconds of these phases together.
pub fn sum(phases: &Phases, names: &[&str]) -> f64 {
    names.iter().filter_map(|name| phases.get(*name)).sum()
}
