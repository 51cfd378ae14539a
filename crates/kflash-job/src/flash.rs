//! What is applied once for each flash.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kflash::config::{Config, Printer};
use kflash::digest::Sha256;
use kflash::exit::ExitCode;

use crate::config_toml::{From, config_toml, sources};
use crate::metadata::{self, job_name, labels};
use crate::pod::{CA, CONFIG, GIVEN, MOONRAKER_CA, pod, profile_key};
use crate::setup::cluster_of;
use crate::{JobError, Manifest, Quiesce, Shape, Via};

/// A ConfigMap holds a MiB, its keys included.
const MOST: usize = (1 << 20) - 4096;
/// A build and a flash, on the slowest of nodes, and what is tried again.
const DEADLINE: i64 = 5400;
/// A week, for its logs.
const KEPT: i32 = 604_800;

/// Everything that goes into a flash.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration that the printer is in.
    pub config: &'a Config,
    /// The printer; all its boards are flashed.
    pub printer: &'a Printer,
    /// The texts of profile files, by the board's name, for boards that name one.
    pub profiles: &'a BTreeMap<String, String>,
    /// The certificate authorities of the index, in PEM.
    pub ca: Option<&'a str>,
    /// Those of the printer's Moonraker.
    pub moonraker_ca: Option<&'a str>,
    /// Firmware that comes along: then nothing is built or fetched.
    pub firmware: Option<Firmware<'a>>,
}

/// Firmware for a printer's only board.
#[derive(Clone, Copy, Debug)]
pub struct Firmware<'a> {
    /// The bytes of its file.
    pub bytes: &'a [u8],
}

/// The objects of one flash. The same inputs give the same names: a Job that ran once is not run again by whatever
/// applies it again.
pub fn flash(inputs: &Inputs<'_>, shape: &Shape) -> Result<Vec<Manifest>, JobError> {
    let printer = inputs.printer;
    let cluster = cluster_of(printer)?;
    if shape.wait > 0 && shape.quiesce != Quiesce::Sidecar {
        return Err(JobError::NobodyWaits { printer: printer.name.clone(), quiesce: shape.quiesce });
    }
    if inputs.firmware.is_some() && printer.boards.len() > 1 {
        return Err(JobError::WhichBoard { printer: printer.name.clone(), boards: printer.boards.len() });
    }
    if shape.via != Via::Cable && printer.boards.len() > 1 {
        return Err(JobError::OneProbe { printer: printer.name.clone(), boards: printer.boards.len() });
    }
    if let Some(board) = printer.boards.iter().find(|board| board.device.is_empty()) {
        return Err(JobError::NoDevice { printer: printer.name.clone(), board: board.name.clone() });
    }
    let sources = sources(inputs.config, printer, inputs.firmware.is_some())?;
    let mut data = BTreeMap::from([(CONFIG.to_owned(), config_toml(inputs.config, printer, &sources))]);
    let ca = inputs.ca.filter(|_| sources.contains(&From::Fetch));
    data.extend(ca.map(|ca| (CA.to_owned(), ca.to_owned())));
    data.extend(inputs.moonraker_ca.map(|ca| (MOONRAKER_CA.to_owned(), ca.to_owned())));
    data.extend(inputs.profiles.iter().map(|(board, text)| (profile_key(board), text.clone())));
    let firmware = inputs.firmware.map(|firmware| firmware.bytes.to_vec());
    let size = data.iter().map(|(key, text)| key.len() + text.len()).sum::<usize>()
        + firmware.as_ref().map_or(0, |bytes| bytes.len().div_ceil(3) * 4);
    if size > MOST {
        return Err(JobError::TooLarge { size, most: MOST });
    }

    // The name is a digest of everything but itself.
    let unnamed = serde_json::to_vec(&(&data, &firmware, pod(printer, cluster, shape, &sources, "")?))
        .map_err(|error| JobError::Yaml(error.to_string()))?;
    let name = job_name(printer, &Sha256::of(&unnamed));
    let map = ConfigMap {
        metadata: metadata::of(&name, printer, cluster),
        data: Some(data),
        binary_data: firmware.map(|bytes| BTreeMap::from([(GIVEN.to_owned(), ByteString(bytes))])),
        immutable: Some(true),
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(printer)), ..ObjectMeta::default() }),
        spec: Some(pod(printer, cluster, shape, &sources, &name)?),
    };
    let job = Job {
        metadata: metadata::of(&name, printer, cluster),
        spec: Some(JobSpec {
            // What makes Klipper give way is started by whoever has asked Moonraker, and by nobody else.
            suspend: (shape.quiesce == Quiesce::Token).then_some(true),
            completions: Some(1),
            parallelism: Some(1),
            // Never two at once on one board.
            pod_replacement_policy: Some("Failed".to_owned()),
            backoff_limit: Some(if is_once(shape) { 0 } else { 2 }),
            active_deadline_seconds: Some(DEADLINE + i64::from(shape.wait)),
            ttl_seconds_after_finished: Some(KEPT),
            pod_failure_policy: Some(failure_policy(shape)),
            template,
            ..JobSpec::default()
        }),
        status: None,
    };
    Ok(vec![Manifest::ConfigMap(Box::new(map)), Manifest::Job(Box::new(job))])
}

/// Whether a pod that failed has no successor: another one would make Klipper give way once more, and nobody would have
/// asked whether it prints.
fn is_once(shape: &Shape) -> bool {
    shape.quiesce == Quiesce::Token
}

/// Fails for good where trying again cannot help; an eviction counts for nothing, but where there is one pod only.
fn failure_policy(shape: &Shape) -> PodFailurePolicy {
    let mut codes = vec![ExitCode::Usage, ExitCode::Refused, ExitCode::Denied, ExitCode::Build, ExitCode::Lost];
    if shape.wait > 0 {
        // It was waited for long enough: another pod would build once more, and wait once more.
        codes.insert(2, ExitCode::Busy);
    }
    let on_exit = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            operator: "In".to_owned(),
            values: codes.into_iter().map(|exit| i32::from(exit.code())).collect(),
            container_name: None,
        }),
        on_pod_conditions: None,
    };
    let on_disruption = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_exit_codes: None,
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
        }]),
    };
    let rules = if is_once(shape) { vec![on_exit] } else { vec![on_exit, on_disruption] };
    PodFailurePolicy { rules }
}
