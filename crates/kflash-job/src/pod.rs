//! The pod of a flash: its containers, in order, and what they share.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, ConfigMapVolumeSource, Container, DownwardAPIProjection, DownwardAPIVolumeFile,
    EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction, HostPathVolumeSource, KeyToPath, ObjectFieldSelector,
    PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kflash::cluster::{container, label};
use kflash::config::{Board, Cluster, Printer};
use kflash::identify::Selector;

use crate::config_toml::{From, profile, selector};
use crate::metadata::{lease_name, token};
use crate::phases;
use crate::setup::{PRIORITY, moonraker_of};
use crate::{Access, JobError, Quiesce, Shape, Via};

/// Where the firmware of the printer's boards is: what `kflash build --out` and `fetch --out` wrote, or the ConfigMap's.
const FIRMWARE: &str = "/firmware";
/// The key, and so the file, of firmware that comes along.
pub(crate) const GIVEN: &str = "klipper";
/// Where the ConfigMap is.
pub(crate) const INPUTS: &str = "/etc/kflash";
/// The configuration in it.
pub(crate) const CONFIG: &str = "config.toml";
/// The certificate authorities of an index in it.
pub(crate) const CA: &str = "ca.pem";
/// Those of Moonraker in it.
pub(crate) const MOONRAKER_CA: &str = "moonraker-ca.pem";
/// Moonraker's API key.
pub(crate) const API_KEY: &str = "/run/secrets/moonraker/api-key";
/// What the containers hand over.
const SHARED: &str = "/run/kflash/shared";
/// A home for git, a cache, and room for builds.
const WORK: &str = "/scratch";
/// Where the node is mounted.
const NODE: &str = "/node";
/// Outside `/dev`, which may be the node's.
const TERMINATION: &str = "/run/kflash/termination";
/// Nobody in particular.
pub(crate) const NOBODY: i64 = 65532;
/// Debian's group of serial ports.
const DIALOUT: i64 = 20;
/// Debian's group of devices that are plugged in: kflash's udev rules give it the debug probes.
const PLUGDEV: i64 = 46;
/// All USB devices of the node: a probe stays the same one throughout.
const BUS: &str = "/dev/bus/usb";
/// For how many seconds the sidecar may need to decide, besides waiting: far more than all that it asks may take.
const DECIDES: i32 = 3600;
/// More than the slowest write of a board and Klipper's return.
const GRACE: i64 = 300;

pub(crate) fn profile_path(board: &str) -> String {
    format!("{INPUTS}/{}", profile_key(board))
}

pub(crate) fn profile_key(board: &str) -> String {
    format!("profile-{board}.toml")
}

