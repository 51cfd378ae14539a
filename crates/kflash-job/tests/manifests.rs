//! Manifests before strangers: the schemas of Kubernetes itself, and kustomize.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kflash::config::{Config, GitTree, Tree};
use kflash::image::Image;
use kflash::obtain::{From, Obtained};
use kflash_job::{Access, Inputs, Quiesce, Shape, Via, detect, flash, setup, yaml};
use kflash_sim::firmware::TestImage;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The oldest with native sidecars, the one that made them stable, the one with restart rules, and the newest known.
const VERSIONS: [&str; 4] = ["1.29", "1.33", "1.35", "1.37"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn example() -> Config {
    Config::read(&root().join("k8s-jobs/base/config.toml"), None).unwrap()
}

fn shapes() -> Vec<Shape> {
    let accesses = [Access::Privileged, Access::Unprivileged].into_iter();
    let of = |access| {
        let quiesces = [Quiesce::Sidecar, Quiesce::Token, Quiesce::None].into_iter();
        quiesces.map(move |quiesce| Shape { access, quiesce, ..Shape::default() })
    };
    let waits = Shape { wait: 7200, ..Shape::default() };
    let through = [Access::Privileged, Access::Unprivileged].map(|access| Shape {
        access,
        via: Via::Swd { probe: None },
        ..Shape::default()
    });
    accesses.flat_map(of).chain([waits]).chain(through).collect()
}

/// What `kubernetes-validate` says of these files, strictly, for every version.
fn validate(files: &[PathBuf]) -> Output {
    validate_for(&VERSIONS, files)
}

fn validate_for(versions: &[&str], files: &[PathBuf]) -> Output {
    let target = root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let mut command = Command::new(target.join("python/bin/kubernetes-validate"));
    command.args(["--strict", "--quiet"]);
    command.args(versions.iter().flat_map(|version| ["-k", version])).args(files);
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: run `tools/debian-packages test`"))
}

fn valid(files: &[PathBuf]) {
    let output = validate(files);
    assert!(output.status.success(), "{output:?}");
}

/// What `kubectl kustomize` makes of a folder.
fn kustomized(folder: &Path) -> String {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output();
    let output = output.unwrap_or_else(|error| panic!("kubectl: {error}: run `tools/debian-packages test`"));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn job(text: &str) -> Value {
    objects(text).into_iter().find(|object| object["kind"] == "Job").unwrap()
}

/// A Job's pod, with what Kubernetes finds by name in the order of names.
fn pod(job: &Value) -> Value {
    let mut pod = job["spec"]["template"]["spec"].clone();
    let sort = |list: &mut Value, key: &str| {
        if let Some(list) = list.as_array_mut() {
            list.sort_by_key(|one| one[key].to_string());
        }
    };
    sort(&mut pod["volumes"], "name");
    for container in pod["containers"].as_array_mut().unwrap() {
        sort(&mut container["volumeMounts"], "mountPath");
    }
    pod
}

#[test]
fn every_shape_is_valid_for_every_version() {
    let folder = TempDir::new().unwrap();
    let mut config = example();
    config.printers[0].cluster.as_mut().unwrap().resource = Some("squat.ai/serial".to_owned());
    config.printers[0].cluster.as_mut().unwrap().probe_resource = Some("squat.ai/stlink".to_owned());
    config.printers[0].cluster.as_mut().unwrap().api_key_secret = Some("moonraker".to_owned());
    // A Klipper that has given way does not tell its version.
    let git = "https://github.com/Klipper3d/klipper".to_owned();
    config.klipper = Some(Tree::Git(GitTree { git, reference: Some("v0.13.0".to_owned()) }));
    let printer = &config.printers[0];
    let mut files = Vec::new();
    let bytes = TestImage::klipper("stm32f446xx", 0x0800_8000).build();
    let firmware = Obtained { image: Image::parse(&bytes).unwrap(), bytes, from: From::File("klipper.bin".into()) };
    let profile = fs::read_to_string(root().join("boards/btt-octopus-v1.1-f446.toml")).unwrap();
    for (at, shape) in shapes().iter().enumerate() {
        for firmware in [None, Some(&firmware)] {
            let profiles = BTreeMap::from([("mcu".to_owned(), profile.clone())]);
            let (ca, moonraker_ca) = (Some("ca"), Some("ca"));
            let inputs = Inputs { config: &config, printer, profiles: &profiles, ca, moonraker_ca, firmware };
            let manifests = [
                setup(printer, shape).unwrap(),
                flash(&inputs, shape).unwrap(),
                vec![detect("default", None, 2, &shape.images)],
            ];
            let file = folder.path().join(format!("{at}-{}.yaml", firmware.is_some()));
            fs::write(&file, yaml(&manifests.concat()).unwrap()).unwrap();
            files.push(file);
        }
    }
    valid(&files);

    // It would have found out.
    let wrong = folder.path().join("wrong.yaml");
    let text = fs::read_to_string(&files[0]).unwrap();
    for (old, new) in [("backoffLimit:", "backofLimit:"), ("activeDeadlineSeconds: ", "activeDeadlineSeconds: a")] {
        assert!(text.contains(old));
        fs::write(&wrong, text.replace(old, new)).unwrap();
        assert!(!validate(std::slice::from_ref(&wrong)).status.success(), "{new}");
    }
}

#[test]
fn phases_are_valid_from_the_version_on_that_they_are_for() {
    let folder = TempDir::new().unwrap();
    let mut config = example();
    config.printers[0].cluster.as_mut().unwrap().resource = Some("squat.ai/serial".to_owned());
    let inputs = Inputs {
        config: &config,
        printer: &config.printers[0],
        profiles: &BTreeMap::new(),
        ca: None,
        moonraker_ca: None,
        firmware: None,
    };
    for (version, from) in [("1.29", 0), ("1.33", 1), ("1.35", 2)] {
        let shape = Shape {
            access: Access::Unprivileged,
            phased: true,
            kubernetes: version.parse().unwrap(),
            ..Shape::default()
        };
        let file = folder.path().join(version);
        fs::write(&file, yaml(&flash(&inputs, &shape).unwrap()).unwrap()).unwrap();
        let file = std::slice::from_ref(&file);
        let output = validate_for(&VERSIONS[from..], file);
        assert!(output.status.success(), "{version}: {output:?}");
        if version == "1.35" {
            let older = validate_for(&["1.33"], file);
            assert!(!older.status.success() && format!("{older:?}").contains("restartPolicyRules"), "{older:?}");
        }
    }
}

#[test]
fn the_overlays_are_what_would_be_rendered() {
    let folder = TempDir::new().unwrap();
    let overlays = root().join("k8s-jobs/overlays");
    let base = fs::read_to_string(root().join("k8s-jobs/base/flash-job.yaml")).unwrap();
    let by_path = kustomized(&overlays.join("hostpath"));
    assert_eq!(pod(&job(&by_path)), pod(&job(&base)));
    for object in objects(&by_path) {
        let named = |object: &Value| (object["kind"].clone(), object["metadata"]["name"].clone());
        assert_eq!(named(&object).1, "kflash-printer");
        assert_eq!(object["metadata"]["namespace"], "default", "{object:#}");
    }

    let mut config = example();
    config.printers[0].cluster.as_mut().unwrap().resource = Some("squat.ai/serial".to_owned());
    let inputs = Inputs {
        config: &config,
        printer: &config.printers[0],
        profiles: &BTreeMap::new(),
        ca: None,
        moonraker_ca: None,
        firmware: None,
    };
    let shape = Shape { access: Access::Unprivileged, ..Shape::default() };
    let rendered = job(&yaml(&flash(&inputs, &shape).unwrap()).unwrap());
    // Its ConfigMap is named by a digest.
    let name = rendered["metadata"]["name"].as_str().unwrap();
    let rendered: Value = serde_json::from_str(&rendered.to_string().replace(name, "kflash-printer")).unwrap();
    let by_plugin = kustomized(&overlays.join("device-plugin"));
    assert_eq!(pod(&job(&by_plugin)), pod(&rendered));

    let files = [("hostpath.yaml", by_path), ("device-plugin.yaml", by_plugin)].map(|(name, text)| {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    });
    valid(&files);
}

#[test]
fn the_configuration_in_an_overlay_is_one() {
    let text = kustomized(&root().join("k8s-jobs/overlays/hostpath"));
    let map = objects(&text).into_iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let read = |text: &str| Config::parse(Path::new("/etc/kflash/config.toml"), text.as_bytes(), None).unwrap();
    let base = fs::read_to_string(root().join("k8s-jobs/base/flash-job.yaml")).unwrap();
    let of_base = objects(&base).into_iter().find(|object| object["kind"] == "ConfigMap").unwrap();
    let [ours, its] = [&map, &of_base].map(|map| read(map["data"]["config.toml"].as_str().unwrap()));
    assert_eq!(ours, its);
}

#[test]
fn under_a_tool_that_applies_again_no_job_is_removed_by_time() {
    let folder = TempDir::new().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join("k8s-jobs")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let mine = folder.path().join("k8s-jobs/mine");
    fs::create_dir(&mine).unwrap();
    for (tool, annotations) in [
        (
            "argocd",
            json!({
                "argocd.argoproj.io/hook": "Sync",
                "argocd.argoproj.io/hook-delete-policy": "BeforeHookCreation",
            }),
        ),
        ("flux", json!({ "kustomize.toolkit.fluxcd.io/force": "enabled" })),
        (
            "helm-hook",
            json!({
                "helm.sh/hook": "pre-upgrade",
                "helm.sh/hook-delete-policy": "before-hook-creation",
                "helm.sh/hook-weight": "0",
            }),
        ),
    ] {
        let text = format!("resources: [../overlays/hostpath]\ncomponents: [../components/{tool}]\n");
        fs::write(mine.join("kustomization.yaml"), text).unwrap();
        let text = kustomized(&mine);
        let job = job(&text);
        assert_eq!(job["metadata"]["annotations"], annotations);
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], Value::Null);
        let file = folder.path().join(tool);
        fs::write(&file, text).unwrap();
        valid(&[file]);
    }
}

#[test]
fn a_hook_has_nothing_that_was_applied_before_it() {
    let folder = TempDir::new().unwrap();
    let copied = Command::new("cp").arg("-r").arg(root().join("k8s-jobs")).arg(folder.path()).status().unwrap();
    assert!(copied.success());
    let mine = folder.path().join("k8s-jobs/overlays/mine");
    fs::create_dir(&mine).unwrap();
    let kinds = |component: &str| {
        let text = format!("resources: [../hostpath]\ncomponents: [../../components/{component}]\n");
        fs::write(mine.join("kustomization.yaml"), text).unwrap();
        let objects = objects(&kustomized(&mine));
        objects.iter().map(|object| object["kind"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(kinds("helm-hook"), BTreeSet::from(["ConfigMap", "Job"].map(str::to_owned)));
    let setup = ["Lease", "PodDisruptionBudget", "Role", "RoleBinding", "ServiceAccount"].map(str::to_owned);
    assert_eq!(kinds("setup"), BTreeSet::from(setup));
}
