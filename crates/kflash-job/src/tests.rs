//! Policy: what a schema does not see.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::Job;
use kflash::config::{Config, Source};
use kflash::exit::{Again, ExitCode};
use kflash::image::Image;
use kflash::obtain::{From, Obtained};
use kflash_sim::firmware::TestImage;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const CONFIG: &str = r#"
klipper = { git = "https://github.com/Klipper3d/klipper", ref = "v0.13.0" }

[[printers]]
name = "voron"
moonraker = { url = "http://voron-klipper:7125" }
cluster = { namespace = "printers", node = "pi4", workload = "deployment/voron-klipper", resource = "squat.ai/serial" }

[[printers.boards]]
board = "btt-octopus-v1.1-f446"
device = ["1-1.4", "290034001751333038363536"]
symbols = { USB_SERIAL_NUMBER = "octopus" }
"#;

const ACCESS: [Access; 2] = [Access::Privileged, Access::Unprivileged];
const QUIESCE: [Quiesce; 3] = [Quiesce::Sidecar, Quiesce::Token, Quiesce::None];

fn config() -> Config {
    parsed(CONFIG)
}

fn parsed(text: &str) -> Config {
    Config::parse(Path::new("/etc/kflash/config.toml"), text.as_bytes(), None).unwrap()
}

/// The example with other words in it.
fn with(old: &str, new: &str) -> Config {
    assert!(CONFIG.contains(old), "{old}");
    parsed(&CONFIG.replace(old, new))
}

fn shapes() -> impl Iterator<Item = Shape> {
    ACCESS
        .into_iter()
        .flat_map(|access| QUIESCE.into_iter().map(move |quiesce| Shape { access, quiesce, ..Shape::default() }))
}

/// In phases, and with every way to do without.
fn phased() -> impl Iterator<Item = Shape> {
    let unprivileged = shapes().filter(|shape| shape.access == Access::Unprivileged);
    unprivileged.flat_map(|shape| {
        [Kubernetes::V1_29, Kubernetes::V1_33, Kubernetes::V1_35].map(|kubernetes| Shape {
            phased: true,
            kubernetes,
            ..shape.clone()
        })
    })
}

fn usual() -> Shape {
    shapes().next().unwrap()
}

/// Firmware for the board of the example.
fn firmware() -> Obtained {
    firmware_of(&TestImage::klipper("stm32f446xx", 0x0800_8000))
}

fn firmware_of(image: &TestImage) -> Obtained {
    let bytes = image.build();
    Obtained { image: Image::parse(&bytes).unwrap(), bytes, from: From::File("klipper.bin".into()) }
}

fn made(config: &Config, shape: &Shape, firmware: Option<&Obtained>) -> Result<Vec<Manifest>, JobError> {
    let inputs = Inputs {
        config,
        printer: &config.printers[0],
        profiles: &BTreeMap::new(),
        ca: None,
        moonraker_ca: None,
        firmware,
    };
    flash(&inputs, shape)
}

fn rendered(shape: &Shape, firmware: Option<&Obtained>) -> Vec<Manifest> {
    made(&config(), shape, firmware).unwrap()
}

fn value(manifest: &Manifest) -> Value {
    serde_json::to_value(manifest).unwrap()
}

/// The Job of a flash.
fn job(shape: &Shape, firmware: Option<&Obtained>) -> Value {
    value(&rendered(shape, firmware)[1])
}

fn containers(job: &Value) -> Vec<Value> {
    let pod = &job["spec"]["template"]["spec"];
    let of = |key: &str| pod[key].as_array().cloned().unwrap_or_default();
    [of("initContainers"), of("containers")].concat()
}

fn container(job: &Value, name: &str) -> Value {
    containers(job).into_iter().find(|container| container["name"] == name).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

/// What follows an option.
fn option<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let args: Vec<_> = container["args"].as_array()?.iter().filter_map(Value::as_str).collect();
    let at = args.iter().position(|arg| *arg == name)?;
    args.get(at + 1).copied()
}

#[test]
fn no_container_has_the_token_but_those_that_stop_klipper_and_give_it_back() {
    for shape in shapes().chain(phased()) {
        let job = job(&shape, None);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["serviceAccountName"].is_string(), shape.quiesce == Quiesce::Sidecar);
        for container in containers(&job) {
            let has = names(&container["volumeMounts"]).contains(&"token");
            assert_eq!(has, container["name"] == "quiesce" || container["name"] == "settle", "{shape:?}");
        }
    }
}