/// The pod. `sources`: where the firmware of each of the printer's boards comes from; `inputs`: the name of the ConfigMap.
pub(crate) fn pod(
    printer: &Printer,
    cluster: &Cluster,
    shape: &Shape,
    sources: &[From],
    inputs: &str,
) -> Result<PodSpec, JobError> {
    let given = sources.contains(&From::Given);
    let mut volumes = vec![config_map("inputs", inputs, None), empty("work")];
    volumes.push(if given { config_map("firmware", inputs, Some(GIVEN)) } else { empty("firmware") });
    let mut init = Vec::new();
    if sources.contains(&From::Build) {
        init.push(obtain("build", shape.images.builder(), printer, cluster));
    }
    if sources.contains(&From::Fetch) {
        init.push(obtain("fetch", shape.images.flasher(), printer, cluster));
    }
    let sidecar = shape.quiesce == Quiesce::Sidecar;
    if sidecar && !init.is_empty() {
        init.insert(0, settle(printer, shape));
    }
    if sidecar {
        init.push(quiesce(printer, cluster, shape, given)?);
        volumes.extend([empty("shared"), token_volume()]);
    }
    if let Some(secret) = cluster.api_key_secret.as_ref().filter(|_| !init.is_empty()) {
        volumes.push(Volume {
            name: "moonraker".to_owned(),
            secret: Some(SecretVolumeSource { secret_name: Some(secret.clone()), ..SecretVolumeSource::default() }),
            ..Volume::default()
        });
    }
    let main = if shape.phased {
        phases::check(printer, cluster, shape)?;
        volumes.push(empty(phases::VOLUME));
        let mut containers = phases::containers(flasher(printer, cluster, shape, given)?, shape.kubernetes);
        let main = containers.pop().ok_or(JobError::Yaml("no container flashes".to_owned()))?;
        init.extend(containers);
        main
    } else {
        flasher(printer, cluster, shape, given)?
    };
    match shape.access {
        Access::Privileged => {
            volumes.extend(["dev", "sys", "proc"].map(|name| host_path(name, &format!("/{name}"), "Directory")));
            volumes.push(host_path("lock", "/run/lock", "DirectoryOrCreate"));
            if shape.via != Via::Cable {
                volumes.push(host_path("bus", BUS, "Directory"));
            }
        }
        Access::Unprivileged => volumes.push(empty("lock")),
    }
    Ok(PodSpec {
        restart_policy: Some("Never".to_owned()),
        service_account_name: sidecar.then(|| lease_name(printer)),
        automount_service_account_token: Some(false),
        priority_class_name: (shape.quiesce == Quiesce::Token).then(|| PRIORITY.to_owned()),
        node_selector: Some(BTreeMap::from([("kubernetes.io/hostname".to_owned(), cluster.node.clone())])),
        // A cordoned node is often the one whose board is to be flashed.
        tolerations: Some(vec![Toleration {
            key: Some("node.kubernetes.io/unschedulable".to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some("NoSchedule".to_owned()),
            ..Toleration::default()
        }]),
        termination_grace_period_seconds: Some(GRACE),
        security_context: Some(PodSecurityContext {
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            run_as_non_root: (shape.access == Access::Unprivileged).then_some(true),
            fs_group: Some(NOBODY),
            supplemental_groups: Some(match shape.via {
                Via::Cable => vec![DIALOUT],
                Via::Swd { .. } => vec![DIALOUT, PLUGDEV],
            }),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        init_containers: Some(init).filter(|init| !init.is_empty()),
        containers: vec![main],
        volumes: Some(volumes),
        ..PodSpec::default()
    })
}

/// Builds or fetches, while Klipper still runs.
fn obtain(verb: &str, image: String, printer: &Printer, cluster: &Cluster) -> Container {
    let mut mounts =
        vec![mount("inputs", INPUTS, true), mount("firmware", FIRMWARE, false), mount("work", WORK, false)];
    mounts.extend(cluster.api_key_secret.as_ref().map(|_| secret_mount()));
    let mut args = kflash(verb, printer);
    args.extend(words(&["--out", FIRMWARE]));
    Container {
        name: verb.to_owned(),
        image: Some(image),
        args: Some(args),
        env: Some(vec![value("HOME", WORK), value("TMPDIR", WORK)]),
        security_context: Some(least()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// Gives Klipper back after a pod that died: to obtain firmware takes minutes, may fail, and may need Klipper.
fn settle(printer: &Printer, shape: &Shape) -> Container {
    let mut args = words(&["settle", "--lease", &lease_name(printer)]);
    args.extend(words(&["--job-uid", "$(JOB_UID)", "--job", "$(JOB)", "--json"]));
    Container {
        name: "settle".to_owned(),
        image: Some(shape.images.kube()),
        args: Some(args),
        env: Some(of_job().into()),
        security_context: Some(least()),
        volume_mounts: Some(vec![token_mount()]),
        ..Container::default()
    }
}

/// The Job that a pod is of.
fn of_job() -> [EnvVar; 2] {
    [
        field("JOB_UID", &format!("metadata.labels['{}']", label::JOB_UID)),
        field("JOB", &format!("metadata.labels['{}']", label::JOB_NAME)),
    ]
}

fn token_mount() -> VolumeMount {
    mount("token", "/var/run/secrets/kubernetes.io/serviceaccount", true)
}

/// The sidecar. Counts as started once it has decided.
fn quiesce(printer: &Printer, cluster: &Cluster, shape: &Shape, given: bool) -> Result<Container, JobError> {
    moonraker_of(printer)?;
    let config = format!("{INPUTS}/{CONFIG}");
    let mut args = words(&["quiesce", "--config", &config, "--printer", &printer.name]);
    args.extend(words(&["--lease", &lease_name(printer), "--workload", &cluster.workload.to_string()]));
    // With the firmware it is known whether Klipper has to be stopped, and may be.
    args.extend(words(&["--firmware", &firmware(given)]));
    if shape.via != Via::Cable {
        args.push("--through-probe".to_owned());
    }
    let mut mounts = vec![mount("inputs", INPUTS, true), mount("firmware", FIRMWARE, true)];
    mounts.extend([mount("shared", SHARED, false), token_mount()]);
    mounts.extend(cluster.api_key_secret.as_ref().map(|_| secret_mount()));
    if shape.wait > 0 {
        args.extend(words(&["--wait", &shape.wait.to_string()]));
    }
    if shape.trusting {
        args.push("--trust-silence".to_owned());
    }
    args.extend(words(&[
        "--job-uid",
        "$(JOB_UID)",
        "--job",
        "$(JOB)",
        "--pod",
        "$(POD)",
        "--shared",
        SHARED,
        "--json",
    ]));
    Ok(Container {
        name: "quiesce".to_owned(),
        image: Some(shape.images.kube()),
        args: Some(args),
        env: Some(of_job().into_iter().chain([field("POD", "metadata.name")]).collect()),
        // A native sidecar: lives until the container that flashes has ended, and is asked to end then.
        restart_policy: Some("Always".to_owned()),
        startup_probe: Some(Probe {
            exec: Some(ExecAction { command: Some(words(&["/usr/bin/kubectl-kflash", "probe", "--shared", SHARED])) }),
            period_seconds: Some(1),
            // It decides in minutes, or as long after as it was told to wait: to be killed for that would undo it.
            failure_threshold: Some(i32::try_from(shape.wait).unwrap_or(i32::MAX).saturating_add(DECIDES)),
            ..Probe::default()
        }),
        security_context: Some(least()),
        volume_mounts: Some(mounts),
        ..Container::default()
    })
}

/// The container with the device.
fn flasher(printer: &Printer, cluster: &Cluster, shape: &Shape, given: bool) -> Result<Container, JobError> {
    let (mut args, firmware) = match (&shape.via, &*printer.boards) {
        (Via::Swd { probe }, [board]) if given => (through_probe(board, probe.as_deref()), firmware(given)),
        (Via::Swd { probe }, [board]) => (through_probe(board, probe.as_deref()), format!("{FIRMWARE}/{}", board.name)),
        _ => (kflash("flash", printer), firmware(given)),
    };
    // Moonraker was asked before Klipper was stopped: now there is nobody to ask.
    args.extend(words(&["--no-moonraker", "--firmware", &firmware]));
    args.extend(words(&["--termination-message", TERMINATION]));
    let mut mounts = vec![mount("inputs", INPUTS, true), mount("firmware", FIRMWARE, true), mount("work", WORK, false)];
    if shape.quiesce == Quiesce::Sidecar {
        args.extend(words(&["--shared", SHARED]));
        mounts.push(mount("shared", SHARED, false));
    }
    let mut resources = BTreeMap::new();
    let mut one = |resource| resources.insert(resource, Quantity("1".to_owned()));
    if shape.quiesce == Quiesce::Token {
        one(token(printer, cluster));
    }
    let root = match shape.access {
        Access::Privileged => NODE,
        Access::Unprivileged => "",
    };
    let security = match shape.access {
        Access::Privileged => {
            args.extend(words(&["--host-root", NODE]));
            mounts.extend(["dev", "sys", "proc"].map(|name| mount(name, &format!("{root}/{name}"), name != "dev")));
            if shape.via != Via::Cable {
                mounts.push(mount("bus", BUS, false));
            }
            SecurityContext {
                privileged: Some(true),
                run_as_user: Some(0),
                run_as_group: Some(0),
                read_only_root_filesystem: Some(true),
                ..SecurityContext::default()
            }
        }
        Access::Unprivileged => {
            let name = printer.name.clone();
            match cluster.resource.clone() {
                None if printer.boards.iter().all(over_the_network) => {}
                None => return Err(JobError::NoResource { printer: name }),
                Some(resource) if shape.quiesce == Quiesce::Sidecar && cluster.token.as_ref() == Some(&resource) => {
                    return Err(JobError::Deadlock { printer: name, resource });
                }
                Some(resource) => drop(one(resource)),
            }
            match (&shape.via, cluster.probe_resource.clone()) {
                (Via::Cable, _) => {}
                (Via::Swd { .. }, Some(resource)) => drop(one(resource)),
                (Via::Swd { .. }, None) => {
                    return Err(JobError::NoProbeResource { printer: printer.name.clone() });
                }
            }
            least()
        }
    };
    mounts.push(mount("lock", &format!("{root}/run/lock"), false));
    Ok(Container {
        name: container::FLASHER.to_owned(),
        image: Some(match shape.via {
            Via::Cable => shape.images.flasher(),
            Via::Swd { .. } => shape.images.flasher_through_probes(),
        }),
        args: Some(args),
        resources: Some(ResourceRequirements { limits: Some(resources), ..ResourceRequirements::default() })
            .filter(|resources| resources.limits.as_ref().is_some_and(|limits| !limits.is_empty())),
        termination_message_path: Some(TERMINATION.to_owned()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        security_context: Some(security),
        volume_mounts: Some(mounts),
        ..Container::default()
    })
}

/// What every run of kflash in the pod is told.
fn kflash(verb: &str, printer: &Printer) -> Vec<String> {
    let (config, cache) = (format!("{INPUTS}/{CONFIG}"), format!("{WORK}/cache"));
    words(&[verb, "--config", &config, "--printer", &printer.name, "--cache-dir", &cache, "--json"])
}

/// The same for the one board that a probe is on. Its device is where it answers afterwards.
fn through_probe(board: &Board, probe: Option<&str>) -> Vec<String> {
    let cache = format!("{WORK}/cache");
    let mut args = words(&["flash", "--cache-dir", &cache, "--json", "--via", "swd", "--board", &profile(board)]);
    args.extend(probe.map(|probe| format!("--probe={probe}")));
    args.extend(board.device.iter().map(|device| format!("--device={}", selector(device))));
    args
}

/// Whether a board is reached without any device of the node.
pub(crate) fn over_the_network(board: &Board) -> bool {
    board.device.iter().all(|device| matches!(device, Selector::Tcp(_) | Selector::Usbip { .. }))
}

/// The firmware: the one file that came along, or the directory with that of each board.
fn firmware(given: bool) -> String {
    if given { format!("{FIRMWARE}/{GIVEN}") } else { FIRMWARE.to_owned() }
}

pub(crate) fn least() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(words(&["ALL"])), add: None }),
        ..SecurityContext::default()
    }
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn secret_mount() -> VolumeMount {
    mount("moonraker", "/run/secrets/moonraker", true)
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = Some(ObjectFieldSelector { field_path: path.to_owned(), api_version: None });
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref, ..EnvVarSource::default() }),
    }
}

fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// The ConfigMap, or one key of it.
fn config_map(name: &str, of: &str, key: Option<&str>) -> Volume {
    let items = key.map(|key| vec![KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None }]);
    Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: of.to_owned(), items, ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

/// A directory of the node: a file would go stale as soon as the board re-enumerates.
fn host_path(name: &str, path: &str, kind: &str) -> Volume {
    let source = HostPathVolumeSource { path: path.to_owned(), type_: Some(kind.to_owned()) };
    Volume { name: name.to_owned(), host_path: Some(source), ..Volume::default() }
}

/// What the kubelet mounts for an account that has its token mounted: token, certificate, namespace.
fn token_volume() -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(3607),
            audience: None,
        }),
        ..VolumeProjection::default()
    };
    let certificate = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(ObjectFieldSelector { field_path: "metadata.namespace".to_owned(), api_version: None }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: "token".to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(vec![token, certificate, namespace]),
            default_mode: None,
        }),
        ..Volume::default()
    }
}
