//! The programs that a build runs: which ones a tree needs for a configuration, where they are, which versions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use super::Environment;
use super::child::{self, ChildError, Limits};
use crate::exit::ExitCode;
use crate::flash::Interrupt;

/// Of the compiler and its kin, what Klipper's build runs. It asks each for its version, and calls a build with one
/// missing unclean.
const BY_PREFIX: [&str; 6] = ["gcc", "as", "ld", "objcopy", "objdump", "strip"];
/// Those that make the image what it is. make, python3 and git only drive them.
const MAKE_THE_IMAGE: [&str; 4] = ["gcc", "as", "ld", "objcopy"];
/// Largest Makefile that is read; Klipper's have 8 KiB.
const LARGEST_MAKEFILE: u64 = 1 << 20;
/// Longest version that is kept.
const LONGEST_VERSION: usize = 200;

/// The programs that a build needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    prefix: String,
    programs: BTreeSet<String>,
}

/// The programs that a build runs, found, and their versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// What stands before the compiler's name: `arm-none-eabi-`.
    pub prefix: String,
    /// Versions of what the image depends on, by name: the first line of `--version`, of a library its version alone.
    pub versions: BTreeMap<String, String>,
}

/// Something that a build needs and that is not there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Missing {
    /// The program or library.
    pub name: String,
    /// Debian's package of it.
    pub package: Option<&'static str>,
}

/// Why there is no toolchain.
#[derive(Debug, thiserror::Error)]
pub enum ToolchainError {
    /// These are missing.
    #[error("missing for this build: {}", list(.0))]
    Missing(Vec<Missing>),
    /// A program is there but does not work.
    #[error("{program} does not work: {why}")]
    Broken {
        /// Its name.
        program: String,
        /// What it does instead.
        why: String,
    },
    /// A program was stopped.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// The tree's Makefiles do not tell.
    #[error("cannot tell the toolchain: {}: {why}", path.display())]
    Unknown {
        /// The Makefile.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The C library for a kind of chip. A compiler without it compiles nothing of Klipper.
struct Library {
    name: &'static str,
    package: &'static str,
    header: &'static str,
    /// The macro that holds its version.
    version: &'static str,
}

impl ToolchainError {
    /// The exit code.
    pub fn exit(&self) -> ExitCode {
        match self {
            Self::Child(error) => error.exit(),
            _ => ExitCode::Build,
        }
    }

    /// Debian's packages that mend it.
    pub fn packages(&self) -> BTreeSet<&'static str> {
        let Self::Missing(missing) = self else { return BTreeSet::new() };
        missing.iter().filter_map(|missing| missing.package).collect()
    }
}

impl Needs {
    /// What it takes to configure a tree, before it is known what it will be built for.
    pub fn to_configure() -> Self {
        Self { prefix: String::new(), programs: ["make", "python3"].map(str::to_owned).into() }
    }

    /// What it most likely takes besides, before the tree was configured with these symbols: told along when something
    /// to configure with is missing, so that a person installs once.
    pub fn likely(symbols: &BTreeMap<String, String>) -> Self {
        let prefix = if symbols.contains_key("MACH_AVR") { "avr-" } else { "arm-none-eabi-" };
        let mut needs = Self::to_configure();
        needs.programs.extend(BY_PREFIX.map(|name| format!("{prefix}{name}")));
        Self { prefix: prefix.to_owned(), ..needs }
    }