#[test]
fn the_device_is_the_flashers_alone_and_nothing_else_is_privileged() {
    for shape in shapes().chain(phased()) {
        for container in containers(&job(&shape, None)) {
            let flasher = container["name"].as_str().unwrap().starts_with("kflash");
            let privileged = flasher && shape.access == Access::Privileged;
            let mounts = names(&container["volumeMounts"]);
            for directory in ["dev", "sys", "proc"] {
                assert_eq!(mounts.contains(&directory), privileged);
            }
            assert_eq!(mounts.contains(&"lock"), flasher);
            let context = &container["securityContext"];
            assert_eq!(context["privileged"] == true, privileged);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            if !privileged {
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["runAsNonRoot"], true);
            }
            let mut resources = Vec::new();
            if flasher && shape.quiesce == Quiesce::Token {
                resources.push("kflash.dev/printer-voron");
            }
            if flasher && shape.access == Access::Unprivileged {
                resources.push("squat.ai/serial");
            }
            let limits = container["resources"]["limits"].as_object().cloned().unwrap_or_default();
            assert_eq!(limits.keys().map(String::as_str).collect::<Vec<_>>(), resources, "{shape:?}");
        }
    }
}

#[test]
fn the_nodes_directories_are_mounted_whole() {
    let job = job(&usual(), None);
    let volumes = job["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let paths: Vec<_> = volumes.iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
    assert_eq!(paths, ["/dev", "/sys", "/proc", "/run/lock"]);
    let flasher = container(&job, "kflash");
    let root = option(&flasher, "--host-root").unwrap();
    for mount in flasher["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        assert_eq!(path.starts_with(root), ["dev", "sys", "proc", "lock"].map(Value::from).contains(&mount["name"]));
    }
    let message = flasher["terminationMessagePath"].as_str().unwrap();
    assert_eq!(option(&flasher, "--termination-message"), Some(message));
    assert!(!message.starts_with("/dev/"), "which may be the node's");
}

#[test]
fn what_is_mounted_is_there_and_what_is_there_is_mounted() {
    for shape in shapes().chain(phased()) {
        for firmware in [None, Some(&firmware())] {
            let job = job(&shape, firmware);
            let volumes: Vec<String> =
                names(&job["spec"]["template"]["spec"]["volumes"]).into_iter().map(str::to_owned).collect();
            let containers = containers(&job);
            for volume in &volumes {
                let mounted = containers.iter().any(|it| names(&it["volumeMounts"]).contains(&volume.as_str()));
                assert!(mounted, "{volume}");
            }
            for mount in containers.iter().flat_map(|container| names(&container["volumeMounts"])) {
                assert!(volumes.iter().any(|volume| volume == mount), "{mount}");
            }
        }
    }
}

#[test]
fn a_sidecar_never_waits_for_what_klipper_holds() {
    let held = with("resource = ", r#"token = "squat.ai/serial", resource = "#);
    let shape = |quiesce| Shape { access: Access::Unprivileged, quiesce, ..Shape::default() };
    let error = made(&held, &shape(Quiesce::Sidecar), None).unwrap_err();
    assert!(matches!(error, JobError::Deadlock { .. }), "{error}");
    // Where Klipper gives way, that resource is what it gives up.
    let manifests = made(&held, &shape(Quiesce::Token), None).unwrap();
    let limits = &container(&value(&manifests[1]), "kflash")["resources"]["limits"];
    assert_eq!(*limits, json!({"squat.ai/serial": "1"}));
}

#[test]
fn a_job_that_klipper_gives_way_to_waits_to_be_started() {
    for shape in shapes() {
        let job = job(&shape, None);
        assert_eq!(job["spec"]["suspend"] == true, shape.quiesce == Quiesce::Token);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["priorityClassName"] == "kflash", shape.quiesce == Quiesce::Token);
        let classes = setup(&config().printers[0], &shape).unwrap();
        let classes: Vec<_> = classes.iter().map(value).filter(|it| it["kind"] == "PriorityClass").collect();
        assert_eq!(names(&json!(classes.iter().map(|it| &it["metadata"]).collect::<Vec<_>>())).len(), classes.len());
        assert_eq!(classes.len() == 1, shape.quiesce == Quiesce::Token);
    }
}

#[test]
fn it_ends_for_good_where_trying_again_cannot_help() {
    use ExitCode::{
        Build, Busy, Cancelled, Denied, Enter, Fetch, Internal, Lost, NotFound, Phase, Refused, Taken, Usage, Verify,
        Write,
    };

    let job = job(&usual(), None);
    let spec = &job["spec"];
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Never", "the server takes no podFailurePolicy without");
    assert_eq!(spec["podReplacementPolicy"], "Failed", "never two at once");
    assert_eq!((&spec["parallelism"], &spec["completions"]), (&json!(1), &json!(1)));
    let rules = &spec["podFailurePolicy"]["rules"];
    let codes: Vec<_> = rules[0]["onExitCodes"]["values"].as_array().unwrap().iter().map(Value::as_u64).collect();
    let all = [
        Internal, Usage, Refused, NotFound, Busy, Denied, Build, Fetch, Enter, Write, Verify, Lost, Cancelled, Taken,
        Phase,
    ];
    let for_good = |exit: &ExitCode| matches!(exit.again(), Again::No | Again::Person);
    let ends: Vec<_> = all.into_iter().filter(for_good).map(|exit| Some(u64::from(exit.code()))).collect();
    assert_eq!((rules[0]["action"].as_str(), codes), (Some("FailJob"), ends));
    assert_eq!(rules[0]["onExitCodes"]["containerName"], Value::Null, "those that obtain count, too");
    // What the gate refuses is not flashed later, unasked; but a pod may ask Moonraker for a version before it is up.
    let busy = json!({"operator": "In", "values": [Busy.code()], "containerName": "kflash"});
    assert_eq!(rules[1], json!({"action": "FailJob", "onExitCodes": busy}));
    let evicted = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
    assert_eq!(rules[2], evicted);

    // What makes Klipper give way does so once, for whoever has asked the printer.
    let token = self::job(&Shape { quiesce: Quiesce::Token, ..usual() }, None);
    let spec = &token["spec"];
    assert_eq!((&spec["backoffLimit"], spec["podFailurePolicy"]["rules"].as_array().unwrap().len()), (&json!(0), 2));
}

#[test]
fn a_job_that_waits_for_a_print_has_the_time_to() {
    let waiting = Shape { wait: 7200, ..usual() };
    let (at_once, waits) = (job(&usual(), None), job(&waiting, None));
    let quiesce = container(&waits, "quiesce");
    assert_eq!(option(&quiesce, "--wait"), Some("7200"));
    assert_eq!(option(&container(&at_once, "quiesce"), "--wait"), None);
    let trusts = |shape| container(&job(&shape, None), "quiesce")["args"].to_string().contains("\"--trust-silence\"");
    assert!(!trusts(usual()) && trusts(Shape { trusting: true, ..usual() }));
    // A Job that ends before it was waited for would give the board to nobody; a probe that gives up restarts the wait.
    let deadline = |job: &Value| job["spec"]["activeDeadlineSeconds"].as_u64().unwrap();
    assert_eq!(deadline(&waits), deadline(&at_once) + 7200);
    let probe = &quiesce["startupProbe"];
    let patience = probe["periodSeconds"].as_u64().unwrap() * probe["failureThreshold"].as_u64().unwrap();
    assert!(patience > 7200 + 600, "{patience}");
    assert!(notes_of_flash(&waiting).contains("up to 7200 s"));
    for quiesce in [Quiesce::Token, Quiesce::None] {
        let error = made(&config(), &Shape { quiesce, ..waiting.clone() }, None).unwrap_err();
        assert!(matches!(error, JobError::NobodyWaits { .. }), "{error}");
    }
}

#[test]
fn through_a_probe_goes_one_board_and_unprivileged_it_takes_two_devices() {
    let config =
        with("resource = \"squat.ai/serial\"", "resource = \"squat.ai/serial\", probe-resource = \"squat.ai/stlink\"");
    let via = Via::Swd { probe: Some("0483:374b:066F".to_owned()) };
    for access in ACCESS {
        let shape = Shape { access, via: via.clone(), ..Shape::default() };
        let job = value(&made(&config, &shape, None).unwrap()[1]);
        let flasher = container(&job, "kflash");
        assert_eq!((option(&flasher, "--via"), option(&flasher, "--printer")), (Some("swd"), None));
        assert_eq!(option(&flasher, "--firmware"), Some("/firmware/btt-octopus-v1.1-f446"));
        let args = flasher["args"].as_array().unwrap();
        for arg in ["--probe=0483:374b:066F", "--device=1-1.4", "--device=290034001751333038363536", "--no-moonraker"] {
            assert!(args.contains(&arg.into()), "{arg}: {args:?}");
        }
        for container in containers(&job) {
            let with_probes = container["image"].as_str().unwrap().starts_with("localhost/kflash-swd:");
            assert_eq!(with_probes, container["name"] == "kflash");
        }
        let pod = &job["spec"]["template"]["spec"];
        let bus = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "bus");
        if access == Access::Privileged {
            assert_eq!(bus.unwrap()["hostPath"], json!({"path": "/dev/bus/usb", "type": "Directory"}));
            assert_eq!(flasher["resources"], Value::Null);
        } else {
            assert_eq!(bus, None);
            assert_eq!(flasher["resources"]["limits"], json!({"squat.ai/serial": "1", "squat.ai/stlink": "1"}));
            assert_eq!(flasher["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
            assert_eq!(pod["securityContext"]["supplementalGroups"], json!([20, 46]));
        }
    }
    let unprivileged = Shape { access: Access::Unprivileged, via: via.clone(), ..Shape::default() };
    let error = made(&self::config(), &unprivileged, None).unwrap_err();
    assert!(matches!(error, JobError::NoProbeResource { .. }), "{error}");
    let second = "[[printers.boards]]\nname = \"ebb\"\nboard = \"btt-octopus-v1.1-f446\"\ndevice = [\"1-1.5\"]\n";
    let error = made(&parsed(&(CONFIG.to_owned() + second)), &Shape { via, ..Shape::default() }, None).unwrap_err();
    assert!(matches!(error, JobError::OneProbe { boards: 2, .. }), "{error}");
    assert!("cable".parse::<Via>().unwrap().with(Some("0483:374b".to_owned())).is_err());
}

#[test]
fn each_phase_begins_with_a_container_that_is_created_then() {
    for shape in phased() {
        let job = job(&shape, None);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Never", "the server takes no podFailurePolicy without");
        let main = container(&job, "kflash");
        let flashers: Vec<_> =
            containers(&job).into_iter().filter(|it| it["name"].as_str().unwrap().starts_with("kflash")).collect();
        for flasher in &flashers {
            assert_eq!(option(flasher, "--phased"), Some("/run/kflash/journal"));
            let another_follows = flasher["args"].as_array().unwrap().contains(&"--another-follows".into());
            assert_eq!(another_follows, flasher != &main, "the last one tells");
            // But for that, all do the same with the same.
            let mut same = flasher.clone();
            same["args"].as_array_mut().unwrap().retain(|arg| arg != "--another-follows");
            same["name"] = "kflash".into();
            assert_eq!(same, main);
        }
        if shape.kubernetes == Kubernetes::V1_35 {
            assert_eq!(flashers.len(), 1);
            assert_eq!(main["restartPolicy"], "Never");
            let phase = json!({"operator": "In", "values": [ExitCode::Phase.code()]});
            assert_eq!(main["restartPolicyRules"], json!([{"action": "Restart", "exitCodes": phase}]));
        } else {
            let init = names(&pod["initContainers"]);
            assert!(init.ends_with(&["kflash-enter", "kflash-write"]), "after Klipper was stopped: {init:?}");
            assert_eq!((&main["restartPolicyRules"], &main["restartPolicy"]), (&Value::Null, &Value::Null));
        }
        // What ends a container badly ends the pod, in whichever.
        let rules = &job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"];
        assert_eq!(rules["containerName"], Value::Null);
        assert!(!rules["values"].as_array().unwrap().contains(&ExitCode::Phase.code().into()));
    }
}

#[test]
fn the_version_matters_to_phases_alone() {
    for shape in shapes() {
        let newer = Shape { kubernetes: Kubernetes::V1_35, ..shape.clone() };
        assert_eq!(rendered(&newer, None), rendered(&shape, None));
    }
    for (text, minor, version) in [
        ("1.29", 31, Kubernetes::V1_29),
        ("1.33", 34, Kubernetes::V1_33),
        ("1.35", 35, Kubernetes::V1_35),
        ("1.35", 40, Kubernetes::V1_35),
    ] {
        assert_eq!((text.parse(), Kubernetes::of_minor(minor)), (Ok(version), version));
    }
    assert!("1.34".parse::<Kubernetes>().unwrap_err().to_string().contains("1.29, 1.33, 1.35"));
}

#[test]
fn phases_that_are_for_nothing_are_refused() {
    let phased = Shape { access: Access::Unprivileged, phased: true, ..Shape::default() };
    let privileged = Shape { access: Access::Privileged, ..phased.clone() };
    let through = Shape { via: Via::Swd { probe: None }, ..phased.clone() };
    let elsewhere = with(r#"["1-1.4", "290034001751333038363536"]"#, r#"["tcp://ender-gateway:3333"]"#);
    for (config, shape) in [(&config(), &privileged), (&config(), &through), (&elsewhere, &phased)] {
        let error = made(config, shape, None).unwrap_err();
        assert!(matches!(error, JobError::NoPhases { .. }), "{error}");
    }
    let error = made(&with(r#", resource = "squat.ai/serial""#, ""), &phased, None).unwrap_err();
    assert!(matches!(error, JobError::NoResource { .. }), "{error}");
}

#[test]
fn who_ends_it_waits_for_the_slowest_write_and_for_klipper() {
    let pod = &job(&usual(), None)["spec"]["template"]["spec"];
    // A mass erase of the largest chip takes 35 s, its write about as long; Klipper has two minutes to come back.
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 35 + 60 + 120);
}

#[test]
fn names_are_labels_and_tell_the_inputs() {
    let name = |config: &Config, firmware| {
        let job = value(&made(config, &usual(), firmware).unwrap()[1]);
        job["metadata"]["name"].as_str().unwrap().to_owned()
    };
    let built = name(&config(), None);
    assert_eq!(built, name(&config(), None));
    for other in [
        name(&config(), Some(&firmware())),
        name(&config(), Some(&firmware_of(&TestImage::kalico("stm32f446xx", 0x0800_8000)))),
        name(&with("octopus-v1.1-f446", "octopus-v1.1-f446\"\nroute = \"dfu"), None),
        name(&with("pi4", "pi5"), None),
        name(&with("1-1.4", "1-1.5"), None),
    ] {
        assert_ne!(built, other);
    }
}

#[test]
fn firmware_that_comes_along_needs_no_builder_and_no_network() {
    let manifests = rendered(&usual(), Some(&firmware()));
    let (map, given) = (value(&manifests[0]), value(&manifests[1]));
    let image: ByteString = serde_json::from_value(map["binaryData"]["klipper"].clone()).unwrap();
    assert!(image.0 == firmware().bytes);
    assert!(!map["data"]["config.toml"].as_str().unwrap().contains("git"));
    assert_eq!(names(&given["spec"]["template"]["spec"]["initContainers"]), ["quiesce"]);
    assert_eq!(option(&container(&given, "kflash"), "--firmware"), Some("/firmware/klipper"));
    let built = job(&usual(), None);
    assert_eq!(names(&built["spec"]["template"]["spec"]["initContainers"]), ["settle", "build", "quiesce"]);
    assert_eq!(option(&container(&built, "build"), "--out"), Some("/firmware"));
    assert_eq!(option(&container(&built, "kflash"), "--firmware"), Some("/firmware"));
}

#[test]
fn firmware_for_something_else_is_refused_before_there_is_a_pod() {
    let refusal = |config: &Config, image: &TestImage| {
        let error = made(config, &usual(), Some(&firmware_of(image))).unwrap_err();
        assert_eq!(error.exit(), ExitCode::Refused);
        error.to_string()
    };
    for (image, reason) in [
        (TestImage::klipper("stm32f407xx", 0x0800_8000), "dictionary names stm32f407xx"),
        (TestImage::klipper("stm32f446xx", 0x0801_0000), "image starts at 0x08010000"),
        (TestImage::katapult("stm32f446xx", 0x0800_0000), "it is a Katapult bootloader"),
    ] {
        let said = refusal(&config(), &image);
        assert!(said.contains("printer voron, board btt-octopus-v1.1-f446: this firmware is not for it"), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn the_version_of_a_klipper_that_has_given_way_is_not_asked_for() {
    let config = with("ref = \"v0.13.0\"", "ref = \"host\"");
    for quiesce in QUIESCE {
        let made = made(&config, &Shape { quiesce, ..Shape::default() }, None);
        assert_eq!(matches!(made, Err(JobError::HostIsDown { .. })), quiesce == Quiesce::Token, "{made:?}");
    }
}

#[test]
fn what_the_pod_reads_is_the_configuration_of_its_printer() {
    let map = value(&rendered(&usual(), None)[0]);
    let mut meant = config();
    meant.printers[0].cluster = None;
    meant.printers[0].boards[0].firmware = Some(Source::Build);
    assert_eq!(parsed(map["data"]["config.toml"].as_str().unwrap()), meant);
}

#[test]
fn secrets_stay_where_they_are() {
    let secret = "5ec4e7";
    let keyed = format!(r#"{{ url = "http://voron-klipper:7125", api-key = "{secret}" }}"#);
    let plain = r#"{ url = "http://voron-klipper:7125" }"#;
    let error = made(&with(plain, &keyed), &usual(), None).unwrap_err();
    assert!(matches!(error, JobError::NoSecret { .. }), "{error}");
    let text = CONFIG.replace(plain, &keyed).replace("node =", "api-key-secret = \"moonraker\", node =");
    let config = parsed(&text);
    let manifests = [setup(&config.printers[0], &usual()).unwrap(), made(&config, &usual(), None).unwrap()].concat();
    let text = yaml(&manifests).unwrap();
    assert!(!text.contains(secret));
    let job = manifests.last().map(value).unwrap();
    for container in containers(&job) {
        let reads = names(&container["volumeMounts"]).contains(&"moonraker");
        // Those that ask Moonraker.
        assert_eq!(reads, container["name"] == "build" || container["name"] == "quiesce");
    }
}

#[test]
fn what_a_pod_cannot_do_is_said_before() {
    for (old, new, said) in [
        (
            "git = \"https://github.com/Klipper3d/klipper\", ref = \"v0.13.0\"",
            "git = \"/srv/klipper\"",
            "nothing to obtain",
        ),
        ("symbols =", "firmware = { file = \"a.bin\" }\nsymbols =", "a file of this machine"),
        ("symbols =", "firmware = \"fetch\"\nsymbols =", "state [fetch]"),
        ("device =", "#", "no device"),
        ("cluster =", "#", "no [printers.cluster]"),
        ("moonraker =", "#", "no moonraker"),
    ] {
        let error = made(&with(old, new), &usual(), None).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("voron"), "{error}");
    }
    let large = Obtained { bytes: vec![0xff; 1 << 20], ..firmware() };
    let error = made(&config(), &usual(), Some(&large)).unwrap_err();
    assert!(matches!(error, JobError::TooLarge { .. }), "{error}");
    let unprivileged = Shape { access: Access::Unprivileged, ..usual() };
    let error = made(&with(", resource = \"squat.ai/serial\"", ""), &unprivileged, None).unwrap_err();
    assert!(matches!(error, JobError::NoResource { .. }), "{error}");
    let elsewhere = parsed(
        &CONFIG
            .replace(r#"["1-1.4", "290034001751333038363536"]"#, r#"["tcp://ender-gateway:3333"]"#)
            .replace(", resource = \"squat.ai/serial\"", ""),
    );
    let manifests = made(&elsewhere, &unprivileged, None).unwrap();
    assert_eq!(container(&value(&manifests[1]), "kflash")["resources"], Value::Null);
}

#[test]
fn what_is_set_up_does_not_undo_what_a_flash_owes() {
    let manifests = setup(&config().printers[0], &usual()).unwrap();
    let lease = manifests.iter().map(value).find(|manifest| manifest["kind"] == "Lease").unwrap();
    assert!(lease["spec"].is_null());
    let annotations = lease["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["kflash.dev/moonraker", "kflash.dev/workload"]);
}

#[test]
fn who_vouches_for_servers_comes_along() {
    let moonraker = r#"{ url = "https://voron:7130", ca = "home.pem" }"#;
    let config = with(r#"{ url = "http://voron-klipper:7125" }"#, moonraker);
    let inputs = Inputs {
        config: &config,
        printer: &config.printers[0],
        profiles: &BTreeMap::new(),
        ca: Some("of an index that nothing is fetched from"),
        moonraker_ca: Some("of Moonraker"),
        firmware: None,
    };
    let manifests = flash(&inputs, &usual()).unwrap();
    let (map, job) = (value(&manifests[0]), value(&manifests[1]));
    assert_eq!(map["data"]["moonraker-ca.pem"], "of Moonraker");
    assert_eq!(map["data"]["ca.pem"], Value::Null);
    let quiesce = container(&job, "quiesce");
    assert!(names(&quiesce["volumeMounts"]).contains(&"inputs"));
    let read = parsed(map["data"]["config.toml"].as_str().unwrap());
    let ca = read.printers[0].moonraker.clone().unwrap().ca;
    assert_eq!(ca, Some("/etc/kflash/moonraker-ca.pem".into()));
}

#[test]
fn to_look_at_a_node_takes_no_privilege() {
    let job = value(&detect("printers", None, 3, &Images::default()));
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!((&job["spec"]["completions"], &job["spec"]["parallelism"]), (&json!(3), &json!(3)));
    assert_eq!((&pod["volumes"], &pod["automountServiceAccountToken"]), (&Value::Null, &json!(false)));
    let context = &pod["containers"][0]["securityContext"];
    assert_eq!((&context["capabilities"], &context["privileged"]), (&json!({"drop": ["ALL"]}), &Value::Null));
    let pinned = value(&detect("printers", Some("pi4"), 1, &Images::default()));
    assert_eq!(pinned["spec"]["template"]["spec"]["nodeSelector"], json!({"kubernetes.io/hostname": "pi4"}));
}

#[test]
fn what_no_manifest_can_do_is_said_above() {
    let config = config();
    for shape in shapes().chain(phased()) {
        let notes = notes_of_setup(&config.printers[0], &shape).unwrap();
        assert!(notes.lines().all(|line| line.starts_with('#')), "{notes}");
        let label = "kubectl label namespace printers pod-security.kubernetes.io/enforce=privileged";
        assert_eq!(notes.contains(label), shape.access == Access::Privileged);
        let patch = "/status/capacity/kflash.dev~1printer-voron";
        assert_eq!(notes.contains(patch), shape.quiesce == Quiesce::Token);
        let notes = notes_of_flash(&shape);
        assert!(notes.lines().all(|line| line.starts_with('#')), "{notes}");
        assert_eq!(notes.contains("kubectl kflash run"), shape.quiesce == Quiesce::Token);
        let needs = shape.phased && shape.kubernetes == Kubernetes::V1_35;
        assert_eq!(notes.contains("Kubernetes 1.35 or newer"), needs);
    }
}

#[test]
fn yaml_says_the_same_and_kubernetes_own_types_keep_all_of_it() {
    for shape in shapes().chain(phased()) {
        let manifests = [setup(&config().printers[0], &shape).unwrap(), rendered(&shape, Some(&firmware()))].concat();
        let text = yaml(&manifests).unwrap();
        let back: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(back, manifests.iter().map(value).collect::<Vec<_>>());
        let job = back.last().unwrap();
        let typed: Job = serde_json::from_value(job.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), *job);
    }
}

proptest! {
    #[test]
    fn every_printers_name_makes_names_of_its_own(names in prop::collection::hash_set("[a-z0-9._-]{1,60}", 1..4)) {
        let printer = |name: &String| kflash::config::Printer { name: name.clone(), ..config().printers.remove(0) };
        let made: Vec<_> = names.iter().map(|name| lease_name(&printer(name))).collect();
        for (at, name) in made.iter().enumerate() {
            let job = format!("{name}-0123456789-abcde");
            prop_assert!(job.len() <= 63 && !name.ends_with('-'), "{}", job);
            prop_assert!(name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'), "{}", name);
            prop_assert!(!made[..at].contains(name), "{:?}", made);
        }
    }

    #[test]
    fn any_text_in_a_configuration_comes_out_as_it_went_in(text in "[^\\x00-\\x1f\\x7f]{1,40}") {
        let mut config = config();
        config.printers[0].boards[0].symbols.insert("NOTE".to_owned(), text.clone());
        let manifests = made(&config, &usual(), None).unwrap();
        let back: Vec<Value> = serde_saphyr::from_multiple(&yaml(&manifests).unwrap()).unwrap();
        let read: toml::Table = toml::from_str(back[0]["data"]["config.toml"].as_str().unwrap()).unwrap();
        prop_assert_eq!(read["printers"][0]["boards"][0]["symbols"]["NOTE"].as_str(), Some(&*text));
    }
}
