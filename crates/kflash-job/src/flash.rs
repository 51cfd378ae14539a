//! What is applied once for each flash.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kflash::boards;
use kflash::cluster::container;
use kflash::config::{Board, Config, Printer};
use kflash::digest::Sha256;
use kflash::exit::ExitCode;
use kflash::obtain::Obtained;
use kflash::plan;

use crate::config_toml::{From, config_toml, is_of_host, sources};
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
    /// Firmware for the printer's only board, which comes along: then nothing is built or fetched.
    pub firmware: Option<&'a Obtained>,
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
    printer.boards.iter().try_for_each(|board| known(inputs, board))?;
    if shape.via != Via::Cable && printer.boards.len() > 1 {
        return Err(JobError::OneProbe { printer: printer.name.clone(), boards: printer.boards.len() });
    }
    if let Some(board) = printer.boards.iter().find(|board| board.device.is_empty()) {
        return Err(JobError::NoDevice { printer: printer.name.clone(), board: board.name.clone() });
    }
    let sources = sources(inputs.config, printer, inputs.firmware.is_some())?;
    if shape.quiesce == Quiesce::Token && sources.contains(&From::Build) && is_of_host(inputs.config, printer) {
        return Err(JobError::HostIsDown { printer: printer.name.clone() });
    }
    let mut data = BTreeMap::from([(CONFIG.to_owned(), config_toml(inputs.config, printer, &sources))]);
    let ca = inputs.ca.filter(|_| sources.contains(&From::Fetch));
    data.extend(ca.map(|ca| (CA.to_owned(), ca.to_owned())));
    data.extend(inputs.moonraker_ca.map(|ca| (MOONRAKER_CA.to_owned(), ca.to_owned())));
    data.extend(inputs.profiles.iter().map(|(board, text)| (profile_key(board), text.clone())));
    let firmware = inputs.firmware.map(|firmware| firmware.bytes.clone());
    let size =
        data.iter().map(|(key, text)| key.len() + text.len()).sum::<usize>() + firmware.as_ref().map_or(0, Vec::len);
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

/// Refuses a board that a pod does not know, with the built-in chips alone, and firmware that is not for it.
fn known(inputs: &Inputs<'_>, board: &Board) -> Result<(), JobError> {
    let file = Path::new(&board.board);
    let known = match inputs.profiles.get(&board.name) {
        Some(text) => boards::builtin_chips().and_then(|chips| boards::profile(file, text.as_bytes(), &chips)),
        None => boards::find(&board.board),
    };
    let wrong = || (inputs.printer.name.clone(), board.name.clone());
    let (profile, chip) = known.map_err(|source| {
        let (printer, board) = wrong();
        JobError::Board { printer, board, source }
    })?;
    let firmware = inputs.firmware.map_or(Ok(()), |firmware| plan::suits(&firmware.image, &profile, &chip));
    firmware.map_err(|refusal| {
        let (printer, board) = wrong();
        JobError::Unsuitable { printer, board, refusal }
    })
}

/// Whether a pod that failed has no successor: another one would make Klipper give way once more, and nobody would have
/// asked whether it prints.
fn is_once(shape: &Shape) -> bool {
    shape.quiesce == Quiesce::Token
}

/// Fails for good where trying again cannot help; an eviction counts for nothing, but where there is one pod only.
fn failure_policy(shape: &Shape) -> PodFailurePolicy {
    let useless = [ExitCode::Usage, ExitCode::Refused, ExitCode::Denied, ExitCode::Build, ExitCode::Lost];
    // A printer that prints was not asked to be flashed whenever it ends: for that there is a wait. But who obtains the
    // firmware may come a moment before Moonraker is up.
    let refusals = [on_exit(&useless, None), on_exit(&[ExitCode::Busy], Some(container::FLASHER))];
    let on_disruption = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_exit_codes: None,
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: Some("True".to_owned()),
        }]),
    };
    let rules = refusals.into_iter().chain((!is_once(shape)).then_some(on_disruption)).collect();
    PodFailurePolicy { rules }
}

/// Fails the Job where a container, or the one of this name, ends with one of `codes`.
fn on_exit(codes: &[ExitCode], container: Option<&str>) -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            operator: "In".to_owned(),
            values: codes.iter().map(|exit| i32::from(exit.code())).collect(),
            container_name: container.map(str::to_owned),
        }),
        on_pod_conditions: None,
    }
}