    /// What it takes to build the tree in `tree` once it is configured for `board_directory`: the folder of `src/`
    /// that the configuration names (`BOARD_DIRECTORY`), whose Makefile names the compiler.
    pub fn to_build(tree: &Path, board_directory: &str) -> Result<Self, ToolchainError> {
        let of_tree = tree.join("Makefile");
        if board_directory.is_empty()
            || !board_directory.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            let why = format!("BOARD_DIRECTORY is {board_directory:?}, which is no folder of src/");
            return Err(ToolchainError::Unknown { path: of_tree, why });
        }
        let of_board = tree.join("src").join(board_directory).join("Makefile");
        let (general, special) = (read(&of_tree)?, read(&of_board)?);
        let prefix = assigned(&special, "CROSS_PREFIX").unwrap_or_default().to_owned();
        if !prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            let why = format!("CROSS_PREFIX is {prefix:?}, which is no beginning of a program's name");
            return Err(ToolchainError::Unknown { path: of_board, why });
        }
        let mut needs = Self::to_configure();
        needs.programs.extend(BY_PREFIX.map(|name| format!("{prefix}{name}")));
        let preprocessor = assigned(&general, "CPP").map(|cpp| cpp.replace("$(CROSS_PREFIX)", &prefix));
        needs.programs.extend(preprocessor.filter(|cpp| ["cpp", &format!("{prefix}cpp")].contains(&cpp.as_str())));
        if special.contains("g++ ") {
            needs.programs.insert("g++".to_owned());
        }
        if tree.join(".git").exists() {
            needs.programs.insert("git".to_owned());
        }
        Ok(Self { prefix, ..needs })
    }

    /// Where all of it is; all that is missing is named at once. Runs the compiler and its kin for their versions, nothing
    /// else.
    pub fn find(&self, environment: &Environment, interrupt: &Interrupt) -> Result<Toolchain, ToolchainError> {
        let library = Library::of(&self.prefix);
        let absent = |program: &&String| environment.find(program).is_none();
        let mut missing: Vec<_> =
            self.programs.iter().filter(absent).map(|program| Missing::program(program)).collect();
        let compiler = format!("{}gcc", self.prefix);
        if let Some(library) = &library
            && missing.iter().any(|missing| missing.name == compiler)
        {
            // Nobody can say without the compiler, but it does not come with it, either.
            missing.push(library.missing());
        }
        if !missing.is_empty() {
            return Err(ToolchainError::Missing(missing));
        }
        let made_with = MAKE_THE_IMAGE.map(|name| format!("{}{name}", self.prefix));
        let asked = made_with.into_iter().filter(|program| self.programs.contains(program));
        thread::scope(|scope| {
            let programs: Vec<_> = asked
                .map(|program| scope.spawn(move || Ok((program.clone(), version(&program, environment, interrupt)?))))
                .collect();
            let library = library.map(|library| {
                let compiler = &compiler;
                scope.spawn(move || Ok((library.name.to_owned(), library.version(compiler, environment, interrupt)?)))
            });
            let versions = programs
                .into_iter()
                .chain(library)
                .map(|asked| asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            Ok(Toolchain { prefix: self.prefix.clone(), versions: versions.collect::<Result<_, ToolchainError>>()? })
        })
    }
}

impl Toolchain {
    /// Whether it compiles for a Cortex-M, whose images begin with a vector table.
    pub fn is_cortex_m(&self) -> bool {
        self.prefix == "arm-none-eabi-"
    }
}

impl Missing {
    fn program(name: &str) -> Self {
        let package = match name {
            "make" => Some("make"),
            "python3" => Some("python3"),
            "git" => Some("git"),
            "g++" => Some("g++"),
            "cpp" => Some("cpp"),
            "gcc" => Some("gcc"),
            _ => {
                let compiler = name.ends_with("-gcc") || name.ends_with("-cpp");
                match name.rsplit_once('-').map(|(prefix, _)| (prefix, compiler)) {
                    Some(("arm-none-eabi", true)) => Some("gcc-arm-none-eabi"),
                    Some(("arm-none-eabi", false)) => Some("binutils-arm-none-eabi"),
                    Some(("avr", true)) => Some("gcc-avr"),
                    Some(("avr", false)) => Some("binutils-avr"),
                    Some(_) => None,
                    None => Some("binutils"),
                }
            }
        };
        Self { name: name.to_owned(), package }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.package {
            Some(package) if package != self.name => write!(f, "{} (Debian's package {package})", self.name),
            _ => f.write_str(&self.name),
        }
    }
}

impl Library {
    fn of(prefix: &str) -> Option<Self> {
        match prefix {
            "arm-none-eabi-" => Some(Self {
                name: "newlib",
                package: "libnewlib-arm-none-eabi",
                header: "_newlib_version.h",
                version: "_NEWLIB_VERSION",
            }),
            "avr-" => Some(Self {
                name: "avr-libc",
                package: "avr-libc",
                header: "avr/version.h",
                version: "__AVR_LIBC_VERSION_STRING__",
            }),
            _ => None,
        }
    }

