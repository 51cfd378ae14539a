//! What ships: one static program for each architecture, with no C in it but the musl that is part of Rust's own target,
//! and the TLS crate's.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use object::elf::{
    DF_1_PIE, DT_FLAGS_1, DT_NEEDED, EM_AARCH64, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, FileType, Machine,
    PT_DYNAMIC, PT_INTERP,
};
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection};
use serde_json::Value;
use tests::binary::static_binary_for;

const TARGETS: [&str; 2] = ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"];
/// What a container image may hold; without the feature `fetch`, which brings TLS, it is a third less.
const MOST_BYTES: usize = 6_000_000;
/// That of the container which stops Klipper.
const MOST_BYTES_IN_A_CLUSTER: usize = 12_000_000;
/// Crates that a build script compiles C with, or looks for a C library with.
const C_BUILDERS: [&str; 7] = ["autotools", "bindgen", "cc", "cmake", "pkg-config", "system-deps", "vcpkg"];

/// The one exception: the cryptography of TLS, in assembler and C of its own. It links no library.
const TLS: [&str; 2] = ["cc", "ring"];

/// Links nothing: so it sees to it that a program has but one version of the API.
const LINKS_NOTHING: &str = "k8s-openapi";

/// What the loader is told by an ELF program.
struct Loading {
    machine: Machine,
    kind: FileType,
    interpreter: bool,
    libraries: usize,
    position_independent: bool,
    comment: String,
}

fn loading(program: &[u8]) -> Loading {
    let elf = ElfFile64::<LittleEndian>::parse(program).unwrap();
    let (header, endian): (&FileHeader64<_>, _) = (elf.elf_header(), elf.endian());
    let segments = header.program_headers(endian, program).unwrap();
    let dynamic: Vec<_> = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_DYNAMIC)
        .flat_map(|segment| segment.dynamic(endian, program).unwrap().unwrap())
        .collect();
    Loading {
        machine: header.e_machine(endian),
        kind: header.e_type(endian),
        interpreter: segments.iter().any(|segment| segment.p_type(endian) == PT_INTERP),
        libraries: dynamic.iter().filter(|entry| entry.tag(endian) == DT_NEEDED).count(),
        position_independent: dynamic
            .iter()
            .any(|entry| entry.tag(endian) == DT_FLAGS_1 && entry.val(endian) & DF_1_PIE.0 != 0),
        comment: String::from_utf8_lossy(elf.section_by_name(".comment").unwrap().data().unwrap()).into_owned(),
    }
}

/// Runs `kflash` for aarch64, which ends well, and returns what it prints.
fn emulated(arguments: &[&str]) -> String {
    let output = Command::new("qemu-aarch64")
        .arg(static_binary_for("aarch64-unknown-linux-musl", "kflash"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot run qemu-aarch64 (package qemu-user): {error}; run `tools/debian-packages test`")
        });
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What Cargo builds for `target`: its package graph.
struct Graph {
    packages: BTreeMap<String, Value>,
    edges: BTreeMap<String, Vec<String>>,
}

impl Graph {
    fn of(target: &str) -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
        let id = |value: &Value| value.as_str().unwrap().to_owned();
        let ships = |dependency: &Value| {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            kinds.iter().any(|kind| kind["kind"] != "dev")
        };
        Self {
            packages: metadata["packages"].as_array().unwrap().iter().map(|it| (id(&it["id"]), it.clone())).collect(),
            edges: metadata["resolve"]["nodes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|node| {
                    let needed = node["deps"].as_array().unwrap().iter().filter(|it| ships(it));
                    (id(&node["id"]), needed.map(|it| id(&it["pkg"])).collect())
                })
                .collect(),
        }
    }

    /// The packages that `root` is built from or with, tests apart.
    fn under(&self, root: &str) -> Vec<&Value> {
        let root = self.packages.iter().find(|(_, package)| package["name"] == root).unwrap().0;
        let (mut seen, mut open) = (BTreeSet::from([root]), vec![root]);
        while let Some(id) = open.pop() {
            open.extend(self.edges[id].iter().filter(|id| seen.insert(id)));
        }
        seen.into_iter().map(|id| &self.packages[id]).collect()
    }

    /// The names of those that bring C along: they link a library, or could compile one.
    fn c_under(&self, root: &str) -> BTreeSet<&str> {
        let compiles = |package: &Value| C_BUILDERS.contains(&package["name"].as_str().unwrap());
        self.under(root)
            .into_iter()
            .filter(|package| package["name"] != LINKS_NOTHING)
            .filter(|package| !package["links"].is_null() || compiles(package))
            .map(|package| package["name"].as_str().unwrap())
            .collect()
    }
}

