//! The manifests in `k8s-jobs/`, made from the example in base/config.toml as `kflash job render` makes them, with comments
//! at the few lines that differ from printer to printer.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, iter};

use anyhow::{Context, Result, bail};
use kflash::config::{Config, Printer};
use kflash_job::{Images, Inputs, Manifest, Shape, detect, flash, setup, yaml};

const FOLDER: &str = "k8s-jobs";
/// The name of the Job, and of the ConfigMap, whatever is edited in them.
const NAME: &str = "kflash-printer";

/// Lines to edit: those that contain this, and what to write there.
const EDITS: [(&str, &str); 9] = [
    ("pi4", "the node that has the board: kubectl get nodes -L kubernetes.io/hostname"),
    ("board = ", "what it is: kflash boards"),
    ("device = ", "which one it is: ../detect-job.yaml prints this line"),
    ("ref = \"host\"", "the commit that this printer's Klipper runs, as its Moonraker says; or a tag"),
    ("http://voron-klipper:7125", "the Service of Klipper's Moonraker"),
    ("deployment/voron-klipper", "what runs Klipper: deployment/NAME or statefulset/NAME"),
    ("- deployments/scale", "statefulsets/scale, if it is one"),
    ("- deployments", "statefulsets, if it is one"),
    ("- voron-klipper", "the name of what runs Klipper"),
];

/// Writes them.
pub fn write(root: &Path) -> Result<()> {
    for (name, text) in files(root)? {
        fs::write(root.join(FOLDER).join(name), text).with_context(|| format!("cannot write {FOLDER}/{name}"))?;
    }
    Ok(())
}

/// Fails if one is not what would be written.
pub fn check(root: &Path) -> Result<()> {
    for (name, text) in files(root)? {
        let path = root.join(FOLDER).join(name);
        if fs::read_to_string(&path).with_context(|| format!("cannot read {FOLDER}/{name}"))? != text {
            bail!("{FOLDER}/{name} is stale: run `cargo xtask docs`");
        }
    }
    Ok(())
}

fn files(root: &Path) -> Result<[(&'static str, String); 3]> {
    let config = Config::read(&root.join(FOLDER).join("base/config.toml"), None)?;
    let printer = config.printers.first().context("no printer in the example")?;
    let shape = Shape::default();
    let inputs =
        Inputs { config: &config, printer, profiles: &BTreeMap::new(), ca: None, moonraker_ca: None, firmware: None };
    let setup = anywhere(setup(printer, &shape)?);
    let flash = anywhere(flash(&inputs, &shape)?);
    Ok([
        ("base/setup.yaml", SETUP.to_owned() + &edited(&named(&yaml(&setup)?, printer)?)),
        ("base/flash-job.yaml", FLASH.to_owned() + &edited(&named(&yaml(&flash)?, printer)?)),
        ("detect-job.yaml", DETECT.to_owned() + &edited(&yaml(&anywhere(vec![look(printer)?]))?)),
    ])
}

fn look(printer: &Printer) -> Result<Manifest> {
    let cluster = printer.cluster.as_ref().context("no cluster in the example")?;
    Ok(detect(&cluster.namespace, Some(&cluster.node), 1, &Images::default()))
}

/// In whichever namespace they are applied to; and whoever edits them may apply them again.
fn anywhere(mut manifests: Vec<Manifest>) -> Vec<Manifest> {
    for manifest in &mut manifests {
        let metadata = match manifest {
            Manifest::ConfigMap(it) => {
                it.immutable = None;
                &mut it.metadata
            }
            Manifest::RoleBinding(it) => {
                it.subjects.iter_mut().flatten().for_each(|subject| subject.namespace = None);
                &mut it.metadata
            }
            Manifest::Job(it) => &mut it.metadata,
            Manifest::Lease(it) => &mut it.metadata,
            Manifest::PodDisruptionBudget(it) => &mut it.metadata,
            Manifest::PriorityClass(it) => &mut it.metadata,
            Manifest::Role(it) => &mut it.metadata,
            Manifest::ServiceAccount(it) => &mut it.metadata,
        };
        metadata.namespace = None;
    }
    manifests
}

/// Without the digest of inputs that are yet to be edited.
fn named(text: &str, printer: &Printer) -> Result<String> {
    let lease = kflash_job::lease_name(printer);
    if lease != NAME {
        bail!("the example's printer is to be named so that its Lease is {NAME}");
    }
    let mut named = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&format!("{NAME}-")) {
        let digest = after.chars().take_while(char::is_ascii_hexdigit).count();
        named.extend([before, NAME]);
        rest = &after[digest..];
    }
    Ok(named + rest)
}

/// With comments at the lines to edit.
fn edited(text: &str) -> String {
    let comment = |line: &str| {
        let edit = EDITS.iter().find(|(part, _)| line.contains(part));
        let comment = edit.map(|(_, what)| format!("  # EDIT: {what}")).unwrap_or_default();
        iter::once(line.to_owned()).chain([comment, "\n".to_owned()]).collect::<String>()
    };
    text.lines().map(comment).collect()
}

const SETUP: &str = "\
# Once for each printer: kubectl apply -f setup.yaml
#
# Made by `cargo xtask docs` from config.toml. The lines to edit are marked EDIT; `kflash job render` does it from your own
# configuration. The namespace is the one of Klipper (kubectl -n NAMESPACE ...), and has to admit privileged pods with the
# node's directories:
#   kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=privileged
";

const FLASH: &str = "\
# Once for each flash, after setup.yaml: kubectl apply -f flash-job.yaml
# The next time: kubectl replace --force -f flash-job.yaml
#
# Made by `cargo xtask docs` from config.toml. The lines to edit are marked EDIT; `kflash job render` does it from your own
# configuration. Follow it with
#   kubectl logs -f job/kflash-printer --all-containers
";

const DETECT: &str = "\
# Which boards a node has: kubectl apply -f detect-job.yaml && kubectl logs -f job/kflash-detect
# It ends with the line `device = [..]` for each, as base/flash-job.yaml and a configuration take it.
#
# For all nodes: without the nodeSelector, and the number of nodes in completions and parallelism; then
#   kubectl logs -l app.kubernetes.io/name=kflash-detect --prefix
";