    fn missing(&self) -> Missing {
        Missing { name: format!("{} (its headers)", self.name), package: Some(self.package) }
    }

    /// Its version, as the preprocessor of `compiler` finds it.
    fn version(
        &self,
        compiler: &str,
        environment: &Environment,
        interrupt: &Interrupt,
    ) -> Result<String, ToolchainError> {
        let mut command = environment.command(compiler);
        command.args(["-E", "-dM", "-x", "c", "-include", self.header, "/dev/null"]);
        let captured = child::capture(command, Limits::QUICK, interrupt)?;
        if !captured.status.success() {
            return Err(ToolchainError::Missing(vec![self.missing()]));
        }
        let text = String::from_utf8_lossy(&captured.out);
        let defined = text.lines().find_map(|line| {
            let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
            (name == self.version).then(|| value.trim().trim_matches('"'))
        });
        match defined {
            Some(version) if !version.is_empty() => Ok(bounded(version)),
            // Without it, nobody could tell what was built with another one.
            _ => Err(ToolchainError::Broken {
                program: compiler.to_owned(),
                why: format!("{} of {} does not define {}", self.header, self.name, self.version),
            }),
        }
    }
}

/// The first line that `program --version` prints.
fn version(program: &str, environment: &Environment, interrupt: &Interrupt) -> Result<String, ToolchainError> {
    let mut command = environment.command(program);
    command.arg("--version");
    let captured = child::capture(command, Limits::QUICK, interrupt)?;
    let broken = |why: String| ToolchainError::Broken { program: program.to_owned(), why };
    if !captured.status.success() {
        return Err(broken(format!("--version ends with {}", captured.status)));
    }
    let text = String::from_utf8_lossy(&captured.out);
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(bounded(line)),
        _ => Err(broken("--version prints nothing".to_owned())),
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(LONGEST_VERSION).collect()
}

fn read(path: &Path) -> Result<String, ToolchainError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_MAKEFILE).read_to_end(&mut text));
    match read {
        Ok(_) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) => Err(unknown(path, &error)),
    }
}

fn unknown(path: &Path, error: &io::Error) -> ToolchainError {
    ToolchainError::Unknown { path: path.to_owned(), why: error.to_string() }
}

/// The value that a Makefile assigns to a variable, as it stands there.
fn assigned<'a>(makefile: &'a str, variable: &str) -> Option<&'a str> {
    makefile.lines().rev().find_map(|line| {
        let rest = line.strip_prefix(variable)?.trim_start();
        let value = rest.strip_prefix(":=").or_else(|| rest.strip_prefix('='))?;
        Some(value.split('#').next().unwrap_or_default().trim())
    })
}