#[test]
fn no_program_asks_for_a_loader_or_a_library() {
    for target in TARGETS {
        let loading = loading(&fs::read(static_binary_for(target, "kflash")).unwrap());
        assert!(!loading.interpreter && loading.libraries == 0, "{target} is not static");
    }
}

#[test]
fn what_stops_klipper_in_a_cluster_ships_alike() {
    let program = fs::read(static_binary_for(TARGETS[0], "kubectl-kflash")).unwrap();
    let loading = loading(&program);
    assert!(!loading.interpreter && loading.libraries == 0, "it is not static");
    assert!(program.len() < MOST_BYTES_IN_A_CLUSTER, "{} bytes", program.len());
}

#[test]
fn a_dynamic_program_would_be_seen() {
    let loading = loading(&fs::read(std::env::current_exe().unwrap()).unwrap());
    assert!(loading.interpreter && loading.libraries > 0);
}

#[test]
fn the_program_for_x86_64_can_lie_anywhere() {
    let loading = loading(&fs::read(static_binary_for("x86_64-unknown-linux-musl", "kflash")).unwrap());
    assert_eq!((loading.machine, loading.kind), (EM_X86_64, ET_DYN));
    assert!(loading.position_independent);
}

#[test]
fn the_program_for_aarch64_is_linked_by_rusts_own_linker() {
    let loading = loading(&fs::read(static_binary_for("aarch64-unknown-linux-musl", "kflash")).unwrap());
    // Rust links no static-pie for this target.
    assert_eq!((loading.machine, loading.kind), (EM_AARCH64, ET_EXEC));
    assert!(loading.comment.contains("Linker: LLD"), "{}", loading.comment);
}

#[test]
fn every_program_is_under_six_megabytes() {
    for target in TARGETS {
        let size = fs::read(static_binary_for(target, "kflash")).unwrap().len();
        assert!(size < MOST_BYTES, "{target}: {size} bytes");
    }
}

#[test]
fn no_crate_that_ships_but_that_for_tls_brings_c_along() {
    for target in TARGETS {
        let graph = Graph::of(target);
        assert_eq!(graph.c_under("kflash-cli"), BTreeSet::from(TLS), "{target}");
        // The same look finds libusb behind the independent DFU client of the tests.
        assert!(graph.packages.values().any(|package| package["name"] == "libusb1-sys"));
        assert!(graph.c_under("rusb").is_superset(&BTreeSet::from(["libusb1-sys", "pkg-config"])));
    }
}

#[test]
fn the_program_for_aarch64_runs() {
    assert_eq!(emulated(&["--version"]), format!("kflash {}\n", env!("CARGO_PKG_VERSION")));
    let result = emulated(&["flash", "--board", "btt-octopus-v1.1-f446", "--simulate", "--json"]);
    let result: Value = serde_json::from_str(result.lines().last().unwrap()).unwrap();
    assert_eq!(result["result"], "flashed", "{result:#}");
}

/// What ships knows no debug probes, and whoever stands before a dead board is told what does.
#[test]
fn who_asks_for_a_debug_probe_is_told_which_build_has_it() {
    for verb in ["plan", "flash", "verify"] {
        let mut program = Command::new(static_binary_for(TARGETS[0], "kflash"));
        let output = program.args([verb, "--board", "btt-octopus-v1.1-f446", "--via", "swd"]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("built without debug probes") && said.contains("--features swd"), "{said}");
    }
}
