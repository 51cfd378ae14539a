//! All containers of a rendered Job again, now from the images that ship: in their order, as the user, with the root, the
//! capabilities and the mounts that the manifest gives them, and with an API server where a pod looks for it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use kflash::cluster::{Gate, Outcome, Summary, file};
use kflash::obtain;
use kflash::obtain::provenance::{Origin, Provenance};
use kflash_sim::board::Options;
use serde_json::Value;
use tests::binary::static_binary;
use tests::firmware_tree::{FirmwareTree, is_real, order};
use tests::podman::Engine;
use tokio::time;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::double::NAMESPACE;
use crate::klippy::{Klippy, Says};
use crate::moonraker::{Running, idle};
use crate::pod::{BOARD, Socket};
use crate::process::{Served, run};
use crate::rendered::{Pod, Repository, config, expanded};

/// What runs a pod's containers.
struct Kubelet<'a> {
    engine: &'a Engine,
    pod: &'a Pod<'a>,
    /// Where the API server is.
    api: SocketAddr,
}

impl<'a> Kubelet<'a> {
    /// The account's token is in its volume, and what emptyDirs are may be written to by everybody.
    async fn new(engine: &'a Engine, pod: &'a Pod<'a>, served: &Served) -> Self {
        let at = |name: &str| pod.volumes.path().join(name);
        for volume in pod.spec.volumes.iter().flatten().filter(|volume| volume.empty_dir.is_some()) {
            fs::set_permissions(at(&volume.name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::write(pod.termination(), "").unwrap();
        fs::set_permissions(pod.termination(), fs::Permissions::from_mode(0o666)).unwrap();
        let (tls, authority) = tls();
        for (name, text) in [("token", "flasher"), ("ca.crt", &*authority), ("namespace", NAMESPACE)] {
            fs::write(at("token").join(name), text).unwrap();
        }
        Self { engine, pod, api: served.server.listen_securely(tls).await.unwrap() }
    }

    /// podman's words for a container: what the manifest says of it, and nothing else.
    fn words(&self, container: &Container) -> Vec<String> {
        let (mine, pods) =
            (container.security_context.as_ref().unwrap(), self.pod.spec.security_context.as_ref().unwrap());
        let user = mine.run_as_user.or(pods.run_as_user).unwrap();
        let group = mine.run_as_group.or(pods.run_as_group).unwrap();
        let mut words = vec![format!("--name={}", container.name), format!("--user={user}:{group}")];
        let groups = pods.supplemental_groups.iter().flatten().chain(&pods.fs_group);
        words.extend(groups.map(|group| format!("--group-add={group}")));
        if mine.read_only_root_filesystem == Some(true) {
            words.extend(["--read-only", "--read-only-tmpfs=false"].map(str::to_owned));
        }
        let capabilities = mine.capabilities.iter().flat_map(|capabilities| capabilities.drop.iter().flatten());
        words.extend(capabilities.map(|capability| format!("--cap-drop={capability}")));
        if mine.allow_privilege_escalation == Some(false) {
            words.push("--security-opt=no-new-privileges".to_owned());
        }
        words.push(format!("--env=KUBERNETES_SERVICE_HOST={}", self.api.ip()));
        words.push(format!("--env=KUBERNETES_SERVICE_PORT={}", self.api.port()));
        for variable in container.env.iter().flatten() {
            words.extend(variable.value.as_ref().map(|value| format!("--env={}={value}", variable.name)));
        }
        for mount in container.volume_mounts.iter().flatten() {
            let access = if mount.read_only == Some(true) { "ro" } else { "rw" };
            let volume = self.pod.volumes.path().join(&mount.name);
            words.push(format!("--volume={}:{}:{access}", volume.display(), mount.mount_path));
        }
        let termination = container.termination_message_path.iter();
        words.extend(termination.map(|path| format!("--volume={}:{path}", self.pod.termination().display())));
        words.push(container.image.clone().unwrap());
        words.extend(container.args.iter().flatten().map(|word| expanded(container, word)));
        words
    }

    async fn podman(&self, first: &[&str], words: &[String]) -> Output {
        let mut command = self.engine.command("podman");
        command.args(first).args(words);
        run(command).await
    }

    /// Runs a container to its end.
    async fn run(&self, container: &Container) -> Output {
        self.podman(&["run", "--rm"], &self.words(container)).await
    }

    /// Starts a sidecar, and waits until its probe says that it has started. That has a container of its own: where this
    /// host is a chroot, `podman exec` leaves it.
    async fn start(&self, container: &Container) {
        let output = self.podman(&["run", "--detach"], &self.words(container)).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let exec = container.startup_probe.as_ref().unwrap().exec.as_ref().unwrap();
        let (program, args) = exec.command.as_ref().unwrap().split_first().unwrap();
        let probe = Container { name: "probe".into(), args: Some(args.to_vec()), ..container.clone() };
        let words = self.words(&probe);
        loop {
            let output = self.podman(&["run", "--rm", "--entrypoint", program], &words).await;
            match output.status.code() {
                Some(0) => return,
                code => {
                    assert_eq!(code, Some(5), "{output:?}\n{:?}", self.podman(&["logs", &container.name], &[]).await);
                }
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks a sidecar to end; what it ended with.
    async fn stop(&self, container: &Container) -> String {
        for words in [["stop", "--time=60"], ["inspect", "--format={{.State.ExitCode}}"]] {
            let output = self.podman(&[&words[..], &[&*container.name]].concat(), &[]).await;
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            if words[0] == "inspect" {
                return String::from_utf8(output.stdout).unwrap();
            }
        }
        unreachable!("it is inspected")
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        self.engine.remove(self.pod.volumes.path());
    }
}

/// A certificate of 127.0.0.1, and that of its authority.
fn tls() -> (TlsAcceptor, String) {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = parameters.self_signed(&authority).unwrap().pem();
    let issuer = rcgen::Issuer::new(parameters, authority);
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), pem)
}

/// The images of the pod: the builder by the Containerfile and the script that a person uses, of this host's Debian.
fn images(engine: &Engine) {
    let base = engine.debian();
    let programs = ["kflash", "kubectl-kflash"].map(|name| (static_binary(name), name));
    engine.make("amd64", &programs, &["--no-archive", "--base", &base, "kflash", "kflash-builder", "kflash-kube"]);
}

/// As Klipper does: then a build needs nothing but the image.
fn carry_kconfiglib(tree: &FirmwareTree) {
    if is_real() {
        return;
    }
    for name in ["kconfiglib.py", "genconfig.py", "olddefconfig.py"] {
        let debians = Path::new("/usr/lib/python3/dist-packages").join(name);
        fs::copy(debians, tree.dir.join("lib/kconfiglib").join(name)).unwrap();
    }
    tree.commit("kconfiglib");
}

/// The same tools make the same bytes here as those in the directory `built`.
fn assert_built_alike(tree: &FirmwareTree, built: &Path) {
    let mut inside: Value = serde_json::from_slice(&fs::read(built.join("provenance.json")).unwrap()).unwrap();
    // Of the rest.
    inside.as_object_mut().unwrap().remove("sha256").unwrap();
    let inside: Provenance = serde_json::from_value(inside).unwrap();
    let (outcomes, _) = tree.build("outside", &[order(BOARD, Some("katapult-usb"))]);
    let outside = &outcomes[0].as_ref().unwrap().entry.provenance;
    let toolchain = |provenance: &Provenance| match &provenance.origin {
        Origin::Built(built) => built.toolchain.clone(),
        origin => panic!("{origin:?}"),
    };
    assert_eq!(toolchain(&inside), toolchain(outside), "both are of one Debian, and up to date");
    assert_eq!((inside.image.sha256, &inside.version), (outside.image.sha256, &outside.version));
}

#[tokio::test]
async fn from_a_repository_to_a_confirmed_flash_in_containers() {
    let engine = Engine::new();
    images(&engine);

    let (repository, socket, served) = (Repository::new(), Socket::new(), Served::new().await);
    carry_kconfiglib(&repository.tree);
    let mut moonraker = Running::start("", "trusted_clients: 127.0.0.1");
    moonraker.listening(moonraker.port).await;
    let _klippy = Klippy::start(&moonraker.klippy_socket(), Says::ready());
    moonraker.comes_to(&idle("ready")).await;

    let pod = Pod::new(&served, &config(&repository.url, moonraker.port, &socket.device()));
    let kubelet = Kubelet::new(&engine, &pod, &served).await;
    let [settle, build, quiesce] = pod.spec.init_containers.as_deref().unwrap() else { panic!("{:?}", pod.spec) };
    for container in [settle, build] {
        let output = kubelet.run(container).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let built = pod.volumes.path().join("firmware/mcu");
    assert_built_alike(&repository.tree, &built);
    let image = obtain::file(&built).unwrap();
    let version = image.image.dictionary.as_ref().unwrap().version.clone();
    socket.hold(image.bytes, Options::default());

    kubelet.start(quiesce).await;
    assert_eq!(Gate::read(&pod.volumes.path().join("shared").join(file::GATE)).unwrap(), Some(Gate::Open));
    let flashed = kubelet.run(&pod.spec.containers[0]).await;
    assert_eq!(flashed.status.code(), Some(0), "{flashed:?}");
    let left: Summary = serde_json::from_slice(&fs::read(pod.termination()).unwrap()).unwrap();
    assert_eq!((left.result, left.now.as_ref()), (Outcome::Flashed, Some(&version)), "{left:?}");
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (0, "1".into()));
    assert_eq!(kubelet.stop(quiesce).await.trim(), "0");
    assert_eq!((served.server.replicas(&served.klipper), served.owed()), (1, Value::Null));

    assert_compiles_for_avr(&kubelet, build, &repository).await;
}

/// The builder has the other compiler, too. No board of ours has such a chip, so that kflash is not what asks for it.
async fn assert_compiles_for_avr(kubelet: &Kubelet<'_>, build: &Container, repository: &Repository) {
    let script = format!(
        "git clone --quiet {} /scratch/avr && cd /scratch/avr &&
         printf 'CONFIG_MACH_AVR=y\nCONFIG_MACH_atmega2560=y\n' >.config && make olddefconfig && make",
        repository.url
    );
    let container = Container { args: Some(vec!["-c".into(), script]), ..build.clone() };
    let output = kubelet.podman(&["run", "--rm", "--entrypoint=/bin/sh"], &kubelet.words(&container)).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let image = obtain::file(&kubelet.pod.volumes.path().join("work/avr/out/klipper.elf.hex")).unwrap();
    assert_eq!(image.image.dictionary.unwrap().mcu(), Some("atmega2560"));
}