fn list(missing: &[Missing]) -> String {
    missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/firmware-tree")
    }

    /// A PATH of one directory with these programs, each of which prints its version.
    fn environment(programs: &[&str]) -> (tempfile::TempDir, Environment) {
        let dir = tempfile::tempdir().unwrap();
        for program in programs {
            let path = dir.path().join(program);
            fs::write(&path, format!("#!/bin/sh\nif [ $1 = -E ]; then echo '#define _NEWLIB_VERSION_H__ 1'; echo '#define _NEWLIB_VERSION \"3.3.0\"'; else echo '{program} 1.2'; echo more; fi\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let environment = Environment::of([("PATH".into(), dir.path().into())]);
        (dir, environment)
    }

    const ARM: [&str; 9] = [
        "arm-none-eabi-as",
        "arm-none-eabi-gcc",
        "arm-none-eabi-ld",
        "arm-none-eabi-objcopy",
        "arm-none-eabi-objdump",
        "arm-none-eabi-strip",
        "cpp",
        "make",
        "python3",
    ];

    #[test]
    fn the_tree_says_what_it_takes() {
        let needs = |board: &str| Needs::to_build(&fixture(), board).unwrap();
        assert_eq!(needs("stm32").programs, ARM.map(str::to_owned).into());
        let rp2040: Vec<_> = needs("rp2040").programs.difference(&needs("stm32").programs).cloned().collect();
        assert_eq!(rp2040, ["g++"]);
        assert_eq!(needs("avr").prefix, "avr-");
    }

    #[test]
    fn a_folder_outside_the_tree_is_none() {
        for board in ["", "..", "../../etc", "no-such"] {
            let error = Needs::to_build(&fixture(), board).unwrap_err();
            assert!(matches!(error, ToolchainError::Unknown { .. }), "{error}");
        }
        let error = Needs::to_build(&fixture(), "nosuch").unwrap_err().to_string();
        assert!(error.ends_with("src/nosuch/Makefile: No such file or directory (os error 2)"), "{error}");
    }

    #[test]
    fn a_prefix_is_the_beginning_of_a_name_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("src/x")).unwrap();
        fs::write(dir.path().join("Makefile"), "").unwrap();
        fs::write(dir.path().join("src/x/Makefile"), "CROSS_PREFIX=$(shell id)\n").unwrap();
        let error = Needs::to_build(dir.path(), "x").unwrap_err().to_string();
        assert!(
            error.ends_with("CROSS_PREFIX is \"$(shell id)\", which is no beginning of a program's name"),
            "{error}"
        );
    }

    #[test]
    fn versions_are_those_of_what_makes_the_image() {
        let (_dir, environment) = environment(&ARM);
        let needs = Needs::to_build(&fixture(), "stm32").unwrap();
        let toolchain = needs.find(&environment, &Interrupt::default()).unwrap();
        let versions: Vec<_> = toolchain.versions.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        assert_eq!(
            versions,
            [
                "arm-none-eabi-as: arm-none-eabi-as 1.2",
                "arm-none-eabi-gcc: arm-none-eabi-gcc 1.2",
                "arm-none-eabi-ld: arm-none-eabi-ld 1.2",
                "arm-none-eabi-objcopy: arm-none-eabi-objcopy 1.2",
                "newlib: 3.3.0",
            ]
        );
        assert!(toolchain.is_cortex_m());
    }

    #[test]
    fn all_that_is_missing_is_named_at_once_with_its_package() {
        let (dir, environment) = environment(&["make", "cpp", "arm-none-eabi-ld"]);
        // Neither a directory nor a file that cannot be run is a program.
        fs::create_dir(dir.path().join("arm-none-eabi-gcc")).unwrap();
        fs::write(dir.path().join("arm-none-eabi-as"), "").unwrap();
        let needs = Needs::to_build(&fixture(), "stm32").unwrap();
        let error = needs.find(&environment, &Interrupt::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "missing for this build: arm-none-eabi-as (Debian's package binutils-arm-none-eabi), arm-none-eabi-gcc \
             (Debian's package gcc-arm-none-eabi), arm-none-eabi-objcopy (Debian's package binutils-arm-none-eabi), \
             arm-none-eabi-objdump (Debian's package binutils-arm-none-eabi), arm-none-eabi-strip (Debian's package \
             binutils-arm-none-eabi), python3, newlib (its headers) (Debian's package libnewlib-arm-none-eabi)"
        );
        let packages = ["binutils-arm-none-eabi", "gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "python3"];
        assert_eq!(error.packages(), packages.into());
        assert_eq!(error.exit(), ExitCode::Build);
    }

    #[test]
    fn a_compiler_without_its_library_is_not_enough() {
        let (dir, environment) = environment(&ARM);
        let gcc = "#!/bin/sh\n[ $1 = -E ] && exit 1\necho gcc\n";
        fs::write(dir.path().join("arm-none-eabi-gcc"), gcc).unwrap();
        let needs = Needs::to_build(&fixture(), "stm32").unwrap();
        let error = needs.find(&environment, &Interrupt::default()).unwrap_err();
        assert_eq!(error.packages(), ["libnewlib-arm-none-eabi"].into());
    }

    #[test]
    fn a_program_that_does_not_work_is_said_to() {
        let (dir, environment) = environment(&ARM);
        let needs = Needs::to_build(&fixture(), "stm32").unwrap();
        for (script, why) in [
            ("exit 127", "does not work: --version ends with exit status: 127"),
            ("exit 0", "does not work: --version prints nothing"),
        ] {
            fs::write(dir.path().join("arm-none-eabi-ld"), format!("#!/bin/sh\n{script}\n")).unwrap();
            let error = needs.find(&environment, &Interrupt::default()).unwrap_err();
            assert_eq!(error.to_string(), format!("arm-none-eabi-ld {why}"));
        }
    }
}
